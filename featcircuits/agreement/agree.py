"""Comparison of every estimator with exact patching, node by node, with its cost."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from featcircuits.agreement.bases import in_basis
from featcircuits.agreement.moving import joined, moving
from featcircuits.agreement.scores import Comparison, compare
from featcircuits.effects.edges import edge_effects
from featcircuits.effects.nodes import check_error_effects, node_effects
from featcircuits.effects.results import NodeEffects
from featcircuits.errors import InputError
from featcircuits.estimators import ESTIMATORS, parse_estimator
from featcircuits.estimators.estimator import Estimator
from featcircuits.estimators.exact import ExactPatching
from featcircuits.files.plain import plain
from featcircuits.inputs.defaults import EDGE_NODES
from featcircuits.inputs.ranges import MOST, Range, check_number
from featcircuits.inputs.renamed import takes_new_words
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_task
from featcircuits.runs.cost import Cost, measured
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.behaviour import require_behaviour
from featcircuits.tasks.task import Task

REFERENCE = ExactPatching()
Columns = Mapping[tuple[str, str], np.ndarray]
"""(kind of node, kind of site) -> effects, or which nodes move."""


class Compared(NamedTuple):
    """An estimator as `agree` runs it; its text may also set `error_effects`: `atp:error_effects=exact`."""

    estimator: Estimator
    error_effects: str = "estimated"

    def __str__(self) -> str:
        plain = self.error_effects == "estimated"
        return str(self.estimator) if plain else f"{self.estimator}:error_effects={self.error_effects}"


def parse_compared(text: str | Estimator | Compared) -> Compared:
    """The estimator that a text describes; raises `InputError` as `parse_estimator` does."""
    if isinstance(text, Compared):
        return text
    if not isinstance(text, str):
        return Compared(parse_estimator(text))
    own, *error_effects = re.split(r":\s*error_effects=", text, maxsplit=1)
    if not error_effects:
        return Compared(parse_estimator(text))
    value, *rest = error_effects[0].split(":")
    check_error_effects(value.strip())
    return Compared(parse_estimator(":".join([own, *rest])), value.strip())


def every_estimator() -> list[Compared]:
    """All estimators of the table except exact patching, each with its options for comparison."""
    return [Compared(kind(**options)) for kind in ESTIMATORS.values() for options in kind.compared]


class Score(NamedTuple):
    """The score of one estimator on one kind of node."""

    estimator: str
    basis: str
    """"features" (the suite's), "neurons" or "whole" outputs"""
    what: str
    """"feature", "error", "whole" or "edge" """
    site_kind: str
    """"embed", "attn", "mlp", "resid"; of edges that of the downstream end, "metric" among them"""
    comparison: Comparison


def name_of(basis: str, what: str) -> str:
    """The name of a kind of node in tables and pictures."""
    return "neurons" if basis == "neurons" else "whole outputs" if what == "whole" else f"{what}s"


@dataclass(frozen=True, eq=False)
class Agreement:
    """The result of `agree`. `costs`: by basis and estimator; `values`: the points of the scatter plots."""

    task: str
    n_examples: int
    scores: tuple[Score, ...]
    costs: Mapping[tuple[str, str], Cost]
    values: Mapping[tuple[str, str, str, str], tuple[np.ndarray, np.ndarray]]
    """(estimator, basis, kind of node, kind of site) -> (estimates, exact effects) of the nodes that move."""

    def to_json(self) -> dict[str, Any]:
        """The result as plain data; NaN becomes None."""
        rows = [
            {"estimator": s.estimator, "basis": s.basis, "what": s.what, "sites": s.site_kind, **s.comparison._asdict()}
            for s in self.scores
        ]
        costs = [{"basis": basis, "estimator": name, **asdict(cost)} for (basis, name), cost in self.costs.items()]
        return plain(
            {
                "task": self.task,
                "n_examples": self.n_examples,
                "reference": str(REFERENCE),
                "scores": rows,
                "costs": costs,
            }
        )


def edge_nodes_of(given: int | None, bases: Collection[str]) -> int:
    """Among how many nodes edges are compared; raises `InputError` for a number if the basis has no features."""
    if given is None:
        return EDGE_NODES if "features" in bases else 0
    check_number("edge_nodes", given, Range(0, MOST))
    if given and "features" not in bases:
        raise InputError(
            f"edge_nodes is {given}, but edges are compared only among features, which bases ({', '.join(bases)}) "
            "leave out; leave edge_nodes out too"
        )
    return given


@takes_new_words
def agree(
    spliced: SplicedModel,
    task: Task,
    estimators: Iterable[str | Estimator | Compared] | None = None,
    *,
    bases: Iterable[str] = ("features", "whole"),
    top: int = 100,
    edge_nodes: int | None = None,
    batch_size: int | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> Agreement:
    """Compare the node effects of every estimator with exact patching, per basis and kind of site.

    `estimators`: values, or texts with options after colons ("ig:steps=5", "atp:error_effects=exact"); all by default.
    It compares single effects (example, position, node) of features, of error nodes and of whole
    outputs, and mean effects of the edges among the `edge_nodes` (40) strongest features and error nodes by exact
    patching (0: none). Only nodes that move between the two runs of a pair count. Where the prompts begin
    alike, or a feature has the same value in both runs, every estimator gives 0. Raises
    `InputError` for unknown estimators, options and bases before anything runs, and for a task of
    another model (`check=False`: its tokenizer is not compared).
    """
    check_task(spliced, task, check)
    check_number("top", top, Range(1, MOST))
    bases = tuple(bases)
    n_edge_nodes = edge_nodes_of(edge_nodes, bases)
    compared = every_estimator() if estimators is None else [parse_compared(one) for one in estimators]
    require_behaviour(spliced, task)
    batch_size = fitting_batch(spliced, task, batch_size)
    models = {basis: in_basis(spliced, basis) for basis in bases}
    n_tokens = len(task) * task.longest
    scores: list[Score] = []
    costs: dict[tuple[str, str], Cost] = {}
    values: dict[tuple[str, str, str, str], tuple[np.ndarray, np.ndarray]] = {}
    for basis, model in models.items():

        def effects(one: Compared, model: SplicedModel = model, basis: str = basis) -> NodeEffects:
            with measured(model, n_tokens) as cost:
                found = node_effects(
                    model, task, one.estimator,
                    error_effects=one.error_effects, batch_size=batch_size, check=check, progress=progress,
                )  # fmt: skip
            costs[basis, str(one)] = cost
            return found

        def score(one: Compared, estimates: Columns, truths: Columns, moves: Columns, basis: str = basis) -> None:
            for (what, kind), estimate in estimates.items():
                truth, moved = truths[what, kind], moves[what, kind]
                values[str(one), basis, what, kind] = (estimate[moved], truth[moved])
                scores.append(Score(str(one), basis, what, kind, compare(estimate, truth, top, moved)))

        exact = effects(Compared(REFERENCE))
        truth, moves = _columns(_of(exact), basis), _columns(moving(model, task, batch_size), basis)
        for one in compared:
            score(one, _columns(_of(effects(one)), basis), truth, moves)
        if basis == "features" and n_edge_nodes:
            nodes = sorted(exact.nodes(), key=lambda row: -abs(row[1]))[:n_edge_nodes]
            chosen = [node for node, _, _ in nodes]
            edges = joined(model, task, chosen)  # these nodes all move
            moves = _by_kind(edges, edges)
            for one, found in _edge_values(model, task, chosen, compared, batch_size, check):
                if one is None:
                    truth = _by_kind(edges, found)
                else:
                    score(one, _by_kind(edges, found), truth, moves)
    return Agreement(task.name, len(task), tuple(scores), costs, values)


def _of(effects: NodeEffects) -> dict[Site, tuple[np.ndarray, np.ndarray]]:
    """The effect of each feature entry [n] and of the error [example, position], by site."""
    return {site: (effects.entries(site)[3].numpy(), effects.error(site).double().numpy()) for site in effects.sites}


def _columns(by_site: Mapping[Site, tuple[np.ndarray, np.ndarray]], basis: str) -> Columns:
    """(kind of node, kind of site) -> the values at all sites of the kind; neurons have no error nodes."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for site, (features, errors) in by_site.items():
        if len(features):
            found.setdefault(("feature", site.kind), []).append(features)
        if basis != "neurons":
            found.setdefault(("whole" if basis == "whole" else "error", site.kind), []).append(errors.flatten())
    return {key: np.concatenate(parts) for key, parts in found.items()}


Edge = tuple[Node, Node | str]


def _by_kind(edges: Iterable[Edge], values: Mapping[Edge, float]) -> Columns:
    """The values of edges by the kind of site that they lead to; 0 for edges without a value."""
    found: dict[tuple[str, str], list[float]] = {}
    for source, target in edges:
        kind = target.site.kind if isinstance(target, Node) else target
        found.setdefault(("edge", kind), []).append(values.get((source, target), 0.0))
    return {key: np.array(column) for key, column in found.items()}


def _edge_values(
    spliced: SplicedModel, task: Task, nodes: list[Node], compared: list[Compared], batch_size: int, check: bool
) -> Iterator[tuple[Compared | None, dict[Edge, float]]]:
    """The exact effects first (None), then those of every estimator that has edges."""
    for one in (None, *(one for one in compared if one.estimator.has_edges and one.estimator != REFERENCE)):
        estimator = REFERENCE if one is None else one.estimator
        found = edge_effects(spliced, task, nodes, estimator, batch_size=batch_size, check=check)
        yield one, {(source, target): value for source, target, value in found.edges()}
