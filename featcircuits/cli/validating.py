"""`featcircuits evaluate RUN --full`: everything that speaks for and against a run's circuit."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import UserDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from featcircuits import groups
from featcircuits.circuit.circuit import Circuit
from featcircuits.cli.commands import since
from featcircuits.cli.config import EvaluateConfig, TraceConfig
from featcircuits.cli.output import console, printable, say
from featcircuits.cli.tasks import check_choice, evaluated_part, judged, model_and_task, start_of, traced_on
from featcircuits.cli.watch import watching
from featcircuits.evaluation.ablated import check_error_nodes
from featcircuits.files.reading import read_json
from featcircuits.files.writing import check_replaceable, together
from featcircuits.provenance.manifest import manifest_of
from featcircuits.runs import folder as runs
from featcircuits.tasks.task import Task
from featcircuits.validation.claims import Claim
from featcircuits.validation.plot import plot_validation
from featcircuits.validation.validate import Validation, validate


class Kept(UserDict[str, Any]):
    """Finished parts in a file of the run, which belong to one request."""

    def __init__(self, path: Path, request: str) -> None:
        super().__init__()
        self.path, self.request = path, request
        found = read_json(path, "file of finished parts") if path.exists() else {}
        if isinstance(found, dict) and found.get("request") == request and isinstance(found.get("parts"), dict):
            self.data = found["parts"]

    def __setitem__(self, name: str, part: Any) -> None:
        super().__setitem__(name, part)
        runs.write_json(self.path, {"request": self.request, "parts": self.data})


def validate_run(config: EvaluateConfig, run: Path, overwrite: bool) -> None:
    """Validate a run's circuit, print the verdicts, and write validation.json and validation.png into the run."""
    runs.check_run(run)
    check_replaceable(run / runs.VALIDATION, overwrite)
    check_choice(config)
    check_error_nodes(config.error_nodes)
    began = time.monotonic()
    with runs.adding(run / runs.VALIDATION, asdict(config)):
        found = _validated(config, run)
        with together(run, instead_of=(runs.VALIDATION, runs.VALIDATION_PLOT)) as folder:
            runs.write_json(folder / runs.VALIDATION, {"settings": asdict(config), **found.to_json()})
            if not found.invalid:
                plot_validation(found, folder / runs.VALIDATION_PLOT)
        (run / runs.VALIDATION_PARTS).unlink(missing_ok=True)
    if found.invalid:
        say(f"no verdict: {found.invalid}")
    else:
        console.print(claims_table(found.claims))
        console.print(joint_table(found.parts["joint"]))
    say(f"validation in {run / runs.VALIDATION}, {since(began)}")


def _validated(config: EvaluateConfig, run: Path) -> Validation:
    traced = TraceConfig.read(run / runs.CONFIG, {})
    circuit, ranking = Circuit.load(run / runs.CIRCUIT), Circuit.load(run / runs.RANKING)
    if (run / runs.GROUPS).is_file():
        circuit = circuit.with_groups(groups.read(run / runs.GROUPS))
    spliced, task = model_and_task(traced, config.device, evaluated_part(config, traced), Task.check_places)
    task = judged(spliced, task, config, console.print)
    train, start = traced_on(spliced, traced), start_of(config, traced)
    settings = {name: value for name, value in asdict(config).items() if name not in ("ablation", "sizes", "device")}
    whole = {"settings": settings, "start": start, "inputs": manifest_of(spliced, task, {}), "train": train.sha256}
    whole["groups"] = {name: [*map(str, nodes)] for name, nodes in circuit.groups.items()}
    whole["circuit"] = hashlib.sha256((run / runs.CIRCUIT).read_bytes()).hexdigest()
    request = hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()
    kept = Kept(run / runs.VALIDATION_PARTS, request)
    if kept:
        say(f"{len(kept)} parts were finished before: {', '.join(kept)}")
    with watching(console) as progress:
        return validate(
            spliced, circuit, task,
            train=train, ranking=ranking, error_nodes=config.error_nodes, start_layer=start, seed=config.seed,
            batch_size=config.batch_size or None, check=config.check, kept=kept,
            announce=lambda seconds: say(f"{task.name}, {len(task)} examples: about {_rounded(seconds)}"),
            progress=progress,
        )  # fmt: skip


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def claims_table(claims: tuple[Claim, ...]) -> Table:
    """Claim, figure with its interval, control, p and verdict."""
    table = Table(title="What speaks for and against the circuit", title_justify="left")
    for name in ("claim", "figure", "control", "p", "verdict"):
        table.add_column(name, justify="right" if name in ("figure", "p") else "left")
    for claim in claims:
        verdict = claim.verdict + (f": {claim.reason}" if claim.reason else "")
        table.add_row(claim.name, _figure(claim), claim.control, _p(claim), verdict)
    return table


def joint_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What is lost without each set, and what it alone restores, beside sums over its nodes."""
    table = Table(
        title="Together against the sum of single nodes (shares of F(model) - F(empty))", title_justify="left"
    )
    for name in ("set", "nodes", "lost", "sum alone", "more, 95 %", "restored", "sum alone", "more, 95 %"):
        table.add_column(name, justify="left" if name == "set" else "right")
    for row in rows:
        parts = (
            (f"{row[what]:.2f}", f"{row[f'{what}_alone']:.2f}", _between(row[f"{what}_interval"]))
            for what in ("lost", "restored")
        )
        table.add_row(printable(row["name"]), str(row["n_nodes"]), *(cell for part in parts for cell in part))
    return table


def _between(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"


def _figure(claim: Claim) -> str:
    if math.isnan(claim.figure):
        return ""
    if claim.interval is None:
        return f"{claim.figure:.2f}"
    low, high = claim.interval
    return f"{claim.figure:.2f} ({low:.2f} to {high:.2f})"


def _p(claim: Claim) -> str:
    if claim.adjusted is None:
        return ""
    return "<.001" if claim.adjusted < 0.001 else f"{claim.adjusted:.3f}".removeprefix("0")
