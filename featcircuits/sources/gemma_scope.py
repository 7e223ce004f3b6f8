"""Gemma Scope: `params.npz` for Gemma 2, `params.safetensors` with `config.json` for Gemma 3.

All are JumpReLU dictionaries whose b_dec is not subtracted. An npz file does not tell what it is. Only the
repository's name does, so a copy must keep the name's last part as a folder (`gemma-scope-2b-pt-transcoders`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from featcircuits.dictionaries import Affine, jumprelu
from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError, shortened
from featcircuits.sources.files import Load, check_floats, check_names, check_size, names_of, read_json, setting
from featcircuits.sources.refused import refuse
from featcircuits.sources.source import Found, Origin, Source, check_same_width, home

WEIGHTS, WEIGHTS_2, CONFIG = "params.npz", "params.safetensors", "config.json"

_TENSORS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
_FAMILY = re.compile(r".*[-_](res|att|mlp|transcoders?)")
_LAYER = re.compile(r"layer_(\d{1,6})")
_SIZE = re.compile(r".*gemma-scope-(\d+b)-(pt|it)\b.*")
_PLACES = {"res": "hook_resid_post", "att": "attn.hook_z", "mlp": "hook_mlp_out", "transcoder": "ln2.hook_normalized"}


def recognises(path: Path) -> bool:
    """Whether the path is a folder of Gemma Scope or its weights."""
    return home(path, WEIGHTS) is not None


def read(path: Path, load: Load) -> Found:
    """The dictionary of a Gemma Scope folder."""
    folder = path if path.is_dir() else path.parent
    parts = folder.absolute().parts
    transcodes = _family(parts) == "transcoder"
    dictionary = _dictionary(load(folder / WEIGHTS), transcodes, embedding="embedding" in parts)
    return Found(dictionary, Origin(*_hooks(parts), _model(parts), _layer(parts)))


def _dictionary(tensors: dict[str, Tensor], transcodes: bool, embedding: bool = False) -> Affine:
    lower = {name.lower(): tensor for name, tensor in tensors.items()}
    if len(lower) < len(tensors):
        raise InputError(f"holds the tensors {names_of(tensors)}, some of them twice")
    check_names(lower, _TENSORS, ("affine_skip_connection",))
    check_floats(lower)
    W_enc, b_enc, W_dec, b_dec, threshold = (lower[name] for name in _TENSORS)
    if W_enc.dim() == 3 or W_dec.dim() == 3:
        refuse("crosscoder" if W_enc.dim() == 3 else "cross_layer_transcoder")
    if embedding:
        # it was trained before the embedding is scaled by sqrt(width), and is spliced in after that
        root = W_enc.shape[0] ** 0.5 if W_enc.dim() == 2 and W_enc.shape[0] else 1.0
        W_enc, W_dec = wide(W_enc) / root, wide(W_dec) * root
    skip = lower.get("affine_skip_connection")
    dictionary = jumprelu(W_enc, b_enc, W_dec, b_dec, threshold, W_skip=skip, transcodes=transcodes)
    check_same_width(dictionary)
    return dictionary


def _family(parts: tuple[str, ...]) -> str | None:
    """The part of Gemma Scope, from the innermost folder that names one."""
    found = next((match[1] for part in reversed(parts) if (match := _FAMILY.fullmatch(part))), None)
    return "transcoder" if found == "transcoders" else found


def _hooks(parts: tuple[str, ...]) -> tuple[str | None, str | None]:
    if "embedding" in parts:
        return "hook_embed", None
    layer, family = _layer(parts), _family(parts)
    if layer is None or family is None:
        return None, None
    return f"blocks.{layer}.{_PLACES[family]}", f"blocks.{layer}.hook_mlp_out" if family == "transcoder" else None


def _layer(parts: tuple[str, ...]) -> int | None:
    return next((int(match[1]) for part in reversed(parts) if (match := _LAYER.fullmatch(part))), None)


def _model(parts: tuple[str, ...]) -> str | None:
    match = next((match for part in reversed(parts) if (match := _SIZE.fullmatch(part))), None)
    return None if match is None else f"google/gemma-2-{match[1]}" + ("-it" if match[2] == "it" else "")


GEMMA_SCOPE = Source("Gemma Scope", (WEIGHTS,), recognises, read)


def recognises_2(path: Path) -> bool:
    """Whether the path is a folder of Gemma Scope 2 or its weights."""
    return home(path, WEIGHTS_2) is not None


def read_2(path: Path, load: Load) -> Found:
    """The dictionary of a Gemma Scope 2 folder."""
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / CONFIG)
    if setting(config, "architecture", str) != "jump_relu":
        raise InputError(f"the architecture is {shortened(config.get('architecture'))}; known: 'jump_relu'")
    kind = setting(config, "type", str) or "sae"
    if kind not in ("sae", "transcoder"):
        refuse({"clt": "cross_layer_transcoder"}.get(kind, kind))
        raise InputError(f"the type is {shortened(kind)}; known: 'sae', 'transcoder'")
    tensors = load(folder / WEIGHTS_2)
    _check_skip(config, tensors)
    dictionary = _dictionary(tensors, transcodes=kind == "transcoder")
    check_size(config, "width", dictionary.n_features)
    return Found(dictionary, _origin_2(config, dictionary.transcodes))


def _check_skip(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    given = setting(config, "affine_connection", bool)
    if given is not None and given != ("affine_skip_connection" in tensors):
        raise InputError(f"the config says affine_connection = {given}, but the tensors are {names_of(tensors)}")


def _origin_2(config: Mapping[str, Any], transcodes: bool) -> Origin:
    out = setting(config, "hf_hook_point_out", str) if transcodes else None
    return Origin(setting(config, "hf_hook_point_in", str), out, setting(config, "model_name", str))


GEMMA_SCOPE_2 = Source("Gemma Scope 2", (WEIGHTS_2, CONFIG), recognises_2, read_2)
