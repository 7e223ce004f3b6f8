"""What every dictionary is to the rest of the package: features of an activation, and the linear algebra around them.

A dictionary reads one activation and explains one. For a sparse autoencoder they are the same; a transcoder reads the
MLP's input and explains its output. `written = decode(f) + bypass(read) + error`, where only dictionaries with a skip
have a bypass, a linear way past the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from featcircuits.dictionaries.origin import Origin


class Statistics(NamedTuple):
    """What the decoder's output is multiplied by and then moved by, where the input was normalised: [..., 1]."""

    scale: Tensor
    shift: Tensor


class Normalisation(Protocol):
    """What is done to the input before it is encoded."""

    @property
    def name(self) -> str: ...
    @property
    def undone(self) -> bool:
        """Whether decoding undoes it (in transcoders it does not)."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...
    def statistics(self, x: Tensor) -> Statistics: ...


def statistics_of(normalisation: Normalisation | None, x: Tensor) -> Statistics | None:
    """What decoding undoes; None without a normalisation, or where it is not undone."""
    return None if normalisation is None or not normalisation.undone else normalisation.statistics(x)


def pulled(normalisation: Normalisation | None, x: Tensor, gradient: Tensor) -> Tensor:
    """A gradient at the normalised input as that at x [n, read_width]."""
    if normalisation is None or not len(x):
        return gradient
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(normalisation(x), x, gradient)[0]


@runtime_checkable
class Dictionary(Protocol):
    """What the rest of the package asks of a dictionary; every method is pure.

    `encode` and `decode` define the features; the other methods are the linear algebra that
    attribution needs: decoder rows carry effects from an activation to its features, encoder rows
    carry them from a feature to the activation it reads. A dictionary that normalises its input has
    decoder rows in normalised units; `statistics` says what they are multiplied by at each position.
    """

    @property
    def kind(self) -> str: ...
    @property
    def width(self) -> int:
        """Of the activation it explains."""
        ...

    @property
    def read_width(self) -> int:
        """Of the activation it encodes."""
        ...

    @property
    def transcodes(self) -> bool:
        """Whether it reads the MLP's input and explains the MLP's output."""
        ...

    @property
    def has_bypass(self) -> bool:
        """Whether something linear goes past the features (a skip transcoder's skip)."""
        ...

    @property
    def normalisation(self) -> Normalisation | None:
        """What is done to the input before it is encoded."""
        ...

    @property
    def origin(self) -> Origin:
        """Where it was trained, as its files say."""
        ...

    @property
    def n_features(self) -> int: ...

    def encode(self, x: Tensor) -> Tensor:
        """[..., read_width] -> [..., n_features]"""
        ...

    def statistics(self, x: Tensor) -> Statistics | None:
        """What decoding undoes of the normalisation of x [..., read_width]; None without one."""
        ...

    def decode(self, features: Tensor, statistics: Statistics | None = None) -> Tensor:
        """[..., n_features] -> [..., width]; affine in the features, the bypass left out."""
        ...

    def decode_nothing(self) -> Tensor:
        """[width]: decode of features that are all 0, in normalised units; reads no decoder row."""
        ...

    def bypass(self, x: Tensor) -> Tensor | None:
        """[..., read_width] -> [..., width]: what goes past the features; linear. None without one."""
        ...

    def decode_change(self, change: Tensor) -> Tensor:
        """decode(f + change) - decode(f), the same for every f; in normalised units."""
        ...

    def decoder_rows(self, ids: Tensor) -> Tensor:
        """[n] -> [n, width]: what one unit of each feature writes; in normalised units."""
        ...

    def encoder_rows(self, ids: Tensor) -> Tensor:
        """[n] -> [n, read_width]: the gradient of each feature, where active, to the normalised input."""
        ...

    def pull(self, x: Tensor, gradient: Tensor) -> Tensor:
        """[n, read_width]: a gradient at the normalised input as that at x."""
        ...

    def pull_bypass(self, gradient: Tensor) -> Tensor | None:
        """[n, width] -> [n, read_width]: a gradient at what is written, back through the bypass."""
        ...

    def write(self, change: Tensor, row: Tensor, ids: Tensor, n_rows: int) -> Tensor:
        """[n], [n], [n] -> [n_rows, width]: what changes of features `ids` at positions `row` add to x."""
        ...

    def gradient_at(self, gradient: Tensor, row: Tensor, ids: Tensor) -> Tensor:
        """[m, width], [n], [n] -> [n]: the gradient at x in position `row` as that at feature `ids`; no pair twice."""
        ...

    def is_active(self, features: Tensor) -> Tensor:
        """Where a small change of the pre-activation changes the feature."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """What defines the dictionary; for hashing and saving."""
        ...

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Self: ...


class SameSite:
    """The parts of a dictionary that reads what it explains, as it is."""

    width: int
    transcodes = False
    has_bypass = False
    normalisation = None
    origin = Origin()

    @property
    def read_width(self) -> int:
        return self.width

    def statistics(self, x: Tensor) -> Statistics | None:
        return None

    def bypass(self, x: Tensor) -> Tensor | None:
        return None

    def pull(self, x: Tensor, gradient: Tensor) -> Tensor:
        return gradient

    def pull_bypass(self, gradient: Tensor) -> Tensor | None:
        return None
