"""Residuals of the identities that must hold on the user's own model and task."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.agreement.bases import in_basis
from featcircuits.dictionaries.decomposition import encode, written
from featcircuits.effects.edges import edge_effects
from featcircuits.effects.nodes import node_effects
from featcircuits.effects.results import NodeEffects
from featcircuits.estimators import default_estimator, parse_estimator
from featcircuits.estimators.estimator import Estimator
from featcircuits.estimators.ig import IntegratedGradients
from featcircuits.estimators.relp import RelevancePatching
from featcircuits.estimators.secant import Secant
from featcircuits.inputs.renamed import takes_new_words
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.propagation import propagation
from featcircuits.provenance.belonging import check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task

QUADRATURES = (("left", 10), ("midpoint", 10), ("gauss", 2), ("gauss", 3), ("gauss", 5), ("gauss", 10))


COMPLETE = Secant()
"""The estimator whose effects add up to the whole change by construction."""


class Residual(NamedTuple):
    """How far one identity is from holding, as a share of its size."""

    law: str
    where: str
    residual: float
    exact: bool
    """Whether only rounding may keep it from 0; the other identities hold only approximately."""


@takes_new_words
def audit(
    spliced: SplicedModel, task: Task, estimator: str | Estimator | None = None, *, batch_size: int | None = None
) -> list[Residual]:
    """Measure the residuals of the splice, of an estimator's effects on full cuts, of quadrature, edges and relevance.

    `batch_size`: as for `node_effects`.
    """
    check_task(spliced, task)
    estimator = default_estimator(task) if estimator is None else parse_estimator(estimator)
    batch_size = fitting_batch(spliced, task, batch_size)
    rows = [
        *_splice(spliced, task, batch_size),
        *_forward_under_rules(spliced, task, batch_size),
        *_edges(spliced, task, batch_size),
    ]
    if task.paired:
        for one in dict.fromkeys((COMPLETE, estimator)):
            rows += _cuts(spliced, task, one, batch_size)
        rows += _quadrature(spliced, task, batch_size)
    return [*rows, *_relevance(spliced, task, batch_size)]


def _splice(spliced: SplicedModel, task: Task, batch_size: int) -> list[Residual]:
    """The unedited splice against the bare model's logits, and decode(f) + error against x."""
    worst, parts = 0.0, dict.fromkeys(spliced.sites, 0.0)
    for batch in task.batches(batch_size):
        with torch.no_grad():
            bare = spliced.run(batch.clean, answers_only=True)
        logits, seen = spliced.record(batch.clean, spliced.with_reads(spliced.sites))
        worst = max(worst, _relative(logits - bare, bare))
        for site, dictionary in spliced.dictionaries.items():
            x, read = seen[site], seen[spliced.read_site(site)]
            features, error = encode(dictionary, x, read)
            rebuilt = dictionary.decode(features, dictionary.statistics(read)) + error
            parts[site] = max(parts[site], _relative(rebuilt - written(dictionary, x, read), x))
    where, largest = max(parts.items(), key=lambda item: item[1])
    return [
        Residual("the unedited splice changes no logit", "logits", worst, True),
        Residual("decode(features) + error = activation", str(where), largest, True),
    ]


def _forward_under_rules(spliced: SplicedModel, task: Task, batch_size: int) -> list[Residual]:
    batch = next(task.batches(batch_size))
    with torch.no_grad():
        bare = spliced.run(batch.clean, answers_only=True)
    with propagation(spliced.model, "with_ah", spliced.architecture):
        ruled = spliced.run(batch.clean, answers_only=True)
    return [Residual("propagation rules change no logit", "logits", _relative(ruled.detach() - bare, bare), True)]


def _full_cuts(spliced: SplicedModel) -> list[Site]:
    """The sites that are full cuts; what goes past a bypass belongs to no node of its site."""
    return [site for site, d in spliced.dictionaries.items() if site.kind == "resid" and not d.has_bypass]


def _sum_at(effects: NodeEffects, site: Site) -> Tensor:
    """The summed effects of all nodes of a site [example]."""
    entries = effects.entries(site)
    features = torch.zeros(effects.shape[0], dtype=torch.float64).index_add_(0, entries[0].long(), entries[3])
    return features + effects.error(site).double().sum(1)


def _cuts(spliced: SplicedModel, task: Task, estimator: Estimator, batch_size: int) -> list[Residual]:
    """The summed effects of all nodes of a residual site against m(corrupted) - m(clean)."""
    effects = node_effects(spliced, task, estimator, batch_size=batch_size)
    total = effects.total_effect.double()
    law = f"effects ({estimator}) of all nodes of a site = m(corrupted) - m(clean)"
    return [
        Residual(law, str(site), _relative(_sum_at(effects, site) - total, total), estimator == COMPLETE)
        for site in _full_cuts(spliced)
    ]


def _quadrature(spliced: SplicedModel, task: Task, batch_size: int) -> list[Residual]:
    """The same for integrated gradients by quadrature and number of points: the error of the quadrature."""
    cuts = _full_cuts(spliced)
    model, rows = in_basis(spliced, "whole").only(cuts), []
    for quadrature, steps in QUADRATURES if cuts else ():
        effects = node_effects(model, task, IntegratedGradients(steps, quadrature), batch_size=batch_size)
        total = effects.total_effect.double()
        worst = max(_relative(_sum_at(effects, site) - total, total) for site in cuts)
        rows.append(Residual(f"quadrature of ig, {quadrature}, {steps} points", "worst residual site", worst, False))
    return rows


def _edges(spliced: SplicedModel, task: Task, batch_size: int) -> list[Residual]:
    """The summed edges out of a node, to all downstream nodes and the metric, against the node's effect."""
    rows = []
    baseline = "paired" if task.paired else "zero"
    for estimator in ("atp", "relp", *([COMPLETE] if task.paired else [])):
        effects = node_effects(spliced, task, estimator, baseline=baseline, batch_size=batch_size)
        sums: dict[Node, float] = defaultdict(float)
        for source, _, value in edge_effects(spliced, task, effects, node_threshold=0.0).edges():
            sums[source] += value
        nodes = {node: effect for node, effect, _ in effects.nodes()}
        gaps = torch.tensor([sums[node] - effect for node, effect in nodes.items()], dtype=torch.float64)
        sizes = torch.tensor(list(nodes.values()), dtype=torch.float64)
        rows.append(
            Residual(f"edges ({estimator}) out of a node = its effect", "worst node", _relative(gaps, sizes), True)
        )
    return rows


def _relevance(spliced: SplicedModel, task: Task, batch_size: int) -> list[Residual]:
    """The relevance of the residual stream by layer, under all rules; biases take a part of it."""
    model = in_basis(spliced, "whole")
    cuts = _full_cuts(model)
    effects = node_effects(model, task, RelevancePatching("with_ah"), baseline="zero", batch_size=batch_size)
    last = _sum_at(effects, cuts[-1])
    law = "relevance (all rules) of a layer = the last layer's, up to biases"
    return [Residual(law, str(site), _relative(_sum_at(effects, site) - last, last), False) for site in cuts[:-1]]


def _relative(gap: Tensor, size: Tensor) -> float:
    """The largest gap over the largest size; 0 if there is nothing."""
    if not len(gap):
        return 0.0
    return float(gap.abs().max() / size.abs().max().clamp(min=torch.finfo(torch.float64).tiny))
