"""Folders of sparsify: `sae.safetensors` and `cfg.json`, in a folder named after the module.

b_dec is subtracted from the input unless `transcode` is true. Before the setting `transcode` existed, only
transcoders had a skip, and for these b_dec is subtracted too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from featcircuits.dictionaries import Affine, abstopk, groupmax, topk
from featcircuits.errors import InputError, known, shortened
from featcircuits.sources.files import Load, check_floats, check_names, check_size, k_of, read_json, setting, transposed
from featcircuits.sources.source import Found, Origin, Source, home

WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"

_TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
_ACTIVATIONS: Mapping[str, Callable[..., Affine]] = {"topk": topk, "groupmax": groupmax}


def recognises(path: Path) -> bool:
    """Whether the path is such a folder or its weights."""
    return home(path, WEIGHTS, CONFIG) is not None


def read(path: Path, load: Load) -> Found:
    """The SAE or transcoder of such a folder."""
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / CONFIG)
    dictionary = _dictionary(config, load(folder / WEIGHTS))
    check_size(config, "d_in", dictionary.read_width)
    check_size(config, "num_latents", _stated_features(config, dictionary))
    hook = folder.absolute().name
    return Found(dictionary, Origin(hook, hook if dictionary.transcodes else None))


def _dictionary(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Affine:
    skip = setting(config, "skip_connection", bool) or False
    check_names(tensors, (*_TENSORS, "W_skip") if skip else _TENSORS)
    check_floats(tensors)
    transcode = setting(config, "transcode", bool)
    return _kind(config)(
        transposed(tensors, "encoder.weight"), tensors["encoder.bias"], tensors["W_dec"], tensors["b_dec"],
        k=k_of(setting(config, "k", int)),
        centre=None if transcode else tensors["b_dec"],
        W_skip=transposed(tensors, "W_skip") if skip else None,
        transcodes=skip if transcode is None else transcode,
    )  # fmt: skip


def _kind(config: Mapping[str, Any]) -> Callable[..., Affine]:
    if setting(config, "signed", bool):
        return abstopk
    name = setting(config, "activation", str) or "topk"
    if name not in _ACTIVATIONS:
        raise InputError(f"the activation is {shortened(name)}; {known(_ACTIVATIONS, name)}")
    return _ACTIVATIONS[name]


def _stated_features(config: Mapping[str, Any], dictionary: Affine) -> int:
    """The number of features in the config; num_latents = 0 means the input's width times the expansion factor."""
    if setting(config, "num_latents", int) != 0:
        return dictionary.n_features
    check_size(config, "expansion_factor", dictionary.n_features // dictionary.read_width)
    return 0


SPARSIFY = Source("sparsify", (WEIGHTS, CONFIG), recognises, read)
