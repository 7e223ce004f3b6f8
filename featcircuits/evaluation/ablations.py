"""Ablations: what a node outside the circuit is set to.

Values are states of the unedited model on the reference prompts: the corrupted prompts of a paired
task, the prompts themselves otherwise. A new ablation is a class and a row of `ABLATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from featcircuits.errors import InputError
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel, check_finite
from featcircuits.states.baselines import Means, Patched, mean_states, patched_by_run, patched_by_zero
from featcircuits.tasks.alignment import POSITION
from featcircuits.tasks.task import Batch, Task

Values = Callable[[Site], Patched]
"""site -> what ablated nodes become there."""


class Ablation(Protocol):
    """`places`: at which places of the prompts values are told apart; None where they are the same everywhere."""

    @property
    def places(self) -> str | None: ...

    def values(self, spliced: SplicedModel, task: Task, batch: Batch) -> Values:
        """The values for the examples of one batch."""
        ...


@dataclass(frozen=True, eq=False)
class Zero:
    """Features and error 0: a site with everything ablated emits its decoder's bias."""

    places = None

    def values(self, spliced: SplicedModel, task: Task, batch: Batch) -> Values:
        return lambda site: patched_by_zero(spliced, site)


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean over all reference prompts at the same place of those that they have in common.

    These are the finest there are, wherever the circuit's nodes stand (`featcircuits.tasks.alignment`).
    """

    means: Means

    @property
    def places(self) -> str:
        return self.means.alignment.kind

    def values(self, spliced: SplicedModel, task: Task, batch: Batch) -> Values:
        return self.means.values(task, batch)


@dataclass(frozen=True, eq=False)
class Resample:
    """The state of another reference prompt: of example `rows[b]` for example b.

    With its own number for each example this is the corrupted twin's state, so that m(empty) is
    the corrupted prompts'. `rows` is one list for all sites, or a mapping from site names to lists.
    """

    rows: Sequence[int] | Mapping[str, Sequence[int]]

    places = POSITION

    def values(self, spliced: SplicedModel, task: Task, batch: Batch) -> Values:
        # all runs happen here: the values are asked for inside another forward's hooks
        if isinstance(self.rows, Mapping):
            found = {
                site: _values(spliced.only([site]), task, batch, self.rows[str(site)])[site] for site in spliced.sites
            }
        else:
            found = _values(spliced, task, batch, self.rows)
        return lambda site: found[site]


def _values(spliced: SplicedModel, task: Task, batch: Batch, rows: Sequence[int]) -> dict[Site, Patched]:
    other = task.batch([int(rows[number]) for number in batch.index.tolist()]).to(spliced.device)
    logits, seen = spliced.record(other.corrupted or other.clean, spliced.with_reads(spliced.sites))
    check_finite(logits, seen)
    return {site: patched_by_run(spliced, site, seen) for site in spliced.sites}


def _zero(spliced: SplicedModel, task: Task, batch_size: int, seed: int) -> Ablation:
    return Zero()


def _mean(spliced: SplicedModel, task: Task, batch_size: int, seed: int) -> Ablation:
    return Mean(mean_states(spliced, task, batch_size))


def _resample(spliced: SplicedModel, task: Task, batch_size: int, seed: int) -> Ablation:
    draw = torch.randint(len(task), (len(task),), generator=torch.Generator().manual_seed(seed))
    return Resample(draw.tolist())


def _paired(spliced: SplicedModel, task: Task, batch_size: int, seed: int) -> Ablation:
    return Resample(range(len(task)))


def _any(task: Task) -> None:
    """Every task will do."""


def _one_length(task: Task) -> None:
    if len({len(example.clean) for example in task.examples}) > 1:
        raise InputError(
            f"{task.name}: ablation='resample' takes states position by position and needs prompts of one length; "
            "use ablation='mean'"
        )


def _pairs(task: Task) -> None:
    if not task.paired:
        raise InputError(
            f"{task.name}: ablation='paired' takes the state of the corrupted prompt, and there are no pairs; give "
            "ablation='mean', 'zero' or 'resample' (--ablation mean), or corrupted prompts"
        )


class Kind(NamedTuple):
    """`check` raises `InputError` for a task that the ablation cannot have; `prepare` makes it for one."""

    check: Callable[[Task], None]
    prepare: Callable[[SplicedModel, Task, int, int], Ablation]


ABLATIONS: Mapping[str, Kind] = {
    "mean": Kind(_any, _mean),
    "zero": Kind(_any, _zero),
    "resample": Kind(_one_length, _resample),
    "paired": Kind(_pairs, _paired),
}


def ablation_kind(name: str) -> Kind:
    """By name; an unknown one is an `InputError`."""
    if name not in ABLATIONS:
        raise InputError(f"unknown ablation {name!r}; known: {', '.join(ABLATIONS)}")
    return ABLATIONS[name]


def ablation_named(name: str | Ablation, spliced: SplicedModel, task: Task, batch_size: int, seed: int) -> Ablation:
    """Prepare an ablation for a task; an unknown name, and a task that it cannot have, is an `InputError`."""
    if not isinstance(name, str):
        return name
    kind = ablation_kind(name)
    kind.check(task)
    return kind.prepare(spliced, task, batch_size, seed)
