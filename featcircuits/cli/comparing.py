"""`featcircuits compare`: runs' circuits beside each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from featcircuits.cli.comparison_tables import overlap_tables, part_tables, shared_table
from featcircuits.cli.exports import format_names
from featcircuits.cli.labels import labelled_circuit
from featcircuits.cli.output import console, say
from featcircuits.comparison.compare import Comparison, compare
from featcircuits.comparison.picture import plot_distances
from featcircuits.errors import InputError
from featcircuits.export import EXPORTERS, Exporter
from featcircuits.runs import folder as runs

COMPARISON, DISTANCES, UNION = "comparison.json", "distances.png", "union"


def compare_run(
    folders: Sequence[Path], places: str, output: Path | None, to: str, top: int, as_json: bool, check: bool
) -> None:
    """Compare the circuits of runs, print tables or JSON, and write a folder if one is asked for."""
    for run in folders:
        runs.check_run(run)
    exporters = [EXPORTERS[name] for name in format_names(to)] if to else []
    if exporters and output is None:
        raise InputError(f"--to {to} needs a folder to write the union into; give one by -o")
    if output is not None:
        runs.check_free(output)
    circuits = {name: labelled_circuit(run) for name, run in zip(names_of(folders), folders, strict=True)}
    found = compare(circuits, places=places, check=check)
    if output is not None:
        _write(found, output, exporters)
    if as_json:
        console.print(json.dumps(found.to_json(), indent=1), soft_wrap=True, highlight=False)
        return
    _show(found, top)
    if output is not None:
        say(f"comparison in {output}")


def names_of(folders: Sequence[Path]) -> list[str]:
    """The name of each run: of its folder, its path where two folders are called the same, with a number if repeated.

    Raises `InputError` for fewer than two runs.
    """
    if len(folders) < 2:
        raise InputError("one run cannot be compared; give at least two, or the same one twice")
    own = [run.name or str(run) for run in folders]
    counts = Counter(name for name, _ in {*zip(own, folders, strict=True)})
    names = [name if counts[name] == 1 else str(run) for name, run in zip(own, folders, strict=True)]
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def _write(found: Comparison, output: Path, exporters: Sequence[Exporter]) -> None:
    whole = found.union() if exporters else None
    with runs.new_run(output) as folder:
        runs.write_json(folder / COMPARISON, found.to_json())
        plot_distances(found, folder / DISTANCES)
        for exporter in exporters:
            exporter.write(whole, folder / exporter.file.replace("circuit", UNION))


def _show(found: Comparison, top: int) -> None:
    for note in found.notes:
        say(note)
    for table in (*overlap_tables(found), *part_tables(found)):
        console.print(table)
    if top:
        console.print(shared_table(found, top))
