"""fc.validate: everything that speaks for and against a circuit, as one table of claims."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from featcircuits.checks.edge_curve import edge_curve
from featcircuits.circuit.circuit import Circuit
from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import Subgraph, ranks_of
from featcircuits.evaluation.curves import default_sizes, shuffled
from featcircuits.evaluation.evaluate import evaluate
from featcircuits.evaluation.faithfulness import area
from featcircuits.evaluation.table import ABLATIONS
from featcircuits.files.plain import plain
from featcircuits.inputs.ranges import SEEDS, Range, check_number
from featcircuits.model.nodes import Node
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_circuit, check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.behaviour import require_behaviour
from featcircuits.tasks.task import Task
from featcircuits.validation.against_random import minimality, necessity, sufficiency
from featcircuits.validation.bench import Bench
from featcircuits.validation.claims import Claim, corrected
from featcircuits.validation.constants import optimal_constants
from featcircuits.validation.joint import joint_on
from featcircuits.validation.matching import equivalence, independence, knock_outs
from featcircuits.validation.nonsense import chosen_on_nonsense, nonsense_task
from featcircuits.validation.outside import probe_outside
from featcircuits.validation.summary import of_curves, of_edges, of_nonsense, of_outside

STEPS, STARTS, SAMPLES, CONSTANT_STEPS = 12, 3, 50, 120


@dataclass(frozen=True)
class Validation:
    """Claims with their verdicts, and all figures by part ("curve mean", "outside paired", "joint", ...)."""

    task: str
    n_examples: int
    ablation: str
    claims: tuple[Claim, ...]
    parts: Mapping[str, Any]
    invalid: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return plain(
            {
                "task": self.task, "n_examples": self.n_examples, "ablation": self.ablation, "invalid": self.invalid,
                "claims": [claim.to_json() for claim in self.claims], "parts": dict(self.parts),
            }
        )  # fmt: skip


class Part(NamedTuple):
    """One part. `runs`: about how many ablated runs of the task it takes; with a backward pass they count thrice."""

    name: str
    runs: int
    work: Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Work:
    """What all parts share."""

    spliced: SplicedModel
    circuit: Circuit
    task: Task
    train: Task
    order: tuple[Node, ...]
    ablations: tuple[str, ...]
    draws: int
    seed: int
    options: Mapping[str, Any]

    @property
    def main(self) -> str:
        """The ablation of the tests: paired where there are pairs."""
        return "paired" if "paired" in self.ablations else self.ablations[0]

    @cached_property
    def bench(self) -> Bench:
        """The runs that tests share."""
        own = self.options
        return Bench.of(
            self.spliced, self.circuit, self.task, self.order, self.main, own["error_nodes"], own["start_layer"],
            self.seed, own["batch_size"],
        )  # fmt: skip

    def parts(self) -> Iterator[Part]:
        """All parts, in the order in which they are computed."""
        sizes, nodes = len(default_sizes(self.order)), len(self.circuit.nodes)
        for name in self.ablations:
            yield Part(f"curve {name}", 4 * sizes + 20, partial(self.curve, name))
        for name in self.ablations:
            if name in ("mean", "paired"):
                yield Part(f"outside {name}", SAMPLES + 6 * STARTS * (STEPS + 1), partial(self.outside, name))
        yield Part("curve constants", 3 * CONSTANT_STEPS * len(self.train) // len(self.task), self.constants)
        yield Part("nonsense", 4 * sizes, self.nonsense)
        if self.circuit.edges:
            yield Part(f"edges {self.main}", 8 * sizes, self.edges)
        tests: dict[str, tuple[int, Callable[[], Any]]] = {
            "equivalence": (3, lambda: equivalence(self.bench).to_json()),
            "independence": (1, lambda: independence(self.bench).to_json()),
            "sufficiency": (self.draws, lambda: sufficiency(self.bench, self.draws).to_json()),
            "necessity": (self.draws, lambda: necessity(self.bench, self.draws).to_json()),
            "knock-outs": (2 * self.draws + 180, lambda: knock_outs(self.bench, self.draws).to_json()),
            "minimality": (nodes + 5 * self.draws, self.minimality),
            "joint": (2 * nodes + 2, lambda: [found.to_json() for found in joint_on(self.bench, self.circuit)]),
        }
        yield from (Part(name, runs, work) for name, (runs, work) in tests.items())

    def curve(self, ablation: str) -> Any:
        return evaluate(
            self.spliced, self.circuit, self.task, ablation=ablation, ranking=self.order, seed=self.seed, draws=3,
            **self.options,
        ).to_json()  # fmt: skip

    def outside(self, ablation: str) -> Any:
        return probe_outside(
            self.spliced, self.circuit, self.task, ablation=ablation, draws=SAMPLES, steps=STEPS, starts=STARTS,
            seed=self.seed, **self.options,
        ).to_json()  # fmt: skip

    def constants(self) -> Any:
        learned = optimal_constants(
            self.spliced, self.train, self.order, steps=CONSTANT_STEPS, seed=self.seed, **self.options
        )
        try:
            found = evaluate(
                self.spliced, self.circuit, self.task, ablation=learned, ranking=self.order, seed=self.seed, draws=1,
                **self.options,
            )  # fmt: skip
        except InputError as error:  # the prompts have other places in common than those of training
            return {"invalid": str(error), "curve": None}
        return {**found.to_json(), "losses": list(learned.losses)}

    def nonsense(self) -> Any:
        """Nodes chosen by |effect| on nonsense, and their gain on other nonsense, beside random nodes'."""
        options = {name: self.options[name] for name in ("start_layer", "batch_size", "check")}
        chosen = chosen_on_nonsense(self.spliced, self.train, seed=self.seed, **options)
        test = nonsense_task(self.task, self.seed)
        own = self.bench.ablated.spliced.dictionaries
        order = [node for node in chosen if node.site in own][: len(self.order)]
        sizes = default_sizes(order)
        ranks = ranks_of(self.bench.ablated.spliced, self.task.places, order)
        control = ranks_of(self.bench.ablated.spliced, self.task.places, shuffled(order, self.seed))
        circuits = [Subgraph(each, size) for each in (ranks, control) for size in sizes]
        F = self.bench.F([Subgraph(ranks, 0), *circuits], test).mean(1)
        gain, random = ((F[1:] - F[0]) / self.bench.gap).reshape(2, len(sizes)).tolist()
        found = {"sizes": list(sizes), "gain": gain, "random": random}
        return {**found, "area": area(sizes, found["gain"]), "area_random": area(sizes, found["random"])}

    def edges(self) -> Any:
        options = {name: value for name, value in self.options.items() if name != "error_nodes"}
        try:
            return edge_curve(
                self.spliced, self.task, self.circuit, ablation=self.main, draws=1, seed=self.seed, **options
            ).to_json()
        except InputError as error:  # too many edges for the bound on rows
            return {"invalid": str(error)}

    def minimality(self) -> Any:
        found = minimality(self.bench, 5 * self.draws)
        return {**found.claim.to_json(), "of": found.to_json()}


