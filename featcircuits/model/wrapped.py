"""The model inside a wrapper, or how to get to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from featcircuits.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_INSIDE: Mapping[str, str] = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
"""Class of a wrapper that does not change the model -> the attribute that holds the model."""

_ADAPTERS = (
    "merge the adapters into the weights and pass model.merge_and_unload(), or pass model.base_model.model, which "
    "keeps them as modules of their own"
)
_NO_ADAPTERS = "it adds to the input of the model, which cannot be traced; pass model.base_model, the model without it"
_LOAD = "load the model with transformers' AutoModelForCausalLM"


def unwrapped(model: Any) -> PreTrainedModel:
    """The transformers model itself, taken out of torch.compile or data parallelism, which do not change it.

    Raises `InputError` that names any other wrapper and how to get a usable model from it.
    """
    from transformers import PreTrainedModel

    while (inside := _INSIDE.get(type(model).__name__)) is not None:
        model = getattr(model, inside)
    name = type(model).__name__
    if hasattr(model, "peft_config") and not isinstance(model, PreTrainedModel):
        bare = isinstance(model.base_model, PreTrainedModel)  # learned prompts are not part of the model
        raise InputError(f"{name} is PEFT's wrapper and not the model; {_NO_ADAPTERS if bare else _ADAPTERS}")
    if isinstance(model, nn.Module) and not isinstance(model, PreTrainedModel):
        inner = next((attribute for attribute, held in _held(model) if isinstance(held, PreTrainedModel)), None)
        remedy = _LOAD if inner is None else f"pass the transformers model inside it, model.{inner}"
        raise InputError(f"{name} is not a transformers model, so its layers cannot be found; {remedy}")
    if not isinstance(model, PreTrainedModel):
        raise InputError(f"the model is of type {name}; give a name, a folder or a loaded transformers model")
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(f"{name} has an encoder and a decoder; only causal language models can be traced")
    return model


def _held(model: nn.Module) -> list[tuple[str, object]]:
    return [*model.named_children(), *vars(model).items()]
