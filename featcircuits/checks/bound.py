"""A bound on effects that may have been missed: the subset sampling of AtP* (Kramar et al. 2024, section 4.2).

Random subsets of the nodes that were not verified are patched jointly. For each node, runs whose
subset holds it are compared with the other runs (Welch's t), which gives a confidence
that its mean effect is below a threshold. The bound is the smallest threshold that holds for every
node. Rejecting all of them together is one claim, so no correction for their number is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from featcircuits.effects.results import NodeEffects, check_effects
from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import NEVER, AblatedModel, Ranks, Subgraph
from featcircuits.evaluation.ablations import prepared_ablation
from featcircuits.inputs.ranges import ROWS, SEEDS, Range, check_number
from featcircuits.model.nodes import Node, Place, nodes_of
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.index import NodeIndex
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task

CAVEAT = (
    "The bound is about a node's effect averaged over random contexts (other unverified nodes patched too). "
    "Where nodes interact, the effect of patching the node alone can be larger."
)


@dataclass(frozen=True)
class Bound:
    """The bound: with `confidence`, no unverified node has a mean |effect| above `theta` in random contexts."""

    theta: float
    confidence: float
    n_nodes: int
    samples: int
    share: float
    suspects: tuple[tuple[Node, float], ...]
    """The nodes with the largest estimated effects in random contexts, to patch one by one."""
    caveat: str = CAVEAT


def bound_missed(
    spliced: SplicedModel,
    task: Task,
    effects: NodeEffects,
    verified: Collection[Node | str],
    *,
    samples: int = 300,
    share: float = 0.1,
    confidence: float = 0.99,
    seed: int = 0,
    batch_size: int | None = None,
    max_rows: int = 512,
    check: bool = True,
    progress: Progress = silent,
) -> Bound:
    """Bound the effects of all nodes that move between the runs of a pair and are not in `verified`.

    `effects`: any estimator's result on the task, which says which nodes move. Each of the `samples`
    random subsets holds a node with probability `share` and runs on every example of the task, so
    a few examples are enough. Raises `InputError` for tasks without pairs, settings out of range, and, unless
    `check` is False, effects of another model.
    """
    check_task(spliced, task, check)
    check_effects(spliced, task, effects, check)
    check_number("share", share, Range(0.001, 0.999), float)
    check_number("samples", samples, Range(10, 100_000))
    check_number("confidence", confidence, Range(0.5, 0.999999), float)
    check_number("seed", seed, SEEDS)
    check_number("max_rows", max_rows, ROWS)
    known = set(nodes_of(verified))
    open_nodes = [node for node in effects.moving() if node not in known]
    if not open_nodes:
        raise InputError("every node that moves is verified; there is nothing to bound")
    coins = torch.rand(samples, len(open_nodes), generator=torch.Generator().manual_seed(seed)) < share
    batch_size = fitting_batch(spliced, task, batch_size, gradients=False)
    ablation = prepared_ablation("paired", spliced, task, batch_size, seed)
    ablated = AblatedModel(spliced, ablation, batch_size=batch_size, max_rows=max_rows)
    results = _sampled(ablated, task, open_nodes, coins, progress)
    theta, estimates = bound_of(results.numpy(), coins.numpy(), confidence)
    ranked = np.argsort(-np.abs(estimates))[:10]
    suspects = tuple((open_nodes[i], float(estimates[i])) for i in ranked)
    return Bound(theta, confidence, len(open_nodes), samples, share, suspects)


def _sampled(ablated: AblatedModel, task: Task, nodes: list[Node], coins: Tensor, progress: Progress) -> Tensor:
    """[subset]: mean F with the nodes of each row of `coins` [subset, node] patched."""
    metrics = []
    steps = coins.split(max(1, ablated.max_rows // len(task)))
    for part in progress(steps, "subset sampling", len(steps)):
        subsets = _subsets(ablated.spliced, task.places, nodes, part)
        metrics.append(ablated.metric(task, [Subgraph(ranks, 1, complement=True) for ranks in subsets]).mean(1))
    return torch.cat(metrics)


def bound_of(results: np.ndarray, coins: np.ndarray, confidence: float) -> tuple[float, np.ndarray]:
    """(bound, each node's estimated effect) from results [sample] and memberships [sample, node].

    For one node, |effect| >= theta is rejected from theta = |estimate| + t * standard
    error on, with Welch's degrees of freedom; the bound is the largest such theta. It is infinite if a node was in
    fewer than two samples, or outside fewer than two.
    """
    from scipy.stats import t

    inside = coins.sum(0).astype(float)
    counts = np.stack([inside, len(coins) - inside])
    masks = np.stack([coins, ~coins]).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (masks * results[None, :, None]).sum(1) / counts
        squares = (masks * (results[None, :, None] - means[:, None]) ** 2).sum(1)
        variance = squares / (counts - 1) / counts
        degrees = variance.sum(0) ** 2 / (variance**2 / (counts - 1)).sum(0)
    estimates = means[1] - means[0]  # patching a node that carries the behaviour lowers F
    known = (counts >= 2).all(0)
    thresholds = np.full(coins.shape[1], np.inf)
    spread = np.sqrt(variance.sum(0)[known])
    quantile = t.ppf(confidence, np.nan_to_num(degrees[known], nan=1e9))
    thresholds[known] = np.abs(estimates[known]) + quantile * spread
    return float(thresholds.max()), np.nan_to_num(estimates)


def _subsets(spliced: SplicedModel, places: tuple[Place, ...], nodes: list[Node], coins: Tensor) -> Iterator[Ranks]:
    """The ranks for each row of `coins` [subset, node]: 0 for the nodes that the subset holds."""
    index = NodeIndex.of(spliced, places)
    by_site = index.by_site(nodes)
    for coin in coins:
        ranks = {}
        for site, (number, turn) in by_site.items():
            flat = torch.full((index.count(site),), NEVER, dtype=torch.int32)
            flat[number[coin[turn]]] = 0
            ranks[site] = flat.view(index.shape(site)).to(spliced.device)
        yield ranks
