"""Where a partial forward pass can start, so that it skips the layers which an edit does not reach."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from featcircuits.model.sites import Site, resid
from featcircuits.splicing.hooks import Edit, Start
from featcircuits.splicing.spliced import SplicedModel


def entry_site(spliced: SplicedModel, site: Site) -> Site:
    """The site where a move of x at `site` can be applied instead: the stream, if nothing else reads `site`."""
    if site.kind in ("embed", "attn_z") or (site.kind == "attn" and spliced.architecture.sequential):
        return site
    return resid(site.layer)


def start_at(site: Site, stream: Callable[[Site], Tensor], edit: Edit) -> Start | None:
    """The start of a partial forward pass whose first edited site is `site`; None if all layers must run.

    `stream` returns the residual stream at a residual site; if that is `site` itself, it is edited.
    """
    if site.start == 0:
        return None
    before = resid(site.start - 1)
    return Start(site.start, edit(before, stream(before)) if before == site else stream(before))
