"""The writes of layers to the residual stream, and which sites their modules read."""

from __future__ import annotations

from featcircuits.model.sites import Site, all_sites
from featcircuits.splicing.spliced import SplicedModel


def writes(spliced: SplicedModel) -> list[Site]:
    """Every attention and MLP output, with or without a dictionary."""
    return [site for site in all_sites(spliced.architecture.n_layers) if site.kind in ("attn", "mlp")]


def reads(spliced: SplicedModel, write: Site, site: Site) -> bool:
    """Whether the activation of `site` can reach the module that writes."""
    if write.layer != site.layer:
        return write.layer > site.layer
    sequential = spliced.architecture.sequential
    return (site.kind == "attn_z" and (write.kind == "attn" or sequential)) or (
        (site.kind, write.kind) == ("attn", "mlp") and sequential
    )
