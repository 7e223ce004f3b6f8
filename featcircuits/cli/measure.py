"""The commands that measure estimators instead of behaviours: agree and audit."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from featcircuits.agreement.agree import agree, edge_nodes_of, every_estimator, parse_compared
from featcircuits.agreement.bases import check_basis
from featcircuits.agreement.plot import plot_frontier, plot_scatter
from featcircuits.checks.audit import audit
from featcircuits.circuit.circuit import Circuit
from featcircuits.cli.commands import plan_of, since
from featcircuits.cli.config import AgreeConfig, TraceConfig
from featcircuits.cli.output import console, say
from featcircuits.cli.tables import agreement_tables, audit_table, cost_table
from featcircuits.cli.tasks import Wanted, check_choice, judged, model_and_task, traced_part
from featcircuits.cli.watch import watching
from featcircuits.files.pictures import check_format
from featcircuits.provenance.belonging import check_circuit
from featcircuits.runs import folder as runs

AGREE_ON, AUDIT_ON = 20, 4
"""The most examples, if no number is given."""


def agree_run(config: AgreeConfig, output: Path) -> None:
    """Compare, print the tables, and write a folder with the numbers and pictures."""
    check_choice(config)
    texts = [text for text in config.estimators.split(",") if text.strip()]
    bases = [text.strip() for text in config.bases.split(",") if text.strip()]
    compared = [parse_compared(text) for text in texts] or every_estimator()
    for basis in bases:
        check_basis(basis)
    edge_nodes_of(config.edge_nodes, bases)
    check_format(config.pictures)
    began = time.monotonic()
    with runs.workplace(output, asdict(config)):
        spliced, task = model_and_task(config, config.device, Wanted(config.task).within(config.limit, AGREE_ON))
        task = judged(spliced, task, config, console.print)
        with watching(console) as progress:
            found = agree(
                spliced, task, compared,
                bases=bases, top=config.top, edge_nodes=config.edge_nodes, batch_size=config.batch_size or None,
                progress=progress,
            )  # fmt: skip
        with runs.new_run(output) as folder:
            runs.write_json(folder / "agreement.json", found.to_json())
            plot_scatter(found, folder / f"scatter.{config.pictures}")
            plot_frontier(found, folder / f"frontier.{config.pictures}")
            config.write(folder / runs.CONFIG)
    for table in agreement_tables(found):
        console.print(table)
    console.print(cost_table(found))
    say(f"{task.name}, {len(task)} examples: numbers and pictures in {output}, {since(began)}")


def audit_run(run: Path, limit: int | None) -> None:
    """Print the residuals for a run's own model, task and estimator."""
    runs.check_run(run)
    traced = TraceConfig.read(run / runs.CONFIG, {})
    plan = plan_of(traced)
    spliced, task = model_and_task(traced, traced.device, traced_part(traced, 0).within(limit, AUDIT_ON))
    check_circuit(spliced, Circuit.load(run / runs.CIRCUIT), f"{run}: circuit", check=True, whole=True)
    found = audit(spliced, task, plan.nodes, batch_size=plan.batch_size)
    console.print(audit_table(found))
