"""The model with everything outside a circuit ablated, for many circuits in one forward pass.

At each site, in forward order, the activation that arrives, already changed by earlier sites, is
encoded again. Nodes outside the circuit take their ablation value, and kept nodes keep the value that they
compute (Marks et al. 2024, section 4). Rows of a forward pass are circuits x examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.circuit.circuit import Circuit
from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import precision
from featcircuits.errors import InputError, known, shortened
from featcircuits.evaluation.ablations import Ablation, Values
from featcircuits.inputs.ranges import ROWS, check_number
from featcircuits.model.nodes import Node, Place
from featcircuits.model.sites import Site, resid
from featcircuits.progress import Progress, silent
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.memory import copies_at_once
from featcircuits.splicing.spliced import SplicedModel, Start
from featcircuits.states.baselines import DENSE_NUMBERS, Patched
from featcircuits.states.index import NodeIndex
from featcircuits.states.states import Objective
from featcircuits.tasks.task import Batch, Task

ERROR_NODES = ("as-circuit", "keep", "remove")


def check_error_nodes(error_nodes: str) -> None:
    """Raise `InputError` for an unknown treatment of error nodes."""
    if error_nodes not in ERROR_NODES:
        raise InputError(f"error_nodes is {shortened(error_nodes)}; {known(ERROR_NODES, error_nodes)}")


NEVER = torch.iinfo(torch.int32).max
"""The rank of a node that is in no circuit of a ranking."""

Ranks = Mapping[Site, Tensor]
"""Each node's rank, by site [place, n_features + 1] int32; the error node is last."""


@dataclass(frozen=True, eq=False)
class Subgraph:
    """The nodes with ranks from `first` to below `size`, or all others, with the node of rank `toggled` switched."""

    ranks: Ranks
    size: int
    complement: bool = False
    first: int = 0
    toggled: int | None = None

    def keeps(self, site: Site, error_nodes: str, places: Tensor) -> Tensor:
        """Which nodes are not ablated [n, n_features + 1], for places [n]."""
        ranks = self.ranks[site][places]
        keep = ((ranks >= self.first) & (ranks < self.size)) ^ self.complement
        if self.toggled is not None:
            keep ^= ranks == self.toggled
        if error_nodes != "as-circuit":
            keep[:, -1] = error_nodes == "keep"
        return keep


def ranks_of(spliced: SplicedModel, places: tuple[Place, ...], order: Sequence[Node]) -> Ranks:
    """The ranks of nodes in the given order. Nodes of sites that are not ablated use up a rank but are in no tensor.

    Raises `InputError` for a node that does not exist.
    """
    index = NodeIndex.of(spliced, places)
    ablated = [(rank, node) for rank, node in enumerate(order) if node.site in index.n_features]
    rank_at = torch.tensor([rank for rank, _ in ablated], dtype=torch.int32)
    ranks = {}
    for site, (number, turn) in index.by_site(node for _, node in ablated).items():
        flat = torch.full((index.count(site),), NEVER, dtype=torch.int32)
        flat[number] = rank_at[turn]
        ranks[site] = flat.view(index.shape(site)).to(spliced.device)
    return ranks


def circuit_subgraph(spliced: SplicedModel, circuit: Circuit, places: tuple[Place, ...]) -> Subgraph:
    """The subgraph of a circuit's own nodes."""
    return Subgraph(ranks_of(spliced, places, list(circuit.nodes)), len(circuit.nodes))


class Prepared(NamedTuple):
    """A batch with its ablation values, ready to run with any nodes ablated."""

    batch: Batch
    values: Values
    objective: Objective
    model: Tensor
    """F of the unedited model [example]"""
    start: Start | None = None
    """Where runs begin; the layers before it run only once, as in the unedited model."""


def metric_model(spliced: SplicedModel, task: Task, batch_size: int) -> Tensor:
    """F of the unedited model [example]."""
    metrics = []
    for batch in task.batches(batch_size):
        batch = batch.to(spliced.device).narrowed(task.F)
        logits, _ = spliced.record(batch.clean, [])
        check_finite(logits, {})
        metrics.append(-Objective.of(task, batch, logits)(logits))
    return torch.cat(metrics).double().cpu()


