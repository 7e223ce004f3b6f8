"""Correlations of features of two dictionaries over the tokens of a task, summed batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcircuits.dictionaries.decomposition import precision
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.splicing.sinks import UsualTokens, usual_tokens
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task


@dataclass
class _Sums:
    """Sums over tokens, in float64; a: features of the first [i], b: of the second [j]."""

    n: int
    a: Tensor
    b: Tensor
    aa: Tensor
    bb: Tensor
    ab: Tensor
    """[i, j]"""

    def add(self, a: Tensor, b: Tensor) -> None:
        """Add the activations of some tokens [token, feature]."""
        a, b = a.cpu().double(), b.cpu().double()
        self.n += len(a)
        self.a += a.sum(0)
        self.b += b.sum(0)
        self.aa += a.square().sum(0)
        self.bb += b.square().sum(0)
        self.ab += a.T @ b

    def correlation(self) -> NDArray[np.float64]:
        """Pearson [i, j]; 0 for features that are the same at every token."""
        covariance = self.ab - torch.outer(self.a, self.b) / self.n
        scale = torch.outer(_spread(self.aa, self.a, self.n), _spread(self.bb, self.b, self.n))
        flat = scale <= 1e-12 * torch.outer(self.aa.sqrt(), self.bb.sqrt())
        return torch.where(flat, 0.0, covariance / torch.where(flat, 1.0, scale)).numpy()


def _spread(squares: Tensor, sums: Tensor, n: int) -> Tensor:
    return (squares - sums.square() / n).clamp(min=0).sqrt()


@torch.no_grad()
def correlations(
    first: SplicedModel, second: SplicedModel, ids: Mapping[Site, Tensor], task: Task, batch_size: int | None
) -> dict[Site, NDArray[np.float64]]:
    """Site -> Pearson correlations [feature of the first (`ids`), feature of the second] over clean tokens.

    Sink tokens of either model, on which most features are far from their usual values, are left out.
    """
    size = fitting_batch(first, task, batch_size, gradients=False)
    batches = [batch.clean for batch in task.batches(size)]
    models = (first, second)
    usual = [usual_tokens(model, batches, set(ids)) for model in models]
    sums = {site: _sums(len(own), second.dictionaries[site].n_features) for site, own in ids.items()}
    for tokens in batches:
        seen = [_seen(model, tokens, own) for model, own in zip(models, usual, strict=True)]
        for site, total in sums.items():
            counted = seen[0][site].counted & seen[1][site].counted
            one, other = (
                _encoded(model, site, found[site], counted) for model, found in zip(models, seen, strict=True)
            )
            total.add(one[:, ids[site]], other)
    return {site: total.correlation() for site, total in sums.items()}


class _Seen(NamedTuple):
    """What a dictionary reads [prompt, slot, width], and which tokens count [prompt, slot]; both on the CPU."""

    read: Tensor
    counted: Tensor


def _seen(model: SplicedModel, tokens: Tokens, usual: UsualTokens) -> dict[Site, _Seen]:
    sites = model.with_reads(usual.limits)
    found = model.record(tokens, sites)[1]
    here = tokens.to(model.device)
    return {
        site: _Seen(found[model.read_site(site)].cpu(), usual.at(site, found[site], here).cpu())
        for site in usual.limits
    }


def _encoded(model: SplicedModel, site: Site, seen: _Seen, counted: Tensor) -> Tensor:
    """The features [token, feature] of the tokens that count."""
    read = seen.read[counted]
    return model.dictionaries[site].encode(read.to(model.device, precision(read.dtype))).cpu()


def _sums(rows: int, columns: int) -> _Sums:
    shapes = ((rows,), (columns,), (rows,), (columns,), (rows, columns))
    return _Sums(0, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes))
