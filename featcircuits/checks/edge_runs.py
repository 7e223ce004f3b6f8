"""Forward passes along edges: edge circuits by their plan, and the whole model without some edges."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.checks.edge_plan import Edge, Plan, Row, parents_of
from featcircuits.checks.edge_values import EdgeValues, Move
from featcircuits.dictionaries.decomposition import rewired
from featcircuits.evaluation.ablated import AblatedModel, Prepared
from featcircuits.model.nodes import METRIC, Node
from featcircuits.model.sites import Site, resid
from featcircuits.progress import Progress, silent
from featcircuits.splicing.memory import copies_at_once
from featcircuits.splicing.spliced import Arrival, ReadingEdit, Start
from featcircuits.states.index import NodeIndex
from featcircuits.tasks.task import Task

Held = Callable[[int, Site, Tensor], Tensor]
"""(which row, site, what is read there [example, slot, read_width]) -> the site's activation in this row."""


def run_plan(ablated: AblatedModel, task: Task, plan: Plan, what: str, progress: Progress = silent) -> Tensor:
    """F of each circuit of a plan on each example [circuit, example], float64 on the CPU."""
    by_site: dict[Site | None, list[int]] = {site: [] for site in (*ablated.spliced.sites, None)}
    for number, row in enumerate(plan.rows):
        by_site[row.site].append(number)
    metrics = torch.empty(len(plan.rows), len(task), dtype=torch.float64)
    for batch in _batches(ablated, task, f"{what}, {len(plan.rows)} rows per example", progress):
        batch.circuits(plan, by_site, metrics)
    return metrics[list(plan.outputs)]


def run_without(
    ablated: AblatedModel, task: Task, removed: Sequence[Collection[Edge]], progress: Progress = silent
) -> Tensor:
    """F of the whole model with only these edges removed [set of edges, example], float64 on the CPU.

    A removed edge lets its target read the source's ablation value; all else reads what the model computes.
    """
    metrics = torch.empty(len(removed), len(task), dtype=torch.float64)
    for batch in _batches(ablated, task, f"edges removed, {len(removed)} sets", progress):
        for number, edges in enumerate(removed):
            metrics[number, batch.prepared.batch.index] = batch.without(edges)
    return metrics


def count_without(removed: Sequence[Collection[Edge]]) -> int:
    """How many rows per example `run_without` takes."""

    def rows(edges: Collection[Edge]) -> int:
        parents = parents_of(edges)
        sites = {end.site if isinstance(end, Node) else None for end in parents}
        distinct = {(end.site if isinstance(end, Node) else None, frozenset(own)) for end, own in parents.items()}
        return len(distinct) + len(sites - {None}) + 1

    return sum(map(rows, removed))


def _batches(ablated: AblatedModel, task: Task, what: str, progress: Progress) -> Iterator[_EdgeBatch]:
    index = NodeIndex.of(ablated.spliced, task.places)
    for prepared in progress(ablated.prepared(task), what, task.count_batches(ablated.batch_size)):
        yield _EdgeBatch(ablated, prepared, EdgeValues(ablated.spliced, prepared, index))


class _Whole(NamedTuple):
    """The run of the whole model: what arrives at each site, how it goes on, and F."""

    arrived: dict[Site, Arrival]
    value: dict[Site, Tensor]
    metric: Tensor


