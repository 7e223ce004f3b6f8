"""The commands, after their options are read."""

from __future__ import annotations

import hashlib
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.shares import error_shares, shares_line
from featcircuits.cli.config import EvaluateConfig, TraceConfig
from featcircuits.cli.controls import controls_of, show_controls
from featcircuits.cli.labels import labels_for
from featcircuits.cli.output import console, say
from featcircuits.cli.tables import (
    count_lines,
    curve_table,
    edge_table,
    graph_line,
    node_table,
    report_table,
    stability_line,
)
from featcircuits.cli.tasks import (
    aimed,
    check_choice,
    evaluated_part,
    judged,
    load_for,
    model_and_task,
    start_of,
    traced_part,
    wanted_task,
)
from featcircuits.cli.watch import watching
from featcircuits.errors import InputError, shortened
from featcircuits.evaluation import ABLATIONS
from featcircuits.evaluation.ablated import check_error_nodes
from featcircuits.evaluation.evaluate import evaluate
from featcircuits.evaluation.plot import plot_curve
from featcircuits.evaluation.report import Report
from featcircuits.files.writing import check_replaceable, together
from featcircuits.inputs.ranges import read_number
from featcircuits.progress import Progress
from featcircuits.provenance.manifest import manifest_of
from featcircuits.provenance.prompts import compared
from featcircuits.runs import folder as runs
from featcircuits.runs.ledger import AcrossProcesses, Ledger
from featcircuits.runs.on_disk import OnDisk, recorded
from featcircuits.runs.processes import Processes, joined
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task
from featcircuits.tracing.estimate import estimate
from featcircuits.tracing.plan import Plan, planned
from featcircuits.tracing.stability import stability
from featcircuits.tracing.trace import Trace, traced
from featcircuits.validation.control_plot import plot_controls
from featcircuits.validation.controls import ControlCurves


def trace_run(config: TraceConfig, output: Path, top: int) -> None:
    """Trace, print the strongest nodes and edges, and write a run folder."""
    began = time.monotonic()
    with joined() as processes, ExitStack() as stack:
        console.quiet = not processes.first
        with processes.together():
            plan = plan_of(config)
            folder = stack.enter_context(runs.workplace(output, asdict(config), owner=processes.first))
        with processes.together():
            plan, spliced, task = _loaded(config, plan, processes.device(config.device))
            size = fitting_batch(spliced, task, plan.batch_size or _recorded_size(folder))
        agreed = min(processes.each(size))
        plan = replace(plan, batch_size=plan.batch_size or agreed)
        say(f"{task.name}: {len(task)} examples, {len(spliced.sites)} sites of {_model_name(spliced)}")
        result = _traced(config, spliced, task, plan, folder, processes)
        with processes.together():
            if processes.first:
                _write_run(config, result, output)
    console.print(node_table(result.circuit, top, labels_for(result.circuit, config.suite)))
    console.print(edge_table(result.circuit, top))
    for line in count_lines(result.counts):
        say(line)
    if line := graph_line(result.circuit):
        say(line)
    say(shares_line(result.circuit.manifest["error_share"]))
    say(f"circuit of {result.circuit.n_nodes} nodes and {result.circuit.n_edges} edges in {output}, {since(began)}")


def plan_of(config: TraceConfig) -> Plan:
    """The plan of a trace, made before any file is read."""
    check_choice(config)
    names = ("nodes", "keep_nodes", "keep_edges", "select", "start_layer", "baseline", "error_effects", "seed")
    return planned(
        **{name: getattr(config, name) for name in names},
        edges=None if config.edges == "none" else config.edges,
        batch_size=config.batch_size or None,
    )


def _loaded(config: TraceConfig, plan: Plan, device: str | None) -> tuple[Plan, SplicedModel, Task]:
    """Model and task; the task comes first, so what it lacks for the plan is refused before the model is loaded."""
    task, tokenizer = wanted_task(config, traced_part(config, config.limit))
    plan = plan.for_task(task)
    spliced, task = aimed(config, load_for(config, device, tokenizer), task)
    return plan, spliced, judged(spliced, task, config, console.print)


def _traced(
    config: TraceConfig, spliced: SplicedModel, task: Task, plan: Plan, folder: Path, processes: Processes
) -> Trace:
    """The trace by all processes, which must have the same settings and end with the same circuit."""
    request = _request(config, spliced, task, plan)
    processes.agree(request)
    finished = OnDisk(folder, request)
    ledger = AcrossProcesses(finished, processes.group) if processes.count > 1 else finished
    with watching(console) as progress:
        result = traced(spliced, task, plan, check_fit=config.check_fit, ledger=ledger, progress=progress)
        result = _with_stability(config, spliced, task, result, ledger, progress)
    if processes.count > 1:
        processes.agree(_request(config, spliced, task, plan))
        processes.agree({"circuit": _digest(result.circuit), "ranking": _digest(result.ranking)})
    return result


