"""Dictionaries that were trained on another form of a model, adapted exactly to the unmodified model.

There are two such forms. Some transcoders read the output of the norm before the MLP, before that norm's gain.
And TransformerLens by default *processes* a model: it centres everything that is written to the residual
stream, folds norms into the weights that follow them, and moves the bias of the values past the
attention. This does not change the model, since the weights of an attention pattern add up to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from featcircuits.dictionaries import Affine, LayerNorm
from featcircuits.dictionaries.normalisation import Centred
from featcircuits.errors import InputError
from featcircuits.model.architecture import Architecture, Fused
from featcircuits.model.placement import device_of, in_memory
from featcircuits.model.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def adaptation(
    model: PreTrainedModel, architecture: Architecture, site: Site, before_gain: bool, processed: bool
) -> Callable[[Affine], Affine]:
    """The function that adapts a site's dictionary to the unmodified model.

    Raises `InputError` if the model does not have that form.
    """
    if before_gain:
        return partial(after_gain, gain=mlp_gain(model, architecture, site))
    if processed and site.kind == "attn_z":
        return partial(moved, by=value_offset(model, architecture, site))
    return centred if processed else _as_it_is


def _as_it_is(dictionary: Affine) -> Affine:
    return dictionary


def after_gain(dictionary: Affine, gain: Tensor) -> Affine:
    """The dictionary for x = gain * n of one that reads n: the same features, with W_enc and W_skip divided by gain."""
    if dictionary.normalisation is not None:
        raise InputError(f"a {dictionary.kind} transcoder that normalises its input cannot read before a norm's gain")
    if not gain.all():
        raise InputError("the norm's gain is 0 in some dimension; the MLP's input does not show what was before it")
    gain = gain.to(dictionary.W_enc.device)
    return replace(
        dictionary,
        W_enc=dictionary.W_enc / gain[:, None],
        centre=None if dictionary.centre is None else dictionary.centre * gain,
        W_skip=None if dictionary.W_skip is None else dictionary.W_skip / gain[:, None],
    )


def moved(dictionary: Affine, by: Tensor) -> Affine:
    """The dictionary that reads and explains x + by, from one that reads and explains x."""
    if dictionary.normalisation is not None or dictionary.transcodes:
        raise InputError(f"a {dictionary.kind} dictionary that normalises or transcodes cannot be moved by a bias")
    by = by.to(dictionary.b_dec)
    centre = by if dictionary.centre is None else dictionary.centre + by
    return replace(dictionary, centre=centre, b_dec=dictionary.b_dec + by)


def centred(dictionary: Affine) -> Affine:
    """The dictionary that reads and explains x minus its mean over dimensions, and adds the mean back."""
    if isinstance(dictionary.normalisation, LayerNorm) and not dictionary.transcodes:
        return dictionary  # which already removes the mean and adds it back
    if dictionary.normalisation is not None or dictionary.transcodes:
        raise InputError(
            f"a {dictionary.kind} dictionary that transcodes or normalises its input is not known for processed "
            "models; remove 'processed'"
        )
    return replace(dictionary, normalisation=Centred())


def mlp_gain(model: PreTrainedModel, architecture: Architecture, site: Site) -> Tensor:
    """The gain [width] of the RMSNorm before a site's MLP, in float32 on the CPU."""
    name = architecture.mlp_norm
    norm = None if name is None else architecture.layers(model)[site.layer].get_submodule(name)
    if norm is None or isinstance(norm, nn.LayerNorm):
        there = "none there" if norm is None else "a LayerNorm there"
        raise InputError(
            f"site {site} reads before a gain: this needs an RMSNorm before the MLP, and "
            f"{architecture.model_type!r} has {there}"
        )
    # equal entries become 1 when divided by their root mean square; large entries make the epsilon negligible
    equal = torch.full((architecture.width,), 1e4, device=device_of(norm))
    with torch.no_grad():
        return norm(equal).float().cpu()


def value_offset(model: PreTrainedModel, architecture: Architecture, site: Site) -> Tensor:
    """The constant part of the values [heads * head width]: their bias, and the norm's bias carried through them."""
    family, where = architecture.family, architecture.family.queries_keys
    if not isinstance(where, Fused):
        raise InputError(
            f"site {site} is of a processed model: the values' bias can be found only in fused projections, and "
            f"{architecture.model_type!r} has another"
        )
    layer = architecture.layers(model)[site.layer]
    projection, norm = layer.get_submodule(where.module), layer.get_submodule(family.norms[0])
    with torch.no_grad(), in_memory(norm):
        bias, home = getattr(norm, "bias", None), device_of(projection)
        x = torch.zeros(architecture.width, dtype=model.dtype) if bias is None else bias
        return projection(x[None].to(home))[0, where.values(model.config).to(home)].float().cpu()
