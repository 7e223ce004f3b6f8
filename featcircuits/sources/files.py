"""Tensors and configs from files that may be damaged or hostile; whatever is wrong raises one `InputError`.

Tensors are memory-mapped if the format allows it, so that only the parts in use are read, or loaded as shapes
only. Nothing in a file is executed, and nothing is trusted before it is checked: a name, a size
or a number that cannot be right is refused here.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from featcircuits.errors import InputError, first_line, shortened
from featcircuits.files import reading

Load = Callable[[Path], dict[str, Tensor]]
"""A function that loads a file's tensors: `mapped` or `shapes`."""

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_LEAST_SHARE = 0.01
"""The smallest share of an archive's bytes in its unpacked bytes. Weights hardly compress."""


def mapped(path: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors, .npz or .pt file."""
    return _read(path, shapes_only=False)


def shapes(path: Path) -> dict[str, Tensor]:
    """The shapes of the tensors, on the meta device; single numbers are read, since they are settings."""
    return _read(path, shapes_only=True)


def _read(path: Path, shapes_only: bool) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return _READERS[path.suffix](path, shapes_only)


def _safetensors(path: Path, shapes_only: bool) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: _tensor(file, name, shapes_only) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{path}: not a readable safetensors file ({first_line(error)}); it may be truncated or damaged"
        ) from None


def _tensor(file: Any, name: str, shapes_only: bool) -> Tensor:
    shape = file.get_slice(name).get_shape()
    if shapes_only and math.prod(shape) > 1:
        return torch.empty(shape, dtype=_DTYPES.get(file.get_slice(name).get_dtype(), torch.int64), device="meta")
    return file.get_tensor(name)


_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: not a readable safetensors file ({first_line(error)}); it may be truncated or damaged"
        ) from None


def _npz(path: Path, shapes_only: bool) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if path.stat().st_size < _LEAST_SHARE * sum(member.file_size for member in members):
                raise ValueError("it unpacks to more than a hundred times its size")
            return {m.filename.removesuffix(".npy"): _array(archive, m, shapes_only) for m in members}
    # the bytes of a damaged archive can make the reader raise anything
    except Exception as error:
        raise InputError(
            f"{path}: not a readable npz file ({first_line(error)}); it may be truncated or damaged"
        ) from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, shapes_only: bool) -> Tensor:
    with archive.open(member) as file:
        shape, dtype = _header(file)
        if dtype.kind != "f" or dtype.itemsize > 8:
            raise ValueError(f"{member.filename} holds {dtype}, not floats")
        # read_array would allocate whatever size the header names
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename} is shorter than its shape {list(shape)}")
    if shapes_only and math.prod(shape) > 1:
        return torch.empty(shape, dtype=torch.float32, device="meta")
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return torch.from_numpy(np.ascontiguousarray(array.astype(dtype.newbyteorder("="), copy=False)))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"npy version {version} is not known")
    shape, _, dtype = readers[version](file)
    return shape, dtype


def _pickled(path: Path, shapes_only: bool) -> dict[str, Tensor]:
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            _check_stored(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    # weights_only runs no code from the file, but the file's bytes can make the reader raise anything
    except Exception as error:
        raise InputError(
            f"{path}: not readable as PyTorch weights without executing code ({_reason(error)}); "
            "it may be truncated, damaged or not a state dict"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise InputError(f"{path}: not a state dict; it must hold tensors by name")
    for name, tensor in found.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise InputError(f"{path}: {shortened(name)} is not a plain tensor")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"{path}: {shortened(name)[1:-1]} repeats its numbers to the shape {list(tensor.shape)}")
    if shapes_only:
        return {str(name): t.to("meta") if t.numel() > 1 else t for name, t in found.items()}
    return {str(name): tensor.detach() for name, tensor in found.items()}


def _check_stored(path: Path) -> None:
    """Raise for compressed parts, with which a small file could hold any number of bytes; torch.save writes none."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if packed := next((member for member in members if member.compress_type != zipfile.ZIP_STORED), None):
        raise ValueError(f"{shortened(packed.filename)} in it is compressed, as torch.save never does")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its parts are larger than the file")


def _reason(error: Exception) -> str:
    """The reason without PyTorch's advice to execute the file's content, which must not be passed on."""
    said = str(error)
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in said:
        named = re.search(r"GLOBAL ([\w.]+)", said)
        return f"it asks for {named[1][:80]}" if named else "it holds things other than tensors"
    return first_line(error)


_READERS: Mapping[str, Callable[[Path, bool], dict[str, Tensor]]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".pt": _pickled,
}


def check_names(tensors: Collection[str], needed: Collection[str], optional: Collection[str] = ()) -> None:
    """Raise `InputError` for missing tensors, and for tensors that nothing reads, since they could change features."""
    if set(needed) <= set(tensors) <= set(needed) | set(optional):
        return
    more = f", and may hold {sorted(optional)}" if optional else ""
    raise InputError(f"holds the tensors {names_of(tensors)}; a dictionary of this kind holds {sorted(needed)}{more}")


def names_of(tensors: Collection[str]) -> str:
    """The first few names, as a list for messages; a file may hold many and long names."""
    some = [shortened(name, 40) for name in sorted(tensors)[:_MOST_NAMES]]
    more = f" and {len(tensors) - len(some)} others" if len(tensors) > len(some) else ""
    return f"[{', '.join(some)}]{more}"


_MOST_NAMES = 12


def check_floats(tensors: Mapping[str, Tensor]) -> None:
    """Raise `InputError` for weights that are not float16, bfloat16, float32 or float64."""
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise InputError(f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, not floats")


def transposed(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor that must be a matrix, transposed."""
    if tensors[name].dim() != 2:
        raise InputError(f"{name} must have two dimensions, found {list(tensors[name].shape)}")
    return tensors[name].T


def number_of(tensor: Tensor, name: str) -> int:
    """A whole number that is stored as a tensor."""
    if tensor.numel() != 1 or tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"{name} must be a single whole number, found {tensor.dtype} of shape {list(tensor.shape)}")
    return int(tensor.item())


def read_json(path: Path) -> dict[str, Any]:
    """A config that is a JSON object."""
    return _record(path, reading.read_json(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """A config that is a YAML mapping of plain values."""
    return _record(path, reading.read_yaml(path))


def _record(path: Path, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise InputError(f"{path}: must hold settings by name, found a {type(record).__name__}")
    return record


T = TypeVar("T", bound="int | float | str | bool | dict[str, Any]")


def setting(record: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    """A config's value, None if it has none; raises `InputError` for a value of another type."""
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or _overflows(value):
        bound = ", below 2^63" if _overflows(value) else ""
        raise InputError(f"{name} is {shortened(value)}, but must be {_KINDS[kind]}{bound}")
    return value


def _overflows(value: object) -> bool:
    return isinstance(value, int) and abs(value) >= 1 << 63


_KINDS: Mapping[type, str] = {int: "a whole number", str: "text", bool: "true or false", dict: "a table"}


def k_of(*given: int | None) -> int:
    """The first k that a source's files give; raises `InputError` if there is none."""
    k = next((k for k in given if k is not None), None)
    if k is None:
        raise InputError("the files give no k, how many features a token may have")
    if k < 1:
        raise InputError(f"k is {k}, but must be at least 1: how many features a token may have")
    return k


def stored_k(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> int:
    """The k that is among the tensors, with which the config has to agree, or the config's."""
    stored = number_of(tensors["k"], "k") if "k" in tensors else None
    if stored is not None:
        check_size(config, "k", stored)
    return k_of(stored, setting(config, "k", int))


def check_size(record: Mapping[str, Any], name: str, found: int) -> None:
    """Raise `InputError` for a config whose size differs from that of its tensors."""
    given = setting(record, name, int)
    if given is not None and given != found:
        raise InputError(f"the config says {name} = {given}, but the tensors have {found}")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hash(path: Path, expected: str | None) -> None:
    """Raise `InputError` for a missing file or one whose hash differs from the record; None means no record."""
    if not os.path.isfile(path):
        raise InputError(f"{shortened(path, 300)}: no such file; the suite is incomplete")
    if expected:
        compare_hash(path, sha256(path), expected)


def compare_hash(path: Path, found: str, expected: str) -> None:
    """Raise `InputError` if the hash that was found is not the recorded one."""
    if found != expected:
        raise InputError(
            f"{path}: sha256 is {found[:12]}..., but the suite records {expected[:12]}...; "
            "the file was changed or damaged: restore it, or rebuild the suite"
        )