def validate(
    spliced: SplicedModel,
    circuit: Circuit,
    task: Task,
    *,
    train: Task,
    ranking: Circuit | Sequence[Node],
    ablations: Sequence[str] = (),
    error_nodes: str = "as-circuit",
    start_layer: int = 0,
    draws: int = 99,
    seed: int = 0,
    batch_size: int | None = None,
    check: bool = True,
    kept: MutableMapping[str, Any] | None = None,
    announce: Callable[[float], object] | None = None,
    progress: Progress = silent,
) -> Validation:
    """Everything that speaks for and against a circuit, on held-out examples.

    `ranking`: all nodes with an effect, the first ones first (a trace's `ranking`); random circuits are drawn from
    them. `train`: the prompts that the circuit was traced on, for constants and nonsense. `ablations`: by default all
    that suit the task; tests use paired ablation if there are pairs. `kept`: finished parts by name, which are not
    computed again; each is put there when it is done. `announce` is called with the estimated seconds, from the time of
    one ablated run, before the work begins. Raises `InputError` as `fc.evaluate` does.
    """
    check_task(spliced, task, check)
    check_task(spliced, train, check)
    check_circuit(spliced, circuit, check=check, whole=True)
    check_number("draws", draws, Range(1, 100_000))
    check_number("seed", seed, SEEDS)
    require_behaviour(spliced, task)
    for name in ablations:
        ABLATIONS.named(name).check(task)
    options = {"error_nodes": error_nodes, "start_layer": start_layer, "batch_size": batch_size, "check": check}
    order = tuple(ranking.nodes if isinstance(ranking, Circuit) else ranking)
    work = Work(spliced, circuit, task, train, order, tuple(ablations) or _suitable(task), draws, seed, options)
    kept = {} if kept is None else kept
    bench = work.bench
    if bench.invalid is None:
        every = list(work.parts())
        todo = [part for part in every if part.name not in kept]
        if announce is not None:
            announce(_seconds_of_a_run(bench) * sum(part.runs for part in todo))
        for part in progress(todo, "validation", len(todo)):
            kept[part.name] = plain(part.work())
        found = {part.name: kept[part.name] for part in every}
        return Validation(task.name, len(task), work.main, tuple(corrected(_claims(found))), found, None)
    return Validation(task.name, len(task), work.main, (), {}, bench.invalid)


def _suitable(task: Task) -> tuple[str, ...]:
    def suits(name: str) -> bool:
        try:
            ABLATIONS.named(name).check(task)
        except InputError:
            return False
        return True

    return tuple(name for name in ABLATIONS if suits(name))


def _seconds_of_a_run(bench: Bench) -> float:
    began = time.perf_counter()
    runs = [bench.keeping(bench.nodes)] * 8
    bench.F(runs)
    return (time.perf_counter() - began) / len(runs)


def _claims(parts: Mapping[str, Any]) -> list[Claim]:
    """The claims of the figures, then those of the tests."""
    tests = [parts[name] for name in _TESTS if name in parts]
    names = Claim.__dataclass_fields__
    judged = [Claim(**{name: _tuple(row[name]) for name in names}) for row in tests]
    return [*of_curves(parts), *of_outside(parts), *of_nonsense(parts), *of_edges(parts), *judged]


_TESTS = ("equivalence", "independence", "sufficiency", "necessity", "minimality", "knock-outs")


def _tuple(value: Any) -> Any:
    return tuple(np.nan if one is None else one for one in value) if isinstance(value, list) else value
