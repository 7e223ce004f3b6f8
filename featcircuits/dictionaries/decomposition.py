"""Activations taken apart: what features, error and bypass each make of one.

`x = decode(features) + bypass(read) + error`, where a dictionary reads x itself, or for a transcoder
the MLP's input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary

_FEW = 1 / 16
"""The share of features up to which gathering their decoder rows is faster than a product with all rows."""


def precision(dtype: torch.dtype) -> torch.dtype:
    """The dtype that dictionaries and effects are computed in: never below float32."""
    return torch.promote_types(dtype, torch.float32)


def wide(x: Tensor) -> Tensor:
    """A tensor in that precision."""
    return x.to(precision(x.dtype))


def encode(dictionary: Dictionary, x: Tensor, read: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(features, error) of an activation, in the dictionary's precision; `read`: what it encodes where not x."""
    x = x.to(precision(x.dtype))
    read = x if read is None else read.to(x.dtype)
    features = dictionary.encode(read)
    return features, written(dictionary, x, read) - dictionary.decode(features, dictionary.statistics(read))


def of_nothing(dictionary: Dictionary, read: Tensor) -> Tensor:
    """What a dictionary makes of features that are all 0 [1 or n, width], where it reads `read` [n, read_width]."""
    x, statistics = dictionary.decode_nothing()[None], dictionary.statistics(read)
    return x if statistics is None else x * statistics.scale + statistics.shift


def decoded(dictionary: Dictionary, features: Tensor, read: Tensor) -> Tensor:
    """decode(features) [n, width] of features [n, n_features]; where few are active only their rows are read."""
    statistics = dictionary.statistics(read)
    row, ids = features.nonzero(as_tuple=True)
    if len(row) > _FEW * features.numel():
        return dictionary.decode(features, statistics)
    value = features[row, ids]
    value = value if statistics is None else value * statistics.scale[row, 0]
    return dictionary.write(value, row, ids, len(features)) + of_nothing(dictionary, read)


class Moved(NamedTuple):
    """How a site's nodes move from one activation to another, in the units of the first."""

    steps: Tensor
    """[..., n_features]: how many decoder rows each feature adds"""
    error: Tensor
    """[..., width]"""


def moved_between(dictionary: Dictionary, x: Tensor, read: Tensor, x2: Tensor, read2: Tensor) -> Moved:
    """From activation `x`, where the dictionary reads `read`, to `x2` and `read2`."""
    wide = precision(x.dtype)
    x, read, x2, read2 = (tensor.to(wide) for tensor in (x, read, x2, read2))
    steps, statistics = dictionary.encode(read2) - dictionary.encode(read), dictionary.statistics(read)
    steps = steps if statistics is None else steps * statistics.scale
    change = written(dictionary, x2, read2) - written(dictionary, x, read)
    return Moved(steps, change - dictionary.decode_change(steps))


def rewired(dictionary: Dictionary, x: Tensor, read: Tensor, read2: Tensor) -> Tensor:
    """x with its nodes held and the bypass reading `read2` in place of `read`; x itself without a bypass."""
    past = dictionary.bypass((read2 - read).to(precision(x.dtype))) if dictionary.has_bypass else None
    return x if past is None else x + past.to(x.dtype)


def written(dictionary: Dictionary, x: Tensor, read: Tensor) -> Tensor:
    """What the nodes of a site make of x: all but the bypass."""
    past = dictionary.bypass(read)
    return x if past is None else x - past
