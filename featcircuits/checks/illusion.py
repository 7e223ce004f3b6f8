"""Subspace-illusion diagnostics for the nodes of a circuit (Makelov et al. 2023).

A direction can change the output by activating a pathway that the model does not use: one part of it moves with
the concept but is not read, and another part is read but normally never moves. Three numbers
test for this, and none is conclusive alone:

* **ceiling**: effect of patching the nodes over that of patching the whole site at the same places. Far
  above 1, or negative, is suspect (honest nodes may exceed 1 too, if others cancel them).
* **row ratio**: effect of the patch over that of its row part, which is what the circuit's readers can see of it,
  moved by its own natural change. Far above 1 is suspect.
* **dormancy**: share of active features after the site that are active on neither prompt, and share of
  coordinates outside the range that the prompts span.

Wu et al. (2024) dispute that such a direction is an illusion; the message only says what is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.checks.directions import along, outside, ratio, row_part
from featcircuits.circuit.circuit import Circuit
from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import wide
from featcircuits.effects.direct import all_products, arcs_of, metric_gradients
from featcircuits.effects.ends import ends_above
from featcircuits.errors import InputError
from featcircuits.estimators.atp import AttributionPatching
from featcircuits.estimators.exact import patched_metric
from featcircuits.inputs.ranges import ROWS, check_number
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.model.sites import Site
from featcircuits.provenance.belonging import check_circuit, check_nodes, check_task
from featcircuits.splicing.memory import rows_at_once
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.contraction import contract_all
from featcircuits.states.index import NodeIndex
from featcircuits.states.states import States, states_of
from featcircuits.tasks.task import Task

MESSAGE = "may act through a normally inactive pathway"


class Limits(NamedTuple):
    """The limits from which numbers are flagged."""

    ceiling: float = 1.5
    row_ratio: float = 2.0
    dormancy: float = 0.25
    outside: float = 0.05
    smallest: float = 0.05
    """Nodes with a smaller share of the site's effect than this are not flagged for their ratios."""


@dataclass(frozen=True)
class Illusion:
    """The numbers of a node, or of all the circuit's nodes at a site together."""

    nodes: tuple[Node, ...]
    effect: float
    ceiling: float
    row_ratio: float
    dormancy: float
    outside: float
    limits: Limits = Limits()

    @property
    def flags(self) -> tuple[str, ...]:
        """The names of the numbers beyond their limits."""
        found = []
        if abs(self.ceiling) >= self.limits.smallest:
            if self.ceiling > self.limits.ceiling or self.ceiling < 0:
                found.append("ceiling")
            if self.row_ratio > self.limits.row_ratio or self.row_ratio < 0:
                found.append("row ratio")
        if self.dormancy > self.limits.dormancy:
            found.append("dormancy")
        if self.outside > self.limits.outside:
            found.append("outside")
        return tuple(found)

    @property
    def message(self) -> str:
        """All numbers, with a warning if any is flagged."""
        numbers = (
            f"ceiling {self.ceiling:.2f}, row ratio {self.row_ratio:.2f}, dormancy {self.dormancy:.0%}, "
            f"outside {self.outside:.0%}"
        )
        return f"{numbers}: {MESSAGE} ({', '.join(self.flags)})" if self.flags else numbers


def illusion(
    spliced: SplicedModel,
    task: Task,
    circuit: Circuit | Iterable[Node | str],
    *,
    limits: Limits | None = None,
    each: bool = True,
    max_rows: int = 512,
    check: bool = True,
) -> list[Illusion]:
    """Measure the numbers of every site's nodes together and, with `each`, of every node alone.

    All examples of the task run in one batch. They define the natural range, so give a few
    dozen. Raises `InputError` for tasks without pairs, for nodes that do not exist, and, unless `check` is False, for
    a circuit of another model.
    """
    check_task(spliced, task, check)
    check_number("max_rows", max_rows, ROWS)
    if isinstance(circuit, Circuit):
        check_circuit(spliced, circuit, check=check, whole=False)
    if not task.paired:
        raise InputError(f"{task.name}: the natural change of a node is that between the prompts of a pair")
    task.check_places()
    nodes = list(circuit.nodes) if isinstance(circuit, Circuit) else nodes_of(circuit)
    check_nodes(spliced, nodes, task.places)
    states = states_of(spliced, task, task.batch(range(len(task))))
    batch = states.batch
    assert batch.corrupted is not None
    _, corrupted = spliced.record(batch.corrupted, spliced.with_reads(spliced.sites))
    seen = _Seen(
        spliced=spliced,
        states=states,
        index=NodeIndex.of(spliced, task.places),
        corrupted=corrupted,
        readers=_readers(spliced, states),
        max_rows=rows_at_once(spliced, task.longest, max_rows),
    )
    measured = (seen.measure(group, limits or Limits()) for group in _groups(spliced, nodes, each))
    return [one for one in measured if one is not None]


