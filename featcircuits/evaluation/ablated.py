"""The model with everything outside a circuit ablated; many circuits in one forward.

At each site in forward order the activation that arrives, already changed by earlier sites, is
encoded anew; nodes outside the circuit take their ablation value; kept nodes keep what they
compute (Marks et al. 2024, section 4). Rows of a forward are circuits x examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featcircuits.circuit import Circuit
from featcircuits.errors import InputError
from featcircuits.evaluation.ablations import Ablation, Values
from featcircuits.metrics import Answers
from featcircuits.nodes import Node, Place
from featcircuits.progress import Progress, silent
from featcircuits.sites import Site, resid
from featcircuits.splice import SplicedModel, Start
from featcircuits.states import Objective, check_finite, encode
from featcircuits.tasks import Batch, Task

ERRORS = ("nodes", "keep", "remove")

NEVER = torch.iinfo(torch.int32).max
"""The rank of a node that no circuit of a ranking holds."""

Ranks = Mapping[Site, Tensor]
"""Per site [place, n_features + 1] int32: each node's rank, the error's last."""


@dataclass(frozen=True, eq=False)
class Subgraph:
    """The nodes of rank below `size`, or all others."""

    ranks: Ranks
    size: int
    complement: bool = False

    def keeps(self, site: Site, errors: str) -> Tensor:
        """[place, n_features + 1]: True where a node is not ablated."""
        keep = (self.ranks[site] < self.size) ^ self.complement
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
        if (node.feature or 0) >= n_features or node.place not in index:
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
        batch = batch.to(spliced.device)
        logits, _ = spliced.record(batch.clean, [])
        check_finite(logits, {})
        found.append(-_objective(task, batch, logits)(logits))
    return torch.cat(found).double().cpu()


def metric_ablated(
    spliced: SplicedModel,
    task: Task,
    subgraphs: Sequence[Subgraph],
    ablation: Ablation,
    *,
    errors: str = "nodes",
    start_layer: int = 0,
    batch_size: int = 16,
    max_rows: int = 1024,
    progress: Progress = silent,
) -> Tensor:
    """F with everything outside each subgraph ablated: [subgraph, example].

    All of `spliced`'s sites are ablated; layers before `start_layer` are not run again.
    """
    if errors not in ERRORS:
        raise InputError(f"errors is {errors!r}; known: {', '.join(ERRORS)}")
    found = torch.empty(len(subgraphs), len(task), dtype=torch.float64)
    n_batches = -(-len(task) // batch_size)
    for batch in progress(task.batches(batch_size), "ablated runs", n_batches):
        batch = batch.to(spliced.device)
        values = ablation.values(spliced, task, batch)
        logits, seen = spliced.record(batch.clean, spliced.streams([start_layer]))
        objective, stream = _objective(task, batch, logits), seen.get(resid(start_layer - 1))
        for part in _parts(len(subgraphs), max(1, max_rows // len(batch.index))):
            chunk = subgraphs[part]
            result = _run(spliced, batch, chunk, values, objective, errors, start_layer, stream)
            found[part, batch.index] = result.double().cpu()
    return found


def _run(
    spliced: SplicedModel,
    batch: Batch,
    subgraphs: Sequence[Subgraph],
    values: Values,
    objective: Objective,
    errors: str,
    start_layer: int,
    stream: Tensor | None,
) -> Tensor:
    """[subgraph, example] of one forward."""
    n_examples = len(batch.index)
    rows = torch.arange(n_examples, device=spliced.device).repeat(len(subgraphs))
    places = batch.places

    def ablate(site: Site, x: Tensor) -> Tensor:
        dictionary = spliced.dictionaries[site]
        features, error = (part.unflatten(0, (len(subgraphs), n_examples)) for part in encode(dictionary, x))
        kept = torch.stack([subgraph.keeps(site, errors) for subgraph in subgraphs])
        kept = kept[:, places.clamp(min=0)] | (places < 0)[..., None]
        feature_value, error_value = values(site)
        change = (feature_value - features).masked_fill(kept[..., :-1], 0)
        error_change = (error_value - error).masked_fill(kept[..., -1:], 0)
        total = dictionary.decode_change(change) + error_change
        return x + total.flatten(0, 1).to(x.dtype)

    begin = None if stream is None else Start(start_layer, stream[rows])
    with torch.no_grad():
        logits = spliced.run(batch.clean.select(rows), ablate, start=begin, answers_only=True)
    return -objective.select(rows)(logits).unflatten(0, (len(subgraphs), n_examples))


def _objective(task: Task, batch: Batch, reference: Tensor) -> Objective:
    return Objective(task.metric, Answers(batch.answers.clean, batch.answers.corrupted, reference))


def _parts(count: int, size: int) -> Iterator[slice]:
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))