def _with_stability(
    config: TraceConfig, spliced: SplicedModel, task: Task, result: Trace, ledger: Ledger, progress: Progress
) -> Trace:
    """The trace with how often its nodes and edges would be chosen again, if that is asked for."""
    if not config.stability:
        return result
    found = stability(
        spliced, result.circuit, task,
        resamples=config.stability, seed=config.seed, ledger=ledger, check=False, progress=progress,
    )  # fmt: skip
    say(stability_line(found))
    return result._replace(circuit=found.on(result.circuit))


def _request(config: TraceConfig, spliced: SplicedModel, task: Task, plan: Plan) -> dict[str, Any]:
    """Everything that determines what a batch adds; which of several devices of a kind computes it does not matter."""
    settings = {**asdict(config), "device": spliced.device.type, "batch_size": plan.batch_size}
    return {"config": settings, "inputs": manifest_of(spliced, task, {})}


def _digest(circuit: Circuit) -> str:
    return hashlib.sha256(repr((list(circuit.nodes.items()), list(circuit.edges.items()))).encode()).hexdigest()


def _recorded_size(folder: Path) -> int | None:
    """The batch size of the run that is resumed, which may have been chosen by the memory that was free then."""
    settings = (recorded(folder) or {}).get("config")
    size = settings.get("batch_size") if isinstance(settings, dict) else None
    return size if isinstance(size, int) and size > 0 else None


def dry_run(config: TraceConfig) -> None:
    """Print the time and memory that the trace would take, and do nothing else."""
    plan, spliced, task = _loaded(config, plan_of(config), config.device)
    found = estimate(spliced, task, plan, check_fit=config.check_fit)
    say(
        f"{task.name}: {found.n_examples} examples in batches of {found.batch_size}, about {found.seconds:.0f} s "
        f"and {found.gigabytes:.1f} GB of memory once loaded"
    )


def _write_run(config: TraceConfig, result: Trace, output: Path) -> None:
    with runs.new_run(output) as folder:
        result.circuit.save(folder / runs.CIRCUIT)
        result.ranking.save(folder / runs.RANKING)
        runs.write_json(folder / runs.MANIFEST, dict(result.circuit.manifest))
        config.write(folder / runs.CONFIG)


def evaluate_run(config: EvaluateConfig, run: Path, overwrite: bool) -> None:
    """Evaluate a run's circuit, print the report, and write it into the run folder."""
    runs.check_run(run)
    check_replaceable(run / runs.REPORT, overwrite)
    check_choice(config)
    ABLATIONS.named(config.ablation)
    check_error_nodes(config.error_nodes)
    sizes = numbers_of(config.sizes)
    began = time.monotonic()
    with runs.adding(run / runs.REPORT, asdict(config)):
        report, controls = _evaluated(config, run, sizes)
        replaced = (runs.REPORT, runs.EVALUATION, runs.PLOT, runs.CONTROLS, runs.CONTROL_PLOT)
        with together(run, instead_of=replaced) as folder:
            runs.write_json(folder / runs.REPORT, report.to_json())
            config.write(folder / runs.EVALUATION)
            if report.curve is not None and not report.invalid:
                plot_curve(report, folder / runs.PLOT)
            if controls is not None:
                runs.write_json(folder / runs.CONTROLS, controls.to_json())
                if any(curve.scores is not None for curve in controls.curves):
                    plot_controls(controls, folder / runs.CONTROL_PLOT)
    console.print(report_table(report))
    if report.curve is not None and not report.invalid:
        console.print(curve_table(report.curve, report.counted))
    if controls is not None:
        show_controls(controls)
    say(f"report in {run / runs.REPORT}, {since(began)}")


def _evaluated(config: EvaluateConfig, run: Path, sizes: list[int] | None) -> tuple[Report, ControlCurves | None]:
    trace = TraceConfig.read(run / runs.CONFIG, {})
    circuit, ranking = Circuit.load(run / runs.CIRCUIT), Circuit.load(run / runs.RANKING)
    spliced, task = model_and_task(trace, config.device, evaluated_part(config, trace), Task.check_places)
    for note in compared(circuit.manifest, task, spliced.tokenizer).notes:
        say(note)
    say(shares_line(error_shares(ranking)))
    task = judged(spliced, task, config, console.print)
    start_layer = start_of(config, trace)
    with watching(console) as progress:
        report = evaluate(
            spliced, circuit, task,
            ablation=config.ablation, error_nodes=config.error_nodes, start_layer=start_layer, ranking=ranking,
            sizes=sizes, draws=config.draws, seed=config.seed, batch_size=config.batch_size or None,
            check=config.check, progress=progress,
        )  # fmt: skip
    if not config.controls:
        return report, None
    return report, controls_of(config, trace, plan_of(trace), spliced, task, circuit, ranking, sizes)


def numbers_of(text: str) -> list[int] | None:
    """The whole numbers of a list with commas; None for an empty text."""
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
    """The seconds since `began`, for the last line of a command."""
    return f"{time.monotonic() - began:.0f} s"
