"""The command that judges a run's edges."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from featcircuits.checks.edge_areas import MibAreas, mib_areas
from featcircuits.checks.edge_curve import EdgeCurve, edge_curve
from featcircuits.checks.edge_plan import ORDERS
from featcircuits.checks.edge_plot import plot_edges
from featcircuits.circuit.circuit import Circuit
from featcircuits.cli.commands import numbers_of, since
from featcircuits.cli.config import EdgesConfig, TraceConfig
from featcircuits.cli.output import console, say
from featcircuits.cli.tasks import check_choice, evaluated_part, judged, model_and_task, start_of
from featcircuits.cli.watch import watching
from featcircuits.errors import InputError, known, shortened
from featcircuits.evaluation import ABLATIONS
from featcircuits.files.writing import check_replaceable, together
from featcircuits.runs import folder as runs
from featcircuits.tasks.task import Task

Found = tuple[EdgeCurve, MibAreas]


def edges_run(config: EdgesConfig, run: Path, mib: Path | None, overwrite: bool) -> None:
    """Judge a run's edges under each ablation, print the tables, and write edges.json and edges.png."""
    runs.check_run(run)
    check_replaceable(run / runs.EDGES, overwrite)
    check_choice(config)
    names = [name.strip() for name in config.ablations.split(",") if name.strip()]
    for name in names:
        ABLATIONS.named(name)
    if config.order not in ORDERS:
        raise InputError(f"order is {shortened(config.order)}; {known(ORDERS, config.order)}")
    sizes = numbers_of(config.sizes)
    began = time.monotonic()
    traced, circuit = TraceConfig.read(run / runs.CONFIG, {}), Circuit.load(run / runs.CIRCUIT)
    with runs.adding(run / runs.EDGES, asdict(config)):
        found = _judged(config, traced, circuit, Circuit.load(run / runs.RANKING), names, sizes)
        drawn = [curve for curve, _ in found if not curve.invalid]
        with together(run, instead_of=(runs.EDGES, runs.EDGE_PLOT)) as folder:
            runs.write_json(
                folder / runs.EDGES,
                {
                    "settings": asdict(config),
                    "curves": [curve.to_json() for curve, _ in found],
                    "areas": [areas.to_json() for _, areas in found],
                },
            )
            if drawn:
                plot_edges(drawn, folder / runs.EDGE_PLOT)
    for curve, areas in found:
        _show(curve, areas)
    if mib is not None:
        _write_mib(found, mib, traced, circuit)
    say(f"edges in {run / runs.EDGES}, {since(began)}")


def _judged(
    config: EdgesConfig,
    traced: TraceConfig,
    circuit: Circuit,
    ranking: Circuit,
    names: Sequence[str],
    sizes: list[int] | None,
) -> list[Found]:
    spliced, task = model_and_task(traced, config.device, evaluated_part(config, traced), Task.check_places)
    task = judged(spliced, task, config, console.print)
    start = start_of(config, traced)
    shared = {
        "start_layer": start, "seed": config.seed, "batch_size": config.batch_size or None, "check": config.check,
        "most_rows": config.most_rows,
    }  # fmt: skip
    found = []
    with watching(console) as progress:
        for name in names or ["paired" if task.paired else "mean"]:
            curve = edge_curve(
                spliced, task, circuit, ablation=name, order=config.order, sizes=sizes, draws=config.draws,
                progress=progress, **shared,
            )  # fmt: skip
            areas = mib_areas(spliced, task, circuit, nodes=ranking, ablation=name, progress=progress, **shared)
            found.append((curve, areas))
    return found


def _show(curve: EdgeCurve, areas: MibAreas) -> None:
    """Print a curve and its areas; without shares, why there are none."""
    title = f"{curve.task}, {curve.ablation} ablation: F(model) {curve.F_model:.3f}, F(empty) {curve.F_empty:.3f}"
    if curve.invalid:
        say(f"{title}\n{curve.invalid}")
        return
    table = Table(title=f"{title}\nf by number of edges, of {curve.n_edges}", title_justify="left")
    columns = {
        "edges": [str(size) for size in curve.sizes],
        "f": _numbers(curve.faithfulness),
        "nodes": [str(count) for count in curve.n_nodes],
        "f of nodes": _numbers(curve.nodes),
        "price": _numbers(curve.price),
        **({"random": _numbers(curve.random)} if curve.draws else {}),
        "model without": _numbers(curve.necessity),
    }
    for name in columns:
        table.add_column(name, justify="right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console.print(table)
    for area in areas.areas:
        say(
            f"{area.level}s, {area.order} order: CPR {area.cpr:.3f}, CMD {area.cmd:.3f} "
            f"(of {areas.of[area.level]} {area.level}s)"
        )


def _numbers(values: Sequence[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]


def _write_mib(found: Sequence[Found], folder: Path, traced: TraceConfig, circuit: Circuit) -> None:
    settings = circuit.manifest.get("settings")
    names = (
        settings["nodes"] if isinstance(settings, dict) and "nodes" in settings else "circuit",
        traced.model or Path(traced.suite).name,
    )
    method, model = (str(name).replace("_", "-").replace("/", "-") for name in names)
    for _, areas in found:
        if areas.invalid:
            say(f"no results for MIB under {areas.ablation} ablation: {areas.invalid}")
            continue
        areas.write_mib(folder, method=method, model=model)
        say(f"CPR and CMD under {areas.ablation} ablation as MIB's results in {folder}")