@dataclass(frozen=True, eq=False)
class AblatedModel:
    """A model whose nodes outside a subgraph take an ablation's values.

    All sites of `spliced` are ablated; layers before `start_layer` are not run again. `error_nodes`:
    error nodes as the subgraph says ("nodes"), all kept ("keep"), or all ablated ("remove").
    """

    spliced: SplicedModel
    ablation: Ablation
    error_nodes: str = "as-circuit"
    start_layer: int = 0
    batch_size: int = 32
    max_rows: int = 1024
    """The most rows (subgraphs x examples) of one forward pass."""

    def __post_init__(self) -> None:
        check_error_nodes(self.error_nodes)
        check_number("max_rows", self.max_rows, ROWS)

    def metric(self, task: Task, subgraphs: Sequence[Subgraph], progress: Progress = silent) -> Tensor:
        """F of each subgraph on each example [subgraph, example], float64 on the CPU."""
        metrics = torch.empty(len(subgraphs), len(task), dtype=torch.float64)
        n_batches = task.count_batches(self.batch_size)
        for prepared in progress(self.prepared(task), "ablated runs", n_batches):
            per_run = copies_at_once(self.spliced, prepared.batch.clean, self.max_rows)
            for begin in range(0, len(subgraphs), per_run):
                metric = self._forward(prepared, subgraphs[begin : begin + per_run])
                metrics[begin : begin + per_run, prepared.batch.index] = metric.double().cpu()
        return metrics

    def prepared(self, task: Task) -> Iterator[Prepared]:
        """Every batch of a task, with its unedited run."""
        streams = [resid(self.start_layer - 1)] if self.start_layer else []
        for batch in task.batches(self.batch_size):
            batch = batch.to(self.spliced.device).narrowed(task.F)
            logits, seen = self.spliced.record(batch.clean, streams)
            objective = Objective.of(task, batch, logits)
            values = self.ablation.values(self.spliced, task, batch)
            start = Start(self.start_layer, seen[streams[0]]) if streams else None
            yield Prepared(batch, values, objective, -objective(logits), start)

    def _forward(self, prepared: Prepared, subgraphs: Sequence[Subgraph]) -> Tensor:
        """F [subgraph, example] by one forward pass, whose rows are subgraphs x examples."""
        batch, start = prepared.batch, prepared.start
        n_examples, places = len(batch.index), batch.places.flatten()
        rows = torch.arange(n_examples, device=self.spliced.device).repeat(len(subgraphs))

        def ablate(site: Site, x: Tensor, read: Tensor) -> Tensor:
            dictionary, value = self.spliced.dictionaries[site], prepared.values(site)
            # [subgraph, position, width], so that subgraphs share the values of each position
            x_at, read_at = (t.unflatten(0, (len(subgraphs), n_examples)).flatten(1, 2) for t in (x, read))
            ablated = x_at.clone()

            # dense features exist for a few positions at a time; padding has no place and does not change
            size = max(1, DENSE_NUMBERS // (len(subgraphs) * (dictionary.n_features + 1)))
            for at in (places >= 0).nonzero()[:, 0].split(size):
                kept = torch.stack([subgraph.keeps(site, self.error_nodes, places[at]) for subgraph in subgraphs])
                ablated[:, at] = _ablated(dictionary, x_at[:, at], read_at[:, at], value, at, kept).to(x.dtype)
            return ablated.view_as(x)

        begin = None if start is None else Start(start.layer, start.stream[rows])
        with torch.no_grad():
            logits = self.spliced.run_reading(batch.clean.select(rows), ablate, start=begin, answers_only=True)
        return -prepared.objective.select(rows)(logits).unflatten(0, (len(subgraphs), n_examples))


def _ablated(dictionary: Dictionary, x: Tensor, read: Tensor, value: Patched, rows: Tensor, kept: Tensor) -> Tensor:
    """x [subgraph, n, width] with every node that is not `kept` [subgraph, n, n_features + 1] at its ablation value.

    Write x = decode(f) + bypass(read) + error for what arrives, and y, f' for the ablation value.
    Since decode is affine with rows d_i, only the features that differ need decoding:

        error kept:     x + sum over ablated i of (f'_i - f_i) d_i
        error ablated:  y + bypass(read) + sum over kept i of (f_i - f'_i) d_i

    The bypass is not a node and passes on what arrives. If a dictionary normalises its input, d_i is in the
    units of x in the first case, and in those of y in the second.
    """
    x, read = x.to(precision(x.dtype)), read.to(precision(x.dtype))
    y, bypass = value.x_at(dictionary, rows, read).to(x.dtype), dictionary.bypass(read)
    feature_kept, error_kept = kept[..., :-1], kept[..., -1:]

    # f' - f, negated where the sum begins at y, and 0 for the features that are already right
    change = value.features_at(dictionary, rows) - dictionary.encode(read)
    change = torch.where(error_kept, change, -change).masked_fill(feature_kept == error_kept, 0)

    # from features to decoder rows
    statistics = dictionary.statistics(read)
    if statistics is not None:
        x_scale = statistics.scale
        y_scale = x_scale if value.scale is None else value.scale.flatten(0, 1)[rows].to(x_scale.dtype)
        change = change * torch.where(error_kept, x_scale, y_scale)

    # circuits keep or ablate few features, so the sum is sparse
    change = change.flatten(0, 1)
    row, feature = change.nonzero(as_tuple=True)
    sum_of_changes = dictionary.write(change[row, feature], row, feature, len(change)).view_as(x)

    return torch.where(error_kept, x, y if bypass is None else y + bypass) + sum_of_changes
