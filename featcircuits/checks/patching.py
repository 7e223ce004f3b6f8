"""Patching of nodes in both directions: is a node needed, is it enough (Heimersheim & Nanda 2024)?

**Noising** gives a node of the clean run its corrupted value; the behaviour that is lost shows
whether the node is needed. **Denoising** gives a node of the corrupted run its clean value; the
behaviour that comes back shows whether it is enough. The two differ where nodes act together (AND: noising any
of them hurts, denoising one alone restores little) or replace each other (OR, backup:
denoising one is enough, noising it alone does nothing, since another one does its work).

Patching is do(node := value): at each site the activation that arrives is encoded again, and patched
nodes take the other run's value, whatever reaches them. All positions of a node's place are patched
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import AblatedModel, Subgraph, metric_model, ranks_of
from featcircuits.evaluation.ablations import prepared_ablation
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_nodes, check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task

NEEDED = 0.1
"""A direction counts as acting from this share of the total effect on."""
CONTRAST = 2.0
"""How many times larger than the other one direction must be for a note."""


class Direction(NamedTuple):
    """One direction of one patch under one metric.

    Shares are of F(clean) - F(corrupted): what noising loses, and what denoising restores.
    """

    change: float
    """The mean change of F; positive if noising loses, or denoising restores, some of the behaviour."""
    standard_error: float
    share: float


@dataclass(frozen=True)
class Patch:
    """A node, or several together, patched in both directions, by metric."""

    nodes: tuple[Node, ...]
    noising: dict[str, Direction]
    denoising: dict[str, Direction]

    def note(self, metric: str, needed: float = NEEDED, contrast: float = CONTRAST) -> str:
        """What the two directions mean together.

        "and": needed, but not enough alone. "or / backup": enough, but something else can replace
        it. "needed and enough", or "" if neither direction reaches `needed`. A note is about
        this task and metric; it names no partner, which only patching nodes together can find.
        """
        lost, restored = self.noising[metric].share, self.denoising[metric].share
        if not max(lost, restored) >= needed:  # shares are NaN without a total effect
            return ""
        if lost > contrast * max(restored, 0.0):
            return "and"
        if restored > contrast * max(lost, 0.0):
            return "or / backup"
        return "needed and enough"


@dataclass(frozen=True)
class Patching:
    """The results for every node alone, and for all of them together."""

    task: str
    F_clean: dict[str, float]
    F_corrupted: dict[str, float]
    single: tuple[Patch, ...]
    joint: Patch

    def synergy(self, metric: str) -> tuple[float, float]:
        """(noising, denoising): the joint share minus the sum of the single shares; 0 if nodes act independently."""
        return (
            self.joint.noising[metric].share - sum(patch.noising[metric].share for patch in self.single),
            self.joint.denoising[metric].share - sum(patch.denoising[metric].share for patch in self.single),
        )


def patch(
    spliced: SplicedModel,
    task: Task,
    nodes: Iterable[Node | str],
    *,
    metrics: Sequence[str] = (),
    batch_size: int | None = None,
    max_rows: int = 1024,
    check: bool = True,
    progress: Progress = silent,
) -> Patching:
    """Noise and denoise each node alone and all together, under several metrics side by side.

    `metrics`: names (default: the task's own). Raises `InputError` for tasks without pairs, unknown
    nodes and metrics, metrics whose corrupted answers are missing, and a task of another model
    (`check=False`: its tokenizer is not compared).
    """
    check_task(spliced, task, check)
    order = nodes_of(nodes)
    if not task.paired:
        raise InputError(f"{task.name}: patching swaps values between the prompts of a pair, and there are no pairs")
    task.check_places()
    check_nodes(spliced, order, task.places)
    if not order:
        raise InputError("there are no nodes to patch")
    batch_size = fitting_batch(spliced, task, batch_size, most=32, gradients=False)
    clean, corrupted, noising, denoising = {}, {}, {}, {}
    for metric in dict.fromkeys(metrics or (str(task.metric),)):
        noised, denoised = (
            _patched(spliced, direction, order, batch_size, max_rows, progress)
            for direction in _directions(task, metric)
        )
        total = noised.unpatched - denoised.unpatched
        clean[metric], corrupted[metric] = float(noised.unpatched.mean()), float(denoised.unpatched.mean())
        noising[metric] = [_direction(noised.unpatched - F, total) for F in noised.patched]
        denoising[metric] = [_direction(F - denoised.unpatched, total) for F in denoised.patched]

    def at(number: int, nodes: tuple[Node, ...]) -> Patch:
        by_metric = ({metric: rows[number] for metric, rows in both.items()} for both in (noising, denoising))
        return Patch(nodes, *by_metric)

    single = tuple(at(number, (node,)) for number, node in enumerate(order))
    return Patching(task.name, clean, corrupted, single, at(len(order), tuple(order)))


class _Patched(NamedTuple):
    """F of runs on one of the prompts of each pair."""

    unpatched: Tensor
    """[example]"""
    patched: Tensor
    """[node + 1, example]: each node alone, and last all of them"""


def _patched(
    spliced: SplicedModel, task: Task, nodes: list[Node], batch_size: int, max_rows: int, progress: Progress
) -> _Patched:
    """The task's clean prompts, with nodes at their values in the corrupted ones."""
    ablation = prepared_ablation("paired", spliced, task, batch_size, 0)
    ablated = AblatedModel(spliced, ablation, batch_size=batch_size, max_rows=max_rows)
    unpatched = metric_model(spliced, task, batch_size)
    return _Patched(unpatched, ablated.metric(task, _subgraphs(spliced, task, nodes), progress))


def _directions(task: Task, metric: str) -> tuple[Task, Task]:
    """Noising patches the clean prompts, denoising the corrupted ones."""
    task = task.with_options(metric=metric)
    return task, swapped(task)


def swapped(task: Task) -> Task:
    """The same pairs with the prompts swapped; the answers stay, so F means the same."""
    examples = tuple(replace(e, clean=e.corrupted, corrupted=e.clean) for e in task.examples if e.corrupted is not None)
    return replace(task, examples=examples)


def _subgraphs(spliced: SplicedModel, task: Task, order: list[Node]) -> list[Subgraph]:
    """One subgraph per node that leaves out only this node, then one that leaves out all of them."""
    ranks = ranks_of(spliced, task.places, order)
    alone = [Subgraph(ranks, number + 1, complement=True, first=number) for number in range(len(order))]
    return [*alone, Subgraph(ranks, len(order), complement=True)]


def _direction(change: Tensor, total: Tensor) -> Direction:
    mean, whole = float(change.mean()), float(total.mean())
    error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else float("nan")
    # shares of a total effect within its own noise mean nothing
    noise = float(total.std() / len(total) ** 0.5) if len(total) > 1 else 0.0
    return Direction(mean, error, mean / whole if abs(whole) > 2 * noise and whole else float("nan"))
