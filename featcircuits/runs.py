"""Run folders: everything a result needs to be repeated, and nothing that executes when opened."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError
from featcircuits.ledger import OnDisk

CIRCUIT = "circuit.safetensors"
RANKING = "nodes.safetensors"
MANIFEST = "manifest.json"
CONFIG = "config.json"
REPORT = "report.json"
EVALUATION = "evaluation.json"
PLOT = "faithfulness.png"


def check_free(folder: Path) -> None:
    """Refuse a folder that holds something already."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty; choose another folder, or remove it first")


@contextmanager
def new_run(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes `folder` if all goes well, and vanishes if not."""
    check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextmanager
def resumable(folder: Path, request: Mapping[str, Any]) -> Iterator[OnDisk]:
    """Finished batches of what will become `folder`, kept until it is written; nothing is kept where there are none."""
    ledger = OnDisk(folder.parent / f".{folder.name}.partial", request)
    try:
        yield ledger
    except InputError:
        if not ledger.begun:
            ledger.remove()
        raise
    except KeyboardInterrupt:
        if ledger.folder.exists():
            raise InputError(f"interrupted; the same command goes on from the batches in {ledger.folder}") from None
        raise
    ledger.remove()


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(draft, path)


def check_run(folder: Path) -> None:
    """Refuse a folder that `featcircuits trace` did not write."""
    for name in (CIRCUIT, CONFIG):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a run folder: {name} is missing; make one with `featcircuits trace -o`")
