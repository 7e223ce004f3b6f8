"""Finished batches: which are still to do, what is kept of the others, and who computes which.

A stage's result is a sum over batches. What each adds is a few small tensors, and they are put together
in the order of batches: neither an interruption nor the number of processes changes a bit of the result.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.reading import read_json

Part = Mapping[str, Tensor]
"""What one batch adds, by name"""


class Ledger(Protocol):
    def todo(self, stage: str, count: int) -> Sequence[int]:
        """The numbers of the batches, of `count`, that this process has to compute."""
        ...

    def put(self, stage: str, number: int, part: Part) -> None:
        """Keep what a batch added."""
        ...

    def parts(self, stage: str) -> dict[int, Part]:
        """What every batch added, in order."""
        ...


@dataclass
class InMemory:
    """For one process and one sitting."""

    _parts: dict[str, dict[int, Part]] = field(default_factory=dict)

    def todo(self, stage: str, count: int) -> Sequence[int]:
        return [number for number in range(count) if number not in self._parts.get(stage, {})]

    def put(self, stage: str, number: int, part: Part) -> None:
        self._parts.setdefault(stage, {})[number] = part

    def parts(self, stage: str) -> dict[int, Part]:
        return dict(sorted(self._parts.get(stage, {}).items()))


@dataclass(frozen=True)
class OnDisk:
    """A folder with a file for each finished batch, made when the first is.

    `request` says what is being computed; a folder of another request is refused, so that batches of two
    runs never mix.
    """

    folder: Path
    request: Mapping[str, Any]

    def __post_init__(self) -> None:
        path = self.folder / "request.json"
        if not self.folder.exists():
            return
        try:
            found = read_json(path)
        except InputError:
            found = None
        if found != json.loads(json.dumps(self.request)):
            raise InputError(
                f"{self.folder} holds finished batches of an interrupted run with other settings, data or versions; "
                "repeat that run to finish it, or remove the folder"
            )

    def todo(self, stage: str, count: int) -> Sequence[int]:
        return [number for number in range(count) if not self._path(stage, number).exists()]

    def put(self, stage: str, number: int, part: Part) -> None:
        from safetensors.torch import save_file

        if not self.folder.exists():
            self.begin()
        path = self._path(stage, number)
        draft = path.with_suffix(f".{os.getpid()}")
        save_file({name: tensor.contiguous() for name, tensor in part.items()}, draft)
        draft.replace(path)

    def parts(self, stage: str) -> dict[int, Part]:
        from safetensors.torch import load_file

        paths = sorted(self.folder.glob(f"{stage}-*.safetensors"))
        return {int(path.stem.rpartition("-")[2]): load_file(path) for path in paths}

    @property
    def begun(self) -> bool:
        """Whether any batch is finished."""
        return any(self.folder.glob("*-*.safetensors"))

    def remove(self) -> None:
        """Once the result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self) -> None:
        """The folder appears with its request in it; another process may have been quicker."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}.", dir=self.folder.parent))
        (draft / "request.json").write_text(json.dumps(self.request), encoding="utf-8")
        try:
            draft.rename(self.folder)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            if not self.folder.exists():
                raise

    def _path(self, stage: str, number: int) -> Path:
        return self.folder / f"{stage}-{number:06d}.safetensors"


@dataclass(frozen=True)
class AcrossProcesses:
    """Splits the batches of a ledger over the processes of torch.distributed's default group."""

    own: Ledger

    def todo(self, stage: str, count: int) -> Sequence[int]:
        import torch.distributed as dist

        listed = [self.own.todo(stage, count)]
        dist.broadcast_object_list(listed)  # all agree with the first process on what is finished
        return listed[0][dist.get_rank() :: dist.get_world_size()]

    def put(self, stage: str, number: int, part: Part) -> None:
        self.own.put(stage, number, part)

    def parts(self, stage: str) -> dict[int, Part]:
        import torch.distributed as dist

        everyones: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, self.own.parts(stage))
        return dict(sorted({number: part for parts in everyones for number, part in parts.items()}.items()))


def columns(parts: Mapping[int, Part], name: str) -> list[Tensor]:
    """One tensor of every part that has it, in order."""
    return [part[name] for part in parts.values() if name in part]
