"""What was read of a text, written now and then, so that a killed command goes on from there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from featcircuits.runs.ledger import Ledger

SECONDS = 60.0
"""Between two checkpoints, at least."""
_STAGE = "features"


class Kept(Protocol):
    """What has a state to write and to go on from."""

    def tensors(self) -> Mapping[str, NDArray]: ...
    def restore(self, tensors: Mapping[str, NDArray]) -> None: ...


@dataclass
class Checkpoint:
    """The one "batch" of its stage: all chunks up to some number; each replaces the one before."""

    ledger: Ledger
    n_chunks: int
    _written: float = field(default_factory=time.monotonic)

    def restore(self, state: Kept) -> int:
        """The number of the first chunk that is still to read; the state is what all before it made."""
        if self.ledger.todo(_STAGE, 1):
            return 0
        part = {name: tensor.numpy() for name, tensor in self.ledger.parts(_STAGE, 1)[0].items()}
        done = int(part.pop("done"))
        state.restore(part)
        return done

    def save(self, state: Kept, done: int) -> None:
        """Where it is time, or all is read."""
        if done < self.n_chunks and time.monotonic() - self._written < SECONDS:
            return
        part = {"done": np.array(done), **state.tensors()}
        self.ledger.put(_STAGE, 0, {name: torch.from_numpy(array) for name, array in part.items()})
        self._written = time.monotonic()
