"""What each command does, once its options are read."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.pruning import strongest
from featcircuits.cli.config import EvaluateConfig, TraceConfig
from featcircuits.cli.labels import labels_for
from featcircuits.cli.output import console, say
from featcircuits.cli.tables import count_lines, curve_table, edge_table, node_table, report_table
from featcircuits.cli.tasks import check_choice, evaluated_part, judged, model_and_task, traced_part
from featcircuits.cli.watch import watching
from featcircuits.errors import InputError, shortened
from featcircuits.estimators import Method, default_method
from featcircuits.evaluation import evaluate
from featcircuits.evaluation.ablated import check_error_terms
from featcircuits.evaluation.ablations import ablation_kind
from featcircuits.evaluation.plot import plot_curve
from featcircuits.evaluation.report import Report
from featcircuits.export import EXPORTERS
from featcircuits.files.writing import check_replaceable, together
from featcircuits.inputs.ranges import read_number
from featcircuits.provenance.manifest import manifest_of
from featcircuits.provenance.prompts import compared
from featcircuits.runs import folder as runs
from featcircuits.runs.ledger import AcrossProcesses, OnDisk, recorded
from featcircuits.runs.processes import Processes, joined
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import check_known
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task
from featcircuits.tracing.estimate import estimate
from featcircuits.tracing.trace import Plan, Trace, planned, rules_of, trace_with_ranking


def trace_run(config: TraceConfig, output: Path, top: int) -> None:
    """Trace, print the strongest nodes and edges, and leave a run folder."""
    began = time.monotonic()
    with joined() as processes, ExitStack() as stack:
        console.quiet = not processes.first
        with processes.together():
            options = _trace_options(config)
            folder = stack.enter_context(runs.workplace(output, asdict(config), owner=processes.first))
        with processes.together():
            device, part = processes.device(config.device), traced_part(config, config.limit)
            spliced, task = model_and_task(config, device, part, partial(_check_plan, config))
            task = judged(spliced, task, config, console.print)
            size = fitting_batch(spliced, task, config.batch_size or _recorded_size(folder))
        agreed = min(processes.each(size))
        options["batch_size"] = config.batch_size or agreed
        say(f"{task.name}: {len(task)} examples, {len(spliced.sites)} sites of {_model_name(spliced)}")
        traced = _traced(config, spliced, task, options, folder, processes)
        with processes.together():
            if processes.first:
                _write_run(config, traced, output)
    console.print(node_table(traced.circuit, top, labels_for(traced.circuit, config.suite)))
    console.print(edge_table(traced.circuit, top))
    for line in count_lines(traced.counts):
        say(line)
    say(f"circuit of {traced.circuit.n_nodes} nodes and {traced.circuit.n_edges} edges in {output}, {since(began)}")


def _traced(
    config: TraceConfig,
    spliced: SplicedModel,
    task: Task,
    options: Mapping[str, Any],
    folder: Path,
    processes: Processes,
) -> Trace:
    """By all processes, which must have been asked for one thing, and must end with one circuit."""
    request = _request(config, spliced, task, options["batch_size"])
    processes.agree(request)
    finished = OnDisk(folder, request)
    ledger = AcrossProcesses(finished, processes.group) if processes.count > 1 else finished
    with watching(console) as progress:
        traced = trace_with_ranking(spliced, task, ledger=ledger, progress=progress, **options)
    if processes.count > 1:
        processes.agree(_request(config, spliced, task, options["batch_size"]))
        processes.agree({"circuit": _digest(traced.circuit), "ranking": _digest(traced.ranking)})
    return traced


def _request(config: TraceConfig, spliced: SplicedModel, task: Task, batch_size: int) -> dict[str, Any]:
    """All that decides what a batch adds. Which of several devices of a kind computes it does not."""
    settings = {**asdict(config), "device": spliced.device.type, "batch_size": batch_size}
    return {"config": settings, "inputs": manifest_of(spliced, task, {})}


def _digest(circuit: Circuit) -> str:
    return hashlib.sha256(repr((list(circuit.nodes.items()), list(circuit.edges.items()))).encode()).hexdigest()


def _recorded_size(folder: Path) -> int | None:
    """The batch size of the run that is gone on with: it may have been chosen by the memory that was free then."""
    settings = (recorded(folder) or {}).get("config")
    size = settings.get("batch_size") if isinstance(settings, dict) else None
    return size if isinstance(size, int) and size > 0 else None


def dry_run(config: TraceConfig) -> None:
    """Print what the trace would take, and do nothing else."""
    options = _trace_options(config)
    part = traced_part(config, config.limit)
    spliced, task = model_and_task(config, config.device, part, partial(_check_plan, config))
    task = judged(spliced, task, config, console.print)
    found = estimate(spliced, task, **options)
    say(
        f"{task.name}: {found.n_examples} examples in batches of {found.batch_size}, about {found.seconds:.0f} s "
        f"and {found.gigabytes:.1f} GB of memory once loaded"
    )


def _trace_options(config: TraceConfig) -> dict[str, Any]:
    """Arguments of `trace`, checked as far as they need neither model nor task."""
    check_choice(config)
    nodes, options = method_of(config)
    check_known(config.baseline)
    _plan(config, paired=True)  # which method is the default one, the task will tell
    kept = ("select", "start_layer", "keep_nodes", "keep_edges", "baseline", "errors", "seed", "check_fit")
    return {
        **{name: getattr(config, name) for name in kept},
        "nodes": nodes,
        "edges": None if config.edges == "none" else config.edges,
        "batch_size": config.batch_size or None,
        **options,
    }


def _plan(config: TraceConfig, paired: bool) -> Plan:
    nodes, options = method_of(config)
    edges = None if config.edges == "none" else config.edges
    some = nodes or default_method(paired, config.baseline)
    rules = rules_of(edges, config.keep_nodes, config.keep_edges)
    return planned(some, edges, config.select, *rules, config.errors, options)


def _check_plan(config: TraceConfig, task: Task) -> None:
    """Refuse what is asked for and the task does not have."""
    _plan(config, task.paired).check(task, config.baseline)


def method_of(config: TraceConfig) -> tuple[str | None, Mapping[str, Any]]:
    """The chosen estimator of node effects, None for the task's default, and its options.

    Those that have settings of their own are among them; one that the estimator does not have is refused.
    """
    own = {name: value for name in ("steps", "rule", "rules") if (value := getattr(config, name)) is not None}
    if config.nodes is None:
        if own:
            raise InputError(f"{next(iter(own))} is an option of an estimator; say of which with nodes")
        return None, {}
    return Method.parse(config.nodes).adding(own)


def _write_run(config: TraceConfig, traced: Trace, output: Path) -> None:
    with runs.new_run(output) as folder:
        traced.circuit.save(folder / runs.CIRCUIT)
        traced.ranking.save(folder / runs.RANKING)
        runs.write_json(folder / runs.MANIFEST, dict(traced.circuit.manifest))
        config.write(folder / runs.CONFIG)


def evaluate_run(config: EvaluateConfig, run: Path, overwrite: bool) -> None:
    """Evaluate a run's circuit, print the report, and put it into the run folder."""
    runs.check_run(run)
    check_replaceable(run / runs.REPORT, overwrite)
    check_choice(config)
    ablation_kind(config.ablation)
    check_error_terms(config.errors)
    sizes = _sizes(config.sizes)
    began = time.monotonic()
    with runs.adding(run / runs.REPORT, asdict(config)):
        report = _evaluated(config, run, sizes)
        with together(run, instead_of=(runs.REPORT, runs.EVALUATION, runs.PLOT)) as folder:
            runs.write_json(folder / runs.REPORT, report.to_json())
            config.write(folder / runs.EVALUATION)
            if report.curve is not None and not report.invalid:
                plot_curve(report, folder / runs.PLOT)
    console.print(report_table(report))
    if report.curve is not None and not report.invalid:
        console.print(curve_table(report.curve, report.counted))
    say(f"report in {run / runs.REPORT}, {since(began)}")


