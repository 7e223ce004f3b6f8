"""A linear readout of one site in place of the model's logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Readout:
    """A linear map of a site's activation: one number per class.

    The activation is averaged over each prompt's own tokens, the first `skip` left out; with `last` it is that of the
    last token. `weight` [class, width], `bias` [class]. A model with a
    readout gives these numbers where it would give the logits at the last token, so that whatever is computed from
    logits is computed from them: metrics, effects by every estimator, interventions.
    """

    site: Site
    weight: Tensor
    bias: Tensor
    skip: int = 0
    last: bool = False

    def __call__(self, x: Tensor, tokens: Tokens) -> Tensor:
        """The classes' numbers [row, class] from the activation [row, slot, width]; those of `tokens.vocabulary`."""
        if self.last:
            slots = tokens.last.to(x.device)
            return self._classes(wide(x[torch.arange(len(slots), device=x.device), slots]), tokens)
        own = (tokens.mask * (tokens.mask.cumsum(-1) > self.skip)).to(x.device)[..., None]
        return self._classes(wide((x * own).sum(1)) / own.sum(1), tokens)

    def _classes(self, x: Tensor, tokens: Tokens) -> Tensor:
        classes = x @ self.weight.to(x).T + self.bias.to(x)
        return classes if tokens.vocabulary is None else classes[:, tokens.vocabulary.to(x.device)]
