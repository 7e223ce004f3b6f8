"""Activations of a model at its sites, real tokens only."""

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.sae_training.text import Rows, token_batches
from featcircuits.sites import Site
from featcircuits.splice import SplicedModel


def collect(spliced: SplicedModel, rows: Rows, sites: list[Site]) -> dict[Site, Tensor]:
    """[token, width] at every site; padding is left out."""
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    batches = token_batches(rows, 256)
    for tokens in tqdm(batches, desc="activations", mininterval=5):
        real = tokens.mask > 0
        _, seen = spliced.record(tokens, sites)
        for site in sites:
            found[site].append(seen[site][real].float())
    return {site: torch.cat(parts) for site, parts in found.items()}


def shuffled(activations: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Endless random batches: one permutation after another."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(activations), generator=generator)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield activations[order[start : start + batch_size]]
