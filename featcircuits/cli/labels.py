"""What the features of a circuit are called, as far as that is known."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.dossiers.dossiers import FOLDER, Dossiers
from featcircuits.errors import InputError
from featcircuits.suites import load_suite


def dossiers_for(manifest: Mapping[str, Any], suite: str, run: Path | None = None) -> list[Dossiers]:
    """A run's own dossiers, then those that its suite comes with: those of the manifest's model and dictionaries.

    Raises `InputError` where they are damaged.
    """
    folders = [*([run / FOLDER] if run is not None else []), load_suite(suite).folder / FOLDER]
    found = [Dossiers.open(folder) for folder in folders if folder.is_dir()]
    return [dossiers for dossiers in found if dossiers.fits(manifest)]


def labels_for(circuit: Circuit, suite: str, run: Path | None = None) -> Mapping[str, str] | None:
    """Feature ("resid_2/303") -> its default label; None where there are no dossiers, with a warning where damaged."""
    try:
        found = dossiers_for(circuit.manifest, suite, run)
        labels = {name: label for dossiers in reversed(found) for name, label in dossiers.labels.items()}
    except InputError as error:
        warnings.warn(str(error), stacklevel=2)
        return None
    return labels or None
