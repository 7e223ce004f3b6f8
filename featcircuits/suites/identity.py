"""Whether a model belongs to a suite."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from featcircuits.errors import InputError, shortened
from featcircuits.suites.suite import Suite

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from featcircuits.model.architecture import Architecture


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 of the input embedding in bfloat16: the same for a model in float32, float64 or bfloat16."""
    import torch

    from featcircuits.model.placement import in_memory

    embedding = model.get_input_embeddings()
    with in_memory(embedding):
        weight = next(embedding.parameters()).detach().to("cpu", torch.bfloat16).contiguous()
    return hashlib.sha256(weight.view(torch.int16).numpy().tobytes()).hexdigest()


def check_model(suite: Suite, model: PreTrainedModel, architecture: Architecture) -> None:
    """Raise `InputError` for a model that is not the one the suite was trained on."""
    expected = suite.model
    for key, found in (
        ("architecture", architecture.model_type),
        ("hidden_size", architecture.width),
        ("num_hidden_layers", architecture.n_layers),
    ):
        if key in expected and expected[key] != found:
            raise InputError(
                f"suite {suite.name!r} belongs to another model: its {key} is {shortened(expected[key])}, this model's "
                f"{found!r}; use the suite's model ({expected['source']}) or another suite"
            )
    recorded = expected.get("fingerprint")
    if recorded and str(model.dtype) != "torch.float16" and fingerprint(model) != recorded:
        raise InputError(
            f"suite {suite.name!r} belongs to another model: the embedding's weights differ from those of its own "
            f"model ({expected['source']}); features would be meaningless"
        )
