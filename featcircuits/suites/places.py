"""Whether dictionaries are at the sites that their files name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from featcircuits.dictionaries import Dictionary
from featcircuits.errors import InputError, shortened
from featcircuits.model.sites import STREAM, Site
from featcircuits.sources.hooks import is_transformer_lens, layer_of, module_of, read_of_hook, site_of_hook

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from featcircuits.model.architecture import Architecture


def check_places(
    dictionaries: Mapping[Site, Dictionary],
    records: Mapping[str, Mapping[str, Any]],
    model: PreTrainedModel | None = None,
    architecture: Architecture | None = None,
) -> None:
    """Raise `InputError` for a dictionary whose files name a place other than its site.

    `records`: the records of a suite's sites; those with `check_place = false` are not checked. With a
    model, the check also refuses names that mean another place only in this model.
    """
    for site, dictionary in dictionaries.items():
        if not records.get(str(site), {}).get("check_place", True):
            continue
        _check_read(site, dictionary)
        said = elsewhere(site, dictionary, model, architecture)
        if said is not None:
            raise InputError(
                f"site {site}: the dictionary's files say {said}; put it at that site. If the files are wrong, "
                f"accept it with check_place = false for {site} in suite.toml, check_place=False in Python or "
                "--no-check-place"
            )


def _check_read(site: Site, dictionary: Dictionary) -> None:
    """Raise `InputError` for a transcoder whose files name another input than the one that it is given."""
    hook = dictionary.origin.hook_name
    said = read_of_hook(hook) if dictionary.transcodes and hook is not None else None
    if said not in (None, dictionary.reads):
        raise InputError(
            f"site {site}: the transcoder is to read {dictionary.reads}_{site.layer}, but its files say "
            f"{shortened(hook)}, which is {said}; leave reads out, or accept it with check_place = false for {site} in "
            "suite.toml, check_place=False in Python or --no-check-place"
        )


def elsewhere(
    site: Site, dictionary: Dictionary, model: PreTrainedModel | None = None, architecture: Architecture | None = None
) -> str | None:
    """The place that the files name, as text; None if it is `site`, or if they name none."""
    origin = dictionary.origin
    name = origin.hook_name_out or origin.hook_name
    if name is None or (dictionary.transcodes and origin.hook_name_out is None):
        return _in_another_layer(site, name, origin.layer)
    try:
        place = site_of_hook(name)
    except InputError:
        if is_transformer_lens(name):
            return f"{shortened(name)}, where no dictionary can be spliced in"
        return _in_another_layer(site, name, origin.layer)
    if place != site:
        return f"{shortened(name)}, which is {place}"
    return None if model is None or architecture is None else _beside(site, name, model, architecture)


def _in_another_layer(site: Site, name: str | None, layer: int | None) -> str | None:
    """The same if the files name only the layer; what enters a layer leaves the one before."""
    inside = None if name is None else layer_of(name)
    layer = layer if inside is None else inside
    if layer is None or layer == site.layer or (site.kind in STREAM and layer == site.layer + 1):
        return None
    return f"layer {layer}" if name is None else f"{shortened(name)}, in layer {layer}"


def _beside(site: Site, name: str, model: PreTrainedModel, architecture: Architecture) -> str | None:
    """The same for names that mean the site in some models but another place in this one."""
    if name == "blocks.0.hook_resid_pre" and _adds_positions(model):
        return f"{name!r}, which is after the positions that this model adds, where no dictionary can be spliced in"
    if site.kind in ("attn", "mlp") and (inner := module_of(name)):
        named = dict(architecture.layers(model)[site.layer].named_modules()).get(inner)
        if named is not None and named is not architecture.module(model, site):
            return f"{shortened(name)}, which is before the norm whose output this model adds to the stream"
    return None


def _adds_positions(model: PreTrainedModel) -> bool:
    """Whether the model adds a learned vector of each position to those of the tokens."""
    tokens = model.get_input_embeddings()
    beside = next(list(module.children()) for module in model.modules() if tokens in module.children())
    return any(isinstance(module, nn.Embedding) and module is not tokens for module in beside)
