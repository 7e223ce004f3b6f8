"""Optimal ablation (Li & Janson 2024): the constants that let circuits keep as much of the behaviour as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import AblatedModel, Prepared, Ranks, Subgraph, metric_model, ranks_of
from featcircuits.evaluation.ablations import Mean, Values
from featcircuits.evaluation.masked import masked_metric, masks_of_circuit
from featcircuits.evaluation.scope import scope_of, varying
from featcircuits.inputs.ranges import SEEDS, Range, check_number
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_nodes, check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Means, MeanState, mean_states
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.alignment import Alignment
from featcircuits.tasks.task import Batch, Task


@dataclass(frozen=True, eq=False)
class Optimal(Mean):
    """One constant per node and place, learned on other prompts."""

    losses: tuple[float, ...] = ()
    """The mean of ((F(circuit) - F(model)) / (F(model) - F(empty)))^2 over some sizes of circuits: before and after."""

    def values(self, spliced: SplicedModel, task: Task, batch: Batch) -> Values:
        """The constants at the places of the batch's tokens; raises `InputError` for prompts with other places."""
        own, learned = Alignment.of(task.examples, task.common), self.means.alignment
        if own != learned:
            raise InputError(
                f"{task.name}: constants were learned at {learned.n_places} places ({learned.kind}), and these prompts "
                f"have {own.n_places} ({own.kind}) in common; learn them on prompts of the same form"
            )
        return super().values(spliced, task, batch)


def optimal_constants(
    spliced: SplicedModel,
    task: Task,
    order: Sequence[Node | str],
    *,
    error_nodes: str = "as-circuit",
    start_layer: int = 0,
    steps: int = 120,
    rate: float = 0.002,
    seed: int = 0,
    batch_size: int | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> Optimal:
    """Learn an ablation on training prompts, to be judged on others: `fc.evaluate(..., ablation=constants)`.

    One constant per feature and error vector, at each place, begins at its mean over the reference prompts. Each step
    of Adam draws a size evenly on a log axis and lowers the mean of ((F(circuit) - F(model)) / (F(model) - F(empty)))^2
    of the circuit of so many first nodes of `order`. It is the most charitable ablation: what it adds to mean ablation
    is how much of "not faithful" was the shock of values that never occur together. The constants with the lower loss,
    first or last, are returned. Raises `InputError` for nodes that the model does not have.
    """
    check_task(spliced, task, check)
    nodes = nodes_of(order)
    check_nodes(spliced, nodes, task.places)
    check_number("steps", steps, Range(1, 100_000))
    check_number("rate", rate, Range(0, 100, above=True), float)
    check_number("seed", seed, SEEDS)
    scope = scope_of(spliced, start_layer)
    size = fitting_batch(spliced, task, batch_size)
    nodes = varying(nodes, scope, error_nodes)
    if not nodes:
        raise InputError("order holds no node that is ablated here; give the nodes of a circuit, the first ones first")
    means = mean_states(scope, task, size)
    ablated = AblatedModel(scope, Optimal(means), error_nodes, start_layer, size)
    work = _Work(ablated, task, ranks_of(scope, task.places, nodes), len(nodes), metric_model(scope, task, size))
    learned = _learned(work, means, steps, rate, seed, progress)
    losses = [work.loss(each) for each in (means, learned)]
    return Optimal(means if losses[0] < losses[1] else learned, tuple(losses))


@dataclass(frozen=True, eq=False)
class _Work:
    ablated: AblatedModel
    task: Task
    ranks: Ranks
    count: int
    model: Tensor

    def gap(self, means: Means) -> float:
        empty = self._with(means).metric(self.task, [Subgraph(self.ranks, 0)])[0]
        return abs(float(self.model.mean() - empty.mean())) or 1.0

    def loss(self, means: Means) -> float:
        """Over sizes on a log axis, with the gap of these constants."""
        sizes = sorted({round(float(size)) for size in torch.logspace(0, torch.tensor(float(self.count)).log10(), 8)})
        found = self._with(means).metric(self.task, [Subgraph(self.ranks, size) for size in sizes])
        return float((((found - self.model) / self.gap(means)) ** 2).mean())

    def _with(self, means: Means) -> AblatedModel:
        return replace(self.ablated, ablation=Optimal(means))

    @cached_property
    def batches(self) -> list[Prepared]:
        """The unedited runs, which no constant changes."""
        return list(self.ablated.prepared(self.task))

    def step(self, means: Means, size: int, gap: float) -> None:
        """Add the gradient of the loss at one size to the constants' own."""
        masks = masks_of_circuit(self.ablated, Subgraph(self.ranks, size))
        for batch in self.batches:
            own = batch._replace(values=means.values(self.task, batch.batch))
            unfaithful = ((masked_metric(self.ablated, own, masks) - batch.model) / gap) ** 2
            (unfaithful.sum() / len(self.task)).backward()


def _learned(work: _Work, means: Means, steps: int, rate: float, seed: int, progress: Progress) -> Means:
    generator, gap = torch.Generator().manual_seed(seed), work.gap(means)
    sites = {
        site: MeanState(mean.features.clone().requires_grad_(), mean.x.clone().requires_grad_(), mean.scale)
        for site, mean in means.sites.items()
    }
    constants = means._replace(sites=sites)
    optimiser = torch.optim.Adam([part for mean in sites.values() for part in (mean.features, mean.x)], rate)
    for _ in progress(range(steps), "learning constants", steps):
        optimiser.zero_grad()
        size = round(work.count ** float(torch.rand(1, generator=generator)))
        work.step(constants, size, gap)
        optimiser.step()
    return means._replace(
        sites={site: MeanState(mean.features.detach(), mean.x.detach(), mean.scale) for site, mean in sites.items()}
    )
