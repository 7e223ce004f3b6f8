"""Folders of dictionary_learning: `ae.pt`, with `config.json` beside it.

The tensors' names tell the class. Two classes have the same names; between these the config decides.
As in the library, an `AutoEncoder` gets unit decoder rows on loading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from featcircuits.dictionaries import Affine, gated, jumprelu, relu, topk
from featcircuits.errors import InputError, known, shortened
from featcircuits.sources.files import (
    Load,
    check_floats,
    check_names,
    check_size,
    names_of,
    read_json,
    setting,
    stored_k,
    transposed,
)
from featcircuits.sources.folding import with_unit_rows
from featcircuits.sources.hooks import layer_of
from featcircuits.sources.refused import refuse
from featcircuits.sources.source import Found, Origin, Source, home

WEIGHTS, CONFIG = "ae.pt", "config.json"

_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
_K = ("k", "threshold")


def recognises(path: Path) -> bool:
    """Whether the path is such a folder or its weights."""
    return home(path, WEIGHTS) is not None


def read(path: Path, load: Load) -> Found:
    """The dictionary of the folder's class."""
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    trainer = setting(config, "trainer", dict) or {}
    buffer = setting(config, "buffer", dict) or {}
    if setting(buffer, "io", str) == "in_and_out":
        raise InputError("it was trained from a module's input to its output, and these folders have no class for that")
    tensors = load(folder / WEIGHTS)
    check_floats({name: t for name, t in tensors.items() if name not in ("k", "group_sizes")})
    dictionary = _dictionary(tensors, _class_of(trainer, tensors), trainer)
    check_size(trainer, "activation_dim", dictionary.read_width)
    check_size(trainer, "dict_size", dictionary.n_features)
    return Found(dictionary, _origin_of(trainer, buffer, folder))


