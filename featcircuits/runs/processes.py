"""Several processes for one command, as `torchrun` or `accelerate launch` start them.

They must compute the same thing. Their requests are compared before the first batch, and an error in one
process ends all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from featcircuits.errors import InputError
from featcircuits.files.locks import differences

JOINING = timedelta(minutes=5)
"""How long the first process waits for the others."""
COMPUTING = timedelta(days=30)
"""How long a process waits for the others' batches."""


@dataclass(frozen=True)
class Processes:
    """This process's rank, the number of processes, and its rank on its machine; `group` is torch.distributed's."""

    rank: int = 0
    count: int = 1
    local: int = 0
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process is the first, which prints and writes."""
        return self.rank == 0

    def device(self, wanted: str | None) -> str | None:
        """The device of this process; every process of a machine gets a CUDA device of its own."""
        return f"cuda:{self.local}" if wanted == "cuda" and self.count > 1 else wanted

    def each(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        return [value] if self.count == 1 else exchange(value, self.group)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all processes leave without an error, or all with one: their own or another process's."""
        failed = None
        try:
            yield
        except Exception as error:
            failed = error
        messages = self.each(None if failed is None else f"{failed}")
        if failed is not None:
            raise failed
        for number, message in enumerate(messages):
            if message is not None:
                raise InputError(f"process {number} of this run: {message}")

    def agree(self, record: Mapping[str, Any]) -> None:
        """Raise `InputError` in all processes if their records differ, naming what differs."""
        check_alike(self.each(json.loads(json.dumps(record))))


def exchange(value: Any, group: Any = None) -> list[Any]:
    """The values of all processes of a torch.distributed group, by rank."""
    import torch.distributed as dist

    everyones: list[Any] = [None] * dist.get_world_size(group)
    try:
        dist.all_gather_object(everyones, value, group=group)
    except RuntimeError:  # a process ended and closed the connection
        raise InputError(
            "another process of this run ended before it was done, and its own message says why; "
            "finished batches are kept, so the same command resumes from them"
        ) from None
    return everyones


def check_alike(records: list[Mapping[str, Any]]) -> None:
    """Raise `InputError` if a record differs from the first process's."""
    for number, record in enumerate(records):
        if record != records[0]:
            found = differences(records[0], record, "in process 0", f"in process {number}")
            raise InputError(
                f"the processes of this run differ: {found}; start all with the same command, data and versions"
            )


@contextmanager
def joined() -> Iterator[Processes]:
    """The group that the launcher's environment describes; a single process if there is none."""
    count = _number("WORLD_SIZE", 1)
    if count <= 1:
        yield Processes()
        return
    import torch.distributed as dist

    try:
        dist.init_process_group("gloo", timeout=JOINING)  # exchanges only small tensors
        group = dist.new_group(timeout=COMPUTING)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the {count} processes of this run could not join ({reason}); start them with torchrun, or give each "
            "its RANK, and all the same WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
        ) from None
    try:
        yield Processes(dist.get_rank(), count, _number("LOCAL_RANK", 0), group)
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise InputError(f"the environment variable {name} is {text[:40]!r}; it must be a whole number, or not be set")
    return int(text or default)
