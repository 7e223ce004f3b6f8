"""Copies of dictionaries' files to damage, and what must come of them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import featcircuits as fc
from featcircuits.sources import describe, load_source
from tests.test_sources import FOLDER, golden

FAMILIES = (
    "circuit_tracer_jumprelu", "circuit_tracer_topk", "circuit_tracer_skip_transcoder", "dictionary_learning_standard",
    "dictionary_learning_gated", "dictionary_learning_topk", "dictionary_learning_batch_topk",
    "dictionary_learning_matryoshka", "dictionary_learning_jumprelu", "dictionary_learning_new", "gemma_scope_res",
    "gemma_scope_transcoder", "gemma_scope_embedding", "gemma_scope_2_res", "gemma_scope_2_skip_transcoder",
    "sae_lens_gated", "sae_lens_topk_rescaled", "sae_lens_skip_transcoder", "sae_lens_layer_norm", "sae_lens_v5_topk",
    "safetensors_gated", "safetensors_relu", "safetensors_skip_transcoder", "sparsify_groupmax", "sparsify_skip_sae",
)  # fmt: skip
WEIGHTS = (".safetensors", ".npz", ".pt")


def copied(name: str, folder: Path) -> Path:
    """What to load, in a copy of the files whose folders keep their names."""
    shutil.copytree(FOLDER / name, folder / name, ignore=shutil.ignore_patterns("expect.safetensors"))
    return folder / name / golden(name).path.relative_to(FOLDER / name)


def weights_of(path: Path) -> Path:
    files = [path] if path.is_file() else [f for f in path.iterdir() if f.suffix in WEIGHTS and f.stem != "expect"]
    assert len(files) == 1
    return files[0]


def config_of(path: Path) -> Path | None:
    folder = path if path.is_dir() else path.parent
    return next((file for file in sorted(folder.iterdir()) if file.suffix in (".json", ".yaml")), None)


def stored(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in np.load(file).items()}
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


def store(file: Path, tensors: dict[str, Any]) -> None:
    if file.suffix == ".npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
    elif file.suffix == ".safetensors":
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, file)
    else:
        torch.save(tensors, file)


def assert_refused(path: Path, part: str = "") -> None:
    """By loading and, where the numbers do not matter for it, by describing."""
    with pytest.raises(fc.InputError) as caught:
        load_source(path)
    assert str(caught.value).startswith(str(path)), caught.value
    assert part in str(caught.value), caught.value
    assert len(str(caught.value)) < 2000


def assert_contained(path: Path) -> None:
    """Whatever the bytes: a dictionary or an `InputError`."""
    for read in (load_source, describe):
        message = refusal(read, path)
        assert message is None or message.startswith(str(path.parent)), message
        assert message is None or (len(message) < 1500 and "\n" not in message), message[:3000]


def refusal(read: Callable[[Path], object], path: Path) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except fc.InputError as error:
        return str(error)
    return None
