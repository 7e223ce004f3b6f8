"""The path-hypothesis test (Goldowsky-Dill et al. 2023): do a circuit's paths carry the behaviour?

The hypothesis says that only the circuit's edges matter. So every node of the circuit is computed
from the values of its parents in the circuit, and everything else that its site reads comes from the
corrupted run; the metric reads its parents in the same way. Inputs of the circuit are clean.

    ATE = E |F(clean) - F(corrupted)|,  AUE = E |F(clean) - F(hypothesis)|,  explained = 1 - AUE / ATE

Each node has one value, so this is the treeified test for hypotheses that a graph can express. It
measures sufficiency: a circuit that explains everything may still have nodes that nothing needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.circuit.circuit import Circuit, Endpoint
from featcircuits.dictionaries.decomposition import moved_between, rewired
from featcircuits.errors import InputError
from featcircuits.inputs.ranges import ROWS, check_number
from featcircuits.model.nodes import METRIC, Node
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_circuit, check_task
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.memory import copies_at_once
from featcircuits.splicing.spliced import ReadingEdit, SplicedModel
from featcircuits.states.index import NodeIndex
from featcircuits.states.states import Objective, fitting_batch
from featcircuits.states.tally import pieces
from featcircuits.tasks.task import Batch, Task


@dataclass(frozen=True, eq=False)
class PathTest:
    """The result of the test; the three metrics are F per example [example]."""

    aue: float
    """The average unexplained effect."""
    ate: float
    """The average total effect."""
    clean: Tensor
    corrupted: Tensor
    hypothesis: Tensor

    @property
    def explained(self) -> float:
        """1 - AUE / ATE: 1 if the hypothesis acts like the model, 0 if it explains nothing; NaN without an effect."""
        return 1 - self.aue / self.ate if self.ate else float("nan")


def explained_effect(
    spliced: SplicedModel,
    task: Task,
    circuit: Circuit,
    *,
    batch_size: int | None = None,
    max_rows: int = 512,
    check: bool = True,
    progress: Progress = silent,
) -> PathTest:
    """Test how much of the task's behaviour a circuit's nodes and edges carry.

    It runs one forward row per example and distinct set of parents at a site. Connections through
    sites without a dictionary belong to the node that they lead to, and read the clean prompt.
    Raises `InputError` for tasks without pairs and circuits of other sites or places, and, unless `check` is False,
    of another model.
    """
    check_task(spliced, task, check)
    check_circuit(spliced, circuit, check=check, whole=True)
    check_number("max_rows", max_rows, ROWS)
    if not task.paired:
        raise InputError(f"{task.name}: a path hypothesis swaps clean for corrupted values, and there are no pairs")
    if circuit.places != task.places:
        raise InputError(f"the circuit's places are {circuit.places}, those of {task.name} are {task.places}")
    parents: dict[Endpoint, frozenset[Node]] = {end: frozenset() for end in (*circuit.nodes, METRIC)}
    for source, target in circuit.edges:
        if isinstance(source, Node):
            parents[target] |= {source}
    batch_size = fitting_batch(spliced, task, batch_size)
    batches = progress(task.batches(batch_size), "path hypothesis", task.count_batches(batch_size))
    metrics = [_Hypothesis.of(spliced, task, batch).metrics(parents, max_rows) for batch in batches]
    clean, corrupted, hypothesis = (torch.cat(parts) for parts in zip(*metrics, strict=True))
    return PathTest(
        aue=float((clean - hypothesis).abs().mean()),
        ate=float((clean - corrupted).abs().mean()),
        clean=clean,
        corrupted=corrupted,
        hypothesis=hypothesis,
    )


class _Metrics(NamedTuple):
    """F of three runs [example]."""

    clean: Tensor
    corrupted: Tensor
    hypothesis: Tensor


@dataclass(frozen=True, eq=False)
class _Hypothesis:
    """The hypothesis on one batch: corrupted values everywhere, and each node's move from them."""

    spliced: SplicedModel
    batch: Batch
    index: NodeIndex
    objective: Objective
    clean_metric: Tensor
    corrupted_metric: Tensor
    corrupted: Mapping[Site, Tensor]
    moves: dict[Node, Tensor]
    """Node -> its value under the hypothesis minus its corrupted one, as a move of x [example, slot, width]."""

    @classmethod
    def of(cls, spliced: SplicedModel, task: Task, batch: Batch) -> _Hypothesis:
        batch = batch.to(spliced.device).narrowed(task.F)
        assert batch.corrupted is not None
        logits, _ = spliced.record(batch.clean, [])
        other, corrupted = spliced.record(batch.corrupted, spliced.with_reads(spliced.sites))
        check_finite(other, corrupted)
        objective, index = Objective.of(task, batch, logits), NodeIndex.of(spliced, task.places)
        return cls(spliced, batch, index, objective, objective(logits), objective(other), corrupted, {})

    def metrics(self, parents: Mapping[Endpoint, frozenset[Node]], max_rows: int) -> _Metrics:
        """F of the clean, corrupted and hypothesis runs [example]."""
        for site in self.spliced.sites:
            nodes = [node for node in parents if isinstance(node, Node) and node.site == site]
            sets = list(dict.fromkeys(parents[node] for node in nodes))
            for chunk in pieces(torch.arange(len(sets)), copies_at_once(self.spliced, self.batch.clean, max_rows)):
                chosen = [sets[number] for number in chunk.tolist()]
                tokens, hold = self._holding(chosen)
                with torch.no_grad():
                    arrived = self.spliced.run_until(tokens, site, hold)
                for given, *at in zip(chosen, *(x.split(len(self.batch.index)) for x in arrived), strict=True):
                    self._read(site, (node for node in nodes if parents[node] == given), *at)
        tokens, hold = self._holding([parents[METRIC]])
        with torch.no_grad():
            logits = self.spliced.run_reading(tokens, hold, answers_only=True)
        return _Metrics(*(-m.cpu() for m in (self.clean_metric, self.corrupted_metric, self.objective(logits))))

    def _holding(self, sets: list[frozenset[Node]]) -> tuple[Tokens, ReadingEdit]:
        """The clean prompts, once per set of parents, and the edit that sets every site to the values of its set."""
        rows = torch.arange(len(self.batch.index), device=self.spliced.device).repeat(len(sets))

        def hold(at: Site, x: Tensor, read: Tensor) -> Tensor:
            value = torch.cat([self._held(at, given) for given in sets]).to(x.dtype)
            return rewired(self.spliced.dictionaries[at], value, self._corrupted_read(at)[rows], read)

        return self.batch.clean.select(rows), hold

    def _corrupted_read(self, site: Site) -> Tensor:
        return self.corrupted[self.spliced.read_site(site)]

    def _held(self, site: Site, given: frozenset[Node]) -> Tensor:
        x = self.corrupted[site]
        for node in sorted(given, key=str):  # sort the set, since the order of a sum changes its rounding
            if node.site == site:
                x = x + self.moves[node].to(x.dtype)
        return x

    def _read(self, site: Site, nodes: Iterable[Node], x: Tensor, read: Tensor) -> None:
        """Each node's value in the activation that arrived, minus its corrupted value."""
        dictionary = self.spliced.dictionaries[site]
        change = moved_between(dictionary, self.corrupted[site], self._corrupted_read(site), x, read)
        for node in nodes:
            here = (self.batch.places == self.index.place(node))[..., None]
            if node.feature is None:
                move = change.error
            else:
                row = dictionary.decoder_rows(torch.tensor([node.feature], device=x.device))
                move = change.steps[..., node.feature, None] * row
            self.moves[node] = move * here
