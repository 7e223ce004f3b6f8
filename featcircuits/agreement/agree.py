"""Every estimator beside exact patching, node by node, with its cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from featcircuits.agreement.bases import in_basis
from featcircuits.agreement.cost import Cost, measured
from featcircuits.agreement.scores import Comparison, compare
from featcircuits.attribution.edges import edge_effects
from featcircuits.attribution.effects import NodeEffects, check_errors, node_effects
from featcircuits.attribution.nodes import Estimator, Method, method_named
from featcircuits.nodes import Node
from featcircuits.progress import Progress, silent
from featcircuits.splice import SplicedModel
from featcircuits.tasks import Task

REFERENCE = "exact"
Columns = Mapping[tuple[str, str], np.ndarray]
"""(what, site kind) -> effects"""


def parse_method(text: str) -> Method:
    """An estimator with its options, and what `node_effects` takes for any: `atp:errors=exact`."""
    method = Method.parse(text, {"errors": "estimated"})
    check_errors(method.options.get("errors", "estimated"))
    return method


def _own_options(method: Method) -> dict[str, Any]:
    return {key: value for key, value in method.options.items() if key != "errors"}


class Score(NamedTuple):
    """One method on one kind of node."""

    method: str
    basis: str
    """"features" (the suite's), "neurons" or "whole" outputs"""
    what: str
    """"feature", "error", "whole" or "edge" """
    site_kind: str
    """"embed", "attn", "mlp", "resid"; of edges that of the downstream end, "metric" among them"""
    comparison: Comparison


@dataclass(frozen=True, eq=False)
class Agreement:
    """`scores` a row each; `costs` by basis and method; `values`: what the scatter plots show."""

    task: str
    n_examples: int
    scores: tuple[Score, ...]
    costs: Mapping[tuple[str, str], Cost]
    values: Mapping[tuple[str, str, str, str], tuple[np.ndarray, np.ndarray]]
    """(method, basis, what, site kind) -> (estimates, truths)"""

    def to_json(self) -> dict[str, Any]:
        """Plain data; NaN becomes null."""
        rows = [
            {"method": s.method, "basis": s.basis, "what": s.what, "sites": s.site_kind, **s.comparison._asdict()}
            for s in self.scores
        ]
        costs = [{"basis": basis, "method": method, **asdict(cost)} for (basis, method), cost in self.costs.items()]
        return {
            "task": self.task,
            "n_examples": self.n_examples,
            "reference": REFERENCE,
            "scores": [_finite(row) for row in rows],
            "costs": [_finite(row) for row in costs],
        }


DEFAULT_METHODS = (
    "atp", "atp-drop", "atp-qk", "atp-star", "atp-hop1", "relp", "ig-inputs:steps=2", "ig-inputs:steps=5",
    "ig", "ig:steps=3:rule=gauss", "ig-chain", "ig-conductance", "secant", "blend",
)  # fmt: skip


def agree(
    spliced: SplicedModel,
    task: Task,
    methods: Iterable[str] = DEFAULT_METHODS,
    *,
    bases: Iterable[str] = ("features", "whole"),
    top: int = 100,
    edge_nodes: int = 40,
    batch_size: int = 16,
    progress: Progress = silent,
) -> Agreement:
    """Node effects of every method against exact patching, per basis and kind of site.

    Compared are single effects (example, position, node) of all features that are active in the
    clean or the corrupted run, of error terms, and of whole outputs; and mean effects of the edges
    among the `edge_nodes` strongest nodes by exact patching (0: none). Raises `InputError` for
    unknown methods, options and bases before anything runs.
    """
    parsed = [parse_method(text) for text in methods]
    models = {basis: in_basis(spliced, basis) for basis in bases}
    n_tokens = len(task) * task.longest
    scores: list[Score] = []
    costs: dict[tuple[str, str], Cost] = {}
    values: dict[tuple[str, str, str, str], tuple[np.ndarray, np.ndarray]] = {}
    for basis, model in models.items():

        def effects(method: Method, model: SplicedModel = model, basis: str = basis) -> NodeEffects:
            with measured(model, n_tokens) as cost:
                found = node_effects(
                    model, task, method.name, batch_size=batch_size, progress=progress, **method.options
                )
            costs[basis, str(method)] = cost
            return found

        def score(method: Method, estimates: Columns, truths: Columns, basis: str = basis) -> None:
            for (what, kind), estimate in estimates.items():
                values[str(method), basis, what, kind] = (estimate, truths[what, kind])
                scores.append(Score(str(method), basis, what, kind, compare(estimate, truths[what, kind], top)))

        exact = effects(Method(REFERENCE, {}))
        truth = _columns(exact, basis)
        for method in parsed:
            score(method, _columns(effects(method), basis), truth)
        if basis == "features" and edge_nodes:
            nodes = sorted(exact.nodes(), key=lambda row: -abs(row[1]))[:edge_nodes]
            for method, estimates, truths in _edge_columns(model, task, [n for n, _, _ in nodes], parsed, batch_size):
                score(method, estimates, truths)
    return Agreement(task.name, len(task), tuple(scores), costs, values)


def _columns(effects: NodeEffects, basis: str) -> dict[tuple[str, str], np.ndarray]:
    """(what, site kind) -> every single effect there; errors that cannot move are left out."""
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for site in effects.sites:
        features, errors = effects.entries(site)[3].numpy(), effects.error(site).flatten().double().numpy()
        if len(features):
            found.setdefault(("feature", site.kind), []).append(features)
        if basis != "neurons":
            found.setdefault(("whole" if basis == "whole" else "error", site.kind), []).append(errors)
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _edge_columns(
    spliced: SplicedModel, task: Task, nodes: list[Node], methods: list[Method], batch_size: int
) -> Iterator[tuple[Method, Columns, Columns]]:
    """Every method that has edges, beside the truth, by the kind of site that an edge leads to."""
    patched = edge_effects(spliced, task, nodes, REFERENCE, batch_size=batch_size)
    exact = {(source, target): value for source, target, value in patched.edges()}
    for method in methods:
        if not isinstance(method_named(method.name, _own_options(method)), Estimator):
            continue
        found = edge_effects(spliced, task, nodes, method.name, batch_size=batch_size, **_own_options(method))
        estimated = {(source, target): value for source, target, value in found.edges()}
        pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for edge in dict.fromkeys([*exact, *estimated]):
            kind = edge[1].site.kind if isinstance(edge[1], Node) else edge[1]
            pairs.setdefault(("edge", kind), []).append((estimated.get(edge, 0.0), exact.get(edge, 0.0)))
        columns = {key: np.array(rows).T for key, rows in pairs.items()}
        yield method, {key: both[0] for key, both in columns.items()}, {key: both[1] for key, both in columns.items()}


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and value != value else value for key, value in row.items()}
