"""The cost of a computation: passes through the model, seconds, memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel

_PAGE = 4096
_STATM = Path("/proc/self/statm")


@dataclass
class Cost:
    """The cost that `measured` counts."""

    forwards: float = 0.0
    """Forward passes, where 1 is one run of all prompts through all layers; partial passes count in proportion."""
    backwards: float = 0.0
    """Backward passes, in the same unit."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    megabytes: float = float("nan")
    """Peak memory above the start, of the device on CUDA, else of the process (NaN if unknown)."""


@contextmanager
def measured(spliced: SplicedModel, n_tokens: int) -> Iterator[Cost]:
    """Count what runs through the model. `n_tokens`: the tokens of all prompts, padding included."""
    cost, layers = Cost(), spliced.architecture.n_layers
    unit = 1 / max(1, n_tokens * layers)

    def count(module: Any, args: Any, output: Any) -> None:
        x = output[0] if isinstance(output, tuple) else output
        tokens = x.shape[:2].numel() * unit
        cost.forwards += tokens
        if isinstance(x, Tensor) and x.requires_grad:
            # a batched gradient counts as several passes
            x.register_hook(lambda g: _add_backward(cost, g.shape[:-1].numel() * unit))

    modules = [spliced.architecture.module(spliced.model, Site(layer, "attn")) for layer in range(layers)]
    handles = [module.register_forward_hook(count) for module in modules]
    began, cpu = time.perf_counter(), time.process_time()
    try:
        with _peak_memory(spliced.device, cost):
            yield cost
    finally:
        for handle in handles:
            handle.remove()
        cost.seconds, cost.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu


def _add_backward(cost: Cost, passes: float) -> None:
    cost.backwards += passes


@contextmanager
def _peak_memory(device: torch.device, cost: Cost, every: float = 0.005) -> Iterator[None]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield
        cost.megabytes = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    if not _STATM.exists():
        yield
        return
    before, peak, done = _resident(), [_resident()], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            peak[0] = max(peak[0], _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        cost.megabytes = (max(peak[0], _resident()) - before) / 2**20


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * _PAGE


def resident_bytes(device: torch.device) -> int:
    """The memory in use now, on the device for CUDA, else by the process (0 if unknown)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _resident() if _STATM.exists() else 0
