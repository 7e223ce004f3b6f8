"""The sites of names that other libraries give to places in a model.

TransformerLens names places inside a block (`blocks.3.hook_resid_post`). Hugging Face names are
those of modules (`model.layers.3.mlp`), followed by `.output` or `.input` in some configs.
"""

from __future__ import annotations

import re

from featcircuits.errors import InputError, shortened
from featcircuits.model.sites import EMBED, MLP_IN, RESID_MID, Site, resid

_TRANSFORMER_LENS = re.compile(r"blocks\.(\d{1,6})\.(.+)")
_OUTSIDE_BLOCKS = re.compile(r"hook_\w+|ln_final\.\w+")
_HUGGING_FACE = re.compile(r"(?:\w+\.)*(?:layers|h)\.(\d{1,6})(?:\.(.+))?")
_EMBEDDING = re.compile(r"hook_embed|(?:\w+\.)*(?:embed_tokens|embed_in|wte)(?:\.output)?")

_PLACES = {
    "hook_attn_out": "attn",
    "attn.hook_z": "attn_z",
    "hook_mlp_out": "mlp",
    "mlp.hook_out": "mlp",
}
_MODULES = {
    "attn": "attn",
    "attention": "attn",
    "self_attn": "attn",
    "self_attn.o_proj.input": "attn_z",
    "mlp": "mlp",
    "post_feedforward_layernorm": "mlp",
}
_READS = {
    "hook_resid_mid": RESID_MID,
    "pre_feedforward_layernorm.input": RESID_MID,
    **dict.fromkeys(("ln2.hook_normalized", "mlp.hook_in", "pre_feedforward_layernorm", "mlp.input", "mlp"), MLP_IN),
}
"""The hooks that a transcoder may read, without the block's number -> the kind of place."""


def site_of_hook(hook_name: str, hook_name_out: str | None = None) -> Site:
    """The site of a dictionary that reads `hook_name` and, if it is a transcoder, explains `hook_name_out`.

    Raises `InputError` for places that are not sites: the stream between attention and MLP (which only transcoders
    read), single heads, queries, keys and values, the inputs of norms. `blocks.0.hook_resid_pre` is `embed`; in a
    model that adds learned positions (GPT-2) the hook is after this sum and the site before it.
    """
    if hook_name_out is not None:
        return _transcoder(hook_name, hook_name_out)
    if _EMBEDDING.fullmatch(hook_name):
        return EMBED
    layer, place = _split(hook_name)
    if place == "hook_resid_pre":
        return resid(layer - 1)
    if place in ("hook_resid_post", ""):
        return resid(layer)
    kind = _PLACES.get(place) or _MODULES.get(place)
    if kind is None:
        raise _unknown(hook_name)
    return Site(layer, kind)


def hook_of_site(site: Site) -> str:
    """TransformerLens' name of a site."""
    if site == EMBED:
        return "hook_embed"
    return (
        f"blocks.{site.layer}.{next((hook for hook, kind in _PLACES.items() if kind == site.kind), 'hook_resid_post')}"
    )


def _transcoder(hook_name: str, hook_name_out: str) -> Site:
    site = site_of_hook(hook_name_out)
    layer, place = _split(hook_name)
    if site.kind != "mlp" or place not in _READS:
        raise InputError(
            f"a transcoder from {shortened(hook_name)} to {shortened(hook_name_out)} has no site: it must read an "
            "MLP's input, or the stream before the MLP's norm (hook_resid_mid), and explain the same MLP's output"
        )
    if layer != site.layer:
        raise InputError(
            f"a transcoder from {shortened(hook_name)} to {shortened(hook_name_out)} crosses layers; only the output "
            "of the same layer's MLP can be explained"
        )
    return site


def read_of_hook(hook_name: str) -> str | None:
    """The kind of place that a transcoder of this hook reads; None for hooks that no transcoder reads."""
    match = _TRANSFORMER_LENS.fullmatch(hook_name) or _HUGGING_FACE.fullmatch(hook_name)
    return None if match is None else _READS.get(_without_output(match[2] or ""))


def is_transformer_lens(hook_name: str) -> bool:
    """Whether the name is one of TransformerLens, where each name is exactly one place."""
    return bool(_TRANSFORMER_LENS.fullmatch(hook_name) or _OUTSIDE_BLOCKS.fullmatch(hook_name))


def layer_of(hook_name: str) -> int | None:
    """The number of the block or layer in the name; None if it has none."""
    match = _TRANSFORMER_LENS.fullmatch(hook_name) or _HUGGING_FACE.fullmatch(hook_name)
    return None if match is None else int(match[1])


def module_of(hook_name: str) -> str | None:
    """The module, named from its layer, whose output a Hugging Face name means; None for other names."""
    match = _HUGGING_FACE.fullmatch(hook_name)
    place = None if match is None else _without_output(match[2] or "")
    return place if place in _MODULES and not place.endswith(".input") else None


def _split(hook_name: str) -> tuple[int, str]:
    match = _TRANSFORMER_LENS.fullmatch(hook_name)
    if match is not None:
        return int(match[1]), match[2]
    match = _HUGGING_FACE.fullmatch(hook_name)
    if match is None:
        raise _unknown(hook_name)
    return int(match[1]), _without_output(match[2] or "")


def _without_output(place: str) -> str:
    return "" if place == "output" else place.removesuffix(".output")


def _unknown(hook_name: str) -> InputError:
    return InputError(
        f"no site belongs to the hook {shortened(hook_name)}: dictionaries are spliced in at the embedding, at the "
        "output of a layer's attention, MLP or block, at the heads side by side (attn.hook_z), and, as transcoders, "
        "around an MLP"
    )
