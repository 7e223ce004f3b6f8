"""SAELens folders: `cfg.json` and `sae_weights.safetensors`, of versions 3 to 6.

They are read here because importing the library takes longer than most traces. Features equal those of its
`encode`: every threshold is a strict >, and b_dec is subtracted if `apply_b_dec_to_input` is true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Affine, abstopk, gated, jumprelu, relu, topk
from featcircuits.dictionaries.dictionary import Normalisation
from featcircuits.dictionaries.normalisation import NORMALISATIONS
from featcircuits.errors import InputError, known, shortened
from featcircuits.sources.files import Load, check_floats, check_names, check_size, k_of, read_json, setting, transposed
from featcircuits.sources.folding import with_unit_rows
from featcircuits.sources.refused import refuse
from featcircuits.sources.source import Found, Origin, Source, home

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"

_MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")


class _Architecture(NamedTuple):
    make: Callable[..., Affine]
    tensors: tuple[str, ...] = _MATRICES
    transcodes: bool = False


ARCHITECTURES: Mapping[str, _Architecture] = {
    "standard": _Architecture(relu),
    "gated": _Architecture(gated, ("W_enc", "b_gate", "r_mag", "b_mag", "W_dec", "b_dec")),
    "jumprelu": _Architecture(jumprelu, (*_MATRICES, "threshold")),
    "topk": _Architecture(topk),
    "abstopk": _Architecture(abstopk),
    "transcoder": _Architecture(relu, transcodes=True),
    "skip_transcoder": _Architecture(relu, (*_MATRICES, "W_skip"), transcodes=True),
    "jumprelu_transcoder": _Architecture(jumprelu, (*_MATRICES, "threshold"), transcodes=True),
    "jumprelu_skip_transcoder": _Architecture(jumprelu, (*_MATRICES, "threshold", "W_skip"), transcodes=True),
}


def recognises(path: Path) -> bool:
    """Whether the path is such a folder or its weights."""
    return home(path, WEIGHTS) is not None


def read(path: Path, load: Load) -> Found:
    """The dictionary of the folder's architecture."""
    folder = path if path.is_dir() else path.parent
    return build(read_json(folder / CONFIG), load(folder / WEIGHTS))


def build(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Found:
    """The dictionary of a config as SAELens writes it and the tensors of its class."""
    name = _architecture_of(config)
    architecture = ARCHITECTURES[name]
    tensors = _without_scaling(tensors)
    check_names(tensors, architecture.tensors)
    check_floats(tensors)
    given: dict[str, Any] = dict(tensors)
    if "W_skip" in given:
        given["W_skip"] = transposed(tensors, "W_skip")
    if architecture.make in (topk, abstopk):
        given["k"] = _k_of(config)
        if setting(config, "rescale_acts_by_decoder_norm", bool):
            # the library ranks and returns features times their row's norm, and divides by it in decoding
            given |= with_unit_rows(tensors)
    normalisation, warning = _normalisation_of(config, undone=not architecture.transcodes)
    dictionary = architecture.make(
        **given,
        centre=_centre_of(config, tensors, architecture.transcodes),
        normalisation=normalisation,
        transcodes=architecture.transcodes,
    )
    check_size(config, "d_in", dictionary.read_width)
    check_size(config, "d_sae", dictionary.n_features)
    check_size(config, "d_out", dictionary.width)
    return Found(dictionary, _origin_of(config, architecture.transcodes), warning)


def _architecture_of(config: Mapping[str, Any]) -> str:
    """The architecture; before version 6 top-k was an activation function of the standard one."""
    name = setting(config, "architecture", str) or "standard"
    activation = setting(config, "activation_fn_str", str) or setting(config, "activation_fn", str) or "relu"
    if activation == "topk" and name == "standard":
        name = "topk"
    if activation not in ("relu", "topk"):
        raise InputError(f"the activation function is {shortened(activation)}; known: 'relu', 'topk'")
    if name not in ARCHITECTURES:
        refuse(name)
        raise InputError(f"the architecture is {shortened(name)}; {known(ARCHITECTURES, name)}")
    if setting(config, "reshape_activations", str) not in (None, "none", "hook_z"):
        raise InputError(f"reshape_activations is {shortened(config['reshape_activations'])}; known: 'none', 'hook_z'")
    return name


def _without_scaling(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the factor for features that old versions stored, which must be 1."""
    rest = dict(tensors)
    factor = rest.pop("scaling_factor", None)
    if factor is not None and not factor.is_meta and not torch.allclose(factor.float(), torch.ones(())):
        raise InputError("scaling_factor is not 1 everywhere: features rescaled by fine-tuning are not read")
    return rest


def _k_of(config: Mapping[str, Any]) -> int:
    old = setting(config, "activation_fn_kwargs", dict) or {}
    return k_of(setting(config, "k", int), setting(old, "k", int))


def _normalisation_of(config: Mapping[str, Any], undone: bool) -> tuple[Normalisation | None, str | None]:
    """The normalisation, and a warning if it cannot be reproduced."""
    name = config.get("normalize_activations")
    if isinstance(name, bool):
        name = "expected_average_only_in" if name else "none"
    name = setting({"normalize_activations": name}, "normalize_activations", str) or "none"
    if name == "expected_average_only_in":
        return None, (
            "it was trained on activations scaled to a norm of sqrt(width), and the factor is not in its folder: "
            "features are right only if it was folded into the weights before they were saved"
        )
    if name == "none":
        return None, None
    if name not in NORMALISATIONS:
        refuse(name)
        raise InputError(
            f"normalize_activations is {shortened(name)}; "
            f"{known(('none', 'expected_average_only_in', *NORMALISATIONS), name)}"
        )
    return NORMALISATIONS[name](undone), None


def _centre_of(config: Mapping[str, Any], tensors: Mapping[str, Tensor], transcodes: bool) -> Tensor | None:
    subtracted = setting(config, "apply_b_dec_to_input", bool)
    if transcodes and subtracted:
        raise InputError("apply_b_dec_to_input is true, but a transcoder's b_dec belongs to what it explains")
    return None if transcodes or subtracted is False else tensors["b_dec"]


def _origin_of(config: Mapping[str, Any], transcodes: bool) -> Origin:
    """The origin. Version 6 stores it separately; if it has a Hugging Face name, the dictionary reads that place."""
    record = setting(config, "metadata", dict) or config
    name = _first(record, "hf_hook_name", "hook_name", "hook_point")
    out = _first(record, "hf_hook_name_out", "hook_name_out") if transcodes else None
    head = setting(record, "hook_head_index", int)
    head = setting(record, "hook_point_head_index", int) if head is None else head
    # a single head is not a site, so a name with a head's number has none
    name = name if head is None else f"{name}[{head}]"
    layer = setting(record, "hook_layer", int)
    layer = setting(record, "hook_point_layer", int) if layer is None else layer
    return Origin(name, out, setting(record, "model_name", str), layer)


def _first(record: Mapping[str, Any], *names: str) -> str | None:
    return next((value for name in names if (value := setting(record, name, str))), None)


SAE_LENS = Source("SAELens", (WEIGHTS, CONFIG), recognises, read)
