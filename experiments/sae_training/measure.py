"""How good a dictionary is, on text that it was not trained on."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from experiments.sae_training.activations import collect
from experiments.sae_training.text import Rows, token_batches
from featcircuits.dictionaries import Dictionary
from featcircuits.sites import Site
from featcircuits.splice import SplicedModel
from featcircuits.tokens import Tokens


@dataclass(frozen=True)
class Figures:
    """The figures of one site."""

    width: int
    n_features: int
    l0: float
    """Mean number of active features a token."""
    variance_unexplained: float
    """Squared error over squared distance from the mean, both summed over tokens."""
    loss_recovered: float
    """Share of the loss between zero-ablation of the site and the bare model that is kept when
    the site's activation is replaced by its reconstruction, the error dropped."""
    loss_recovered_mean: float
    """The same against mean-ablation."""
    dead_features: int
    """Features that no held-out token activates."""

    def record(self) -> dict[str, int | float]:
        """The figures to five digits, for suite.toml."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


def measure(spliced: SplicedModel, dictionaries: dict[Site, Dictionary], rows: Rows) -> dict[Site, Figures]:
    """Figures of every dictionary, each spliced alone."""
    batches = token_batches(rows, 256)
    activations = collect(spliced, rows, list(dictionaries))
    clean = mean_loss(spliced, batches, None, None)
    figures = {}
    for site, dictionary in dictionaries.items():
        x = activations[site]
        mean = x.mean(0)
        reconstructed, zero, average = (
            mean_loss(spliced, batches, site, edit)
            for edit in (
                lambda a, d=dictionary: d.decode(d.encode(a)),
                torch.zeros_like,
                lambda a, m=mean: m.expand_as(a),
            )
        )
        features = dictionary.encode(x)
        unexplained = (x - dictionary.decode(features)).square().sum() / (x - mean).square().sum()
        figures[site] = Figures(
            width=dictionary.width,
            n_features=dictionary.n_features,
            l0=(features > 0).sum(1).float().mean().item(),
            variance_unexplained=unexplained.item(),
            loss_recovered=(zero - reconstructed) / (zero - clean),
            loss_recovered_mean=(average - reconstructed) / (average - clean),
            dead_features=int((features > 0).any(0).logical_not().sum()),
        )
    return figures


@torch.no_grad()
def mean_loss(
    spliced: SplicedModel,
    batches: list[Tokens],
    site: Site | None,
    edit: Callable[[Tensor], Tensor] | None,
) -> float:
    """Cross-entropy a token of the next token, with one site edited or none."""
    total, count = 0.0, 0
    for tokens in batches:
        sites = [] if site is None else [site]
        logits = spliced.run(tokens, lambda _, x: x if edit is None else edit(x), sites=sites)
        labels = tokens.ids[:, 1:].masked_fill(tokens.mask[:, 1:] == 0, -100)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), reduction="sum")
        total += loss.item()
        count += int(tokens.mask[:, 1:].sum())
    return total / count
