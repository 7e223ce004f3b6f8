"""A small random dictionary of every kind, with every option that kinds share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from featcircuits.dictionaries import (
    ConstantNorm,
    Dictionary,
    LayerNorm,
    abstopk,
    gated,
    groupmax,
    identity,
    jumprelu,
    relu,
    topk,
)

MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def activations(rows: int, width: int, seed: int) -> Tensor:
    return drawn(rows, width, seed=seed + 1)


def weights(width: int, n_features: int, seed: int, written: int | None = None) -> dict[str, Tensor]:
    """Encoder and decoder that have nothing to do with each other: the error is large."""
    written = width if written is None else written
    shapes = ((width, n_features), (n_features,), (n_features, written), (written,))
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return dict(zip(MATRICES, tensors, strict=True))


def _relu(width: int, n: int, seed: int) -> Dictionary:
    return relu(**weights(width, n, seed))


def _jumprelu(width: int, n: int, seed: int, **options: Any) -> Dictionary:
    """Thresholds below 0 as well: the features must stay positive there."""
    matrices = weights(width, n, seed)
    return jumprelu(**matrices, threshold=matrices["b_enc"].flip(0), **options)


def _topk(width: int, n: int, seed: int, **options: Any) -> Dictionary:
    return topk(**weights(width, n, seed), k=1 + seed % n, **options)


def _abstopk(width: int, n: int, seed: int) -> Dictionary:
    return abstopk(**weights(width, n, seed), k=1 + seed % n)


def _groupmax(width: int, n: int, seed: int) -> Dictionary:
    k = 1 + seed % n
    return groupmax(**weights(width, k * (n // k), seed), k=k)


def _gated(width: int, n: int, seed: int, **options: Any) -> Dictionary:
    w = weights(width, n, seed)
    r_mag, b_mag = drawn(2, n, seed=seed + 2)
    return gated(w["W_enc"], w["b_enc"], r_mag, b_mag, w["W_dec"], w["b_dec"], **options)


def _identity(width: int, n: int, seed: int) -> Dictionary:
    return identity(width).to("cpu", torch.float64)


def _centred(width: int, n: int, seed: int) -> Dictionary:
    return _gated(width, n, seed, centre=drawn(width, seed=seed + 3))


def _transcoder(width: int, n: int, seed: int) -> Dictionary:
    return relu(**weights(width, n, seed, written=width + 2), transcodes=True)


def _skip_transcoder(width: int, n: int, seed: int) -> Dictionary:
    skip = drawn(width, width + 2, seed=seed + 4)
    return topk(**weights(width, n, seed, written=width + 2), k=1 + seed % n, W_skip=skip, transcodes=True)


def _layer_norm(width: int, n: int, seed: int) -> Dictionary:
    """A single number has no variance."""
    return _jumprelu(width + 1, n, seed, centre=drawn(width + 1, seed=seed + 3), normalisation=LayerNorm())


def _constant_norm(width: int, n: int, seed: int) -> Dictionary:
    return _gated(width, n, seed, normalisation=ConstantNorm())


def _normalised_transcoder(width: int, n: int, seed: int) -> Dictionary:
    return _topk(width + 1, n, seed, normalisation=LayerNorm(undone=False), transcodes=True)


KINDS: Mapping[str, Callable[[int, int, int], Dictionary]] = {
    "relu": _relu,
    "jumprelu": _jumprelu,
    "jumprelu without relu": partial(_jumprelu, rectified=False),
    "topk": _topk,
    "topk without relu": partial(_topk, rectified=False),
    "abstopk": _abstopk,
    "groupmax": _groupmax,
    "gated": _gated,
    "identity": _identity,
    "centred": _centred,
    "transcoder": _transcoder,
    "skip transcoder": _skip_transcoder,
    "layer norm": _layer_norm,
    "constant norm": _constant_norm,
    "normalised transcoder": _normalised_transcoder,
}


def dictionary(kind: str, width: int = 5, n_features: int = 9, seed: int = 0) -> Dictionary:
    return KINDS[kind](width, n_features, seed)
