"""What node effects are as a result: means over a task, effects per example, and what is kept to go on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.errors import InputError, shortened
from featcircuits.estimators.estimator import Estimator
from featcircuits.inputs.arguments import expect
from featcircuits.model.nodes import Node, Place
from featcircuits.model.sites import Site
from featcircuits.provenance.belonging import Identity, check_same
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.states.index import NodeIndex, n_features_of
from featcircuits.states.states import States
from featcircuits.states.tally import Tally
from featcircuits.tasks.task import Task


class SiteMeans(NamedTuple):
    """The nodes of a site that patching changes in some example, as columns of equal length.

    `place` indexes the task's places; `node` is a feature, or `n_features` for the error.
    """

    place: Tensor
    node: Tensor
    mean: Tensor
    mean_abs: Tensor
    standard_error: Tensor


class NodeEffect(NamedTuple):
    """A node's mean effect over the task, and its standard error over the examples."""

    node: Node
    mean: float
    standard_error: float


class SiteRecord(NamedTuple):
    """The effects at one site over all batches."""

    tally: Tally
    entries: list[Tensor]
    """One tensor [4, n] per batch: example, position, feature, and (as float64) value."""
    errors: list[Tensor]


class Kept(NamedTuple):
    """A batch's states and coefficients, kept for later computations."""

    states: States
    coefficients: Mapping[Site, Tensor]


@dataclass(frozen=True, eq=False)
class NodeEffects:
    """The effects on m of patching each node: means over the task, and per example if kept.

    m = -F, so a positive effect means that the node carries the behaviour.
    """

    estimator: Estimator
    baseline: Baseline
    places: tuple[Place, ...]
    n_features: Mapping[Site, int]
    shape: tuple[int, int]
    """(number of examples, number of positions)."""
    metric_clean: Tensor
    """m of the clean prompts [example]"""
    metric_corrupted: Tensor | None
    """m of the corrupted prompts [example]; None without pairs"""
    batch_size: int
    _records: Mapping[Site, SiteRecord] = field(repr=False)
    keeps_examples: bool = True
    error_effects: str = "estimated"
    kept: Mapping[int, Kept] = field(default_factory=dict, repr=False)
    """Index of a batch -> its kept states: all batches that this process computed, or none."""
    identity: Identity | None = field(default=None, repr=False)
    """The identity of the model that the effects were computed on."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """The spliced sites, in forward order."""
        return tuple(self.n_features)

    @property
    def total_effect(self) -> Tensor:
        """m(corrupted) - m(clean) [example]."""
        if self.metric_corrupted is None:
            raise InputError("there is no total effect: the task has no corrupted prompts")
        return self.metric_corrupted - self.metric_clean

    def features(self, site: str | Site) -> Tensor:
        """The effect of every feature, as a dense tensor [example, position, feature]."""
        entries = self.entries(site)
        dense = torch.zeros(*self.shape, self.n_features[self._site(site)], dtype=self.metric_clean.dtype)
        example, position, feature = entries[:3].long()
        dense[example, position, feature] = entries[3].to(dense.dtype)
        return dense

    def error(self, site: str | Site) -> Tensor:
        """The effect of the error node [example, position]."""
        self._check_examples()
        return torch.cat(self._records[self._site(site)].errors)

    @property
    def index(self) -> NodeIndex:
        """The index that numbers the nodes; sums are kept by these numbers."""
        return NodeIndex(self.places, self.n_features)

    def means(self, site: str | Site) -> SiteMeans:
        """Every node's mean effect over the examples, at the task's places."""
        site = self._site(site)
        tally = self._records[site].tally
        return SiteMeans(*self.index.split(site, tally.keys), tally.mean, tally.mean_abs, tally.standard_error)

    def nodes(self) -> Iterator[NodeEffect]:
        """Every node with an effect."""
        index = self.index
        for site in self.sites:
            tally = self._records[site].tally
            some = tally.mean != 0
            columns = tally.mean[some].tolist(), tally.standard_error[some].tolist()
            yield from map(NodeEffect, index.nodes(site, tally.keys[some].tolist()), *columns)

    def moving(self) -> Iterator[Node]:
        """Every node that patching changes in some example, whatever its effect."""
        index = self.index
        for site in self.sites:
            yield from index.nodes(site, self._records[site].tally.keys.tolist())

    def entries(self, site: str | Site) -> Tensor:
        """Every feature that is active or changes, as columns [4, n]: example, position, feature, effect.

        Two estimators on the same task have the same columns in the same order.
        """
        self._check_examples()
        return torch.cat(self._records[self._site(site)].entries, dim=1)

    def _check_examples(self) -> None:
        if not self.keeps_examples:
            raise InputError("per-example effects were not kept; call node_effects(..., keep_examples=True)")

    def _site(self, site: str | Site) -> Site:
        site = Site.parse(site)
        if site not in self.n_features:
            raise InputError(f"no effects at {site}: the suite has no dictionary there")
        return site


def check_effects(spliced: SplicedModel, task: Task, effects: NodeEffects, check: bool = True) -> None:
    """Raise `InputError` for effects of other examples or missing sites and, unless `check` is False, another model."""
    expect("effects", effects, NodeEffects)
    if effects.shape != (len(task), task.longest):
        raise InputError(
            f"the effects are of {effects.shape[0]} other examples than the {len(task)} of {task.name}; compute them "
            "on it"
        )
    if effects.places != task.places:
        raise InputError(
            f"the effects are at places {shortened(list(effects.places))}, and {task.name} has "
            f"{shortened(list(task.places))}; compute them under aggregate={task.aggregate!r}"
        )
    if check and effects.identity is not None:
        check_same("effects", effects.identity, spliced)
    if sizes := n_features_of(spliced).items() ^ effects.n_features.items():
        site = min(site for site, _ in sizes)
        raise InputError(
            f"the effects are of other dictionaries than the model's, the first at {site}; compute them again"
        )
