"""The runtime type of every dictionary: an affine decoder and a gated affine encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from featcircuits.dictionaries.products import combined, dots
from featcircuits.errors import InputError


@runtime_checkable
class Dictionary(Protocol):
    """What the rest of the package asks of a dictionary; every method is pure.

    `encode` and `decode` define the features; the other methods are the linear algebra that
    attribution needs: decoder rows carry effects from an activation to its features, encoder rows
    carry them from a feature to the activation it reads.
    """

    @property
    def kind(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def n_features(self) -> int: ...

    def encode(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., n_features]"""
        ...

    def decode(self, features: Tensor) -> Tensor:
        """[..., n_features] -> [..., width]; affine."""
        ...

    def decode_change(self, change: Tensor) -> Tensor:
        """decode(f + change) - decode(f), the same for every f."""
        ...

    def decoder_rows(self, ids: Tensor) -> Tensor:
        """[n] -> [n, width]: what one unit of each feature writes."""
        ...

    def encoder_rows(self, ids: Tensor) -> Tensor:
        """[n] -> [n, width]: the gradient of each feature, where active, to the activation."""
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


def check_numbers(dictionary: Dictionary) -> None:
    """Refuse weights that hold NaN or infinity."""
    for name, tensor in dictionary.tensors().items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{dictionary.kind} dictionary: {name} holds NaN or infinity; the file may be damaged")


class Activation(Protocol):
    """Pre-activations [..., n_features] to features; linear with slope 1 wherever it is not 0."""

    def __call__(self, pre: Tensor) -> Tensor: ...
    def tensors(self) -> Mapping[str, Tensor]: ...
    def to(self, device: torch.device | str, dtype: torch.dtype) -> Activation: ...


@dataclass(frozen=True, eq=False)
class Affine:
    """`features = activation(x @ W_enc + b_enc)`, `x_hat = features @ W_dec + b_dec`.

    Shapes: W_enc [width, n_features], b_enc [n_features], W_dec [n_features, width], b_dec [width].
    A kind that subtracts b_dec from its input is folded into this form: b_enc - b_dec @ W_enc.
    """

    kind: str
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    activation: Activation

    def __post_init__(self) -> None:
        if self.W_enc.ndim != 2 or 0 in self.W_enc.shape:
            raise InputError(f"{self.kind} dictionary: W_enc must be [width, features], found {list(self.W_enc.shape)}")
        width, n_features = self.W_enc.shape
        expected = {"b_enc": (n_features,), "W_dec": (n_features, width), "b_dec": (width,)}
        # an activation has one number for each feature; whole numbers are settings such as k
        expected |= {name: (n_features,) for name, t in self.activation.tensors().items() if t.is_floating_point()}
        for name, tensor in self.tensors().items():
            if tuple(tensor.shape) != expected.get(name, tuple(tensor.shape)):
                raise InputError(
                    f"{self.kind} dictionary: {name} has shape {list(tensor.shape)}, but W_enc "
                    f"{list(self.W_enc.shape)} asks for {list(expected[name])}"
                )

    @property
    def width(self) -> int:
        return self.W_enc.shape[0]

    @property
    def n_features(self) -> int:
        return self.W_enc.shape[1]

    def encode(self, x: Tensor) -> Tensor:
        return self.activation(x @ self.W_enc + self.b_enc)

    def decode(self, features: Tensor) -> Tensor:
        return features @ self.W_dec + self.b_dec

    def decode_change(self, change: Tensor) -> Tensor:
        return change @ self.W_dec

    def decoder_rows(self, ids: Tensor) -> Tensor:
        return self.W_dec[ids]

    def encoder_rows(self, ids: Tensor) -> Tensor:
        return self.W_enc[:, ids].T

    def write(self, change: Tensor, row: Tensor, ids: Tensor, n_rows: int) -> Tensor:
        return combined(change, row, self.W_dec, ids, n_rows)

    def gradient_at(self, gradient: Tensor, row: Tensor, ids: Tensor) -> Tensor:
        return dots(gradient, row, self.W_dec, ids)

    def is_active(self, features: Tensor) -> Tensor:
        return features != 0

    def tensors(self) -> Mapping[str, Tensor]:
        weights = {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec, "b_dec": self.b_dec}
        return {**weights, **self.activation.tensors()}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Affine:
        weights = (self.W_enc, self.b_enc, self.W_dec, self.b_dec)
        W_enc, b_enc, W_dec, b_dec = (weight.detach().to(device, dtype) for weight in weights)
        # rows are gathered from W_dec, so they had better lie together
        return Affine(self.kind, W_enc, b_enc, W_dec.contiguous(), b_dec, self.activation.to(device, dtype))
