"""One BatchTopK autoencoder by sae_lens's trainer, as plain JumpReLU tensors."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.sae_training.activations import shuffled

DEAD = 1e-4
"""A feature that a smaller share of tokens activates is dead."""


@dataclass(frozen=True)
class Recipe:
    """What decides an autoencoder, the activations aside.

    `features` is the number trained; those that end up dead are left out of the file.
    """

    features: int = 512
    k: float = 10.0
    steps: int = 2000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0


def train(activations: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """Trains on activations [token, width]; returns W_enc, b_enc, W_dec, b_dec, threshold.

    Activations are scaled to a mean norm of sqrt(width) for training, so one learning rate suits
    every site; the scale is folded into the weights afterwards.
    """
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, SAETrainer
    from sae_lens.config import SAETrainerConfig

    torch.manual_seed(recipe.seed)
    width = activations.shape[1]
    scale = (width**0.5 / activations.norm(dim=1).mean()).item()
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(d_in=width, d_sae=recipe.features, k=recipe.k, topk_threshold_lr=0.05)
    )
    with torch.no_grad():
        sae.b_dec.copy_(activations.mean(0) * scale)
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=recipe.steps * recipe.batch_size,
            train_batch_size_samples=recipe.batch_size,
            lr=recipe.learning_rate,
            lr_end=recipe.learning_rate / 10,
            lr_warm_up_steps=recipe.steps // 50,
            lr_decay_steps=recipe.steps // 3,
            dead_feature_window=max(50, recipe.steps // 20),
        ),
        sae=sae,
        data_provider=(x * scale for x in shuffled(activations, recipe.batch_size, recipe.seed)),
    )
    trainer.fit()
    sae.fold_activation_norm_scaling_factor(scale)
    return without_dead(plain_tensors(_inference_weights(sae)), activations)


def _inference_weights(sae: object) -> dict[str, Tensor]:
    """The weights as sae_lens writes them for inference: JumpReLU, decoder norms folded in."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        weights, _ = sae.save_inference_model(Path(folder))  # type: ignore[attr-defined]
        return load_file(weights)


def plain_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """sae_lens's JumpReLU weights in the form that needs no conventions.

    sae_lens subtracts b_dec from the input; here that is part of b_enc. Decoder rows get unit norm
    and the features the norm's size, which leaves the reconstruction as it was.
    """
    W_enc, W_dec, b_dec = weights["W_enc"], weights["W_dec"], weights["b_dec"]
    norm = W_dec.norm(dim=1)
    plain = {
        "W_enc": W_enc * norm,
        "b_enc": (weights["b_enc"] - b_dec @ W_enc) * norm,
        "W_dec": W_dec / norm[:, None],
        "b_dec": b_dec,
        "threshold": weights["threshold"] * norm,
    }
    return {name: tensor.float().contiguous() for name, tensor in plain.items()}


def without_dead(tensors: Mapping[str, Tensor], activations: Tensor) -> dict[str, Tensor]:
    """Drops the features that fewer than `DEAD` of the training tokens activate."""
    count = torch.zeros_like(tensors["threshold"])
    for x in activations.split(8192):
        count += (x @ tensors["W_enc"] + tensors["b_enc"] > tensors["threshold"]).sum(0)
    alive = count >= DEAD * len(activations)
    kept = {"b_dec": tensors["b_dec"], "W_enc": tensors["W_enc"][:, alive].contiguous()}
    return {**kept, **{name: tensors[name][alive] for name in ("b_enc", "W_dec", "threshold")}}
