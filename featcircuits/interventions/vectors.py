"""Vectors that interventions call by name, from a file."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from featcircuits.errors import InputError, shortened
from featcircuits.sources.files import mapped


def vectors_in(path: str | Path) -> dict[str, Tensor]:
    """Name -> vector of a safetensors file; raises `InputError` for another file."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{shortened(path, 300)}: vectors are read from a .safetensors file, by name")
    return mapped(path)
