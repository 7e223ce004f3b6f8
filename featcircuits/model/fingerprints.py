"""Fingerprints: short texts that are equal where weights or vocabularies are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_SAMPLE = 1 << 16
"""How many numbers of a tensor a fingerprint reads, evenly spread: weights of gigabytes take no time."""


def fingerprint_of(
    tensors: Iterable[tuple[str, Tensor]], precision: torch.dtype = torch.float32, sample: int = _SAMPLE
) -> str:
    """A sha256 of named tensors: names, shapes, and all of the numbers or a fixed sample of them.

    Floats count as they are in `precision`, so that the same weights in a wider dtype have the same fingerprint.
    Of weights that accelerate keeps elsewhere only names and shapes count.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        if tensor.is_meta:
            continue
        step = tensor.numel() // sample | 1  # odd, so that it does not fall on one column
        some = tensor.detach().flatten()[::step].cpu()
        # by way of float32, as a model that is loaded in a narrower dtype was rounded once
        some = some.float().to(precision) if some.is_floating_point() else some
        digest.update(some.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str | None:
    """A sha256 of how a tokenizer cuts a text into which ids; None for one that does not tell.

    Tokens added to its vocabulary, padding, truncation, and what it puts around a text do not count.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        text: str = backend.to_str()
        # inside its JSON a quote is escaped, so that these are the keys themselves
        normaliser, around, decoder = (text.find(f'"{key}":') for key in ("normalizer", "post_processor", "decoder"))
        if 0 <= normaliser < around < decoder:
            return hashlib.sha256((text[normaliser:around] + text[decoder:]).encode()).hexdigest()
    if not hasattr(tokenizer, "get_vocab"):
        return None
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps([type(tokenizer).__name__, vocabulary]).encode()).hexdigest()
