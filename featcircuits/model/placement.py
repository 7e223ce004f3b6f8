"""Where modules compute, including those whose weights accelerate keeps elsewhere between forward passes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """The device on which the module's forward runs: that of its weights, or the one where accelerate loads them."""
    where = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if where is None else torch.device(where)


def in_memory(module: nn.Module) -> AbstractContextManager[None]:
    """A context in which the module's own weights can be read, even if accelerate offloads them."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)
