"""Ledgers of finished batches: which batches are still to do, the results of the others, and who computes which.

A stage's result is a sum over batches. Each batch adds a few small tensors, which are combined
in the order of batches, so neither an interruption nor the number of processes changes a bit of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.runs.processes import check_alike, exchange

Part = Mapping[str, Tensor]
"""The tensors that one batch adds, by name."""


class Ledger(Protocol):
    """Keeps the finished batches of each stage of a computation."""

    def todo(self, stage: str, count: int) -> Sequence[int]:
        """The numbers of the batches, out of `count`, that this process must compute."""
        ...

    def put(self, stage: str, number: int, part: Part) -> None:
        """Store what a batch added."""
        ...

    def parts(self, stage: str, count: int) -> dict[int, Part]:
        """What each of `count` batches added, in order; raises `InputError` if one is missing."""
        ...


class Own(Ledger, Protocol):
    """The ledger of one process among several; other processes may hold some batches."""

    def kept(self, stage: str, count: int) -> dict[int, Part]:
        """The batches out of `count` that this ledger holds, in order."""
        ...

    @property
    def digest(self) -> str:
        """A hash of the request; processes may share their batches if it is equal."""
        ...


@dataclass
class InMemory:
    """A ledger in memory, for one process without interruptions."""

    _parts: dict[str, dict[int, Part]] = field(default_factory=dict)

    def todo(self, stage: str, count: int) -> Sequence[int]:
        """The numbers of the batches that are not stored."""
        return [number for number in range(count) if number not in self._parts.get(stage, {})]

    def put(self, stage: str, number: int, part: Part) -> None:
        """Store what a batch added."""
        self._parts.setdefault(stage, {})[number] = part

    def kept(self, stage: str, count: int) -> dict[int, Part]:
        """The stored batches, in order."""
        return {number: part for number, part in sorted(self._parts.get(stage, {}).items()) if number < count}

    def parts(self, stage: str, count: int) -> dict[int, Part]:
        """All batches, in order; raises `InputError` if one is missing."""
        return complete(self.kept(stage, count), stage, count)

    @property
    def digest(self) -> str:
        """An empty text: what is in memory belongs to this process alone."""
        return ""


def complete(parts: dict[int, Part], stage: str, count: int) -> dict[int, Part]:
    """The parts of all batches in order; raises `InputError` if one is missing."""
    if missing := [number for number in range(count) if number not in parts]:
        raise InputError(
            f"batch {missing[0]} of {stage} was finished, and is missing or damaged now; "
            "repeat the command to compute it again"
        )
    return parts


def check_examples(parts: Mapping[int, Part], count: int) -> None:
    """Raise `InputError` for batches of another size, which do not cover the task's examples exactly once."""
    found = sum(int(part["examples"]) for part in parts.values())
    if found != count:
        raise InputError(
            f"the finished batches hold {found} examples and the task has {count}: some were cut with another batch "
            "size; use that size, or another folder"
        )


@dataclass(frozen=True)
class AcrossProcesses:
    """Splits the batches of a ledger over the processes of a group of torch.distributed.

    If the processes compute different things, all of them raise `InputError`.
    """

    own: Own
    group: Any = None

    def todo(self, stage: str, count: int) -> Sequence[int]:
        """This process's share of the batches that no process has finished."""
        import torch.distributed as dist

        first = dist.get_rank(self.group) == 0
        todo = list(self.own.todo(stage, count)) if first else None  # all take the first one's list
        everyones = exchange((todo, {"request": self.own.digest, "stage": stage, "batches": count}), self.group)
        check_alike([record for _, record in everyones])
        return everyones[0][0][dist.get_rank(self.group) :: dist.get_world_size(self.group)]

    def put(self, stage: str, number: int, part: Part) -> None:
        """Store what a batch added in this process's ledger."""
        self.own.put(stage, number, part)

    def parts(self, stage: str, count: int) -> dict[int, Part]:
        """All batches, in order; each comes from the first process that has it."""
        import torch.distributed as dist

        mine = self.own.kept(stage, count)
        before = exchange(sorted(mine), self.group)[: dist.get_rank(self.group)]
        known = {number for numbers in before for number in numbers}
        sent = exchange({number: part for number, part in mine.items() if number not in known}, self.group)
        return complete(dict(sorted((n, part) for parts in sent for n, part in parts.items())), stage, count)


@dataclass(frozen=True)
class Stamped:
    """A ledger whose batches carry a mark of their request; it refuses batches with another mark.

    So a ledger that was filled with one model, task or estimator is not used for another.
    """

    own: Ledger
    mark: str
    """A sha256 in hexadecimal digits."""

    def todo(self, stage: str, count: int) -> Sequence[int]:
        """The numbers of the batches still to compute; raises `InputError` if stored ones have another mark."""
        if isinstance(self.own, InMemory):
            self._check(stage, self.own.kept(stage, count))
        return self.own.todo(stage, count)

    def put(self, stage: str, number: int, part: Part) -> None:
        """Store what a batch added, with the mark."""
        self.own.put(stage, number, {**part, _MARK: torch.frombuffer(bytearray.fromhex(self.mark), dtype=torch.uint8)})

    def parts(self, stage: str, count: int) -> dict[int, Part]:
        """All batches, in order; raises `InputError` for another mark."""
        return self._check(stage, self.own.parts(stage, count))

    def _check(self, stage: str, parts: dict[int, Part]) -> dict[int, Part]:
        wanted = list(bytes.fromhex(self.mark))
        for number, part in parts.items():
            if _MARK not in part or part[_MARK].tolist() != wanted:
                raise InputError(
                    f"the ledger holds batch {number} of {stage} of another model, task or settings; give a new ledger"
                )
        return parts


_MARK = "asked"


def columns(parts: Mapping[int, Part], name: str) -> list[Tensor]:
    """The tensor of this name from every part that has it, in order."""
    return [part[name] for part in parts.values() if name in part]
