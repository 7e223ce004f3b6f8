"""Plain safetensors dictionaries: one file, the tensors present say the kind.

`W_enc [width, features]`, `b_enc`, `W_dec [features, width]`, `b_dec`; `threshold [features]` makes
it a JumpReLU; without it a ReLU. Nothing here can execute code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from featcircuits.dictionaries.base import Dictionary, check_numbers
from featcircuits.dictionaries.jumprelu import jumprelu
from featcircuits.dictionaries.relu import relu
from featcircuits.errors import InputError

_MATRICES = frozenset({"W_enc", "b_enc", "W_dec", "b_dec"})

KINDS: Mapping[frozenset[str], Callable[..., Dictionary]] = {
    _MATRICES: relu,
    _MATRICES | {"threshold"}: jumprelu,
}
"""Which constructor takes exactly these tensors."""


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file; a missing, truncated or foreign file is an `InputError`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); it may be truncated or damaged") from None


def check_hash(path: Path, expected: str | None) -> None:
    """Refuse a file that is missing or not the one that was recorded; None records nothing."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; the suite is incomplete")
    if expected and (found := sha256(path)) != expected:
        raise InputError(
            f"{path}: sha256 is {found[:12]}..., but the suite records {expected[:12]}...; "
            "the file was changed or damaged: restore it, or rebuild the suite"
        )


def load_dictionary(path: Path, expected_sha256: str | None = None) -> Dictionary:
    """Read one dictionary; its numbers are checked, and its hash where one is recorded."""
    check_hash(path, expected_sha256)
    dictionary = read_dictionary(path)
    try:
        check_numbers(dictionary)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return dictionary


def read_dictionary(path: Path) -> Dictionary:
    """One that was checked before: its weights are mapped, and read from disk where they are touched."""
    tensors = read_safetensors(path)
    make = KINDS.get(frozenset(tensors))
    if make is None:
        known = " or ".join(sorted(str(sorted(names)) for names in KINDS))
        raise InputError(f"{path}: holds the tensors {sorted(tensors)}; a dictionary holds {known}")
    try:
        return make(**tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
