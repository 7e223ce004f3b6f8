"""Linear classifiers of texts: logistic regression on a site's activation, averaged over a text's tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.interventions.named import Named
from featcircuits.interventions.plan import planned
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.probes.texts import Text
from featcircuits.splicing.readout import Readout
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.examples import Example
from featcircuits.tasks.task import Batch, Task

_REMOVED = "removed"
_STEPS = 500


@dataclass(frozen=True, eq=False)
class Probe:
    """A text is of class 1 if weight . (mean activation) + bias > 0; `weight` [width]."""

    weight: Tensor
    bias: Tensor

    def predicts(self, pooled: Tensor) -> Tensor:
        """The class of each text [n] from their mean activations [n, width]."""
        return (pooled @ self.weight + self.bias > 0).long()

    def readout(self, site: Site, skip: int = 0) -> Readout:
        """Classes 0 and 1, whose difference is the probe's logit."""
        weight = torch.stack([torch.zeros_like(self.weight), self.weight])
        return Readout(site, weight, torch.stack([torch.zeros_like(self.bias), self.bias]), skip)


def fit(pooled: Tensor, classes: Sequence[int], penalty: float) -> Probe:
    """The minimum of the mean cross-entropy + penalty |weight|^2, in float64: it needs no seed."""
    with torch.enable_grad():
        weight = torch.zeros(pooled.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
        wanted = torch.tensor(classes, dtype=torch.float64)
        solver = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            solver.zero_grad()
            entropy = torch.nn.functional.binary_cross_entropy_with_logits(pooled @ weight + bias, wanted)
            total = entropy + penalty * weight.square().sum()
            total.backward()
            return total

        solver.step(loss)
    return Probe(weight.detach(), bias.detach())


def up_to(spliced: SplicedModel, site: Site) -> SplicedModel:
    """The model with the dictionaries that the site's activation can depend on."""
    kept = spliced.only([each for each in spliced.sites if each <= site])
    if not kept.sites:
        raise InputError(f"no dictionary stands at {site} or before it, so no feature could be removed there")
    return kept


def reading(spliced: SplicedModel, readout: Readout) -> SplicedModel:
    """The model with this readout in place of its logits."""
    return replace(up_to(spliced, readout.site), readout=readout)


def pooled(
    spliced: SplicedModel,
    texts: Sequence[Text],
    site: Site,
    skip: int = 0,
    removed: Iterable[Node] = (),
    batch_size: int | None = None,
) -> Tensor:
    """The mean activation of each text at a site, in float64 on the CPU [n, width], with some nodes set to 0."""
    width = spliced.architecture.site_width(spliced.model, site)
    weight = torch.eye(width, dtype=torch.float64, device=spliced.device)
    model = reading(spliced, Readout(site, weight, weight.new_zeros(width), skip))
    # sorted, so that texts of a batch are about as long
    order = sorted(range(len(texts)), key=lambda n: len(texts[n].ids))
    task, found = task_of(texts, order), torch.empty(len(texts), width, dtype=torch.float64)
    size = fitting_batch(spliced, task, batch_size, most=64, gradients=False)
    run = _without(model, task, tuple(removed), size)
    with torch.no_grad():
        for batch in task.batches(size):
            found[[order[n] for n in batch.index.tolist()]] = run(batch.to(spliced.device)).double().cpu()
    return found


def _without(model: SplicedModel, task: Task, removed: tuple[Node, ...], size: int) -> Callable[[Batch], Tensor]:
    """The run of a batch with nodes set to 0."""
    if not removed:
        return lambda batch: model.run(batch.clean, answers_only=True)
    plan = planned(model, task, f"group:{_REMOVED}@all=0", Named({_REMOVED: removed}), size)

    def run(batch: Batch) -> Tensor:
        with plan.runs(batch) as runs:
            return runs.run(plan.parts, plan.given(batch, plan.parts)).logits

    return run


def task_of(texts: Sequence[Text], order: Iterable[int]) -> Task:
    """Single prompts whose right answer is the class of their label, in a model that reads classes out."""
    examples = tuple(Example(texts[n].ids, None, (texts[n].label,), (1 - texts[n].label,)) for n in order)
    return Task(examples, aggregate="sum", keep_wrong=True, name="texts")
