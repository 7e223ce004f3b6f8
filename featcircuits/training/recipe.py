"""Recipes: what decides a trained dictionary, its activations aside; and the architectures by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from featcircuits.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """`features` is the number trained; those that end up dead are left out of the file.

    `architecture`: a name in `ARCHITECTURES`. `k`: mean number of active features per token, which
    batchtopk and matryoshka hold by selection and jumprelu approaches by its sparsity loss.
    `keep_sinks`: train on sink tokens (`featcircuits.sinks`), and measure them, like all others.
    """

    architecture: str = "batchtopk"
    features: int = 512
    k: float = 10.0
    steps: int = 2000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0
    keep_sinks: bool = False

    def check(self) -> None:
        """Refuse an unknown architecture and numbers that no training can have."""
        if self.architecture not in ARCHITECTURES:
            raise InputError(f"unknown architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}")
        for name, least in (("features", 1), ("steps", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 < self.k <= self.features:
            raise InputError(f"k is {self.k}; it must be above 0 and at most the number of features, {self.features}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be above 0")


def _batchtopk(width: int, recipe: Recipe, device: str) -> Any:
    """The k * batch_size largest activations of a batch are kept (Bussmann et al. 2024)."""
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    return BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=width, d_sae=recipe.features, k=recipe.k, topk_threshold_lr=_THRESHOLD_RATE, device=device
        )
    )


def _matryoshka(width: int, recipe: Recipe, device: str) -> Any:
    """BatchTopK whose first 1/8, 1/4, 1/2 and all features each reconstruct alone (Bussmann et al. 2025)."""
    from sae_lens import MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig

    widths = sorted({recipe.features // part for part in (8, 4, 2, 1)} - {0})
    return MatryoshkaBatchTopKTrainingSAE(
        MatryoshkaBatchTopKTrainingSAEConfig(
            d_in=width, d_sae=recipe.features, k=recipe.k, topk_threshold_lr=_THRESHOLD_RATE, device=device,
            matryoshka_widths=widths,
        )
    )  # fmt: skip


def _jumprelu(width: int, recipe: Recipe, device: str) -> Any:
    """A threshold of its own for every feature, and a squared penalty on L0 - k (Rajamanoharan et al. 2024).

    The penalty's gradient reaches the encoder too: thresholds alone move too slowly to bring L0 down to k
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
"""How fast the threshold that inference uses follows the smallest activation that training kept."""

ARCHITECTURES: Mapping[str, Callable[[int, Recipe, str], Any]] = {
    "batchtopk": _batchtopk,
    "jumprelu": _jumprelu,
    "matryoshka": _matryoshka,
}
"""Name -> (width, recipe, device) -> sae_lens's module to train; all are saved as JumpReLU."""
