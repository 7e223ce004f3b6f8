"""fc.stability: would a circuit's nodes and edges be chosen again from other prompts of the same kind?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.pruning import ByInfluence
from featcircuits.errors import InputError, shortened
from featcircuits.inputs.ranges import SEEDS, Range, check_number
from featcircuits.model.nodes import Endpoint, Node
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_circuit, check_task
from featcircuits.runs.ledger import InMemory, Ledger
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import BASELINES
from featcircuits.tasks.task import Task
from featcircuits.tracing.plan import Plan, planned
from featcircuits.tracing.resampled import ORDERS, Choice, resampled

_SETTINGS = ("nodes", "edges", "keep_nodes", "keep_edges", "select", "baseline", "error_effects", "seed")


@dataclass(frozen=True)
class Overlap:
    """The Jaccard index of the nodes, and of the edges, that two sets of examples choose.

    NaN where neither chooses any; `edges` is None without edges.
    """

    nodes: float
    edges: float | None

    def to_json(self) -> dict[str, float | None]:
        """Plain values; NaN, which JSON lacks, becomes None."""
        return {what: None if at is None or math.isnan(at) else at for what, at in vars(self).items()}


@dataclass(frozen=True)
class Stability:
    """How often each node and edge of a circuit is chosen from resampled prompts, and how far parts of them agree.

    `nodes`, `edges`: the share of `resamples` (examples drawn with replacement) of which a trace with the circuit's
    settings keeps it, paths to the metric included. `halves`: what two disjoint halves of the examples choose, mean
    over random halves of those that choose anything. `cases`: by template (`case` in a task file), what its examples
    choose beside what all others choose.
    """

    nodes: Mapping[Node, float]
    edges: Mapping[tuple[Endpoint, Endpoint], float]
    halves: Overlap
    cases: Mapping[str, Overlap]
    resamples: int
    n_examples: int

    def on(self, circuit: Circuit) -> Circuit:
        """The circuit with these shares in its manifest, from where its file, graph and exports have them."""
        return replace(circuit, manifest={**circuit.manifest, "stability": self.to_json()})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "nodes": {str(node): share for node, share in self.nodes.items()},
            "edges": [[str(source), str(target), share] for (source, target), share in self.edges.items()],
            "halves": self.halves.to_json(),
            "cases": {name: overlap.to_json() for name, overlap in self.cases.items()},
            "resamples": self.resamples,
            "examples": self.n_examples,
        }


def stability(
    spliced: SplicedModel,
    circuit: Circuit,
    task: Task,
    *,
    resamples: int = 200,
    halves: int = 20,
    seed: int = 0,
    ledger: Ledger | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> Stability:
    """Resample the prompts of a traced circuit, and choose its nodes and edges again as its trace did.

    `task`: the prompts that it was traced on. Effects are computed once, example by example; resamples only weigh them.
    Edges are computed among all nodes that any resample keeps, so that memory and time grow with those, and with the
    examples. Values that a baseline takes from all prompts (`mean`) stay those of all. `ledger`: where finished
    examples are kept, to resume (featcircuits.runs.ledger).
    Raises `InputError` for a circuit whose manifest does not say how it was traced, for orders that need more than mean
    effects (searching rules, `ratio` and `ranks`) and rules by influence, and for fewer than four examples.
    """
    check_task(spliced, task, check)
    check_circuit(spliced, circuit, check=check, whole=True)
    check_number("resamples", resamples, Range(1, 100_000))
    check_number("halves", halves, Range(1, 100_000))
    check_number("seed", seed, SEEDS)
    if len(task) < 4:
        raise InputError(f"{task.name}: {len(task)} examples are too few to part or resample; give at least 4")
    plan = _plan_of(circuit).for_task(task)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(task), np.full(len(task), 1 / len(task)), size=resamples).astype(float)
    first = np.array([_half(len(task), generator) for _ in range(halves)])
    cases = _cases(task)
    own = np.array([*cases.values()]).reshape(-1, len(task))
    weights = np.concatenate([drawn, first, 1 - first, own, 1 - own])
    found = resampled(spliced, task, plan, weights, InMemory() if ledger is None else ledger, progress)

    chosen = found.choices
    halved = chosen[resamples:][: 2 * halves]
    others = chosen[resamples + 2 * halves :]
    overlaps = [_overlap(*pair) for pair in zip(halved[:halves], halved[halves:], strict=True)]
    by_case = zip(cases, others[: len(cases)], others[len(cases) :], strict=True)
    return Stability(
        _shares([*circuit.nodes], found.nodes, [choice.nodes for choice in chosen[:resamples]]),
        _shares([*circuit.edges], found.edges, [choice.edges for choice in chosen[:resamples]]),
        Overlap(_mean([pair.nodes for pair in overlaps]), _mean([pair.edges for pair in overlaps])),  # type: ignore[arg-type]
        {name: _overlap(own, rest) for name, own, rest in by_case},
        resamples,
        len(task),
    )


def _plan_of(circuit: Circuit) -> Plan:
    """The plan of the circuit's trace, from its manifest."""
    found = circuit.manifest.get("settings")
    if not isinstance(found, Mapping) or any(name not in found for name in _SETTINGS):
        raise InputError(
            "the circuit's manifest does not say how it was traced, so it cannot be chosen again: trace it"
        )
    if found["select"] not in ORDERS:
        raise InputError(
            f"the circuit's order is {shortened(found['select'])}, which needs more than mean effects; "
            f"stability is known for {', '.join(ORDERS)}"
        )
    if found["baseline"] not in BASELINES:
        raise InputError(
            f"the circuit's baseline is {shortened(found['baseline'])}, and its manifest alone does not give that "
            f"back; stability is known for {', '.join(BASELINES)}"
        )
    plan = planned(
        **{name: found[name] for name in _SETTINGS if name != "keep_edges"},
        keep_edges=None if found["edges"] is None else found["keep_edges"],
        start_layer=found.get("start_layer", 0),
    )
    for name in ("keep_nodes", "keep_edges"):
        if isinstance(getattr(plan, name), ByInfluence):
            raise InputError(
                f"the circuit was pruned by influence ({name} is {found[name]}), which is not chosen again from "
                "resampled prompts; trace with top, threshold or cumulative for its stability"
            )
    return plan


