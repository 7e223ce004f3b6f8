"""Where modules compute, also those whose weights accelerate keeps elsewhere between forwards."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn


def device_of(module: nn.Module) -> torch.device:
    """Where the module's forward runs: its weights' device, or the one that accelerate brings them to."""
    where = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if where is None else torch.device(where)


def in_memory(module: nn.Module) -> AbstractContextManager[None]:
    """While this holds, the module's own weights can be read, also where accelerate offloads them."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)
