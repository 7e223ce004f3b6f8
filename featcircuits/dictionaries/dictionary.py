"""What every dictionary is to the rest of the package: features of an activation, and the linear algebra around them.

A dictionary reads one activation and explains one. For a sparse autoencoder they are the same; a transcoder reads the
MLP's input, or the stream before the MLP's norm, and explains the MLP's output.
`written = decode(f) + bypass(read) + error`, where only dictionaries with a skip have a bypass, a linear way past the
features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from featcircuits.dictionaries.origin import Origin


class Statistics(NamedTuple):
    """The factor and then the shift [..., 1] that undo the input's normalisation in the decoder's output."""

    scale: Tensor
    shift: Tensor


class Normalisation(Protocol):
    """A normalisation of the input before encoding."""

    @property
    def name(self) -> str:
        """The name that configs use."""
        ...

    @property
    def undone(self) -> bool:
        """Whether decoding undoes it (in transcoders it does not)."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...
    def statistics(self, x: Tensor) -> Statistics:
        """The factor and shift that undo it, for x [..., read_width]."""
        ...


def statistics_of(normalisation: Normalisation | None, x: Tensor) -> Statistics | None:
    """The statistics of x that decoding uses; None without a normalisation, or if decoding does not undo it."""
    return None if normalisation is None or not normalisation.undone else normalisation.statistics(x)


def pulled(normalisation: Normalisation | None, x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient at x [n, read_width], given the gradient at the normalised input."""
    if normalisation is None or not len(x):
        return gradient
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(normalisation(x), x, gradient)[0]


@runtime_checkable
class Dictionary(Protocol):
    """The interface that the rest of the package uses; every method is pure.

    `encode` and `decode` define the features. The other methods are the linear algebra of
    attribution: decoder rows carry effects from an activation to its features, and encoder rows
    carry them from a feature to the activation it reads. If a dictionary normalises its input, its
    decoder rows are in normalised units, and `statistics` has their factor at each position.
    """

    @property
    def kind(self) -> str:
        """The name of the kind, such as "relu"."""
        ...

    @property
    def width(self) -> int:
        """The width of the activation it explains."""
        ...

    @property
    def read_width(self) -> int:
        """The width of the activation it encodes."""
        ...

    @property
    def transcodes(self) -> bool:
        """Whether it reads before an MLP what `reads` says, and explains the MLP's output."""
        ...

    @property
    def reads(self) -> str:
        """What a transcoder reads: `mlp_in` (the MLP's input) or `resid_mid` (the stream before the MLP's norm)."""
        ...

    @property
    def has_bypass(self) -> bool:
        """Whether it has a linear path past the features (a skip transcoder's skip)."""
        ...

    @property
    def normalisation(self) -> Normalisation | None:
        """The normalisation of the input before encoding, or None."""
        ...

    @property
    def origin(self) -> Origin:
        """The place where it was trained, by its files."""
        ...

    @property
    def n_features(self) -> int:
        """The number of features."""
        ...

    @property
    def rectified(self) -> bool:
        """Whether features are never negative."""
        ...

    def encode(self, x: Tensor) -> Tensor:
        """The features [..., n_features] of an activation [..., read_width]."""
        ...

    def statistics(self, x: Tensor) -> Statistics | None:
        """The statistics with which decoding undoes the normalisation of x [..., read_width]; None if it does not."""
        ...

    def decode(self, features: Tensor, statistics: Statistics | None = None) -> Tensor:
        """The reconstruction [..., width] of features [..., n_features], without the bypass; affine in the features."""
        ...

    def decode_nothing(self) -> Tensor:
        """decode of features that are all 0 [width], in normalised units; reads no decoder row."""
        ...

    def bypass(self, x: Tensor) -> Tensor | None:
        """The linear part [..., width] that goes past the features, from x [..., read_width]; None without a bypass."""
        ...

    def decode_change(self, change: Tensor) -> Tensor:
        """decode(f + change) - decode(f), the same for every f; in normalised units."""
        ...

    def decoder_rows(self, ids: Tensor) -> Tensor:
        """What one unit of each feature `ids` [n] writes [n, width], in normalised units."""
        ...

    def encoder_rows(self, ids: Tensor) -> Tensor:
        """The gradient of each feature `ids` [n], if active, with respect to the normalised input [n, read_width]."""
        ...

    def pull(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at x, given the gradient at the normalised input; both [n, read_width]."""
        ...

    def pull_bypass(self, gradient: Tensor) -> Tensor | None:
        """A gradient at the output [n, width], carried back through the bypass to the input [n, read_width]."""
        ...

    def write(self, change: Tensor, row: Tensor, ids: Tensor, n_rows: int) -> Tensor:
        """What the changes [n] of features `ids` [n] at positions `row` [n] add to x [n_rows, width]."""
        ...

    def gradient_at(self, gradient: Tensor, row: Tensor, ids: Tensor) -> Tensor:
        """The gradient at feature `ids[i]` [n], given the gradient at x [m, width] in `row[i]`; pairs are distinct."""
        ...

    def is_active(self, features: Tensor) -> Tensor:
        """Where a small change of the pre-activation changes the feature; same shape as `features`."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors that define the dictionary, for hashing and saving."""
        ...

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Self:
        """The same dictionary on another device and in another dtype."""
        ...


class SameSite:
    """The methods shared by dictionaries that read the activation they explain, without normalisation or bypass."""

    width: int
    transcodes = False
    reads = "mlp_in"
    has_bypass = False
    normalisation = None
    rectified = False
    origin = Origin()

    @property
    def read_width(self) -> int:
        """The width of the site, which it both reads and explains."""
        return self.width

    def statistics(self, x: Tensor) -> Statistics | None:
        """None: nothing is normalised."""
        return None

    def bypass(self, x: Tensor) -> Tensor | None:
        """None: there is no bypass."""
        return None

    def pull(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient itself: nothing is normalised."""
        return gradient

    def pull_bypass(self, gradient: Tensor) -> Tensor | None:
        """None: there is no bypass."""
        return None
