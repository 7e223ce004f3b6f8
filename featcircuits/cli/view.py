"""`featcircuits view`: the page of a run's circuit."""

from __future__ import annotations

import warnings
from pathlib import Path

from featcircuits import page
from featcircuits.circuit.circuit import Circuit
from featcircuits.cli.config import TraceConfig
from featcircuits.cli.labels import dossiers_for, labelled_circuit
from featcircuits.cli.output import say
from featcircuits.dossiers.dossiers import Dossiers
from featcircuits.errors import InputError
from featcircuits.files.reading import read_json
from featcircuits.files.writing import check_replaceable, check_writable
from featcircuits.page.outcomes import read_outcome
from featcircuits.page.state import read_state
from featcircuits.runs import folder as runs

PAGE = "circuit.html"


def view_run(run: Path, output: Path | None, state: Path | None, outcome: Path | None, overwrite: bool) -> None:
    """Write the page of a run's circuit, with the report, dossiers, labels and groups that the run has."""
    runs.check_run(run)
    path = output or run / PAGE
    check_replaceable(path, overwrite)
    check_writable(path)
    circuit = labelled_circuit(run)
    own = run / runs.REPORT
    page.write(
        circuit, path, overwrite=overwrite,
        ranking=Circuit.load(run / runs.RANKING), report=read_json(own, "report") if own.is_file() else None,
        dossiers=_dossiers(run, circuit), state=None if state is None else read_state(state, circuit),
        outcome=None if outcome is None else read_outcome(outcome, circuit),
        title=str((circuit.manifest.get("task") or {}).get("name", run.name)),
    )  # fmt: skip
    say(f"page: {path.resolve()}")


def _dossiers(run: Path, circuit: Circuit) -> list[Dossiers]:
    """Those of the run and of its suite; none, with a warning, where they are damaged."""
    try:
        return dossiers_for(circuit.manifest, TraceConfig.read(run / runs.CONFIG, {}).suite, run)
    except InputError as error:
        warnings.warn(str(error), stacklevel=2)
        return []
