"""`featcircuits export`: a run's circuit in the formats of other programs."""

from __future__ import annotations

from pathlib import Path

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.pruning import strongest
from featcircuits.cli.config import TraceConfig
from featcircuits.cli.labels import dossiers_for, labelled_circuit
from featcircuits.cli.output import say
from featcircuits.dossiers.dashboards import write_dashboards
from featcircuits.errors import InputError, known, shortened
from featcircuits.export import EXPORTERS, Exporter
from featcircuits.export.neuronpedia import cantor, rows_of
from featcircuits.files.writing import check_replaceable, together
from featcircuits.page.state import read_state
from featcircuits.runs import folder as runs


def export_run(run: Path, formats: str, top: int | None, overwrite: bool, grouped: bool, state: Path | None) -> None:
    """Write a run's circuit, or its strongest nodes, in all of the formats; files appear together or not at all."""
    runs.check_run(run)
    paths = {name: run / EXPORTERS[name].file for name in format_names(formats)}
    folders = {name: path for name, path in paths.items() if EXPORTERS[name].folder}
    files = {name: path for name, path in paths.items() if name not in folders}
    for path in files.values():
        check_replaceable(path, overwrite)
    whole = _circuit(run, state)
    circuit = whole if top is None else strongest(whole, top)
    if grouped and folders:
        raise InputError(f"{', '.join(folders)} names the groups itself; leave out --grouped")
    if grouped and not whole.groups:
        raise InputError(f"{run} has no groups; make some with `featcircuits groups`, or give a saved view by --state")
    with runs.adding(next(iter(paths.values())), {"to": formats, "top": top}):
        for name, path in folders.items():
            EXPORTERS[name].write(circuit, path, overwrite=overwrite)
            _write_dashboards(run, circuit, path)
        with together(run) as folder:
            for name, path in files.items():
                _write(EXPORTERS[name], run, whole, grouped, top, folder / path.name)
    for name, path in paths.items():
        say(f"{name}: {path}")


def _write(exporter: Exporter, run: Path, whole: Circuit, grouped: bool, top: int | None, path: Path) -> None:
    """Pictures choose their nodes themselves, and say of how many; other formats get the strongest ones."""
    if exporter.takes_top:
        exporter.write(whole.grouped() if grouped else whole, path, **({} if top is None else {"top": top}))
        return
    source = Circuit.load(run / runs.RANKING) if exporter.of_ranking else whole
    shown = source if top is None else strongest(source, top)
    exporter.write(shown.grouped() if grouped and not exporter.of_ranking else shown, path)


def format_names(formats: str) -> list[str]:
    """The formats of a list with commas; raises `InputError` for an unknown one, and for none."""
    names = list(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    if unknown := [name for name in names if name not in EXPORTERS]:
        raise InputError(f"unknown export format {shortened(unknown[0])}; {known(EXPORTERS, unknown[0])}")
    if not names:
        raise InputError(f"no export format was given; known: {', '.join(EXPORTERS)}")
    return names


def _circuit(run: Path, state: Path | None) -> Circuit:
    """The run's circuit with its labels and groups, or those of a saved view."""
    circuit = labelled_circuit(run)
    if state is not None:
        view = read_state(state, circuit)
        groups = {one["name"]: one["nodes"] for one in view["groups"]}
        circuit = circuit.labelled(view["labels"]).with_groups(groups)
    return circuit


def _write_dashboards(run: Path, circuit: Circuit, folder: Path) -> None:
    """The dossiers that the run or its suite has, as the viewers' dashboards of features."""
    dossiers = dossiers_for(circuit.manifest, TraceConfig.read(run / runs.CONFIG, {}).suite, run)
    count = write_dashboards(folder / "features", circuit.nodes, dossiers, rows_of(circuit), cantor)
    say(f"dashboards of {count} features in {folder / 'features'}" if count else "there are no dossiers for dashboards")