def _class_of(trainer: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The class that the tensors tell; the config decides if they leave a choice, and must not contradict them."""
    given = setting(trainer, "dict_class", str)
    if given is not None and given not in _BUILDERS:
        refuse({"CrossCoder": "crosscoder"}.get(given, ""))
        raise InputError(f"dict_class is {shortened(given)}; {known(_BUILDERS, given)}")
    possible = [name for name, (mark, _) in _BUILDERS.items() if mark <= set(tensors)]
    if given in ("AutoEncoder", "AutoEncoderNew") and possible in (["AutoEncoder"], ["AutoEncoderNew"]):
        return possible[0]  # the library's trainers write AutoEncoder for both classes
    if given is None and len(possible) == 1:
        return possible[0]
    if given not in possible:
        raise InputError(
            f"the config's dict_class is {given!r}, but the tensors {names_of(tensors)} are those of "
            f"{' or '.join(possible) or 'no known class'}"
        )
    return given


def _autoencoder(tensors: dict[str, Tensor], trainer: Mapping[str, Any]) -> Affine:
    check_names(tensors, (*_LINEAR, "bias"))
    matrices: dict[str, Any] = with_unit_rows(_transposed(tensors), leave_close=True)
    return relu(**matrices, b_dec=tensors["bias"], centre=tensors["bias"])


def _autoencoder_new(tensors: dict[str, Tensor], trainer: Mapping[str, Any]) -> Affine:
    check_names(tensors, (*_LINEAR, "decoder.bias"))
    return relu(**_transposed(tensors), b_dec=tensors["decoder.bias"])


def _gated(tensors: dict[str, Tensor], trainer: Mapping[str, Any]) -> Affine:
    check_names(tensors, ("encoder.weight", "decoder.weight", "decoder_bias", "gate_bias", "mag_bias", "r_mag"))
    matrices = _transposed({**tensors, "encoder.bias": tensors["gate_bias"]})
    return gated(
        matrices["W_enc"], matrices["b_enc"], tensors["r_mag"], tensors["mag_bias"], matrices["W_dec"],
        tensors["decoder_bias"], centre=tensors["decoder_bias"],
    )  # fmt: skip


def _jumprelu(tensors: dict[str, Tensor], trainer: Mapping[str, Any]) -> Affine:
    check_names(tensors, (*_MATRICES, "threshold"))
    return jumprelu(*(tensors[name] for name in (*_MATRICES, "threshold")))


def _topk(tensors: dict[str, Tensor], trainer: Mapping[str, Any]) -> Affine:
    check_names(tensors, (*_LINEAR, "b_dec"), _K)
    k = stored_k(tensors, trainer)
    return topk(**_transposed(tensors), b_dec=tensors["b_dec"], k=k, centre=tensors["b_dec"])


def _batch_topk(tensors: dict[str, Tensor], trainer: Mapping[str, Any]) -> Affine:
    check_names(tensors, (*_LINEAR, "b_dec", "threshold"), ("k",))
    return _thresholded(_transposed(tensors), tensors)


def _matryoshka(tensors: dict[str, Tensor], trainer: Mapping[str, Any]) -> Affine:
    check_names(tensors, (*_MATRICES, "threshold"), ("k", "group_sizes"))
    return _thresholded({name: tensors[name] for name in _MATRICES[:3]}, tensors)


def _thresholded(matrices: dict[str, Any], tensors: Mapping[str, Tensor]) -> Affine:
    """One threshold for all features; if it is below 0, as after a short training, all positive features are active."""
    if tensors["threshold"].numel() != 1:
        raise InputError(f"threshold must be a single number, found the shape {list(tensors['threshold'].shape)}")
    threshold = tensors["threshold"].reshape(()).expand(matrices["b_enc"].shape)
    return jumprelu(**matrices, b_dec=tensors["b_dec"], threshold=threshold, centre=tensors["b_dec"])


def _transposed(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The tensors with matrices transposed, since torch.nn.Linear stores [out, in]."""
    encoder, bias, decoder = _LINEAR
    return {"W_enc": transposed(tensors, encoder), "b_enc": tensors[bias], "W_dec": transposed(tensors, decoder)}


_BUILDERS = {
    "AutoEncoder": ({*_LINEAR, "bias"}, _autoencoder),
    "AutoEncoderNew": ({*_LINEAR, "decoder.bias"}, _autoencoder_new),
    "GatedAutoEncoder": ({"gate_bias", "mag_bias", "r_mag"}, _gated),
    "JumpReluAutoEncoder": ({*_MATRICES, "threshold"}, _jumprelu),
    "AutoEncoderTopK": ({*_LINEAR, "b_dec"}, _topk),
    "BatchTopKSAE": ({*_LINEAR, "b_dec", "threshold"}, _batch_topk),
    "MatryoshkaBatchTopKSAE": ({*_MATRICES, "threshold", "group_sizes"}, _matryoshka),
}
"""Class -> the names of its tensors, and its builder."""


def _dictionary(tensors: dict[str, Tensor], name: str, trainer: Mapping[str, Any]) -> Affine:
    return _BUILDERS[name][1](tensors, trainer)


_HOOKS = {
    "resid_post": "hook_resid_post", "resid_out": "hook_resid_post", "resid": "hook_resid_post",
    "mlp_out": "hook_mlp_out", "mlp": "hook_mlp_out", "attn_out": "hook_attn_out", "attn": "hook_attn_out",
}  # fmt: skip
_SUBMODULE = re.compile(r"(\w+?)_layer_?(\d{1,6})")


def _origin_of(trainer: Mapping[str, Any], buffer: Mapping[str, Any], folder: Path) -> Origin:
    """The origin, from the module's name: free text, but the library's scripts write `resid_post_layer_3`."""
    given, layer = setting(trainer, "submodule_name", str), setting(trainer, "layer", int)
    names = (given,) if given else folder.absolute().parts[-3:]
    match = next((match for name in reversed(names) if (match := _SUBMODULE.fullmatch(name))), None)
    if match is None or match[1] not in _HOOKS:
        hook = given if given and layer_of(given) is not None else None
    else:
        hook = f"blocks.{match[2]}.{_HOOKS[match[1]]}"
    if hook and layer not in (None, layer_of(hook)):
        raise InputError(f"the config says layer = {layer}, but submodule_name = {shortened(given)}")
    if hook and setting(buffer, "io", str) not in (None, "out"):
        hook, layer = None, layer_of(hook)  # it was trained on the module's input
    return Origin(hook, None, setting(trainer, "lm_name", str), layer)


DICTIONARY_LEARNING = Source("dictionary_learning", (WEIGHTS, CONFIG), recognises, read)
