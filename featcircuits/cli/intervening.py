"""`featcircuits intervene`: interventions on a run's model, measured beside predicted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from featcircuits.circuit.circuit import Circuit
from featcircuits.cli.commands import since
from featcircuits.cli.config import InterveneConfig, TraceConfig
from featcircuits.cli.intervention_tables import outcome_tables
from featcircuits.cli.output import console, say
from featcircuits.cli.tasks import Wanted, load_for, wanted_task
from featcircuits.cli.watch import watching
from featcircuits.errors import InputError, shortened
from featcircuits.estimators import parse_estimator
from featcircuits.groups import read
from featcircuits.interventions.intervene import intervene
from featcircuits.interventions.intervention import Intervention, interventions_of, load_interventions
from featcircuits.interventions.predicted import check_edges
from featcircuits.interventions.vectors import vectors_in
from featcircuits.loading.load import load_tokenizer
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.runs import folder as runs
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Task


class Done(NamedTuple):
    """What is to be done, as the command line gives it."""

    do: Sequence[str]
    file: Path | None
    groups: Path | None
    vectors: Path | None
    sources: Sequence[str]


def intervene_run(config: InterveneConfig, run: Path, done: Done, prompts: Sequence[str], output: Path | None) -> None:
    """Make the interventions, print the tables and, if it is wanted, write the outcome."""
    given, names, traced = asked_for(run, done)
    if prompts and config.task is not None:
        raise InputError("give either --task or --prompt, not both")
    circuit = Circuit.load(run / runs.CIRCUIT)
    downstream = _downstream(config.downstream, circuit)
    if config.estimator is not None:
        check_edges(parse_estimator(config.estimator), given[0].held, downstream)
    if output is not None:
        runs.check_new_file(output)
    began = time.monotonic()
    spliced, task = _model_and_prompts(config, traced, prompts)
    with watching(console) as progress:
        outcome = intervene(
            spliced, task, given, **names,
            estimator=config.estimator, downstream=downstream, controls=config.controls, tokens=config.tokens,
            batch_size=config.batch_size or None, seed=config.seed, progress=progress,
        )  # fmt: skip
    for table in outcome_tables(outcome):
        console.print(table)
    if output is not None:
        runs.write_new_json(output, outcome.to_json())
    say(f"{f'outcome in {output}, ' if output else ''}{since(began)}")


def asked_for(run: Path, done: Done) -> tuple[tuple[Intervention, ...], dict[str, Any], TraceConfig]:
    """The interventions, what they call by name, and the run's settings; all before a model is loaded."""
    runs.check_run(run)
    own = run / runs.GROUPS
    given = interventions_of([*(load_interventions(done.file) if done.file else ()), *done.do])
    names = {
        "groups": read(done.groups or own) if done.groups or own.is_file() else None,
        "vectors": vectors_in(done.vectors) if done.vectors else None,
        "runs": dict(_source(text) for text in done.sources),
    }
    return given, names, TraceConfig.read(run / runs.CONFIG, {})


def _source(text: str) -> tuple[str, str]:
    name, equals, prompt = text.partition("=")
    if not (name and equals and prompt):
        raise InputError(
            f"source is {shortened(text)}; give a name and a prompt, such as paris='The capital of France'"
        )
    return name, prompt


def _downstream(text: str, circuit: Circuit) -> list[Node]:
    if text == "circuit":
        return [node for node in circuit.nodes if not node.is_error]
    return nodes_of([name.strip() for name in text.split(",") if name.strip()])


def _model_and_prompts(
    config: InterveneConfig, traced: TraceConfig, prompts: Sequence[str]
) -> tuple[SplicedModel, Task | Sequence[str]]:
    """The run's model, and the prompts or the wanted examples of a task."""
    if prompts:
        return load_for(traced, config.device, load_tokenizer(traced.model, traced.suite)), list(prompts)
    task, tokenizer = wanted_task(traced, Wanted(config.task or traced.task, "test").within(config.limit, 50))
    return load_for(traced, config.device, tokenizer), task
