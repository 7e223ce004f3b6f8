"""Recipes: the settings of a training, and the table of architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from featcircuits.errors import InputError
from featcircuits.inputs.ranges import LARGEST_SEED, MOST, check_number, ranged


@dataclass(frozen=True)
class Recipe:
    """The settings that, together with the activations, determine a trained dictionary.

    `architecture`: a name in `ARCHITECTURES`. `features`: how many are trained; dead ones are left out of the file.
    `k`: the mean number of active features per token; batchtopk and matryoshka select exactly that many, and
    jumprelu approaches it by its sparsity loss.
    `keep_sinks`: train on sink tokens (`featcircuits.splicing.sinks`), and measure them, like all others.
    `held_out`: the most tokens that the figures are measured on.
    `store`: how activations are stored, a name in `STORES`. float16 halves the disk space; it rounds to 11 bits, which
    adds less than 1e-6 to the variance unexplained of a site whose mean is not far larger than its deviations.
    `store_tokens`: the most tokens whose activations are stored at once; a longer text is read and trained on in parts.
    """

    architecture: str = "batchtopk"
    features: int = ranged(512, 1, 1 << 20)
    k: float = ranged(10.0, 0, 1 << 20, above=True)
    steps: int = ranged(2000, 1, MOST)
    batch_size: int = ranged(1024, 1, 1 << 24)
    learning_rate: float = ranged(1e-3, 0, 10, above=True)
    seed: int = ranged(0, 0, LARGEST_SEED)
    keep_sinks: bool = False
    held_out: int = ranged(8192, 2, MOST)
    store: str = "float16"
    store_tokens: int = ranged(500_000, 1, MOST)

    def check(self) -> None:
        """Raise `InputError` for an unknown architecture or a number out of range."""
        if self.architecture not in ARCHITECTURES:
            raise InputError(f"unknown architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}")
        if self.store not in STORES:
            raise InputError(f"unknown store {self.store!r}; known: {', '.join(STORES)}")
        for option in fields(self):
            if "range" in option.metadata:
                check_number(option.name, getattr(self, option.name), option.metadata["range"], type(option.default))
        if self.k > self.features:
            raise InputError(f"k is {self.k}; it must be above 0 and at most the number of features, {self.features}")


def _batchtopk(width: int, recipe: Recipe, device: str) -> Any:
    """Keeps the k * batch_size largest activations of a batch (Bussmann et al. 2024)."""
    from sae_lens import BatchTopKTrainingSAEConfig

    from featcircuits.training.sparse import SparseBatchTopK

    return SparseBatchTopK(
        BatchTopKTrainingSAEConfig(
            d_in=width, d_sae=recipe.features, k=recipe.k, topk_threshold_lr=_THRESHOLD_RATE, device=device
        )
    )


def _matryoshka(width: int, recipe: Recipe, device: str) -> Any:
    """BatchTopK whose first 1/8, 1/4, 1/2 and all features each reconstruct alone (Bussmann et al. 2025)."""
    from sae_lens import MatryoshkaBatchTopKTrainingSAEConfig

    from featcircuits.training.sparse import SparseMatryoshka

    widths = sorted({recipe.features // part for part in (8, 4, 2, 1)} - {0})
    return SparseMatryoshka(
        MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=width, d_sae=recipe.features, k=recipe.k, topk_threshold_lr=_THRESHOLD_RATE, device=device,
            matryoshka_widths=widths,
        )
    )  # fmt: skip


def _jumprelu(width: int, recipe: Recipe, device: str) -> Any:
    """One threshold per feature, and a squared penalty on L0 - k (Rajamanoharan et al. 2024).

    The penalty's gradient also reaches the encoder, because thresholds alone move too slowly to bring L0 down to k
    within a few thousand steps.
    """
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig

    return JumpReLUTrainingSAE(
        JumpReLUTrainingSAEConfig(
            d_in=width, d_sae=recipe.features, device=device, jumprelu_sparsity_loss_mode="quadratic",
            target_l0=recipe.k, l0_warm_up_steps=recipe.steps // 5, jumprelu_ste_to_input=True,
            jumprelu_bandwidth=0.5, jumprelu_init_threshold=0.1,
        )
    )  # fmt: skip


_THRESHOLD_RATE = 0.05
"""How fast the threshold for inference follows the smallest activation that training kept."""

STORES: Mapping[str, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}
"""Name -> precision of stored activations."""

ARCHITECTURES: Mapping[str, Callable[[int, Recipe, str], Any]] = {
    "batchtopk": _batchtopk,
    "jumprelu": _jumprelu,
    "matryoshka": _matryoshka,
}
"""Name -> function of (width, recipe, device) that builds sae_lens's module; all are saved as JumpReLU."""
