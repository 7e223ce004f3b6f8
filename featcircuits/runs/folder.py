"""Run folders: everything that is needed to repeat a result, and nothing that executes when opened."""

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
from featcircuits.runs.on_disk import OnDisk, batches

__all__ = ["write_json"]

CIRCUIT = "circuit.safetensors"
RANKING = "nodes.safetensors"
MANIFEST = "manifest.json"
CONFIG = "config.json"
REPORT = "report.json"
EVALUATION = "evaluation.json"
PLOT = "faithfulness.png"
CONTROLS = "controls.json"
CONTROL_PLOT = "controls.png"
EDGES = "edges.json"
VALIDATION, VALIDATION_PLOT = "validation.json", "validation.png"
VALIDATION_PARTS = "validation.parts.json"
"""The finished parts of a validation that was interrupted."""
EDGE_PLOT = "edges.png"
LABELS = "labels.jsonl"
GROUPS = "groups.json"

LOCK, ADDING = "lock", ".featcircuits.lock"
"""The names of lock files: for a folder in the making, and in a finished one."""
ACTIVATIONS, CHECKPOINTS = "activations-", "checkpoints"
"""How the names of the folders begin that a training keeps next to its finished dictionaries."""


def check_free(output: Path) -> None:
    """Raise `InputError` for a folder that is not empty."""
    with write_errors(output):
        taken = output.exists() and not output.is_dir()
        full = output.is_dir() and any(output.iterdir())
    if taken:
        raise InputError(f"{output} is a file; choose another folder, or remove it first")
    if full:
        partial = partial_of(output)
        left = f" ({partial} is left from a run that was killed; you can remove it too)" if begun(partial) else ""
        raise InputError(f"{output} exists and is not empty; choose another folder, or remove it first{left}")


def check_new_file(output: Path) -> None:
    """Raise `InputError` for a file that exists or cannot be written; folders above it will be made."""
    check_writable(output)
    if output.exists():
        raise InputError(f"{output} exists; choose another file, or remove it first")


def write_new_json(output: Path, value: Any) -> None:
    """Write a value as JSON to a new file, and make the folders above it; raises `InputError` if it exists."""
    with write_errors(output):
        make_folder(output.parent)
    write_json(output, value, overwrite=False)


@contextmanager
def new_run(output: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `output` if the block succeeds, and is removed if not."""
    check_free(output)
    with whole_folder(output) as draft:
        yield draft


def partial_of(output: Path) -> Path:
    """The folder of the finished batches, and of the lock, of a run that will become `output`."""
    path = usable(output)
    return path.with_name(f".{path.name}.partial")


@contextmanager
def workplace(output: Path, settings: Mapping[str, Any], owner: bool = True) -> Iterator[Path]:
    """A folder for the finished batches of a run that will become `output`; no other run may write `output` meanwhile.

    The output is tested first. The folder is kept until the result is written, or removed if nothing in it is
    finished. Raises `InputError` if another run, with `settings` of its own, is at work, or if `output` is not
    empty or cannot be written. Of several processes of one run, one is the `owner`.
    """
    folder = partial_of(output)
    if owner:
        check_free(output)
    try:
        with _owned(folder / LOCK, output, settings) if owner else nullcontext():
            try:
                if owner:
                    check_free(output)  # a run that held the lock until now may have written the output
                    check_writable(output)
                yield folder
            except InputError:
                if not begun(folder):
                    _clear(folder)
                raise
            except KeyboardInterrupt:
                if begun(folder):
                    raise InputError(
                        f"interrupted; run the same command again to resume from the batches in {folder}"
                    ) from None
                _clear(folder)
                raise InputError(
                    "interrupted before anything was finished; the same command starts from the beginning"
                ) from None
            _clear(folder)
        if owner:
            _name_strangers(folder)
    finally:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def resumable(output: Path, request: Mapping[str, Any]) -> Iterator[OnDisk]:
    """The ledger of finished batches of a run that will become `output`, in its `workplace`."""
    with workplace(output, request) as folder:
        yield OnDisk(folder, request)


@contextmanager
def adding(path: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Hold a finished run so that no other command adds files to it; `path` is the first file that this one adds.

    Raises `InputError` if another command is adding files, or if the run cannot be written.
    """
    check_writable(path)
    with _owned(path.parent / ADDING, path.parent, settings):
        yield


def begun(folder: Path) -> bool:
    """Whether anything is finished from which a repeated command can resume."""
    return bool(batches(folder)) or any(folder.glob(f"{ACTIVATIONS}*"))


@contextmanager
def _owned(lock: Path, output: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        with write_errors(output):
            make_folder(lock.parent)
            stack.enter_context(claimed(lock, output, settings))
        yield


def _clear(folder: Path) -> None:
    """Remove what a ledger and a training wrote; a folder with anything else stays, with a warning."""
    for path in [*folder.glob(f"{ACTIVATIONS}*"), folder / CHECKPOINTS]:
        shutil.rmtree(path, ignore_errors=True)
    for path in [*batches(folder), *folder.glob("request.json"), *folder.glob("*.damaged")]:
        path.unlink(missing_ok=True)


def _name_strangers(folder: Path) -> None:
    if names := sorted(path.name for path in folder.glob("*")):
        warnings.warn(
            f"{folder} was not removed, because it holds files that featcircuits did not write: {', '.join(names[:3])}",
            stacklevel=2,
        )


def check_run(folder: Path) -> None:
    """Raise `InputError` unless `featcircuits trace` wrote the folder; finish moves that a killed command began."""
    recover(folder)
    for name in (CIRCUIT, CONFIG):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a run folder: {name} is missing; make one with `featcircuits trace -o`")