def _groups(spliced: SplicedModel, nodes: list[Node], each: bool) -> Iterator[list[Node]]:
    """The groups of nodes to measure: the nodes of each site together, and with `each` every node alone."""
    for site in spliced.sites:
        here = [node for node in nodes if node.site == site]
        if here and (len(here) > 1 or not each):
            yield here
        if each:
            yield from ([node] for node in here)


def _readers(spliced: SplicedModel, states: States) -> dict[Site, list[Tensor]]:
    """site -> the readers of x [k, width] by row (example * slots + slot).

    A reader is the gradient of a downstream node through the direct connection alone, weighted by
    the node's effect on the metric, so directions that only idle nodes read count as unread. Readers are
    the metric, active features and errors.
    """
    coefficients = AttributionPatching().coefficients(spliced, states)
    ends, arcs = ends_above(contract_all(states, spliced, coefficients), 0.0, states), arcs_of(spliced)

    # every reader with the row that it reads: the metric reads all rows, a node the rows that it is connected to
    rows: dict[Site, list[Tensor]] = {site: [] for site in spliced.sites}
    vectors: dict[Site, list[Tensor]] = {site: [] for site in spliced.sites}
    for site, gradient in metric_gradients(spliced, states, coefficients, arcs).items():
        flat = gradient.flatten(0, 1).to(states.sites[site].change.dtype)
        rows[site].append(torch.arange(len(flat), device=flat.device))
        vectors[site].append(flat)
    for products in all_products(spliced, states, coefficients, ends, arcs):
        site = products.connection.upstream
        all_rows = torch.arange(states.batch.places.numel(), device=states.batch.places.device)
        for target, row in products.pairs(all_rows):
            reading = products.table[products.number(target, row)]
            some = reading.any(-1)
            rows[site].append(row[some])
            vectors[site].append(reading[some])

    return {site: _by_row(rows[site], vectors[site], states.batch.places.numel()) for site in spliced.sites}


def _by_row(rows: Sequence[Tensor], vectors: Sequence[Tensor], n_rows: int) -> list[Tensor]:
    """The vectors [n, width] of rows [n], grouped by row."""
    if not rows:
        return []
    row = torch.cat([*rows])
    ordered = torch.cat([*vectors])[row.argsort(stable=True)]
    return list(ordered.split(torch.bincount(row, minlength=n_rows).tolist()))


