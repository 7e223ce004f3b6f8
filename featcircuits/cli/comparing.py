"""`featcircuits compare`: runs' circuits beside each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from featcircuits.circuit.circuit import Circuit
from featcircuits.cli.comparison_tables import overlap_tables, part_tables, shared_table
from featcircuits.cli.config import CompareConfig, TraceConfig
from featcircuits.cli.exports import format_names
from featcircuits.cli.labels import labelled_circuit
from featcircuits.cli.output import console, say
from featcircuits.cli.tasks import load_for, traced_part, wanted_task
from featcircuits.comparison.compare import Comparison, compare
from featcircuits.comparison.matching import ACTIVATION, WAYS, match_features
from featcircuits.comparison.picture import plot_distances
from featcircuits.errors import InputError, known, shortened
from featcircuits.export import EXPORTERS, Exporter
from featcircuits.provenance.belonging import check_circuit
from featcircuits.runs import folder as runs

COMPARISON, DISTANCES, UNION = "comparison.json", "distances.png", "union"


def compare_run(
    config: CompareConfig, folders: Sequence[Path], output: Path | None, to: str, top: int, as_json: bool
) -> None:
    """Compare the circuits of runs, print tables or JSON, and write a folder if one is asked for."""
    for run in folders:
        runs.check_run(run)
    exporters = [EXPORTERS[name] for name in format_names(to)] if to else []
    if exporters and output is None:
        raise InputError(f"--to {to} needs a folder to write the union into; give one by -o")
    if config.match is not None and config.match not in WAYS:
        raise InputError(f"unknown way to match features {shortened(config.match)}; {known(WAYS, config.match)}")
    if output is not None:
        runs.check_free(output)
    circuits = {name: labelled_circuit(run) for name, run in zip(names_of(folders), folders, strict=True)}
    console.quiet = as_json
    if config.match is not None:
        circuits = _matched(config, circuits, folders)
    found = compare(circuits, places=config.places, check=config.check)
    _show(found, top)
    console.quiet = False
    if output is not None:
        _write(config, found, output, exporters)
    if as_json:
        console.print(json.dumps(found.to_json(), indent=1), soft_wrap=True, highlight=False)
    elif output is not None:
        say(f"comparison in {output}")


def _matched(config: CompareConfig, circuits: Mapping[str, Circuit], folders: Sequence[Path]) -> dict[str, Circuit]:
    """All circuits with the numbers of features of the first."""
    (base, circuit), *others = circuits.items()
    traced = [TraceConfig.read(run / runs.CONFIG, {}) for run in folders]
    first = load_for(traced[0], config.device)
    task = wanted_task(traced[0], traced_part(traced[0], traced[0].limit))[0] if config.match == ACTIVATION else None
    found = {base: circuit}
    for (name, other), settings in zip(others, traced[1:], strict=True):
        second = load_for(settings, config.device)
        check_circuit(second, other, name, check=config.check, whole=False)
        matching = match_features(
            first, second, circuit,
            by=str(config.match), task=task, least=config.least, batch_size=config.batch_size or None,
        )  # fmt: skip
        scores = [one.score for own in matching.matches.values() for one in own]
        features = {(node.site, node.feature) for node in circuit.nodes if not node.is_error}
        mean = f", mean {config.match} score {sum(scores) / len(scores):.2f}" if scores else ""
        say(f"{name}: {len(scores)} of the {len(features)} features of {base} have a match{mean}")
        found[name] = matching.renamed(other)
    return found


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


def _write(config: CompareConfig, found: Comparison, output: Path, exporters: Sequence[Exporter]) -> None:
    whole = found.union() if exporters else None
    with runs.new_run(output) as folder:
        runs.write_json(folder / COMPARISON, found.to_json())
        config.write(folder / runs.CONFIG)
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
