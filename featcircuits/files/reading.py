"""Text, JSON, TOML and YAML from files that may be damaged or hostile: plain values, or one `InputError`.

The results are bounded: the file's size, the number of values and how deeply they are nested,
numbers that a float can hold, text that can be written again. A name that occurs twice is
refused, since readers differ in which of the two counts. A leading byte-order mark is skipped.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, check_file, first_line, naming, shortened

MOST_BYTES = 64 << 20
_MOST_IN_TOML, _MOST_IN_YAML = 1 << 20, 1 << 17
"""The most bytes of such a file, since their readers are slow."""
_MOST_VALUES = 2_000_000
_DEEPEST = 64
_LARGEST = 1 << 1023
"""The largest whole number, which a float can hold too."""
_LONGEST_PLAIN = 10_000
"""The most characters of a YAML value without quotes, which may be a number."""


def read_text(path: str | Path, most: int = MOST_BYTES, what: str = "file") -> str:
    """The text of a UTF-8 file with at most `most` bytes; `what` names the file in messages if it is missing."""
    size, shown = check_file(path, what).st_size, shortened(Path(path), 300)
    if size > most:
        raise InputError(f"{shown}: {size} bytes are too many; such a file may have {most}")
    with naming(path, what):
        raw = Path(path).read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{shown}: not UTF-8 text ({error.reason}, byte {error.start}); convert it first") from None
    if "\0" in text:
        raise InputError(f"{shown}: holds the character NUL, so that it is not a text file, or is damaged")
    return text


def read_json(path: str | Path, what: str = "file") -> Any:
    """The value of a JSON file."""
    return parse_json(read_text(path, what=what), path)


def parse_json(text: str, where: str | Path) -> Any:
    """The value of a JSON text; `where` begins the messages."""
    return _parsed(text, where, "JSON", lambda: json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant))


def check_nesting(path: str | Path) -> None:
    """Refuse a JSON file whose values are nested too deeply for its readers, however large it is.

    Nothing else about it is judged, and no value is read: brackets outside of quotes are counted.
    """
    import numpy as np

    with naming(path, "file"):
        raw = np.frombuffer(Path(path).read_bytes(), dtype=np.uint8)
    backslash, quotes = raw == ord("\\"), np.flatnonzero(raw == ord('"'))
    runs = np.flatnonzero(backslash & ~np.concatenate([[False], backslash[:-1]]))
    before = np.concatenate([[-1], runs])[np.searchsorted(runs, quotes)]  # where the last run of them begins
    escaped = (quotes > 0) & backslash[quotes - 1] & ((quotes - before) % 2 == 1)
    step = np.zeros(256, dtype=np.int8)
    step[list(b"[{")], step[list(b"]}")] = 1, -1
    brackets = np.flatnonzero(step[raw])
    outside = brackets[np.searchsorted(quotes[~escaped], brackets) % 2 == 0]
    depth = step[raw[outside]].cumsum(dtype=np.int64).max(initial=0)
    if depth > _DEEPEST:
        raise InputError(f"{shortened(Path(path), 300)}: its values are nested {depth} deep; {_DEEPEST} is the most")


def read_toml(path: str | Path, what: str = "file") -> dict[str, Any]:
    """The tables of a TOML file."""
    text = read_text(path, _MOST_IN_TOML, what)
    return _parsed(text, path, "TOML", lambda: _toml(text))


def read_yaml(path: str | Path, what: str = "file") -> Any:
    """The value of a YAML file of plain values, without aliases."""
    text = read_text(path, _MOST_IN_YAML, what)
    return _parsed(text, path, "YAML", lambda: _yaml(text))


def _parsed(text: str, where: str | Path, what: str, parse: Callable[[], Any]) -> Any:
    shown = shortened(where, 300) if isinstance(where, Path) else where
    try:
        if sum(map(text.count, ",[{")) > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES} values")
        value = parse()
        check_values(value)
    except RecursionError:
        raise InputError(f"{shown}: not valid {what} (it is nested too deeply)") from None
    # a damaged text can make a reader, or the constructors of its values, raise anything
    except Exception as error:
        raise InputError(f"{shown}: not valid {what} ({_reason(error)})") from None
    return value


def _reason(error: Exception) -> str:
    """The error's reason without Python's advice on reading long numbers; YAML's reader stores the line separately."""
    if "integer string conversion" in str(error):
        return "a number has thousands of digits"
    mark = getattr(error, "problem_mark", None)
    place = "" if mark is None else f", line {mark.line + 1}"
    return f"{getattr(error, 'problem', None) or first_line(error)}{place}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shortened(twice)} is given twice; remove one of them")
    return table


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def check_values(value: Any) -> None:
    """Raise for values that these files may not hold, so that all others can be written and read again."""
    level = [value]  # without recursion, so that no nesting is too deep for the check itself
    for _ in range(_DEEPEST):
        level = [part for whole in level for part in _parts(whole)]
        if not level:
            return
    raise InputError(f"it is nested more than {_DEEPEST} deep")


def _parts(value: Any) -> list[Any]:
    if isinstance(value, str):
        # half of a surrogate pair can be written in JSON, but is not text
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise InputError(f"the text {shortened(value, 40)} holds half of a surrogate pair")
    elif isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise InputError(f"{shortened(value, 40)} is too large a number")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{value} is not a number that can be computed with")
    elif isinstance(value, Mapping):
        return [*value, *value.values()]
    elif isinstance(value, (list, tuple)):
        return [*value]
    return []


def _toml(text: str) -> Any:
    """Read TOML; long names are refused, since the reader's time grows with the square of their parts."""
    if _MANY_PARTS.search(text):
        raise ValueError(f"a name has more than {_DEEPEST} parts")
    return tomllib.loads(text)


_MANY_PARTS = re.compile(rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_DEEPEST}}}""")


def _yaml(text: str) -> Any:
    import yaml

    fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    _check_events(yaml.parse(text, Loader=fast))

    class Loader(fast):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _once([(str(key.value), None) for key, _ in node.value])
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader=Loader)  # a safe loader constructs only plain values


def _check_events(events: Any) -> None:
    """Refuse aliases, since a few of them can mean billions of values, and long numbers, which are slow to read."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"*{event.anchor} is an alias; write out its value")
        if isinstance(event, yaml.ScalarEvent) and not event.style and len(event.value) > _LONGEST_PLAIN:
            raise ValueError(f"a value without quotes has {len(event.value)} characters")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"it is nested more than {_DEEPEST} deep")