def _half(count: int, generator: np.random.Generator) -> np.ndarray:
    """1 for a random half of the examples, else 0."""
    return np.isin(np.arange(count), generator.permutation(count)[: count // 2]).astype(float)


def _cases(task: Task) -> dict[str, np.ndarray]:
    """Which examples are of each template; none if there is only one."""
    names = [example.case for example in task.examples]
    distinct = list(dict.fromkeys(names))
    if len(distinct) < 2:
        return {}
    return {name or "no case": np.array([one == name for one in names], dtype=float) for name in distinct}


def _shares(own: Sequence[Any], candidates: Sequence[Any], choices: Sequence[np.ndarray | None]) -> dict[Any, float]:
    """How often each of `own` is among what was chosen, given as numbers of candidates; none without choices."""
    chosen = [numbers for numbers in choices if numbers is not None]
    if not chosen:
        return {}
    times = np.bincount(np.concatenate(chosen), minlength=len(candidates)) / len(chosen)
    shares = dict(zip(candidates, times.tolist(), strict=True))
    return {one: shares.get(one, 0.0) for one in own}


def _overlap(first: Choice, second: Choice) -> Overlap:
    edges = None if first.edges is None or second.edges is None else _jaccard(first.edges, second.edges)
    return Overlap(_jaccard(first.nodes, second.nodes), edges)


def _jaccard(first: np.ndarray, second: np.ndarray) -> float:
    either = len(np.union1d(first, second))
    return len(np.intersect1d(first, second)) / either if either else math.nan


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of those that are numbers; NaN if none is, None if there are none at all."""
    if any(value is None for value in values):
        return None
    known = [value for value in values if value is not None and not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
