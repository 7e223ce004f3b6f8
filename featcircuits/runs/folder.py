"""Run folders: everything a result needs to be repeated, and nothing that executes when opened."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError
from featcircuits.files.locks import claimed
from featcircuits.files.writing import (
    check_writable,
    make_folder,
    recover,
    usable,
    whole_folder,
    write_errors,
    write_json,
)
from featcircuits.runs.ledger import OnDisk, batches

__all__ = ["write_json"]

CIRCUIT = "circuit.safetensors"
RANKING = "nodes.safetensors"
MANIFEST = "manifest.json"
CONFIG = "config.json"
REPORT = "report.json"
EVALUATION = "evaluation.json"
PLOT = "faithfulness.png"
LABELS = "labels.jsonl"
GROUPS = "groups.json"

LOCK, ADDING = "lock", ".featcircuits.lock"
"""Lock files: of what becomes a folder, and in a finished one"""
ACTIVATIONS, CHECKPOINTS = "activations", "checkpoints"
"""What a training keeps beside its finished dictionaries"""


def check_free(output: Path) -> None:
    """Refuse a folder that holds something already."""
    with write_errors(output):
        taken = output.exists() and not output.is_dir()
        full = output.is_dir() and any(output.iterdir())
    if taken:
        raise InputError(f"{output} is a file; choose another folder, or remove it first")
    if full:
        partial = partial_of(output)
        left = f" ({partial} is left of a run that was killed, and can be removed too)" if begun(partial) else ""
        raise InputError(f"{output} exists and is not empty; choose another folder, or remove it first{left}")


def check_new_file(output: Path) -> None:
    """Refuse a file that exists, or cannot be written; folders above it will be made."""
    check_writable(output)
    if output.exists():
        raise InputError(f"{output} exists; choose another file, or remove it first")


def write_new_json(output: Path, value: Any) -> None:
    with write_errors(output):
        make_folder(output.parent)
    write_json(output, value, overwrite=False)


@contextmanager
def new_run(output: Path) -> Iterator[Path]:
    """A folder to write into that becomes `output` if all goes well, and vanishes if not."""
    check_free(output)
    with whole_folder(output) as draft:
        yield draft


def partial_of(output: Path) -> Path:
    """Where the finished batches of what will become `output` are, and its lock."""
    path = usable(output)
    return path.with_name(f".{path.name}.partial")


@contextmanager
def workplace(output: Path, settings: Mapping[str, Any], owner: bool = True) -> Iterator[Path]:
    """A folder for the finished batches of what will become `output`, which no other run may write meanwhile.

    The output is tried first. The folder is kept until the result is written, or removed where nothing in it is
    finished. Raises `InputError` where another run, with its own `settings`, is at work, and where `output` holds
    something or cannot be written. Of several processes of one run one is the `owner`.
    """
    folder = partial_of(output)
    if owner:
        check_free(output)
    try:
        with _owned(folder / LOCK, output, settings) if owner else nullcontext():
            try:
                if owner:
                    check_free(output)  # a run that held the lock until now may have written it
                    check_writable(output)
                yield folder
            except InputError:
                if not begun(folder):
                    _clear(folder)
                raise
            except KeyboardInterrupt:
                if begun(folder):
                    raise InputError(f"interrupted; the same command goes on from the batches in {folder}") from None
                _clear(folder)
                raise InputError("interrupted before anything was finished; the same command begins anew") from None
            _clear(folder)
        if owner:
            _name_strangers(folder)
    finally:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def resumable(output: Path, request: Mapping[str, Any]) -> Iterator[OnDisk]:
    """Finished batches of what will become `output`, in its `workplace`."""
    with workplace(output, request) as folder:
        yield OnDisk(folder, request)


@contextmanager
def adding(path: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """A finished run that no other command adds files to meanwhile; `path` is the first that this one adds.

    Raises `InputError` where another adds some already, and where it cannot be written.
    """
    check_writable(path)
    with _owned(path.parent / ADDING, path.parent, settings):
        yield


def begun(folder: Path) -> bool:
    """Whether anything is finished there that a repeated command can go on from."""
    return bool(batches(folder)) or (folder / ACTIVATIONS).exists()


@contextmanager
def _owned(lock: Path, output: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        with write_errors(output):
            make_folder(lock.parent)
            stack.enter_context(claimed(lock, output, settings))
        yield


def _clear(folder: Path) -> None:
    """What a ledger and a training put there goes; what others did stays, in a folder that stays then too."""
    for name in (ACTIVATIONS, CHECKPOINTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in [*batches(folder), *folder.glob("request.json"), *folder.glob("*.damaged")]:
        path.unlink(missing_ok=True)


def _name_strangers(folder: Path) -> None:
    if names := sorted(path.name for path in folder.glob("*")):
        warnings.warn(
            f"{folder} stays, as it holds what featcircuits did not write: {', '.join(names[:3])}", stacklevel=2
        )


def check_run(folder: Path) -> None:
    """Refuse a folder that `featcircuits trace` did not write; finish what a killed command had ready for it."""
    recover(folder)
    for name in (CIRCUIT, CONFIG):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a run folder: {name} is missing; make one with `featcircuits trace -o`")
