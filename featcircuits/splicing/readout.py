"""A linear readout of one site in place of the model's logits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Readout:
    """A linear map of a site's activation, averaged over each prompt's own tokens: one number per class.

    `weight` [class, width], `bias` [class]; the first `skip` tokens of each prompt do not count. A model with a
    readout gives these numbers where it would give the logits at the last token, so that whatever is computed from
    logits is computed from them: metrics, effects by every estimator, interventions.
    """

    site: Site
    weight: Tensor
    bias: Tensor
    skip: int = 0

    def __call__(self, x: Tensor, tokens: Tokens) -> Tensor:
        """The classes' numbers [row, class] from the activation [row, slot, width]; those of `tokens.vocabulary`."""
        own = (tokens.mask * (tokens.mask.cumsum(-1) > self.skip)).to(x.device)[..., None]
        mean = wide((x * own).sum(1)) / own.sum(1)
        classes = mean @ self.weight.to(mean).T + self.bias.to(mean)
        return classes if tokens.vocabulary is None else classes[:, tokens.vocabulary.to(x.device)]
