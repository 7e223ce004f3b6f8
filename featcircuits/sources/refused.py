"""Kinds of dictionaries that other libraries have and that cannot be spliced in, with the reason."""

from __future__ import annotations

from featcircuits.errors import InputError

REASONS = {
    "cross_layer_transcoder": "each feature writes to the MLPs of all later layers, and a dictionary "
    "explains one activation; use the per-layer transcoders of the same model, where there are any",
    "crosscoder": "it reads and explains several layers at once, and a site is one activation",
    "temporal": "its features depend on earlier tokens, so a position cannot be patched on its own",
    "matching_pursuit": "its features are chosen one after another, so they are not affine where they are active",
    "covariance_whitening": "its whitening matrix is not among the files; fold it into the weights before saving",
    "batchtopk": "it is a training checkpoint; save it for inference with save_inference_model",
    "matryoshka_batchtopk": "it is a training checkpoint; save it for inference with save_inference_model",
}


def refuse(name: str) -> None:
    """Raise `InputError` if the kind `name` is known to be unusable."""
    if name in REASONS:
        raise InputError(f"{name.replace('_', ' ')} dictionaries cannot be used: {REASONS[name]}")
