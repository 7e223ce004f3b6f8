"""Ablations: the values of nodes outside the circuit.

Values are states of the unedited model on the reference prompts: the corrupted prompts of a paired
task, the prompts themselves otherwise. A new ablation is a class, here or in a file of its own, and a row in
`featcircuits.evaluation.table`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from featcircuits.errors import InputError
from featcircuits.evaluation.table import ABLATIONS
from featcircuits.model.sites import Site
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Means, Patched, mean_states, patched_by_run, patched_by_zero
from featcircuits.tasks.alignment import POSITION
from featcircuits.tasks.task import Batch, Task

Values = Callable[[Site], Patched]
"""site -> the values of ablated nodes there."""


class Ablation(ABC):
    """The values of ablated nodes. `places`: the kind of places at which values differ; None if they never do."""

    @property
    @abstractmethod
    def places(self) -> str | None:
        """The kind of places at which values differ, or None."""

    @classmethod
    def check(cls, task: Task) -> None:
        """Raise `InputError` for an unsuitable task; most ablations accept any."""
        return

    @classmethod
    @abstractmethod
    def prepare(cls, spliced: SplicedModel, task: Task, batch_size: int, seed: int) -> Ablation:
        """The ablation with its values for a task."""

    @abstractmethod
    def values(self, spliced: SplicedModel, task: Task, batch: Batch) -> Values:
        """The values for the examples of one batch."""


@dataclass(frozen=True, eq=False)
class Zero(Ablation):
    """Features and error are 0, so a site with everything ablated emits its decoder's bias."""

    @property
    def places(self) -> None:
        """None: values are the same everywhere."""
        return None

    @classmethod
    def prepare(cls, spliced: SplicedModel, task: Task, batch_size: int, seed: int) -> Zero:
        """The ablation, which needs nothing from the task."""
        return cls()

    def values(self, spliced: SplicedModel, task: Task, batch: Batch) -> Values:
        """Zero at every site."""
        return lambda site: patched_by_zero(spliced, site)


@dataclass(frozen=True, eq=False)
class Mean(Ablation):
    """The mean over all reference prompts at the same place.

    Places are the finest that the prompts have in common, whatever the circuit's (`featcircuits.tasks.alignment`).
    """

    means: Means

    @property
    def places(self) -> str:
        """The kind of the prompts' common places."""
        return self.means.alignment.kind

    @classmethod
    def prepare(cls, spliced: SplicedModel, task: Task, batch_size: int, seed: int) -> Mean:
        """The means of the task's reference prompts."""
        return cls(mean_states(spliced, task, batch_size))

    def values(self, spliced: SplicedModel, task: Task, batch: Batch) -> Values:
        """The means at the places of the batch's tokens."""
        return self.means.values(task, batch)


@dataclass(frozen=True, eq=False)
class Resample(Ablation):
    """The state of another reference prompt: of example `rows[b]` for example b.

    `rows` is one list for all sites, or a mapping from site names to lists; `prepare` draws one list.
    """

    rows: Sequence[int] | Mapping[str, Sequence[int]]

    @property
    def places(self) -> str:
        """Positions."""
        return POSITION

    @classmethod
    def check(cls, task: Task) -> None:
        """Raise `InputError` for prompts of different lengths."""
        if len({len(example.clean) for example in task.examples}) > 1:
            raise InputError(
                f"{task.name}: ablation='resample' takes states position by position and needs prompts of one length; "
                "use ablation='mean'"
            )

    @classmethod
    def prepare(cls, spliced: SplicedModel, task: Task, batch_size: int, seed: int) -> Resample:
        """One reference prompt for each example, drawn by the seed."""
        draw = torch.randint(len(task), (len(task),), generator=torch.Generator().manual_seed(seed))
        return cls(draw.tolist())

    def values(self, spliced: SplicedModel, task: Task, batch: Batch) -> Values:
        """The states of the chosen reference prompts."""
        # run everything here, since the values are needed inside the hooks of another forward pass
        if isinstance(self.rows, Mapping):
            found = {
                site: _values(spliced.only([site]), task, batch, self.rows[str(site)])[site] for site in spliced.sites
            }
        else:
            found = _values(spliced, task, batch, self.rows)
        return lambda site: found[site]


@dataclass(frozen=True, eq=False)
class Paired(Resample):
    """The state of the corrupted twin, so that F(empty) is the corrupted prompts' F."""

    @classmethod
    def check(cls, task: Task) -> None:
        """Raise `InputError` for a task without pairs."""
        if not task.paired:
            raise InputError(
                f"{task.name}: ablation='paired' takes the state of the corrupted prompt, and there are no pairs; give "
                "ablation='mean', 'zero' or 'resample' (--ablation mean), or corrupted prompts"
            )

    @classmethod
    def prepare(cls, spliced: SplicedModel, task: Task, batch_size: int, seed: int) -> Paired:
        """Each example with its own corrupted twin."""
        return cls(range(len(task)))


def _values(spliced: SplicedModel, task: Task, batch: Batch, rows: Sequence[int]) -> dict[Site, Patched]:
    other = task.batch([int(rows[number]) for number in batch.index.tolist()]).to(spliced.device)
    logits, seen = spliced.record(other.corrupted or other.clean, spliced.with_reads(spliced.sites))
    check_finite(logits, seen)
    return {site: patched_by_run(spliced, site, seen) for site in spliced.sites}


def name_of(ablation: str | Ablation) -> str:
    """What reports call an ablation."""
    return ablation if isinstance(ablation, str) else type(ablation).__name__.lower()


def prepared_ablation(
    ablation: str | Ablation, spliced: SplicedModel, task: Task, batch_size: int, seed: int
) -> Ablation:
    """An ablation by name with its values for a task; an ablation that has them is returned unchanged.

    Raises `InputError` for an unknown name or an unsuitable task.
    """
    if isinstance(ablation, Ablation):
        return ablation
    kind = ABLATIONS.named(ablation)
    kind.check(task)
    return kind.prepare(spliced, task, batch_size, seed)
