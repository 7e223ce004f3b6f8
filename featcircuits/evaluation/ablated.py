"""The model with everything outside a circuit ablated; many circuits in one forward.

At each site in forward order the activation that arrives, already changed by earlier sites, is
encoded anew; nodes outside the circuit take their ablation value; kept nodes keep what they
compute (Marks et al. 2024, section 4). Rows of a forward are circuits x examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.circuit.circuit import Circuit
from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import precision
from featcircuits.errors import InputError
from featcircuits.evaluation.ablations import Ablation, Values
from featcircuits.inputs.ranges import ROWS, check_number
from featcircuits.model.nodes import Node, Place
from featcircuits.model.sites import Site, resid
from featcircuits.progress import Progress, silent
from featcircuits.splicing.spliced import SplicedModel, Start, check_finite
from featcircuits.states.baselines import DENSE_NUMBERS, Patched
from featcircuits.states.states import Objective
from featcircuits.tasks.metrics import Answers
from featcircuits.tasks.task import Batch, Task

ERRORS = ("nodes", "keep", "remove")


def check_error_terms(errors: str) -> None:
    """Refuse an unknown treatment of error terms."""
    if errors not in ERRORS:
        raise InputError(f"errors is {errors!r}; known: {', '.join(ERRORS)}")


NEVER = torch.iinfo(torch.int32).max
"""The rank of a node that no circuit of a ranking holds."""

Ranks = Mapping[Site, Tensor]
"""Per site [place, n_features + 1] int32: each node's rank, the error's last."""


@dataclass(frozen=True, eq=False)
class Subgraph:
    """The nodes of rank `first` to below `size`, or all others; the node of rank `toggled` the other way round."""

    ranks: Ranks
    size: int
    complement: bool = False
    first: int = 0
    toggled: int | None = None

    def keeps(self, site: Site, errors: str, places: Tensor) -> Tensor:
        """[n, n_features + 1] for places [n]: True where a node is not ablated."""
        ranks = self.ranks[site][places]
        keep = ((ranks >= self.first) & (ranks < self.size)) ^ self.complement
        if self.toggled is not None:
            keep ^= ranks == self.toggled
        if errors != "nodes":
            keep[:, -1] = errors == "keep"
        return keep


def ranks_of(spliced: SplicedModel, places: tuple[Place, ...], order: Sequence[Node]) -> Ranks:
    """Nodes ranked in the given order; nodes of unspliced sites take their rank but stand nowhere."""
    ranks = {
        site: torch.full((len(places), dictionary.n_features + 1), NEVER, dtype=torch.int32)
        for site, dictionary in spliced.dictionaries.items()
    }
    index = {place: number for number, place in enumerate(places)}
    for rank, node in enumerate(order):
        if node.site not in ranks:
            continue
        n_features = spliced.dictionaries[node.site].n_features
        if (node.feature is not None and node.feature >= n_features) or node.place not in index:
            raise InputError(f"node {node} does not exist in this suite and task; was the circuit traced with another?")
        ranks[node.site][index[node.place], n_features if node.feature is None else node.feature] = rank
    return {site: rank.to(spliced.device) for site, rank in ranks.items()}


def circuit_subgraph(spliced: SplicedModel, circuit: Circuit, places: tuple[Place, ...]) -> Subgraph:
    """A circuit's own nodes."""
    return Subgraph(ranks_of(spliced, places, list(circuit.nodes)), len(circuit.nodes))


def metric_model(spliced: SplicedModel, task: Task, batch_size: int) -> Tensor:
    """F of the unedited model [example]."""
    found = []
    for batch in task.batches(batch_size):
        batch = batch.to(spliced.device).narrowed(task.metric)
        logits, _ = spliced.record(batch.clean, [])
        check_finite(logits, {})
        found.append(-objective_of(task, batch, logits)(logits))
    return torch.cat(found).double().cpu()


