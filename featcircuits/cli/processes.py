"""Several processes for one command: what `torchrun` or `accelerate launch` starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """This process's number among how many, and its number on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """The one that prints and writes."""
        return self.rank == 0

    def device(self, wanted: str | None) -> str | None:
        """A CUDA device of its own for every process of a machine."""
        return f"cuda:{self.local}" if wanted == "cuda" and self.count > 1 else wanted


@contextmanager
def joined() -> Iterator[Processes]:
    """The group that the launcher's environment describes; a single process where there is none."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    import torch.distributed as dist

    dist.init_process_group("gloo")  # small tensors of results travel, never activations
    try:
        yield Processes(dist.get_rank(), count, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
