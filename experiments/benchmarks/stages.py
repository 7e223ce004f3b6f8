"""The stages that are timed, each with its floor and, where there is one, the public code's figure."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

import featcircuits as fc
from experiments.benchmarks import floors
from featcircuits.effects.edges import EdgeEffects
from featcircuits.effects.results import NodeEffects
from featcircuits.estimators import parse_estimator
from featcircuits.evaluation.ablated import AblatedModel, Subgraph, ranks_of
from featcircuits.evaluation.ablations import prepared_ablation
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import states_of

Work = Callable[[], object]


class Stage(NamedTuple):
    """`prepare` does what is not timed and returns the work, and its floor where it has one."""

    prepare: Callable[[SplicedModel, fc.Task, int], tuple[Work, Work | None]]
    public_seconds: float | None = None
    """Of the published implementation on the default shape: CPU seconds of one thread"""
    public_gigabytes: float | None = None


def _nodes(estimator: str, floor: Callable[[SplicedModel, fc.Task], None]) -> Callable[..., tuple[Work, Work]]:
    def prepare(spliced: SplicedModel, task: fc.Task, size: int) -> tuple[Work, Work]:
        return lambda: node_effects(spliced, task, estimator), lambda: floor(spliced, task)

    return prepare


def node_effects(spliced: SplicedModel, task: fc.Task, estimator: str) -> NodeEffects:
    return fc.node_effects(spliced, task, estimator, batch_size=len(task), keep_examples=False)


def _ig_floor(spliced: SplicedModel, task: fc.Task) -> None:
    floors.nodes(spliced, task)
    floors.partial_passes(spliced, task)


def threshold_for(spliced: SplicedModel, task: fc.Task, estimator: str, count: int) -> float:
    """The threshold that `count` (example, position, node) triples exceed, active features and errors."""
    states = states_of(spliced, task, task.batch(range(len(task))))
    sizes = []
    for site, effects in parse_estimator(estimator).effects(spliced, states).items():
        sizes += [effects.features[states.sites[site].active].abs(), effects.errors.flatten().abs()]
    top = torch.cat(sizes).topk(count + 1).values
    return float(top[-2] + top[-1]) / 2


def _edges(spliced: SplicedModel, task: fc.Task, size: int) -> tuple[Work, None]:
    effects = node_effects(spliced, task, "atp")
    threshold = threshold_for(spliced, task, "atp", size)

    def work() -> EdgeEffects:
        return fc.edge_effects(spliced, task, effects, node_threshold=threshold)

    return work, None


def _job(spliced: SplicedModel, task: fc.Task, size: int) -> tuple[Work, None]:
    """What `featcircuits trace` does once model and suite are loaded: nodes by IG, edges, pruning, saving."""

    def work() -> None:
        circuit = fc.trace(
            spliced, task, check_fit=False, nodes="ig", keep_nodes=f"top={size}", batch_size=len(task)
        ).circuit
        with tempfile.TemporaryDirectory() as folder:
            circuit.save(Path(folder) / "circuit.safetensors")

    return work, None


def _sizes_of_curve(spliced: SplicedModel, task: fc.Task, size: int) -> tuple[Work, Work]:
    """`size` circuits and their complements, beside one circuit on as many rows."""
    effects = node_effects(spliced, task, "atp")
    order = [node for node, _, _ in sorted(effects.nodes(), key=lambda row: -abs(row[1]))]
    ablated = AblatedModel(spliced, prepared_ablation("mean", spliced, task, len(task), 0), batch_size=len(task))
    ranks = ranks_of(spliced, task.places, order)
    numbers = torch.linspace(1, len(order), size).long().tolist()
    curve = [Subgraph(ranks, n, complement) for n in numbers for complement in (False, True)]
    one = Subgraph(ranks, len(order) // 2)
    repeated = fc.Task(task.examples * len(curve))
    same = AblatedModel(spliced, ablated.ablation, batch_size=len(repeated))
    return lambda: ablated.metric(task, curve), lambda: same.metric(repeated, [one])


STAGES: Mapping[str, Stage] = {
    "nodes-atp": Stage(_nodes("atp", floors.nodes), 4.6, 6.1),
    "nodes-relp": Stage(_nodes("relp", floors.nodes)),
    "nodes-secant": Stage(_nodes("secant", floors.nodes)),
    "nodes-blend": Stage(_nodes("blend", floors.nodes)),
    "nodes-ig": Stage(_nodes("ig", _ig_floor), 36.5, 5.5),
    "edges-100": Stage(lambda s, t, n: _edges(s, t, n or 100), 67.0, 6.9),
    "edges-400": Stage(lambda s, t, n: _edges(s, t, n or 400), 296.0, 8.8),
    "job": Stage(lambda s, t, n: _job(s, t, n or 100), 103.5, 6.9),
    "curve": Stage(lambda s, t, n: _sizes_of_curve(s, t, n or 15)),
    "ablated": Stage(lambda s, t, n: _ablated(s, t), 2.0),
}


def _ablated(spliced: SplicedModel, task: fc.Task) -> tuple[Work, None]:
    """One ablated forward of 8 prompts."""
    doubled = fc.Task((task.examples * 8)[:8])
    effects = node_effects(spliced, doubled, "atp")
    order = [node for node, _, _ in effects.nodes()]
    ablated = AblatedModel(spliced, prepared_ablation("mean", spliced, doubled, 8, 0), batch_size=8)
    half = Subgraph(ranks_of(spliced, doubled.places, order), len(order) // 2)
    return lambda: ablated.metric(doubled, [half]), None