class _EdgeBatch(NamedTuple):
    """A batch that is run along edges."""

    ablated: AblatedModel
    prepared: Prepared
    values: EdgeValues

    # --- edge circuits

    def circuits(self, plan: Plan, by_site: dict[Site | None, list[int]], metrics: Tensor) -> None:
        """Fill in `metrics` [row, example] at the rows of the metric."""
        moves: list[Move] = [torch.empty(0)] * len(plan.values)
        wanted: dict[int, list[int]] = {}
        for number, value in enumerate(plan.values):
            wanted.setdefault(value.row, []).append(number)
        for site, numbers in by_site.items():
            for chunk in self._chunks(numbers):
                held = self._from_ablated(plan, [plan.rows[number] for number in chunk], moves)
                if site is None:
                    metrics[torch.tensor(chunk)[:, None], self.prepared.batch.index] = self._metric(len(chunk), held)
                    continue
                for number, at in zip(chunk, self._arrivals(len(chunk), site, held), strict=True):
                    nodes = [plan.values[value].node for value in wanted[number]]
                    for value, move in zip(wanted[number], self.values.moves(site, nodes, *at), strict=True):
                        moves[value] = move

    def _from_ablated(self, plan: Plan, rows: Sequence[Row], moves: Sequence[Move]) -> Held:
        """Sites at the ablation's values, and from there the moves that a row reads."""

        def held(number: int, site: Site, read: Tensor) -> Tensor:
            own = ((plan.values[value].node, moves[value]) for value in rows[number].reads)
            return self.values.base(site, read) + self.values.total(
                site, (pair for pair in own if pair[0].site == site)
            )

        return held

    # --- the whole model without some edges

    def without(self, edges: Collection[Edge]) -> Tensor:
        """F [example] of the whole model without these edges."""
        parents, moves, corrections = parents_of(edges), dict[Node, Move](), dict[Site, Tensor | float]()
        for site in sorted({end.site for end in parents if isinstance(end, Node)}):
            whole = self._whole(corrections)
            targets = [end for end in parents if isinstance(end, Node) and end.site == site]
            default = dict(zip(targets, self.values.moves(site, targets, *whole.arrived[site]), strict=True))
            sets = list(dict.fromkeys(frozenset(parents[target]) for target in targets))
            for chunk in self._chunks(range(len(sets))):
                chosen = [sets[number] for number in chunk]
                held = self._from_whole(whole, chosen, moves)
                for given, at in zip(chosen, self._arrivals(len(chosen), site, held), strict=True):
                    nodes = [target for target in targets if parents[target] == given]
                    moves |= zip(nodes, self.values.moves(site, nodes, *at), strict=True)
            changes = [(target, moves[target] - default[target]) for target in targets]
            corrections[site] = self.values.total(site, changes)
        whole = self._whole(corrections)
        if METRIC not in parents:
            return whole.metric
        return self._metric(1, self._from_whole(whole, [frozenset(parents[METRIC])], moves))[0]

    def _whole(self, corrections: dict[Site, Tensor | float]) -> _Whole:
        arrived: dict[Site, Arrival] = {}
        value: dict[Site, Tensor] = {}

        def follow(site: Site, x: Tensor, read: Tensor) -> Tensor:
            arrived[site] = Arrival(x, read)
            value[site] = (x + corrections[site]).to(x.dtype) if site in corrections else x
            return value[site]

        prepared = self.prepared
        with torch.no_grad():
            logits = self.ablated.spliced.run_reading(
                prepared.batch.clean, follow, start=prepared.start, answers_only=True
            )
        return _Whole(arrived, value, -prepared.objective(logits).double().cpu())

    def _from_whole(self, whole: _Whole, sets: Sequence[frozenset[Node]], moves: dict[Node, Move]) -> Held:
        """Sites as in the whole model, without the moves of some nodes."""
        for node in sorted(frozenset().union(*sets), key=str):
            if node not in moves:
                (moves[node],) = self.values.moves(node.site, [node], *whole.arrived[node.site])

        def held(number: int, site: Site, read: Tensor) -> Tensor:
            own = ((node, moves[node]) for node in sorted(sets[number], key=str) if node.site == site)
            value = whole.value[site] - self.values.total(site, own)
            return rewired(self.ablated.spliced.dictionaries[site], value, whole.arrived[site].read, read)

        return held

    # --- forward passes

    def _chunks(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        size = copies_at_once(self.ablated.spliced, self.prepared.batch.clean, self.ablated.max_rows)
        for begin in range(0, len(numbers), size):
            yield list(numbers[begin : begin + size])

    def _edit(self, n_rows: int, held: Held) -> ReadingEdit:
        def edit(site: Site, x: Tensor, read: Tensor) -> Tensor:
            reads = read.chunk(n_rows)
            return torch.cat([held(number, site, own) for number, own in enumerate(reads)]).to(x.dtype)

        return edit

    def _arrivals(self, n_rows: int, site: Site, held: Held) -> Iterable[Arrival]:
        rows = self._rows(n_rows)
        with torch.no_grad():
            arrived = self.ablated.spliced.run_until(
                self.prepared.batch.clean.select(rows), site, self._edit(n_rows, held),
                start=self._start(site.layer, n_rows, held),
            )  # fmt: skip
        return (Arrival(*pair) for pair in zip(*(at.chunk(n_rows) for at in arrived), strict=True))

    def _metric(self, n_rows: int, held: Held) -> Tensor:
        """F [row, example], float64 on the CPU."""
        rows, last = self._rows(n_rows), self.ablated.spliced.architecture.n_layers - 1
        with torch.no_grad():
            logits = self.ablated.spliced.run_reading(
                self.prepared.batch.clean.select(rows), self._edit(n_rows, held),
                start=self._start(last, n_rows, held), answers_only=True,
            )  # fmt: skip
        metric = -self.prepared.objective.select(rows)(logits)
        return metric.unflatten(0, (n_rows, -1)).double().cpu()

    def _rows(self, n_rows: int) -> Tensor:
        return torch.arange(len(self.prepared.batch.index), device=self.ablated.spliced.device).repeat(n_rows)

    def _start(self, layer: int, n_rows: int, held: Held) -> Start | None:
        """Where a pass can start: at the layer, if what enters it is a site whose value is known before the pass."""
        stream, own = resid(layer - 1) if layer > 0 else None, self.prepared.start
        dictionary = None if stream is None else self.ablated.spliced.dictionaries.get(stream)
        if stream is None or dictionary is None or dictionary.has_bypass or self.values.patched(stream).x is None:
            return None if own is None else Start(own.layer, own.stream.repeat(n_rows, 1, 1))
        seen = self.values.patched(stream).x
        assert seen is not None
        held_there = [held(number, stream, seen) for number in range(n_rows)]
        return Start(layer, torch.cat(held_there).to(self.ablated.spliced.model.dtype))
