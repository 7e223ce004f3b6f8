"""Fingerprints: short texts that are equal if weights or vocabularies are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_SAMPLE = 1 << 16
"""How many evenly spread numbers of a tensor a fingerprint reads, so that weights of gigabytes take no time."""


def fingerprint_of(
    tensors: Iterable[tuple[str, Tensor]], precision: torch.dtype = torch.float32, sample: int = _SAMPLE
) -> str:
    """A sha256 of named tensors: names, shapes, and all of the numbers or a fixed sample of them.

    Floats are rounded to `precision`, so that the same weights in a wider dtype have the same fingerprint.
    For weights that accelerate keeps elsewhere only names and shapes count.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        if tensor.is_meta:
            continue
        step = tensor.numel() // sample | 1  # odd, so that the sample is not all from one column
        some = tensor.detach().flatten()[::step].cpu()
        # through float32, since a model that is loaded in a narrower dtype was rounded once
        some = some.float().to(precision) if some.is_floating_point() else some
        digest.update(some.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str | None:
    """A sha256 of how a tokenizer splits a text into ids; None if the tokenizer does not tell.

    Tokens added to its vocabulary, padding, truncation, and tokens that it puts around a text do not count.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        text: str = backend.to_str()
        # quotes inside JSON texts are escaped, so these matches are really keys
        normaliser, around, decoder = (text.find(f'"{key}":') for key in ("normalizer", "post_processor", "decoder"))
        if 0 <= normaliser < around < decoder:
            return hashlib.sha256((text[normaliser:around] + text[decoder:]).encode()).hexdigest()
    if not hasattr(tokenizer, "get_vocab"):
        return None
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps([type(tokenizer).__name__, vocabulary]).encode()).hexdigest()
