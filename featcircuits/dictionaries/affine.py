"""The runtime type of nearly every dictionary: a gated affine encoder, and a decoder that is affine in the features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypedDict

import torch
from torch import Tensor

from featcircuits.dictionaries.dictionary import Dictionary, Normalisation, Statistics, pulled, statistics_of
from featcircuits.dictionaries.origin import Origin
from featcircuits.dictionaries.products import combined, dots
from featcircuits.errors import InputError


class Activation(Protocol):
    """Turns pre-activations [..., n_features] into features; linear wherever its result is not 0."""

    @property
    def slope(self) -> Tensor | None:
        """The slope of active features with respect to pre-activations [n_features]; None for 1."""
        ...

    @property
    def rectified(self) -> bool:
        """Whether features are never negative."""
        ...

    def __call__(self, pre: Tensor) -> Tensor: ...
    def tensors(self) -> Mapping[str, Tensor]:
        """The settings that define the activation, for hashing and saving."""
        ...

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Activation:
        """The same activation on another device and in another dtype."""
        ...


class Options(TypedDict, total=False):
    """The options of every kind, besides encoder and decoder: fields of `Affine`."""

    centre: Tensor | None
    W_skip: Tensor | None
    normalisation: Normalisation | None
    transcodes: bool
    reads: str


@dataclass(frozen=True, eq=False)
class Affine:
    """`f = activation((normalised(x) - centre) @ W_enc + b_enc)`, `x_hat = scale * (f @ W_dec + b_dec) + shift`.

    Shapes: W_enc [read_width, n_features], b_enc [n_features], W_dec [n_features, width], b_dec
    [width], centre [read_width], W_skip [read_width, width]. Without a normalisation scale is 1 and
    shift 0. Many published dictionaries have their b_dec as the centre.
    """

    kind: str
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    activation: Activation
    centre: Tensor | None = None
    W_skip: Tensor | None = None
    normalisation: Normalisation | None = None
    transcodes: bool = False
    reads: str = "mlp_in"
    origin: Origin = Origin()

    def __post_init__(self) -> None:
        for name in ("W_enc", "W_dec"):
            shape = getattr(self, name).shape
            if len(shape) != 2 or 0 in shape:
                sides = "[width, features]" if name == "W_enc" else "[features, width]"
                raise InputError(f"{self.kind} dictionary: {name} must be {sides}, found {list(shape)}")
        read_width, n_features = self.W_enc.shape
        width = self.W_dec.shape[1] if self.transcodes else read_width
        expected = {
            "b_enc": (n_features,), "W_dec": (n_features, width), "b_dec": (width,),
            "centre": (read_width,), "W_skip": (read_width, width),
        }  # fmt: skip
        # an activation's float tensors have one number per feature; whole numbers are settings such as k
        expected |= {name: (n_features,) for name, t in self.activation.tensors().items() if t.is_floating_point()}
        for name, tensor in self.tensors().items():
            if tuple(tensor.shape) != expected.get(name, tuple(tensor.shape)):
                raise InputError(
                    f"{self.kind} dictionary: {name} has shape {list(tensor.shape)}, but W_enc "
                    f"{list(self.W_enc.shape)} asks for {list(expected[name])}"
                )

    @property
    def width(self) -> int:
        """The width of the activation it explains."""
        return self.W_dec.shape[1]

    @property
    def read_width(self) -> int:
        """The width of the activation it encodes."""
        return self.W_enc.shape[0]

    @property
    def has_bypass(self) -> bool:
        """Whether it has a skip."""
        return self.W_skip is not None

    @property
    def n_features(self) -> int:
        """The number of features."""
        return self.W_enc.shape[1]

    @property
    def rectified(self) -> bool:
        """Whether features are never negative."""
        return self.activation.rectified

    def encode(self, x: Tensor) -> Tensor:
        """f = activation((normalised(x) - centre) @ W_enc + b_enc), [..., n_features]."""
        z = x if self.normalisation is None else self.normalisation(x)
        z = z if self.centre is None else z - self.centre
        return self.activation(z @ self.W_enc + self.b_enc)

    def statistics(self, x: Tensor) -> Statistics | None:
        """The factor and shift of x's normalisation; None if decoding does not undo one."""
        return statistics_of(self.normalisation, x)

    def decode(self, features: Tensor, statistics: Statistics | None = None) -> Tensor:
        """scale * (f @ W_dec + b_dec) + shift, [..., width], where the statistics are scale and shift."""
        x = features @ self.W_dec + self.b_dec
        return x if statistics is None else x * statistics.scale + statistics.shift

    def decode_nothing(self) -> Tensor:
        """b_dec [width]."""
        return self.b_dec

    def bypass(self, x: Tensor) -> Tensor | None:
        """x @ W_skip, [..., width]; None without a skip."""
        return None if self.W_skip is None else x @ self.W_skip

    def decode_change(self, change: Tensor) -> Tensor:
        """change @ W_dec, [..., width]."""
        return change @ self.W_dec

    def decoder_rows(self, ids: Tensor) -> Tensor:
        """The rows `ids` of W_dec [n, width]."""
        return self.W_dec[ids]

    def encoder_rows(self, ids: Tensor) -> Tensor:
        """The columns `ids` of W_enc, times the activation's slope [n, read_width]."""
        rows, slope = self.W_enc[:, ids].T, self.activation.slope
        return rows if slope is None else rows * slope[ids, None]

    def pull(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at x, given the gradient at the normalised input; both [n, read_width]."""
        return pulled(self.normalisation, x, gradient)

    def pull_bypass(self, gradient: Tensor) -> Tensor | None:
        """gradient @ W_skip^T, [n, read_width]; None without a skip."""
        return None if self.W_skip is None else gradient @ self.W_skip.T

    def write(self, change: Tensor, row: Tensor, ids: Tensor, n_rows: int) -> Tensor:
        """The sum of change[i] * W_dec[ids[i]] at each position [n_rows, width]."""
        return combined(change, row, self.W_dec, ids, n_rows)

    def gradient_at(self, gradient: Tensor, row: Tensor, ids: Tensor) -> Tensor:
        """The products <gradient[row[i]], W_dec[ids[i]]> [n]."""
        return dots(gradient, row, self.W_dec, ids)

    def is_active(self, features: Tensor) -> Tensor:
        """Where features are not 0."""
        return features != 0

    def tensors(self) -> Mapping[str, Tensor]:
        """The weights and the activation's settings, by name."""
        weights = {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec, "b_dec": self.b_dec}
        optional = {"centre": self.centre, "W_skip": self.W_skip}
        settings = {"transcodes": torch.tensor(True)} if self.transcodes else {}
        if self.transcodes and self.reads != "mlp_in":
            settings["reads"] = torch.tensor(list(self.reads.encode()), dtype=torch.uint8)
        if self.normalisation is not None:
            settings["normalisation"] = torch.tensor(list(self.normalisation.name.encode()), dtype=torch.uint8)
        given = {name: tensor for name, tensor in optional.items() if tensor is not None}
        return {**weights, **given, **self.activation.tensors(), **settings}

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Affine:
        """The same dictionary on another device and in another dtype."""

        def moved(weight: Tensor | None) -> Tensor | None:
            return None if weight is None else weight.detach().to(device, dtype)

        return replace(
            self,
            W_enc=moved(self.W_enc),
            b_enc=moved(self.b_enc),
            # rows are gathered from W_dec, so each should be contiguous in memory
            W_dec=self.W_dec.detach().to(device, dtype).contiguous(),
            b_dec=moved(self.b_dec),
            activation=self.activation.to(device, dtype),
            centre=moved(self.centre),
            W_skip=moved(self.W_skip),
        )


_LARGEST = 1e12
"""Of weights: the products of three of them, summed over any width, are finite in float32."""


def check_numbers(dictionary: Dictionary) -> None:
    """Raise `InputError` for weights with NaN or infinity, or whose products would be infinite in float32."""
    slope = dictionary.activation.slope if isinstance(dictionary, Affine) else None
    steep = {} if slope is None else {"exp(r_mag)": slope}
    for name, tensor in {**dictionary.tensors(), **steep}.items():
        least, most = (float(end) for end in tensor.aminmax())
        if not (math.isfinite(least) and math.isfinite(most)):
            raise InputError(f"{dictionary.kind} dictionary: {name} holds NaN or infinity; the file may be damaged")
        # a threshold is only compared
        if max(-least, most) > (torch.finfo(torch.float32).max if name == "threshold" else _LARGEST):
            raise InputError(
                f"{dictionary.kind} dictionary: {name} holds {max(-least, most):.3g}, whose products overflow to "
                "infinity; the file may be damaged"
            )