@dataclass(frozen=True, eq=False)
class _Seen:
    """The data that all measurements share."""

    spliced: SplicedModel
    states: States
    """All examples of the task in one batch."""
    index: NodeIndex
    corrupted: Mapping[Site, Tensor]
    """The activations of the corrupted run [example, slot, width]."""
    readers: Mapping[Site, list[Tensor]]
    max_rows: int

    def measure(self, group: list[Node], limits: Limits) -> Illusion | None:
        """The numbers of some nodes of one site; None if they do not move."""
        site, (rows, moves) = group[0].site, self._moves(group)
        if not len(rows):
            return None

        # the nodes' own move, the whole site's, and the part of the site's move along the direction that is read
        whole = self.states.sites[site].x_change.flatten(0, 1)[rows].to(moves.dtype)
        seen = torch.stack([self._row_part(site, row, move) for row, move in zip(rows.tolist(), moves, strict=True)])
        of_nodes, of_site, of_row_part = (
            self._effect(site, rows, vectors) for vectors in (moves, whole, along(whole, seen))
        )

        dormancy, beyond = self._downstream(site, rows, moves)
        return Illusion(
            nodes=tuple(group),
            effect=float(of_nodes.sum()) / len(self.states.batch.index),
            ceiling=ratio(of_nodes, of_site),
            row_ratio=ratio(of_nodes, of_row_part),
            dormancy=dormancy,
            outside=beyond,
            limits=limits,
        )

    def _moves(self, group: list[Node]) -> tuple[Tensor, Tensor]:
        """The rows (example * slots + slot) that the nodes move, and the move of x there."""
        site = group[0].site
        state, dictionary = self.states.sites[site], self.spliced.dictionaries[site]
        places = self.states.batch.places.flatten()
        total = torch.zeros_like(state.error_change).flatten(0, 1)
        for node in group:
            here = places == self.index.place(node)
            if node.feature is None:
                total[here] += state.error_change.flatten(0, 1)[here]
                continue
            entry = ((state.feature == node.feature) & here[state.row]).nonzero()[:, 0]
            step = dictionary.decoder_rows(state.feature[entry]) * state.step[entry, None]
            total.index_add_(0, state.row[entry], step.to(total.dtype))
        rows = (total != 0).any(-1).nonzero()[:, 0]
        return rows, total[rows]

    def _row_part(self, site: Site, row: int, move: Tensor) -> Tensor:
        """The part of a move that the readers of its row see."""
        readers = self.readers[site]
        if not readers or not len(readers[row]):
            return torch.zeros_like(move)
        return row_part(move[None], readers[row][None].to(move.dtype))[0]

    def _effect(self, site: Site, rows: Tensor, moves: Tensor) -> Tensor:
        parts = [
            patched_metric(self.spliced, self.states, site, rows[part], moves[part])
            for part in torch.arange(len(rows), device=rows.device).split(self.max_rows)
        ]
        return torch.cat(parts).double().cpu()

    def _downstream(self, site: Site, rows: Tensor, moves: Tensor) -> tuple[float, float]:
        """(share of newly active features after the site, share of coordinates out of range, its own included)."""
        n_new, n_active, n_outside, n_positions = 0, 0, 0.0, 0
        for run in self._patched(site, rows, moves):
            for at in run.x:
                natural = torch.cat([self.states.sites[at].x, self.corrupted[at]]).flatten(0, 1)
                real = (self.states.batch.clean.mask > 0).flatten().repeat(2)
                n_outside += outside(run.x[at][run.real], natural[real]) * int(run.real.sum())
                n_positions += int(run.real.sum())
                if at != site:
                    new, active = self._woken(at, run)
                    n_new, n_active = n_new + new, n_active + active
        return (n_new / n_active if n_active else 0.0), (n_outside / n_positions if n_positions else 0.0)

    def _woken(self, at: Site, run: _Patched) -> tuple[int, int]:
        """How many features are active in a patched run but on neither prompt, and how many are active in all."""
        dictionary = self.spliced.dictionaries[at]
        patched = _fires(dictionary, run.read[at])[run.real]
        clean = _fires(dictionary, self.states.sites[at].read)[run.example][run.real]
        corrupted = _fires(dictionary, self.corrupted[self.spliced.read_site(at)])[run.example][run.real]
        return int((patched & ~clean & ~corrupted).sum()), int(patched.sum())

    def _patched(self, site: Site, rows: Tensor, moves: Tensor) -> Iterator[_Patched]:
        """Runs in which the site moves at one row each, seen at the site and after it."""
        slots = self.states.sites[site].slots
        for part in torch.arange(len(rows), device=rows.device).split(self.max_rows):
            yield self._run(site, rows[part] // slots, rows[part] % slots, moves[part])

    @torch.no_grad()
    def _run(self, site: Site, example: Tensor, slot: Tensor, moves: Tensor) -> _Patched:
        x_seen: dict[Site, Tensor] = {}
        read_seen: dict[Site, Tensor] = {}

        def move(at: Site, x: Tensor, read: Tensor) -> Tensor:
            reads_itself = read is x
            if at == site:
                x = x.clone()
                x[torch.arange(len(slot), device=x.device), slot] += moves.to(x.dtype)
            if at >= site:
                x_seen[at], read_seen[at] = x, x if reads_itself else read
            return x

        tokens = self.states.batch.clean.select(example)
        self.spliced.run_reading(tokens, move, answers_only=True)
        # tokens before the patched one do not depend on it
        after = torch.arange(tokens.ids.shape[1], device=slot.device) >= slot[:, None]
        return _Patched(example, x_seen, read_seen, (tokens.mask > 0) & after)


class _Patched(NamedTuple):
    """A forward pass of patched runs, one per row: the example of each, and what each site holds and reads."""

    example: Tensor
    x: Mapping[Site, Tensor]
    read: Mapping[Site, Tensor]
    real: Tensor
    """The tokens from the patched one on [row, slot]."""


def _fires(dictionary: Dictionary, read: Tensor) -> Tensor:
    """Which features are not 0."""
    return dictionary.encode(wide(read)) != 0
