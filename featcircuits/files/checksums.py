"""Checksums that tell whether a file is still what was written: against damage, not against forgery."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_NAME = "checksums.json"
_PIECE = 1 << 24


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The checksum of tensors: of their names, dtypes, shapes and numbers."""
    import torch

    sum = 0
    for name, tensor in sorted(tensors.items()):
        sum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), sum)
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        flat = flat.as_strided(flat.shape, (1,))  # of a single number any stride is contiguous, and 0 is no view
        sum = zlib.crc32(flat.view(torch.uint8).numpy().data, sum)
    return f"{sum:08x}"


def of_file(path: Path) -> str:
    """The checksum of a file's bytes."""
    sum = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            sum = zlib.crc32(piece, sum)
    return f"{sum:08x}"


def seal(folder: Path) -> None:
    """Write the checksums of a folder's files beside them."""
    sums = {path.name: of_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / _NAME).write_text(json.dumps(sums), encoding="utf-8")


def intact(folder: Path, name: str) -> bool:
    """Whether a file of a sealed folder is still what was written."""
    try:
        return json.loads((folder / _NAME).read_bytes())[name] == of_file(folder / name)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
