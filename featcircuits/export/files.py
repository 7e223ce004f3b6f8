"""Writing of an export: whole or not at all, and never over an earlier one unless asked."""

from __future__ import annotations

from pathlib import Path

from featcircuits.files.writing import write_whole


def write_export(path: str | Path, content: bytes, overwrite: bool) -> None:
    """Write an export; raises `InputError` if the file exists, unless `overwrite`, or cannot be written."""
    write_whole(path, content, overwrite=overwrite)
