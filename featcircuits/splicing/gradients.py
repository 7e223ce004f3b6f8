"""Gradients of an objective at the sites of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from featcircuits.model.frozen import frozen
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.splicing.hooks import Edit
from featcircuits.splicing.spliced import SplicedModel


def gradients(
    spliced: SplicedModel,
    tokens: Tokens,
    objective: Callable[[Tensor], Tensor],
    sites: Iterable[Site],
    edit: Edit | None = None,
    edited: Iterable[Site] = (),
) -> dict[Site, Tensor]:
    """d objective(logits).sum() / d activation at every site, by one forward and one backward pass.

    The gradient passes a spliced site unchanged (Marks et al., section 3.1): it is the bare
    model's, whatever the dictionary explains. `edit` is called at the sites `edited` before the
    gradient is read there.
    """
    seen: dict[Site, Tensor] = {}
    wanted, edited = set(sites), set(edited)

    def leaf(site: Site, x: Tensor) -> Tensor:
        if site in edited and edit is not None:
            x = edit(site, x)
        if site not in wanted:
            return x
        seen[site] = x if x.requires_grad else x.detach().requires_grad_()
        return seen[site]

    with torch.enable_grad(), frozen(spliced.model):
        logits = spliced.run(tokens, leaf, sites=sorted(wanted | edited), answers_only=True)
        found = torch.autograd.grad(objective(logits).sum(), list(seen.values()))
    return dict(zip(seen, found, strict=True))
