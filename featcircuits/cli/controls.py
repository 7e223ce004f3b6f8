"""evaluate --controls: a run's nodes under every ablation and beside every control."""

from __future__ import annotations

from rich.table import Table

from featcircuits.circuit.circuit import Circuit
from featcircuits.cli.config import EvaluateConfig, TraceConfig
from featcircuits.cli.output import console, say
from featcircuits.cli.tasks import start_of, traced_on
from featcircuits.cli.watch import watching
from featcircuits.evaluation.scope import COUNTED
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Task
from featcircuits.tracing.plan import Plan
from featcircuits.validation.controls import ControlCurves, control_curves


def controls_of(
    config: EvaluateConfig,
    traced: TraceConfig,
    plan: Plan,
    spliced: SplicedModel,
    task: Task,
    circuit: Circuit,
    ranking: Circuit,
    sizes: list[int] | None,
) -> ControlCurves:
    """The control curves of a run; constants and nonsense come from the prompts and settings of its trace."""
    with watching(console) as progress:
        return control_curves(
            spliced, circuit, task,
            training=traced_on(spliced, traced), estimator=plan.nodes, select=plan.select,
            baseline=plan.patched_in, ranking=ranking, sizes=sizes, ablation=config.ablation,
            error_nodes=config.error_nodes,
            start_layer=start_of(config, traced),
            draws=max(1, config.draws), seed=config.seed, batch_size=config.batch_size or None, check=config.check,
            progress=progress,
        )  # fmt: skip


def show_controls(found: ControlCurves) -> None:
    """A row for each curve: its scores by size and its area, or why there are none."""
    table = Table(title=f"f by number of nodes ({COUNTED[found.error_nodes]}) and area", title_justify="left")
    for name in ("", "none", *map(str, found.sizes), "area"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for curve in found.curves:
        if curve.scores is not None:
            numbers = (curve.at_zero, *curve.scores, curve.area)
            table.add_row(curve.name, *(f"{number:.2f}" for number in numbers if number is not None))
    console.print(table)
    for curve in found.curves:
        if curve.invalid is not None:
            say(f"{curve.name}: {curve.invalid}")
    say(
        f"random, stochastic, adversarial and nonsense under {found.ablation} ablation; adversarial: the f furthest "
        f"from 1 that was found, few: with {found.budget} nodes free; nonsense in units of the real F(model) - F(empty)"
    )
