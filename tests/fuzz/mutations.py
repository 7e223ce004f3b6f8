"""Ways to spoil bytes, texts and nested values."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e308, -1e-320, float("nan"), float("inf"), float("-inf"),
    2**31, 2**63, -(2**63) - 1, 2**64, 10**18, 10**400, "", " ", "0", "-1", "nan", "a" * 400, "\0", "\x1b[31m", "\n",
    "\ud800", "\ufeff", "\u202e", "[/x]", "[red]a", "../../etc/passwd", "/dev/zero", "~", "metric", "other", "error",
    "input@1", "resid_3/05", "resid_٣/1", "1_0", "٣", "true", "none", "{layer}", "%s", "$HOME", "<img src=x>",
    [], [[]], [None], [0, 0], [-1, 1], [2**70], ["", ""], {}, {"": ""}, {"a": {"a": {"a": {}}}},
)  # fmt: skip
"""Values in place of others: wrong types, borders of ranges, names with a meaning elsewhere."""

FRAGMENTS = (
    ":", "=", ",", "-", "_", "@", "/", "*", ".", "+", " ", "\0", "\n", "\x1b[0m", "0", "9" * 400, "1e9", "1e400", "nan",
    "inf", "-1", "0x10", "1_0", "٣", "²", "None", "true", "steps=0", "rule=gauss", "[", "]", "{", "}", '"', "'", "\\",
    "\ud800", "é", "日本", "😀",
)  # fmt: skip


def spoiled_bytes(rng: random.Random, data: bytes) -> bytes:
    """Some bits, blocks or the end of a file changed."""
    spoiled = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(spoiled) + 1)
        size = rng.choice((1, 1, 2, 8, 64, 512))
        match rng.randrange(6):
            case 0:
                spoiled[at : at + size] = rng.randbytes(size)
            case 1:
                del spoiled[at : at + size]
            case 2:
                spoiled[at:at] = spoiled[at : at + size]
            case 3:
                del spoiled[at:]
            case 4:
                spoiled[at : at + size] = bytes(size)
            case _:
                spoiled[at:at] = rng.choice((b"\xff", b"\0", b"{", b"[" * 300, b'"', b"9" * 50, b"\xef\xbb\xbf"))
    return bytes(spoiled)


def spoiled_text(rng: random.Random, text: str, fragments: Sequence[str] = FRAGMENTS) -> str:
    """Pieces of a text removed, repeated, put elsewhere, or replaced by others."""
    for _ in range(rng.randint(1, 3)):
        at, size = rng.randrange(len(text) + 1), rng.randint(1, 6)
        match rng.randrange(4):
            case 0:
                text = text[:at] + rng.choice(fragments) + text[at:]
            case 1:
                text = text[:at] + text[at + size :]
            case 2:
                text = text[:at] + text[at : at + size] + text[at:]
            case _:
                text = text[:at] + rng.choice(fragments) + text[at + size :]
    return text


Spot = tuple[Any, Any]
"""(container, key or index)"""


def spots(value: Any) -> list[Spot]:
    """Every place inside a nested value that something else can be put at."""
    found: list[Spot] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else list(range(len(one))) if isinstance(one, list) else []
        found += [(one, key) for key in keys]
        waiting += [one[key] for key in keys]
    return found


def spoiled_value(rng: random.Random, value: Any) -> Any:
    """A nested value of dicts and lists with a few places changed; the value itself stays."""
    spoiled = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = spots(spoiled)
        if not places:
            return copy.deepcopy(rng.choice(NASTY))
        rng.choice(_CHANGES)(rng, *rng.choice(places))
    return spoiled


def _replace(rng: random.Random, where: Any, key: Any) -> None:
    where[key] = copy.deepcopy(rng.choice(NASTY))


def _remove(rng: random.Random, where: Any, key: Any) -> None:
    del where[key]


def _rename(rng: random.Random, where: Any, key: Any) -> None:
    if isinstance(where, dict):
        where[rng.choice(("", f"{key}x", f" {key}", str(key).upper(), "\0", "a" * 400))] = where.pop(key)


def _repeat(rng: random.Random, where: Any, key: Any) -> None:
    if isinstance(where, list):
        where.insert(rng.randrange(len(where) + 1), copy.deepcopy(where[key]))
    else:
        where[key] = [where[key]] * rng.choice((1, 2, 50))


def _bury(rng: random.Random, where: Any, key: Any) -> None:
    for _ in range(rng.choice((1, 5, 70, 200))):
        where[key] = rng.choice(([where[key]], {"a": where[key]}))


def _swap(rng: random.Random, where: Any, key: Any) -> None:
    other = rng.choice(list(where) if isinstance(where, dict) else range(len(where)))
    where[key], where[other] = where[other], where[key]


def _alter(rng: random.Random, where: Any, key: Any) -> None:
    """Like what was there, and nearly right."""
    old = where[key]
    if isinstance(old, bool):
        where[key] = int(old)
    elif isinstance(old, int):
        where[key] = rng.choice((old + 1, -old, old / 2 if abs(old) < 2**60 else 0.5, f"{old:x}", old * 1000))
    elif isinstance(old, float):
        where[key] = rng.choice((-old, old * 1e300, int(old) if abs(old) < 2**60 else 1, str(old)))
    elif isinstance(old, str):
        where[key] = spoiled_text(rng, old)


_CHANGES: tuple[Callable[[random.Random, Any, Any], None], ...] = (
    _replace, _replace, _remove, _rename, _repeat, _bury, _swap, _alter, _alter,
)  # fmt: skip


def json_text(rng: random.Random, value: Any) -> str:
    """JSON as careless writers write it; now and then with a key given twice or a number of thousands of digits."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.9)
    match rng.randrange(20):
        case 0:
            return text.replace("{", '{"twice": 1, "twice": 2, ', 1)
        case 1:
            return text.replace(": ", f': {"7" * rng.choice((400, 5000))}, "more": ', 1)
        case 2:
            return f"\ufeff{text}"
        case 3:
            return text.replace("1", "01", 1)
        case 4:
            return spoiled_text(rng, text)
        case 5 if isinstance(value, dict) and value:
            key, first = next(iter(value.items()))
            return text.replace("{", f"{{{json.dumps(key)}: {json.dumps(first)}, ", 1)
    return text
