"""Sparse sums over integer keys, in which effects are collected without any dense tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


def pieces(indices: Tensor, size: int) -> tuple[Tensor, ...]:
    """Consecutive parts of at most `size`; an empty tensor gives no parts."""
    return indices.split(size) if len(indices) else ()


def group_sum(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct keys in order, and the sum of each key's values."""
    distinct, group = keys.unique(return_inverse=True)
    sums = torch.zeros(len(distinct), *values.shape[1:], dtype=values.dtype, device=values.device)
    return distinct, sums.index_add_(0, group, values)


@dataclass
class Tally:
    """Means over examples of values that most examples lack, where they count as 0.

    Sums are float64 on the CPU, so the order of batches makes no visible difference.
    """

    count: int = 0
    keys: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    sums: Tensor = field(default_factory=lambda: torch.empty(0, 3, dtype=torch.float64))

    def add(self, example: Tensor, key: Tensor, value: Tensor, n_keys: int) -> None:
        """Add one piece of a batch; entries of one example with the same key (< n_keys) are summed.

        All entries of an example and key must come in one piece. The caller has to raise `count`.
        """
        pair, total = group_sum(example.cpu() * n_keys + key.cpu(), value.cpu().double())
        rows = torch.stack([total, total**2, total.abs()], dim=-1)
        self.keys, self.sums = group_sum(torch.cat([self.keys, pair % n_keys]), torch.cat([self.sums, rows]))

    def strongest(self, n_sources: int, count: int) -> Tally:
        """The `count` sources of largest total |value| for each target (key // n_sources)."""
        order = self.sums[:, 2].argsort(descending=True, stable=True)
        order = order[(self.keys[order] // n_sources).argsort(stable=True)]
        target = self.keys[order] // n_sources
        turn = torch.arange(len(order)) - torch.searchsorted(target, target)
        kept = order[turn < count].sort().values
        return Tally(self.count, self.keys[kept], self.sums[kept])

    @classmethod
    def total(cls, keys: Sequence[Tensor], sums: Sequence[Tensor], count: int) -> Tally:
        """The total of several tallies' keys and sums, over `count` examples."""
        return cls(count, *group_sum(torch.cat([*keys]), torch.cat([*sums]))) if keys else cls(count)

    @property
    def mean(self) -> Tensor:
        """The mean value of each key over examples."""
        return self.sums[:, 0] / self.count

    @property
    def mean_abs(self) -> Tensor:
        """The mean |value| of each key over examples."""
        return self.sums[:, 2] / self.count

    @property
    def standard_error(self) -> Tensor:
        """The standard error of each mean over examples; NaN for a single example."""
        if self.count < 2:
            return torch.full_like(self.mean, torch.nan)
        variance = (self.sums[:, 1] / self.count - self.mean**2).clamp(min=0) * self.count / (self.count - 1)
        return (variance / self.count).sqrt()
