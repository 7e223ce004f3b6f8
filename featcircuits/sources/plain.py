"""Plain safetensors dictionaries: one file, whose tensors tell the kind.

`W_enc [read width, features]`, `b_enc`, `W_dec [features, width]`, `b_dec`; with `threshold
[features]` a JumpReLU, with `k` a top-k, with `b_gate`, `r_mag`, `b_mag` instead of `b_enc` a gated
one, otherwise a ReLU. `centre [read width]` is subtracted from the input. `W_skip [width, read
width]` makes it a skip transcoder. The file's metadata may name `hook_name`, `hook_name_out` (which
makes it a transcoder) and `model_name`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from featcircuits.dictionaries import Affine, gated, jumprelu, relu, topk
from featcircuits.errors import InputError
from featcircuits.sources.files import Load, check_floats, k_of, metadata_of, names_of, number_of, transposed
from featcircuits.sources.refused import refuse
from featcircuits.sources.source import Found, Origin, Source

_MATRICES = frozenset({"W_enc", "b_enc", "W_dec", "b_dec"})

KINDS: Mapping[frozenset[str], Callable[..., Affine]] = {
    _MATRICES: relu,
    _MATRICES | {"threshold"}: jumprelu,
    _MATRICES | {"k"}: topk,
    _MATRICES - {"b_enc"} | {"b_gate", "r_mag", "b_mag"}: gated,
}
"""Names of tensors -> the constructor that takes exactly these, and the optional ones."""

_OPTIONAL = {"centre", "W_skip"}


def recognises(path: Path) -> bool:
    """Whether the path is a safetensors file."""
    return path.is_file() and path.suffix == ".safetensors"


def read(path: Path, load: Load) -> Found:
    """The dictionary of one safetensors file."""
    tensors = load(path)
    if any(name.lower().startswith("w_dec") and tensor.dim() == 3 for name, tensor in tensors.items()):
        refuse("cross_layer_transcoder")  # one matrix for each layer that features write to
    make = KINDS.get(frozenset(tensors) - _OPTIONAL)
    if make is None:
        known = " or ".join(sorted(str(sorted(names)) for names in KINDS))
        raise InputError(f"holds the tensors {names_of(tensors)}; a dictionary holds {known}")
    check_floats({name: tensor for name, tensor in tensors.items() if name != "k"})
    metadata = metadata_of(path)
    origin = Origin(metadata.get("hook_name"), metadata.get("hook_name_out"), metadata.get("model_name"))
    return Found(make(**_arguments(tensors, origin)), origin)


def _arguments(tensors: dict[str, Tensor], origin: Origin) -> dict[str, Any]:
    given: dict[str, Any] = dict(tensors)
    if "k" in given:
        given["k"] = k_of(number_of(given["k"], "k"))
    if "W_skip" in given:
        given["W_skip"] = transposed(tensors, "W_skip")
    return {**given, "transcodes": "W_skip" in given or origin.hook_name_out is not None}


PLAIN = Source("plain safetensors", (), recognises, read)
