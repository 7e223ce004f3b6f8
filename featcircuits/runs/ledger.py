"""Finished batches: which are still to do, what is kept of the others, and who computes which.

A stage's result is a sum over batches. What each adds is a few small tensors, and they are put together
in the order of batches: neither an interruption nor the number of processes changes a bit of the result.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from featcircuits.errors import InputError, shortened
from featcircuits.files import checksums
from featcircuits.files.locks import differences
from featcircuits.files.reading import read_json
from featcircuits.files.writing import check_space, make_folder, write_errors, write_whole
from featcircuits.runs.processes import check_alike, exchange

Part = Mapping[str, Tensor]
"""What one batch adds, by name"""

REQUEST = "request.json"
FORMAT = 1
"""Of request.json and of the batches"""
_BATCH = re.compile(r".+-\d{6}\.safetensors")


class Ledger(Protocol):
    def todo(self, stage: str, count: int) -> Sequence[int]:
        """The numbers of the batches, of `count`, that this process has to compute."""
        ...

    def put(self, stage: str, number: int, part: Part) -> None:
        """Keep what a batch added."""
        ...

    def parts(self, stage: str, count: int) -> dict[int, Part]:
        """What each of `count` batches added, in order; raises `InputError` where one is missing."""
        ...


class Own(Ledger, Protocol):
    """The ledger of one process among several: some batches may be with others."""

    def kept(self, stage: str, count: int) -> dict[int, Part]:
        """Those of `count` batches that are here, in order."""
        ...

    @property
    def digest(self) -> str:
        """A hash of what is computed: equal in processes that may share their batches."""
        ...


@dataclass
class InMemory:
    """For one process and one sitting."""

    _parts: dict[str, dict[int, Part]] = field(default_factory=dict)

    def todo(self, stage: str, count: int) -> Sequence[int]:
        return [number for number in range(count) if number not in self._parts.get(stage, {})]

    def put(self, stage: str, number: int, part: Part) -> None:
        self._parts.setdefault(stage, {})[number] = part

    def kept(self, stage: str, count: int) -> dict[int, Part]:
        return {number: part for number, part in sorted(self._parts.get(stage, {}).items()) if number < count}

    def parts(self, stage: str, count: int) -> dict[int, Part]:
        return complete(self.kept(stage, count), stage, count)

    @property
    def digest(self) -> str:
        return ""


@dataclass(frozen=True)
class OnDisk:
    """A folder with a file for each finished batch, made when the first is.

    `request` says what is being computed, batch size included. A folder of another request is refused, and
    each batch carries the hash of its request and a checksum: what is damaged or does not belong there is
    set aside with a warning, as `NAME.damaged`, and computed again.
    """

    folder: Path
    request: Mapping[str, Any]
    _left: dict[str, int] = field(default_factory=dict, compare=False)
    """Batches of a stage that are not written yet, where the space they take is not known."""

    def __post_init__(self) -> None:
        self._compare()

    def todo(self, stage: str, count: int) -> Sequence[int]:
        todo = [number for number in range(count) if self._read(stage, number) is None]
        self._left[stage] = len(todo)
        return todo

    def put(self, stage: str, number: int, part: Part) -> None:
        from safetensors.torch import save

        if not (self.folder / REQUEST).exists():
            self.begin()
        tensors = {name: tensor.contiguous() for name, tensor in part.items()}
        content = save(tensors, {**self._belonging(stage, number), "checksum": checksums.of_tensors(tensors)})
        if left := self._left.pop(stage, 0):
            check_space(self.folder, len(content) * left, f"the {left} batches of {stage} that are left")
        write_whole(self._path(stage, number), content)

    def kept(self, stage: str, count: int) -> dict[int, Part]:
        found = {number: self._read(stage, number) for number in range(count)}
        return {number: part for number, part in found.items() if part is not None}

    def parts(self, stage: str, count: int) -> dict[int, Part]:
        return complete(self.kept(stage, count), stage, count)

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.request, sort_keys=True).encode()).hexdigest()

    def begin(self) -> None:
        """The folder and the request in it; another process may have been quicker, with the same request."""
        with write_errors(self.folder):
            make_folder(self.folder)
        content = json.dumps({"format": FORMAT, "request": self.request}, indent=1).encode()
        try:
            write_whole(self.folder / REQUEST, content, overwrite=False)
        except InputError:
            if not (self.folder / REQUEST).exists():
                raise
            self._compare()

    def _compare(self) -> None:
        """Refuse a folder of another request."""
        found = recorded(self.folder)
        if found is None:
            self._check_unsigned()
        elif found != json.loads(json.dumps(self.request)):
            raise InputError(
                f"{self.folder} holds finished batches of an interrupted run with other settings, data or versions "
                f"({differences(found, self.request, 'there', 'here')}); "
                "repeat that run to finish it, or remove the folder"
            )

    def _check_unsigned(self) -> None:
        """Without a request that can be read, the batches tell whose they are."""
        for path in batches(self.folder):
            if _header(path).get("request", self.digest) != self.digest:
                raise InputError(
                    f"{self.folder} holds finished batches of another run ({path.name}), and its {REQUEST} is missing "
                    "or damaged; remove the folder, or choose another output"
                )
        if (self.folder / REQUEST).exists():
            set_aside(self.folder / REQUEST, "it is damaged, and is written anew")

    def _belonging(self, stage: str, number: int) -> dict[str, str]:
        return {"format": str(FORMAT), "request": self.digest, "stage": stage, "number": str(number)}

    def _read(self, stage: str, number: int) -> Part | None:
        path = self._path(stage, number)
        if not path.exists():
            return None
        header, part = _header_and_part(path)
        if header.get("checksum") != checksums.of_tensors(part):
            return set_aside(path, "it is damaged; its batch is computed again")
        if any(header.get(name) != value for name, value in self._belonging(stage, number).items()):
            return set_aside(path, "it is another batch, or of another run; its batch is computed again")
        return part

    def _path(self, stage: str, number: int) -> Path:
        return self.folder / f"{stage}-{number:06d}.safetensors"


def batches(folder: Path) -> list[Path]:
    """The files of a folder that are called as finished batches are."""
    return sorted(path for path in folder.glob("*.safetensors") if _BATCH.fullmatch(path.name))


def recorded(folder: Path) -> Mapping[str, Any] | None:
    """The request whose batches a folder holds; None where there is none that can be read."""
    try:
        found = read_json(folder / REQUEST)
        request, version = found["request"], found["format"]
    except (InputError, KeyError, TypeError):
        return None
    if version != FORMAT:
        raise InputError(
            f"{folder} holds finished batches in format {shortened(version)}, and this version of featcircuits "
            f"reads format {FORMAT}; finish that run with the version that began it, or remove the folder"
        )
    return request if isinstance(request, dict) else None


def set_aside(path: Path, why: str) -> None:
    """Rename what is damaged or does not belong, and say so; another process may have been quicker."""
    aside = path.with_name(f"{path.name}.damaged")
    with suppress(FileNotFoundError), write_errors(aside):
        os.replace(path, aside)
        warnings.warn(f"{path}: {why}, and the file is now {aside.name}", stacklevel=2)


def complete(parts: dict[int, Part], stage: str, count: int) -> dict[int, Part]:
    """The parts, if those of all batches are there."""
    if missing := [number for number in range(count) if number not in parts]:
        raise InputError(
            f"batch {missing[0]} of {stage} was finished, and is missing or damaged now; "
            "repeat the command, which computes it again"
        )
    return parts


def check_examples(parts: Mapping[int, Part], count: int) -> None:
    """Refuse parts of batches that were cut with another size: they do not cover the task's examples once each."""
    found = sum(int(part["examples"]) for part in parts.values())
    if found != count:
        raise InputError(
            f"the finished batches hold {found} examples and the task has {count}: some were cut with another batch "
            "size; use that size, or another folder"
        )


