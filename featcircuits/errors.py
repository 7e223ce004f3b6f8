"""The one error that a user is meant to see, and the building blocks of its messages."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message names the thing, the value found and the remedy. The command line prints it alone
    and exits with code 2; from Python it is an ordinary `ValueError`.
    """


def shortened(value: Any, most: int = 80) -> str:
    """A value as Python writes it, in at most `most` characters and without control characters.

    Only the first few parts of a value with many or nested parts are written. A path
    is written without quotes.
    """
    text = _written(os.fspath(value), most)[1:-1] if isinstance(value, os.PathLike) else _written(value, most)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _written(value: Any, most: int) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4 * most:
        return f"a number of about {round(value.bit_length() * 0.30103)} digits"
    try:
        return _short(most).repr(value)
    except ValueError:  # raised for a number with thousands of digits inside the value
        return f"a {type(value).__name__} that is too long to show"


def _short(most: int) -> reprlib.Repr:
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 3, most, most, most
    return short


def known(names: Iterable[object], wrong: object) -> str:
    """The text after "unknown X": the known names, and the one that was probably meant."""
    listed = [str(name) for name in names]
    close = difflib.get_close_matches(str(wrong)[:200], listed, n=1)
    shown = ", ".join(listed) if len(listed) <= _MOST_NAMES else _some(listed, str(wrong)[:200])
    return f"known: {shown or 'none'}" + (f"; did you mean {close[0]!r}?" if close and len(listed) > 1 else "")


_MOST_NAMES = 40


def _some(names: list[str], wrong: str) -> str:
    first = difflib.get_close_matches(wrong, names, n=5, cutoff=0.4) or names[:5]
    return f"{', '.join(first)} and {len(names) - len(first)} others"


_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


def first_line(error: BaseException, most: int = 200) -> str:
    """A library's error as one line: its first line that is not blank, without terminal codes, or else its type.

    `KeyError` puts its message in quotes, which are removed.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = (line.strip() for line in _ESCAPES.sub("", text).splitlines())
    line = next((line for line in lines if line), type(error).__name__)
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line[: most + 1])
    return printable if len(printable) <= most else f"{printable[: most - 3]}..."


@contextmanager
def naming(path: str | Path, what: str = "file") -> Iterator[None]:
    """Turn errors of the operating system into one `InputError` that names the path; `what` should have been there."""
    shown = shortened(Path(path), 300)
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{shown}: no such {what}") from None
    except IsADirectoryError:
        raise InputError(f"{shown}: this is a folder; give a file") from None
    except OSError as error:
        raise InputError(f"{shown}: {(error.strerror or first_line(error)).lower()}") from None


def check_file(path: str | Path, what: str = "file") -> os.stat_result:
    """The size and times of an ordinary file; raises `InputError` for a missing file, a folder, a pipe or a device."""
    shown = shortened(Path(path), 300)
    if "\0" in str(path):
        raise InputError(f"{shown}: a path cannot hold the character NUL")
    with naming(path, what):
        found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{shown}: this is a folder; give a file")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{shown}: this is not an ordinary file; give one")
    return found
