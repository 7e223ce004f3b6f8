"""Writing an export: whole or not at all, and never over an earlier one unasked."""

from __future__ import annotations

from pathlib import Path

from featcircuits.files.writing import write_whole


def write_export(path: str | Path, content: bytes, overwrite: bool) -> None:
    """Raises `InputError` where the file exists, unless `overwrite`, and where it cannot be written."""
    write_whole(path, content, overwrite=overwrite)
