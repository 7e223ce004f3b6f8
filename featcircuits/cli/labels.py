"""The known labels of a circuit's features."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.cli.config import TraceConfig
from featcircuits.dossiers.dossiers import FOLDER, Dossiers
from featcircuits.errors import InputError
from featcircuits.groups.file import read as read_groups
from featcircuits.labels.file import read
from featcircuits.labels.record import texts
from featcircuits.runs.folder import CIRCUIT, CONFIG, GROUPS, LABELS
from featcircuits.suites import load_suite


def dossiers_for(manifest: Mapping[str, Any], suite: str, run: Path | None = None) -> list[Dossiers]:
    """A run's own dossiers, then those that its suite comes with: those of the manifest's model and dictionaries.

    Raises `InputError` if they are damaged.
    """
    folders = [*([run / FOLDER] if run is not None else []), load_suite(suite).folder / FOLDER]
    found = [Dossiers.open(folder) for folder in folders if folder.is_dir()]
    return [dossiers for dossiers in found if dossiers.fits(manifest)]


def labels_for(circuit: Circuit, suite: str, run: Path | None = None) -> Mapping[str, str] | None:
    """Feature ("resid_2/303") -> its label, from the run's labels.jsonl, else the suite's, else its default label.

    None if there are none, with a warning if some are damaged.
    """
    labels: dict[str, str] = {}
    try:
        for dossiers in reversed(dossiers_for(circuit.manifest, suite, run)):
            labels |= dossiers.labels
        for folder in (load_suite(suite).folder, run):
            if folder is not None and (folder / LABELS).is_file():
                labels |= texts(read(folder / LABELS))
    except InputError as error:
        warnings.warn(str(error), stacklevel=2)
    return labels or None


def labelled_circuit(run: Path) -> Circuit:
    """A run's circuit with the known labels of its features, and with its groups."""
    circuit, traced = Circuit.load(run / CIRCUIT), TraceConfig.read(run / CONFIG, {})
    groups = read_groups(run / GROUPS) if (run / GROUPS).is_file() else circuit.groups
    return replace(circuit.labelled(labels_for(circuit, traced.suite, run) or {}), groups=groups)