def _evaluated(config: EvaluateConfig, run: Path, sizes: list[int] | None) -> Report:
    traced = TraceConfig.read(run / runs.CONFIG, {})
    circuit, ranking = Circuit.load(run / runs.CIRCUIT), Circuit.load(run / runs.RANKING)
    spliced, task = model_and_task(traced, config.device, evaluated_part(config, traced), Task.check_places)
    for note in compared(circuit.manifest, task, spliced.tokenizer).notes:
        say(note)
    task = judged(spliced, task, config, console.print)
    start_layer = traced.start_layer if config.start_layer is None else config.start_layer
    with watching(console) as progress:
        return evaluate(
            spliced, circuit, task,
            ablation=config.ablation, errors=config.errors, start_layer=start_layer, ranking=ranking,
            sizes=sizes, draws=config.draws, seed=config.seed, batch_size=config.batch_size,
            check=config.check, progress=progress,
        )  # fmt: skip


def export_run(run: Path, formats: str, top: int | None, overwrite: bool) -> None:
    """Write a run's circuit, or its strongest nodes, in each of the formats: all of them, or none."""
    runs.check_run(run)
    names = dict.fromkeys(name.strip() for name in formats.split(",") if name.strip())
    if unknown := [name for name in names if name not in EXPORTERS]:
        raise InputError(f"unknown export format {unknown[0]!r}; known: {', '.join(EXPORTERS)}")
    if not names:
        raise InputError(f"no export format was given; known: {', '.join(EXPORTERS)}")
    paths = {name: run / f"circuit{EXPORTERS[name].suffix}" for name in names}
    for path in paths.values():
        check_replaceable(path, overwrite)
    circuit = Circuit.load(run / runs.CIRCUIT)
    circuit = circuit if top is None else strongest(circuit, top)
    with runs.adding(next(iter(paths.values())), {"to": formats, "top": top}), together(run) as folder:
        for name, path in paths.items():
            EXPORTERS[name].write(circuit, folder / path.name)
    for name, path in paths.items():
        say(f"{name}: {path}")


def _sizes(text: str) -> list[int] | None:
    if not text:
        return None
    try:
        return [read_number("sizes", part.strip()) for part in text.split(",")]
    except InputError:
        raise InputError(
            f"sizes is {shortened(text)}; give whole numbers separated by commas, such as 10,30,100"
        ) from None


def _model_name(spliced: SplicedModel) -> str:
    return spliced.suite.name if spliced.suite else spliced.architecture.model_type


def since(began: float) -> str:
    """Seconds, for the last line of a command."""
    return f"{time.monotonic() - began:.0f} s"
