"""A dictionary whose weights stay on disk or in the CPU's memory until they are used.

Encoding loads a site's weights and releases them again; attribution to a few features reads
only their rows. So a suite may be larger than the memory.
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
    """`read()` returns the dictionary at its home, where the weights are kept; it computes on `device`, in `dtype`."""

    read: Callable[[], Dictionary]
    kind: str
    width: int
    read_width: int
    n_features: int
    transcodes: bool
    reads: str
    has_bypass: bool
    rectified: bool
    normalisation: Normalisation | None
    origin: Origin
    device: torch.device | str
    dtype: torch.dtype

    def encode(self, x: Tensor) -> Tensor:
        """The features, computed on the device."""
        return self._here().encode(x)

    def statistics(self, x: Tensor) -> Statistics | None:
        """The statistics of x, which need no weights."""
        return statistics_of(self.normalisation, x)

    def decode(self, features: Tensor, statistics: Statistics | None = None) -> Tensor:
        """The reconstruction, computed on the device."""
        return self._here().decode(features, statistics)

    def decode_nothing(self) -> Tensor:
        """The bias, read at home."""
        return self._home().decode_nothing().to(self.device)

    def bypass(self, x: Tensor) -> Tensor | None:
        """The skip of x, computed on the device; None without one."""
        return self._here().bypass(x) if self.has_bypass else None

    def decode_change(self, change: Tensor) -> Tensor:
        """The change of the reconstruction, computed on the device."""
        return self._here().decode_change(change)

    def decoder_rows(self, ids: Tensor) -> Tensor:
        """Only the rows `ids`, read at home."""
        return self._home().decoder_rows(ids.cpu()).to(self.device)

    def encoder_rows(self, ids: Tensor) -> Tensor:
        """Only the rows `ids`, read at home."""
        return self._home().encoder_rows(ids.cpu()).to(self.device)

    def pull(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at x, which needs no weights."""
        return pulled(self.normalisation, x, gradient)

    def pull_bypass(self, gradient: Tensor) -> Tensor | None:
        """The gradient through the skip, computed on the device; None without one."""
        return self._here().pull_bypass(gradient) if self.has_bypass else None

    def write(self, change: Tensor, row: Tensor, ids: Tensor, n_rows: int) -> Tensor:
        """The written change; reads only the rows `ids`."""
        distinct, number = ids.unique(return_inverse=True)
        if not len(distinct):
            return torch.zeros(n_rows, self.width, device=change.device, dtype=self.dtype)
        return combined(change, row, self.decoder_rows(distinct), number, n_rows)

    def gradient_at(self, gradient: Tensor, row: Tensor, ids: Tensor) -> Tensor:
        """The gradients at the features; reads only the rows `ids`, at home."""
        return self._home().gradient_at(gradient.cpu(), row.cpu(), ids.cpu()).to(gradient.device)

    def is_active(self, features: Tensor) -> Tensor:
        """Where the features are active, by the dictionary at home."""
        return self.read().is_active(features)

    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors of the dictionary at home."""
        return self.read().tensors()

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Offloaded:
        """The same weights at home, with another device and dtype to compute with."""
        return replace(self, device=device, dtype=dtype)

    def _home(self) -> Dictionary:
        return self.read().to("cpu", self.dtype)

    def _here(self) -> Dictionary:
        return self.read().to(self.device, self.dtype)


def offloaded(read: Callable[[], Dictionary]) -> Offloaded:
    """The dictionary of `read`, whose weights are read again at each use."""
    first = read()
    return Offloaded(
        read, first.kind, first.width, first.read_width, first.n_features, first.transcodes, first.reads,
        first.has_bypass, first.rectified, first.normalisation, first.origin, "cpu", torch.float32,
    )  # fmt: skip
