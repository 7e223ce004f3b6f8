"""A ledger in a folder: one file per finished batch, beside the request that says what is being computed."""

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
from typing import Any

from featcircuits.errors import InputError, shortened
from featcircuits.files import checksums
from featcircuits.files.locks import differences
from featcircuits.files.reading import read_json
from featcircuits.files.writing import check_space, make_folder, write_errors, write_whole
from featcircuits.runs.ledger import Part, complete

REQUEST = "request.json"
FORMAT = 1
"""The format of request.json and of the batches."""
_BATCH = re.compile(r".+-\d{6}\.safetensors")


@dataclass(frozen=True)
class OnDisk:
    """A ledger in a folder with one file per finished batch, which is made with the first batch.

    `request` says what is being computed, batch size included. A folder of another request is refused. Each
    batch carries the hash of its request and a checksum; a file that is damaged or does not belong there is
    renamed to `NAME.damaged`, with a warning, and its batch is computed again.
    """

    folder: Path
    request: Mapping[str, Any]
    _left: dict[str, int] = field(default_factory=dict, compare=False)
    """Stage -> how many batches are still to be written, until the space that they take is known."""

    def __post_init__(self) -> None:
        self._compare()

    def todo(self, stage: str, count: int) -> Sequence[int]:
        """The numbers of the batches without an undamaged file."""
        todo = [number for number in range(count) if self._read(stage, number) is None]
        self._left[stage] = len(todo)
        return todo

    def put(self, stage: str, number: int, part: Part) -> None:
        """Write what a batch added to its file; raises `InputError` if the disk has no room for the others."""
        from safetensors.torch import save

        if not (self.folder / REQUEST).exists():
            self.begin()
        tensors = {name: tensor.contiguous() for name, tensor in part.items()}
        content = save(tensors, {**self._belonging(stage, number), "checksum": checksums.of_tensors(tensors)})
        if left := self._left.pop(stage, 0):
            check_space(self.folder, len(content) * left, f"the {left} batches of {stage} that are left")
        write_whole(self._path(stage, number), content)

    def kept(self, stage: str, count: int) -> dict[int, Part]:
        """The batches with an undamaged file, in order."""
        found = {number: self._read(stage, number) for number in range(count)}
        return {number: part for number, part in found.items() if part is not None}

    def parts(self, stage: str, count: int) -> dict[int, Part]:
        """All batches, in order; raises `InputError` if one is missing."""
        return complete(self.kept(stage, count), stage, count)

    @property
    def digest(self) -> str:
        """The sha256 of the request."""
        return hashlib.sha256(json.dumps(self.request, sort_keys=True).encode()).hexdigest()

    def begin(self) -> None:
        """Make the folder with the request in it, unless another process with the same request was faster."""
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
        """Raise `InputError` for a folder of another request."""
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
        """Without a readable request, check by the batches that the folder belongs to this run."""
        for path in batches(self.folder):
            if _header(path).get("request", self.digest) != self.digest:
                raise InputError(
                    f"{self.folder} holds finished batches of another run ({path.name}), and its {REQUEST} is missing "
                    "or damaged; remove the folder, or choose another output"
                )
        if (self.folder / REQUEST).exists():
            set_aside(self.folder / REQUEST, "it is damaged and is written again")

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
            return set_aside(path, "it holds another batch or belongs to another run; its batch is computed again")
        return part

    def _path(self, stage: str, number: int) -> Path:
        return self.folder / f"{stage}-{number:06d}.safetensors"


def batches(folder: Path) -> list[Path]:
    """The files of a folder that have names of finished batches."""
    return sorted(path for path in folder.glob("*.safetensors") if _BATCH.fullmatch(path.name))


def recorded(folder: Path) -> Mapping[str, Any] | None:
    """The request whose batches a folder holds; None if there is none that can be read."""
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
    """Rename a file that is damaged or does not belong, with a warning; another process may have been faster."""
    aside = path.with_name(f"{path.name}.damaged")
    with suppress(FileNotFoundError), write_errors(aside):
        os.replace(path, aside)
        warnings.warn(f"{path}: {why}, and the file is now {aside.name}", stacklevel=2)


def _header(path: Path) -> Mapping[str, str]:
    return _header_and_part(path)[0]


def _header_and_part(path: Path) -> tuple[Mapping[str, str], Part]:
    """The metadata and the tensors of a batch's file; both are empty if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):
        return {}, {}
