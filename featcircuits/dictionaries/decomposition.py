"""The decomposition of an activation into features, bypass and error.

`x = decode(features) + bypass(read) + error`, where `read` is x itself, or for a transcoder
the MLP's input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary

_FEW = 1 / 16
"""Up to this share of active features, gathering their decoder rows is faster than a product with all rows."""


def precision(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which dictionaries and effects are computed: `dtype`, or float32 if it is narrower."""
    return torch.promote_types(dtype, torch.float32)


def wide(x: Tensor) -> Tensor:
    """A tensor in that precision."""
    return x.to(precision(x.dtype))


def encode(dictionary: Dictionary, x: Tensor, read: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(features, error) of an activation, in the dictionary's precision. `read`: the encoder's input if it is not x."""
    x = x.to(precision(x.dtype))
    read = x if read is None else read.to(x.dtype)
    features = dictionary.encode(read)
    return features, written(dictionary, x, read) - dictionary.decode(features, dictionary.statistics(read))


def of_nothing(dictionary: Dictionary, read: Tensor) -> Tensor:
    """The reconstruction of features that are all 0 [1 or n, width], for an input `read` [n, read_width]."""
    x, statistics = dictionary.decode_nothing()[None], dictionary.statistics(read)
    return x if statistics is None else x * statistics.scale + statistics.shift


def decoded(dictionary: Dictionary, features: Tensor, read: Tensor) -> Tensor:
    """decode(features) [n, width] of features [n, n_features]; if few are active, it reads only their rows."""
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
    """How many times each feature adds its decoder row [..., n_features]."""
    error: Tensor
    """The change of the error [..., width]."""


def moved_between(dictionary: Dictionary, x: Tensor, read: Tensor, x2: Tensor, read2: Tensor) -> Moved:
    """The moves from activation `x`, where the dictionary reads `read`, to `x2` and `read2`."""
    wide = precision(x.dtype)
    x, read, x2, read2 = (tensor.to(wide) for tensor in (x, read, x2, read2))
    steps, statistics = dictionary.encode(read2) - dictionary.encode(read), dictionary.statistics(read)
    steps = steps if statistics is None else steps * statistics.scale
    change = written(dictionary, x2, read2) - written(dictionary, x, read)
    return Moved(steps, change - dictionary.decode_change(steps))


def rewired(dictionary: Dictionary, x: Tensor, read: Tensor, read2: Tensor) -> Tensor:
    """x with its nodes held fixed while the bypass reads `read2` in place of `read`; x itself without a bypass."""
    past = dictionary.bypass((read2 - read).to(precision(x.dtype))) if dictionary.has_bypass else None
    return x if past is None else x + past.to(x.dtype)


def written(dictionary: Dictionary, x: Tensor, read: Tensor) -> Tensor:
    """The part of x that the site's nodes write: everything except the bypass."""
    past = dictionary.bypass(read)
    return x if past is None else x - past