def _header(path: Path) -> Mapping[str, str]:
    return _header_and_part(path)[0]


def _header_and_part(path: Path) -> tuple[Mapping[str, str], Part]:
    """The metadata and the tensors of a batch's file, both empty where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):
        return {}, {}


@dataclass(frozen=True)
class AcrossProcesses:
    """Splits the batches of a ledger over the processes of torch.distributed's default group, or another.

    Processes that compute different things are refused, in all of them.
    """

    own: Own
    group: Any = None

    def todo(self, stage: str, count: int) -> Sequence[int]:
        import torch.distributed as dist

        first = dist.get_rank(self.group) == 0
        todo = list(self.own.todo(stage, count)) if first else None  # all agree with the first on what is finished
        everyones = exchange((todo, {"request": self.own.digest, "stage": stage, "batches": count}), self.group)
        check_alike([record for _, record in everyones])
        return everyones[0][0][dist.get_rank(self.group) :: dist.get_world_size(self.group)]

    def put(self, stage: str, number: int, part: Part) -> None:
        self.own.put(stage, number, part)

    def parts(self, stage: str, count: int) -> dict[int, Part]:
        """Every batch comes from the first process that has it."""
        import torch.distributed as dist

        mine = self.own.kept(stage, count)
        before = exchange(sorted(mine), self.group)[: dist.get_rank(self.group)]
        known = {number for numbers in before for number in numbers}
        sent = exchange({number: part for number, part in mine.items() if number not in known}, self.group)
        return complete(dict(sorted((n, part) for parts in sent for n, part in parts.items())), stage, count)


@dataclass(frozen=True)
class Stamped:
    """A ledger whose batches carry a mark of what was asked for; batches of anything else are refused.

    So a ledger that was filled with one model, task or method does not answer for another.
    """

    own: Ledger
    mark: str
    """A sha256 in hexadecimal"""

    def todo(self, stage: str, count: int) -> Sequence[int]:
        if isinstance(self.own, InMemory):
            self._check(stage, self.own.kept(stage, count))
        return self.own.todo(stage, count)

    def put(self, stage: str, number: int, part: Part) -> None:
        self.own.put(stage, number, {**part, _MARK: torch.frombuffer(bytearray.fromhex(self.mark), dtype=torch.uint8)})

    def parts(self, stage: str, count: int) -> dict[int, Part]:
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
    """One tensor of every part that has it, in order."""
    return [part[name] for part in parts.values() if name in part]
