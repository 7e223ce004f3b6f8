"""labels.jsonl: one label per line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, check_file, first_line, naming, shortened
from featcircuits.files.reading import MOST_BYTES, parse_json, read_text
from featcircuits.files.writing import write_whole
from featcircuits.labels.record import Label


def read(path: str | Path) -> list[Label]:
    """The labels of a file in its order; raises `InputError` naming the line of one that cannot be used."""
    found = []
    for where, row in json_lines(path):
        with named(where):
            found.append(Label.from_json(row))
    return found


def write(labels: Iterable[Label], path: str | Path, *, overwrite: bool = False) -> None:
    """Write labels, whole or not at all; raises `InputError` where the file exists, unless `overwrite`."""
    write_lines((label.to_json() for label in labels), path, overwrite=overwrite)


def json_lines(path: str | Path) -> Iterator[tuple[str, Any]]:
    """(where, the value of the line) of a JSONL file, which may be compressed (.gz)."""
    shown = shortened(Path(path), 300)
    text = _unpacked(Path(path)) if Path(path).suffix == ".gz" else read_text(path, what="file of labels")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{shown}, line {number}"
            yield where, parse_json(line, where)


def write_lines(rows: Iterable[Mapping[str, Any]], path: str | Path, *, overwrite: bool = False) -> None:
    """Compressed where the name ends in .gz."""
    content = "".join(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows).encode()
    packed = gzip.compress(content, mtime=0) if Path(path).suffix == ".gz" else content
    write_whole(path, packed, overwrite=overwrite)


@contextmanager
def named(where: str) -> Iterator[None]:
    """Errors say of what."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _unpacked(path: Path) -> str:
    """Of at most `MOST_BYTES`, however small the file is."""
    shown = shortened(path, 300)
    check_file(path, "file of labels")
    try:
        with naming(path), gzip.open(path) as file:
            raw = file.read(MOST_BYTES + 1)
    except (EOFError, zlib.error) as error:
        raise InputError(f"{shown}: not a gzip file, or a damaged one ({first_line(error)})") from None
    if len(raw) > MOST_BYTES:
        raise InputError(f"{shown}: holds more than {MOST_BYTES} bytes; split it")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{shown}: not UTF-8 text ({error.reason}, byte {error.start})") from None
