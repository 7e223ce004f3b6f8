"""A dictionary whose weights stay elsewhere, on disk or in the CPU's memory, until they are used.

Encoding brings a site's weights in and lets them go; what attribution needs of a few features reads
only their rows. So a suite may be larger than the memory it is used in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featcircuits.dictionaries.dictionary import Dictionary, Normalisation, Statistics, pulled, statistics_of
from featcircuits.dictionaries.origin import Origin
from featcircuits.dictionaries.products import combined


@dataclass(frozen=True, eq=False)
class Offloaded:
    """`read()` gives the dictionary where its weights are at home; `device`, `dtype`: where and how it computes."""

    read: Callable[[], Dictionary]
    kind: str
    width: int
    read_width: int
    n_features: int
    transcodes: bool
    has_bypass: bool
    normalisation: Normalisation | None
    origin: Origin
    device: torch.device | str
    dtype: torch.dtype

    def encode(self, x: Tensor) -> Tensor:
        return self._here().encode(x)

    def statistics(self, x: Tensor) -> Statistics | None:
        return statistics_of(self.normalisation, x)

    def decode(self, features: Tensor, statistics: Statistics | None = None) -> Tensor:
        return self._here().decode(features, statistics)

    def decode_nothing(self) -> Tensor:
        return self._home().decode_nothing().to(self.device)

    def bypass(self, x: Tensor) -> Tensor | None:
        return self._here().bypass(x) if self.has_bypass else None

    def decode_change(self, change: Tensor) -> Tensor:
        return self._here().decode_change(change)

    def decoder_rows(self, ids: Tensor) -> Tensor:
        return self._home().decoder_rows(ids.cpu()).to(self.device)

    def encoder_rows(self, ids: Tensor) -> Tensor:
        return self._home().encoder_rows(ids.cpu()).to(self.device)

    def pull(self, x: Tensor, gradient: Tensor) -> Tensor:
        return pulled(self.normalisation, x, gradient)

    def pull_bypass(self, gradient: Tensor) -> Tensor | None:
        return self._here().pull_bypass(gradient) if self.has_bypass else None

    def write(self, change: Tensor, row: Tensor, ids: Tensor, n_rows: int) -> Tensor:
        distinct, number = ids.unique(return_inverse=True)
        if not len(distinct):
            return torch.zeros(n_rows, self.width, device=change.device, dtype=self.dtype)
        return combined(change, row, self.decoder_rows(distinct), number, n_rows)

    def gradient_at(self, gradient: Tensor, row: Tensor, ids: Tensor) -> Tensor:
        return self._home().gradient_at(gradient.cpu(), row.cpu(), ids.cpu()).to(gradient.device)

    def is_active(self, features: Tensor) -> Tensor:
        return self.read().is_active(features)

    def tensors(self) -> Mapping[str, Tensor]:
        return self.read().tensors()

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Offloaded:
        return replace(self, device=device, dtype=dtype)

    def _home(self) -> Dictionary:
        return self.read().to("cpu", self.dtype)

    def _here(self) -> Dictionary:
        return self.read().to(self.device, self.dtype)


def offloaded(read: Callable[[], Dictionary]) -> Offloaded:
    """With the weights read anew at each use."""
    first = read()
    return Offloaded(
        read, first.kind, first.width, first.read_width, first.n_features, first.transcodes, first.has_bypass,
        first.normalisation, first.origin, "cpu", torch.float32,
    )  # fmt: skip