@dataclass(frozen=True, eq=False)
class AblatedModel:
    """A model whose nodes outside a subgraph take an ablation's values.

    All sites of `spliced` are ablated; layers before `start_layer` are not run again. `errors`:
    error nodes as the subgraph says ("nodes"), all kept ("keep"), or all ablated ("remove").
    """

    spliced: SplicedModel
    ablation: Ablation
    errors: str = "nodes"
    start_layer: int = 0
    batch_size: int = 32
    max_rows: int = 1024
    """Rows (subgraphs x examples) of one forward."""

    def __post_init__(self) -> None:
        check_error_terms(self.errors)
        check_number("max_rows", self.max_rows, ROWS)

    def metric(self, task: Task, subgraphs: Sequence[Subgraph], progress: Progress = silent) -> Tensor:
        """F of each subgraph on each example: [subgraph, example], float64 on the CPU."""
        found = torch.empty(len(subgraphs), len(task), dtype=torch.float64)
        n_batches = task.count_batches(self.batch_size)
        for batch in progress(task.batches(self.batch_size), "ablated runs", n_batches):
            batch = batch.to(self.spliced.device).narrowed(task.metric)
            values = self.ablation.values(self.spliced, task, batch)
            logits, seen = self.spliced.record(batch.clean, [resid(self.start_layer - 1)] if self.start_layer else [])
            objective, stream = objective_of(task, batch, logits), seen.get(resid(self.start_layer - 1))
            per_run = self.spliced.copies_at_once(batch.clean, self.max_rows)
            for begin in range(0, len(subgraphs), per_run):
                part = subgraphs[begin : begin + per_run]
                metric = self._forward(batch, part, values, objective, stream)
                found[begin : begin + per_run, batch.index] = metric.double().cpu()
        return found

    def _forward(
        self, batch: Batch, subgraphs: Sequence[Subgraph], values: Values, objective: Objective, stream: Tensor | None
    ) -> Tensor:
        """[subgraph, example] of one forward, whose rows are subgraphs x examples."""
        n_examples, places = len(batch.index), batch.places.flatten()
        rows = torch.arange(n_examples, device=self.spliced.device).repeat(len(subgraphs))

        def ablate(site: Site, x: Tensor, read: Tensor) -> Tensor:
            # [subgraph, example * slots + slot, width]; dense features exist for a few rows at a time
            arriving, reads = (t.unflatten(0, (len(subgraphs), n_examples)).flatten(1, 2) for t in (x, read))
            dictionary, value, result = self.spliced.dictionaries[site], values(site), arriving.clone()
            size = max(1, DENSE_NUMBERS // (len(subgraphs) * (dictionary.n_features + 1)))
            for some in (places >= 0).nonzero()[:, 0].split(size):
                kept = torch.stack([subgraph.keeps(site, self.errors, places[some]) for subgraph in subgraphs])
                result[:, some] = _ablated(dictionary, arriving[:, some], reads[:, some], value, some, kept).to(x.dtype)
            return result.view_as(x)

        begin = None if stream is None else Start(self.start_layer, stream[rows])
        with torch.no_grad():
            logits = self.spliced.run_reading(batch.clean.select(rows), ablate, start=begin, answers_only=True)
        return -objective.select(rows)(logits).unflatten(0, (len(subgraphs), n_examples))


def _ablated(dictionary: Dictionary, x: Tensor, read: Tensor, value: Patched, rows: Tensor, kept: Tensor) -> Tensor:
    """x [subgraph, n, width] with every node that is not `kept` [subgraph, n, n_features + 1] at its value.

    With x = decode(f) + error and y the same of the values: where the error is kept the result is x plus
    what the ablated features change, where it is ablated it is y less what the kept ones do (in the units
    of x and of y, where a dictionary normalises what it reads). A bypass goes on with what arrives.
    """
    x, read = x.to(precision(x.dtype)), read.to(precision(x.dtype))
    y, features = value.x_at(dictionary, rows, read).to(x.dtype), dictionary.encode(read)
    past = dictionary.bypass(read)
    change = value.features_at(dictionary, rows) - features
    feature_kept, error_kept = kept[..., :-1], kept[..., -1:]
    change = torch.where(error_kept, change, -change).masked_fill(feature_kept == error_kept, 0)
    statistics = dictionary.statistics(read)
    if statistics is not None:
        own = statistics.scale
        other = own if value.scale is None else value.scale.flatten(0, 1)[rows].to(own.dtype)
        change = change * torch.where(error_kept, own, other)
    change = change.flatten(0, 1)
    row, feature = change.nonzero(as_tuple=True)
    wrote = dictionary.write(change[row, feature], row, feature, len(change))
    return torch.where(error_kept, x, y if past is None else y + past) + wrote.view_as(x)


def objective_of(task: Task, batch: Batch, reference: Tensor) -> Objective:
    """m of runs on a batch, whose unedited run has the logits `reference`."""
    return Objective(task.metric, Answers(batch.answers.clean, batch.answers.corrupted, reference))
