"""Writing an export: whole or not at all, and never over an earlier one unasked."""

from __future__ import annotations

from pathlib import Path

from featcircuits.circuit import write_whole
from featcircuits.errors import InputError


def write_export(path: str | Path, content: bytes, overwrite: bool) -> None:
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another name or pass overwrite=True (--overwrite)")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    write_whole(path, content)
