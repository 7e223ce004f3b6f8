"""Subspace-illusion diagnostics for the nodes of a circuit (Makelov et al. 2023).

A direction can change the output by waking a pathway that the model does not use: it moves together
with the concept but is not read, and drags along a part that is read but never moves. Three numbers
speak of that, and none is enough alone:

* **ceiling**: effect of patching the nodes over that of patching the whole site at the same places. Far
  above 1, or negative, is suspect (honest nodes may exceed it too, where others cancel them).
* **row ratio**: effect of the patch over that of its row part, what the circuit's readers can see of it,
  moved by its own natural change. Far above 1 is suspect.
* **dormancy**: share of active features after the site that neither prompt activates, and share of
  coordinates outside the range that the prompts span.

Wu et al. (2024) dispute that such a direction is an illusion; the message says what is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.checks.directions import along, outside, ratio, row_part
from featcircuits.circuit.circuit import Circuit
from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import precision
from featcircuits.effects.direct import arcs_of, cut_forward, metric_gradients, pulled_back, targets_of
from featcircuits.effects.targets import select_above
from featcircuits.errors import InputError
from featcircuits.estimators.atp import AttributionPatching
from featcircuits.estimators.exact import patched_metric
from featcircuits.inputs.ranges import ROWS, check_number
from featcircuits.model.connections import Through
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.model.sites import Site
from featcircuits.provenance.belonging import check_circuit, check_nodes, check_task
from featcircuits.splicing.spliced import SplicedModel, frozen
from featcircuits.states.contraction import contract
from featcircuits.states.states import States, states_of
from featcircuits.tasks.task import Task

MESSAGE = "may act through a normally inactive pathway"


class Limits(NamedTuple):
    """From where on a number is flagged."""

    ceiling: float = 1.5
    row_ratio: float = 2.0
    dormancy: float = 0.25
    outside: float = 0.05
    smallest: float = 0.05
    """Nodes with less of the site's effect than this have no ratio worth a flag."""


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
        """The names of the numbers that are beyond their limits."""
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
        """All numbers, and the warning where any is flagged."""
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
    """The numbers of every site's nodes together and, with `each`, of every node alone.

    All examples of the task are taken in one batch: the natural range comes from them, so give a few
    dozen. Raises `InputError` for unpaired tasks, for nodes that do not exist, and, unless `check` is False, for a
    circuit of another model.
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
    _, other = spliced.record(batch.corrupted, spliced.with_reads(spliced.sites))
    seen = _Seen(spliced, states, other, _readers(spliced, states), spliced.rows_at_once(task.longest, max_rows))
    found = []
    for site in spliced.sites:
        here = [node for node in nodes if node.site == site]
        groups = [here] if here and (len(here) > 1 or not each) else []
        for group in [*groups, *([node] for node in here if each)]:
            measured = seen.measure(group, limits or Limits(), task)
            found += [measured] if measured is not None else []
    return found


def _readers(spliced: SplicedModel, states: States) -> dict[Site, dict[int, Tensor]]:
    """site -> row -> [k, width]: what active downstream features, errors and the metric read of x there.

    A reader is the gradient of a downstream node through the direct connection alone, weighted by
    what the node does to the metric: directions that only idle nodes read count as unread.
    """
    coefficients = AttributionPatching().coefficients(spliced, states)
    effects = {site: contract(state, spliced, site, coefficients[site]) for site, state in states.sites.items()}
    selection = select_above(states, effects, 0.0)
    arcs = arcs_of(spliced)
    found: dict[Site, dict[int, list[Tensor]]] = {site: {} for site in spliced.sites}
    for site, direct in metric_gradients(spliced, states, coefficients, arcs).items():
        for row, vector in enumerate(direct.flatten(0, 1)):
            found[site].setdefault(row, []).append(vector[None].to(states.sites[site].change.dtype))
    with torch.enable_grad(), frozen(spliced.model):
        cut = cut_forward(spliced, states)
        for site in spliced.sites:
            into = [arc for arc in arcs if arc.downstream == site]
            if not into:
                continue
            state = states.sites[site]
            targets = targets_of(spliced.dictionaries[site], state, coefficients[site], selection[site])
            for arc, part, table, index in pulled_back(cut, into, targets):
                slots = 1 if arc.through < Through.ATTENTION else state.slots
                for target, start in zip(part.tolist(), index.tolist(), strict=True):
                    own = int(targets.row[target])
                    first = own // slots * slots
                    for row in range(first, first + slots):
                        vector = table[start + (0 if arc.through == Through.SKIP else row)]
                        if vector.any():
                            found[arc.upstream].setdefault(row, []).append(vector[None])
    return {site: {row: torch.cat(rows) for row, rows in by_row.items()} for site, by_row in found.items()}


@dataclass(frozen=True, eq=False)
class _Seen:
    """What all measurements share."""

    spliced: SplicedModel
    states: States
    corrupted: dict[Site, Tensor]
    readers: dict[Site, dict[int, Tensor]]
    max_rows: int

    def measure(self, group: list[Node], limits: Limits, task: Task) -> Illusion | None:
        """The numbers of some nodes of one site; None where they do not move."""
        site, (rows, moves) = group[0].site, self._moves(group, task)
        if not len(rows):
            return None
        state = self.states.sites[site]
        change = state.x_change.flatten(0, 1)[rows].to(moves.dtype)
        seen = torch.stack([self._row_part(site, row, move) for row, move in zip(rows.tolist(), moves, strict=True)])
        effect, whole, read = (self._effect(site, rows, vectors) for vectors in (moves, change, along(change, seen)))
        dormancy, beyond = self._downstream(site, rows, moves)
        return Illusion(
            nodes=tuple(group),
            effect=float(effect.sum()) / len(task),
            ceiling=ratio(effect, whole),
            row_ratio=ratio(effect, read),
            dormancy=dormancy,
            outside=beyond,
            limits=limits,
        )

    def _moves(self, group: list[Node], task: Task) -> tuple[Tensor, Tensor]:
        """Rows (example * slots + slot) that the nodes move, and how x moves there."""
        site = group[0].site
        state, dictionary = self.states.sites[site], self.spliced.dictionaries[site]
        total = torch.zeros_like(state.error_change).flatten(0, 1)
        places = self.states.batch.places.flatten()
        number = {place: index for index, place in enumerate(task.places)}
        for node in group:
            if node.feature is None:
                here = places == number[node.place]
                total[here] += state.error_change.flatten(0, 1)[here]
                continue
            entry = ((state.feature == node.feature) & (places[state.row] == number[node.place])).nonzero()[:, 0]
            step = dictionary.decoder_rows(state.feature[entry]) * state.step[entry, None]
            total.index_add_(0, state.row[entry], step.to(total.dtype))
        rows = (total != 0).any(-1).nonzero()[:, 0]
        return rows, total[rows]

    def _row_part(self, site: Site, row: int, move: Tensor) -> Tensor:
        readers = self.readers[site].get(row)
        if readers is None:
            return torch.zeros_like(move)
        return row_part(move[None], readers[None].to(move.dtype))[0]

    def _effect(self, site: Site, rows: Tensor, moves: Tensor) -> Tensor:
        parts = [
            patched_metric(self.spliced, self.states, site, rows[part], moves[part])
            for part in torch.arange(len(rows), device=rows.device).split(self.max_rows)
        ]
        return torch.cat(parts).double().cpu()

    def _downstream(self, site: Site, rows: Tensor, moves: Tensor) -> tuple[float, float]:
        """(share of newly active features after the site, share of coordinates out of range, its own included)."""
        new, active, beyond, count = 0, 0, 0.0, 0
        for at, x, read, example, slot in self._patched(site, rows, moves):
            own = self.states.sites[at]
            # tokens before the patched one cannot tell of it
            after = torch.arange(x.shape[1], device=x.device) >= slot[:, None]
            real = (self.states.batch.clean.mask[example] > 0) & after
            natural = torch.cat([own.x, self.corrupted[at]]).flatten(0, 1)
            keep = (self.states.batch.clean.mask > 0).flatten().repeat(2)
            beyond += outside(x[real], natural[keep]) * int(real.sum())
            count += int(real.sum())
            if at == site:
                continue
            dictionary = self.spliced.dictionaries[at]
            woken = _fires(dictionary, read)[real]
            before = _fires(dictionary, own.read)[example][real]
            other = _fires(dictionary, self.corrupted[self.spliced.read_site(at)])[example][real]
            new += int((woken & ~before & ~other).sum())
            active += int(woken.sum())
        return (new / active if active else 0.0), (beyond / count if count else 0.0)

    def _patched(self, site: Site, rows: Tensor, moves: Tensor) -> Iterator[tuple[Site, *tuple[Tensor, ...]]]:
        """(site, activation, what is read there, example, patched slot) of patched runs, at the site and after."""
        slots = self.states.sites[site].slots
        for part in torch.arange(len(rows), device=rows.device).split(self.max_rows):
            example, slot = rows[part] // slots, rows[part] % slots
            seen: dict[Site, tuple[Tensor, Tensor]] = {}

            def move(
                at: Site, x: Tensor, read: Tensor, part: Tensor = part, slot: Tensor = slot, seen: dict = seen
            ) -> Tensor:
                same = read is x
                if at == site:
                    x = x.clone()
                    x[torch.arange(len(part), device=x.device), slot] += moves[part].to(x.dtype)
                seen[at] = (x, x if same else read)
                return x

            with torch.no_grad():
                self.spliced.run_reading(self.states.batch.clean.select(example), move, answers_only=True)
            yield from ((at, x, read, example, slot) for at, (x, read) in seen.items() if at >= site)


def _fires(dictionary: Dictionary, read: Tensor) -> Tensor:
    """Which features are not 0."""
    return dictionary.encode(read.to(precision(read.dtype))) != 0
