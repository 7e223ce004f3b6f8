"""One dictionary, trained by sae_lens's trainer and returned as plain JumpReLU tensors."""

from __future__ import annotations

import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featcircuits.errors import InputError, first_line
from featcircuits.files.checksums import intact, seal
from featcircuits.files.writing import whole_folder
from featcircuits.progress import Progress, silent
from featcircuits.training.activations import shuffled, spread
from featcircuits.training.recipe import ARCHITECTURES, Recipe

FUSED = ("cpu", "cuda")
"""The devices where torch has Adam in one pass over the weights, eight times as fast on a CPU."""
DEAD = 1e-4
"""A feature is dead if a smaller share of tokens than this activates it."""
CHECKPOINT_SECONDS = 300.0
"""Seconds between checkpoints, from which an interrupted training resumes."""


def train(
    activations: Tensor,
    recipe: Recipe,
    *,
    steps: range | None = None,
    device: torch.device | str = "cpu",
    checkpoints: Path | None = None,
    progress: Progress = silent,
    name: str = "dictionary",
) -> dict[str, Tensor] | None:
    """Train on activations [token, width]; returns W_enc, b_enc, W_dec, b_dec, threshold.

    Activations are scaled to a mean norm of sqrt(width) for training, so that one learning rate suits
    every site; the scale is folded into the weights afterwards. With a folder of `checkpoints` an
    interrupted training resumes from the last one and ends with the same weights.
    `steps`: only these of the recipe's steps, the earlier ones having been trained on other activations; if later
    ones follow, the state is left in `checkpoints`, and the result is None.
    """
    steps = steps or range(recipe.steps)
    trainer = _trainer(activations, recipe, str(device))
    if checkpoints is not None:
        _restore(trainer, checkpoints)
    done = trainer.n_training_steps
    if done < steps.start:
        raise InputError(
            f"{checkpoints}: the training of {name} went on to step {steps.start}, and its state is missing or damaged "
            "now; remove this folder and the finished parts beside it, and repeat the command"
        )
    batches = shuffled(activations, recipe.batch_size, recipe.seed + steps.start, skip=done - steps.start)
    written, saved = time.monotonic(), done
    for _ in progress(range(done, steps.stop), name, steps.stop - done):
        trainer.maybe_reset_sparsity()
        trainer.step(next(batches))
        trainer.n_training_steps += 1
        if checkpoints is not None and time.monotonic() - written >= CHECKPOINT_SECONDS:
            _save(trainer, checkpoints)
            written, saved = time.monotonic(), trainer.n_training_steps
    if steps.stop < recipe.steps:
        if checkpoints is not None and saved < steps.stop:
            _save(trainer, checkpoints)
        return None
    trainer.sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
    return without_dead(plain_tensors(_inference_weights(trainer.sae)), activations, device)


def _trainer(activations: Tensor, recipe: Recipe, device: str) -> Any:
    """sae_lens's trainer. `train` calls its steps one by one, so it reads no data itself."""
    from sae_lens import SAETrainer
    from sae_lens.config import SAETrainerConfig

    torch.manual_seed(recipe.seed)
    width = activations.shape[1]
    sae = ARCHITECTURES[recipe.architecture](width, recipe, device)
    mean, norm = spread(activations)
    with torch.no_grad():
        sae.b_dec.copy_(mean * (width**0.5 / norm))
    config = SAETrainerConfig(
        total_training_samples=recipe.steps * recipe.batch_size,
        train_batch_size_samples=recipe.batch_size,
        device=device,
        lr=recipe.learning_rate,
        lr_end=recipe.learning_rate / 10,
        lr_warm_up_steps=recipe.steps // 50,
        lr_decay_steps=recipe.steps // 3,
        dead_feature_window=max(50, recipe.steps // 20),
    )
    nothing: Iterator[Tensor] = iter(())
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=nothing)
    trainer.activation_scaler.scaling_factor = width**0.5 / norm
    for group in trainer.optimizer.param_groups:
        group["fused"] = torch.device(device).type in FUSED
    return trainer


def _save(trainer: Any, folder: Path) -> None:
    """Write weights, optimizer and counters, whole or not at all, and remove earlier checkpoints."""
    from safetensors.torch import save

    earlier = _steps(folder)
    with whole_folder(folder / f"step-{trainer.n_training_steps:09d}") as draft:
        weights = {name: tensor.contiguous() for name, tensor in trainer.sae.state_dict().items()}
        (draft / "weights").write_bytes(save(weights))
        _save_state(trainer, draft)
        seal(draft)
    for path in earlier:
        shutil.rmtree(path)


def _save_state(trainer: Any, folder: Path) -> None:
    """torch raises a RuntimeError for a full disk, without the system's message; turn it into an `InputError`."""
    try:
        trainer.save_trainer_state(folder)
    except RuntimeError as error:
        raise InputError(
            f"{folder.parent}: the state of the training cannot be written ({first_line(error)}); "
            "free some space on the disk, and repeat the command"
        ) from None


def _restore(trainer: Any, folder: Path) -> None:
    """Load the last undamaged checkpoint; damaged ones are removed, because training can start again without them."""
    from sae_lens.constants import ACTIVATION_SCALER_CFG_FILENAME, TRAINER_STATE_FILENAME
    from safetensors.torch import load_file

    files = ("weights", TRAINER_STATE_FILENAME, ACTIVATION_SCALER_CFG_FILENAME)
    for path in reversed(_steps(folder)):
        if not all(intact(path, name) for name in files):
            warnings.warn(f"{path} is damaged; the training goes on without it", stacklevel=2)
            shutil.rmtree(path)
            continue
        trainer.sae.load_state_dict(load_file(path / "weights"))
        # whether sae_lens lets a pickle run code depends on torch's version; this load refuses one that would
        torch.load(path / TRAINER_STATE_FILENAME, map_location="cpu", weights_only=True)
        trainer.load_trainer_state(path)
        return


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _inference_weights(sae: Any) -> dict[str, Tensor]:
    """The weights as sae_lens writes them for inference: JumpReLU, with decoder norms folded in."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        try:
            weights, _ = sae.save_inference_model(Path(folder))
        except SafetensorError as error:
            raise InputError(
                f"{tempfile.gettempdir()}, the folder for temporary files, cannot be written ({first_line(error)}); "
                "free some space there, or name another folder in TMPDIR"
            ) from None
        return load_file(weights)


def plain_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """sae_lens's JumpReLU weights in a form without hidden conventions.

    sae_lens subtracts b_dec from the input; here this is part of b_enc. Decoder rows get unit norm, and
    features are multiplied by the old norm, which leaves the reconstruction unchanged.
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


def without_dead(
    tensors: Mapping[str, Tensor], activations: Tensor, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The tensors without the features that a smaller share of the training tokens than `DEAD` activates."""
    W_enc, b_enc, threshold = (tensors[name].to(device) for name in ("W_enc", "b_enc", "threshold"))
    count = torch.zeros_like(threshold)
    for x in activations.split(8192):
        count += (x.to(device, W_enc.dtype) @ W_enc + b_enc > threshold).sum(0)
    alive = (count >= DEAD * len(activations)).cpu()
    kept = {"b_dec": tensors["b_dec"], "W_enc": tensors["W_enc"][:, alive].contiguous()}
    return {**kept, **{name: tensors[name][alive] for name in ("b_enc", "W_dec", "threshold")}}
