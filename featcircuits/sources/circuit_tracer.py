"""Transcoder sets of circuit-tracer: `layer_3.safetensors` and the like, with `config.yaml` beside them.

W_enc is stored [features, width], and nothing is subtracted. No relu follows a top-k or a
threshold, so features can be negative.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from featcircuits.dictionaries import Affine, jumprelu, relu, topk
from featcircuits.errors import InputError, known, shortened
from featcircuits.sources.files import (
    Load,
    check_floats,
    check_names,
    names_of,
    read_yaml,
    setting,
    shapes,
    stored_k,
    transposed,
)
from featcircuits.sources.refused import refuse
from featcircuits.sources.source import Found, Origin, Source, check_same_width

CONFIG = "config.yaml"

_MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
_THRESHOLD = "activation_function.threshold"
_CROSS_LAYER = re.compile(r"W_(enc|dec)_\d{1,6}\.safetensors")
_LAYER = re.compile(r"layer_(\d{1,6})\.safetensors")


def recognises(path: Path) -> bool:
    """Whether the file's name and a config fit, or, without a config, the transposed encoder; or it is cross-layer."""
    if _crosses_layers(path):
        return True
    if not path.is_file() or not _LAYER.fullmatch(path.name):
        return False
    return (path.parent / CONFIG).is_file() or _lies_on_its_side(shapes(path))


def _crosses_layers(path: Path) -> bool:
    """Whether it is a cross-layer transcoder: files `W_enc_3.safetensors` and `W_dec_3.safetensors` for each layer."""
    return any(_CROSS_LAYER.fullmatch(file.name) for file in (path.iterdir() if path.is_dir() else [path]))


def _lies_on_its_side(tensors: Mapping[str, Tensor]) -> bool:
    encoder, bias = (tensors.get(name) for name in ("W_enc", "b_enc"))
    return (
        encoder is not None and bias is not None and encoder.dim() == 2 and encoder.shape[0] != encoder.shape[1]
        and encoder.shape[:1] == bias.shape
    )  # fmt: skip


def read(path: Path, load: Load) -> Found:
    """The transcoder of one file, with the settings of the config beside it."""
    if _crosses_layers(path):
        refuse("cross_layer_transcoder")
    config = read_yaml(path.parent / CONFIG) if (path.parent / CONFIG).is_file() else {}
    kind = setting(config, "model_kind", str) or "transcoder_set"
    if kind != "transcoder_set":
        refuse(kind)
        raise InputError(f"model_kind is {shortened(kind)}; known: 'transcoder_set'")
    tensors = load(path)
    settings = ("k",) if "k" in tensors else ()
    check_floats({name: tensor for name, tensor in tensors.items() if name not in settings})
    dictionary = _dictionary(config, tensors)
    check_same_width(dictionary)
    return Found(dictionary, _origin(config, path))


def _dictionary(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Affine:
    check_names(tensors, _MATRICES, (_THRESHOLD, "k", "W_skip"))
    skip = transposed(tensors, "W_skip") if "W_skip" in tensors else None
    matrices: dict[str, Any] = {**{name: tensors[name] for name in _MATRICES}, "W_enc": transposed(tensors, "W_enc")}
    activation = _activation(config, tensors)
    if activation == "topk":
        return topk(**matrices, k=stored_k(tensors, config), rectified=False, W_skip=skip, transcodes=True)
    if activation == "jump_relu":
        threshold = tensors[_THRESHOLD]
        return jumprelu(**matrices, threshold=threshold, rectified=False, W_skip=skip, transcodes=True)
    return relu(**matrices, W_skip=skip, transcodes=True)


def _activation(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The constructor for the tensors; a config that also names the activation must agree with them."""
    stored = "jump_relu" if _THRESHOLD in tensors else "topk" if "k" in tensors else None
    given = setting(config, "activation", str)
    if given not in (None, "relu", "topk", "jump_relu"):
        raise InputError(f"the activation is {shortened(given)}; {known(('relu', 'topk', 'jump_relu'), given)}")
    if (stored and given and stored != given) or (given == "jump_relu" and stored is None):
        raise InputError(f"the config says activation = {given}, but the tensors are {names_of(tensors)}")
    return stored or given or "relu"


def _origin(config: Mapping[str, Any], path: Path) -> Origin:
    layer = path.stem.removeprefix("layer_")
    read, written = (setting(config, f"feature_{end}_hook", str) for end in ("input", "output"))
    return Origin(
        f"blocks.{layer}.{read}" if read else None,
        f"blocks.{layer}.{written}" if written else None,
        setting(config, "model_name", str),
        int(layer),
    )


CIRCUIT_TRACER = Source("circuit-tracer", (CONFIG,), recognises, read)
