"""fc.wl_kernel: how alike circuits are as graphs, by the Weisfeiler-Lehman subtree kernel (Shervashidze et al. 2011).

A colour c_0(v) of each node is its label. A round refines it by the node's surroundings,

    c_{t+1}(v) = (c_t(v), sorted {(sign w, size of |w|, c_t(u)) : u -> v}, the same of v -> u)

and phi counts all colours of all rounds. The kernel is <phi, phi'> / (|phi| |phi'|): 1 for a circuit and itself,
positive semi-definite, and without regard to the order of nodes and edges.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featcircuits.circuit.circuit import Circuit
from featcircuits.comparison.rewired import rewired
from featcircuits.errors import InputError, known
from featcircuits.files.plain import plain
from featcircuits.inputs.arguments import expect
from featcircuits.inputs.ranges import SEEDS, Range, check_number
from featcircuits.model.nodes import Endpoint, Node

DEPTH, SIZES = 3, 4
"""Rounds of refinement, and how many sizes of edges are told apart: the heaviest, half of it, a quarter, the rest."""

LABELS: Mapping[str, Callable[[Endpoint], Hashable]] = {
    "node": str,
    "feature": lambda end: str(end._replace(place=None)) if isinstance(end, Node) else end.partition("@")[0],
    "site": lambda end: (str(end.site), end.is_error) if isinstance(end, Node) else end.partition("@")[0],
}
"""What nodes begin with: their whole name, their feature at any place, or their site alone, which leaves the shape."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """The kernel of every two circuits [circuit, circuit], beside circuits with the same nodes and degrees.

    `random`: the mean kernel of a circuit (row) and the other one (column) rewired at random, and `p`: the share of
    rewired ones (and this one) that are as similar as the circuit itself. Both are NaN without draws.
    """

    names: tuple[str, ...]
    values: np.ndarray
    random: np.ndarray
    p: np.ndarray
    draws: int

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN, which JSON lacks, becomes None."""
        tables = {name: getattr(self, name).tolist() for name in ("values", "random", "p")}
        return plain({"names": self.names, **tables, "draws": self.draws})


def wl_kernel(
    circuits: Mapping[str, Circuit], *, labels: str = "node", depth: int = DEPTH, draws: int = 0, seed: int = 0
) -> Kernel:
    """The Weisfeiler-Lehman kernel of every two circuits, and whether their edges, given their nodes, explain it.

    `labels`: "node", "feature" (without places) or "site". `draws`: how many rewired circuits each is compared with;
    they have the same nodes, and each node as many edges from and to each site (`rewired`). Without them, a large
    kernel may say only that the nodes are the same. Raises `InputError` for an unknown label and numbers out of range.
    """
    if labels not in LABELS:
        raise InputError(f"unknown labels {labels!r}; {known(LABELS, str(labels))}")
    check_number("depth", depth, Range(0, 20))
    check_number("draws", draws, Range(0, 10_000))
    check_number("seed", seed, SEEDS)
    for name, circuit in circuits.items():
        expect(f"circuit {name}", circuit, Circuit)
    colours = _Colours(LABELS[labels], depth)
    own = [colours.counts(circuit) for circuit in circuits.values()]
    values = gram(own)
    random, p = (np.full_like(values, np.nan) for _ in range(2))
    for column, circuit in enumerate(circuits.values()) if draws else ():
        others = [colours.counts(rewired(circuit, seed + draw)) for draw in range(draws)]
        found = gram(own, others)
        random[:, column] = found.mean(1)
        p[:, column] = (1 + (found >= values[:, column, None] - 1e-12).sum(1)) / (1 + draws)
    return Kernel(tuple(circuits), values, random, p, draws)


class _Colours:
    """Numbers for colours, the same for the same surroundings in any circuit; without hashes, so without collisions."""

    def __init__(self, label: Callable[[Endpoint], Hashable], depth: int) -> None:
        self.label, self.depth = label, depth
        self.numbers: dict[Hashable, int] = {}

    def counts(self, circuit: Circuit) -> Counter[int]:
        """phi: how often each colour of each round occurs."""
        edges = _edges(circuit)
        ends = dict.fromkeys([*circuit.nodes, *(end for source, target, _ in edges for end in (source, target))])
        colour = {end: self._number((0, self.label(end))) for end in ends}
        found = Counter(colour.values())
        for turn in range(1, self.depth + 1):
            ins: dict[Endpoint, list[tuple[Any, ...]]] = {end: [] for end in ends}
            outs: dict[Endpoint, list[tuple[Any, ...]]] = {end: [] for end in ends}
            for source, target, kind in edges:
                ins[target].append((*kind, colour[source]))
                outs[source].append((*kind, colour[target]))
            colour = {
                end: self._number((turn, colour[end], tuple(sorted(ins[end])), tuple(sorted(outs[end]))))
                for end in ends
            }
            found.update(colour.values())
        return found

    def _number(self, colour: Hashable) -> int:
        return self.numbers.setdefault(colour, len(self.numbers))


def _edges(circuit: Circuit) -> list[tuple[Endpoint, Endpoint, tuple[int, int]]]:
    """Edges with the sign and the size of their weight, in halvings of the heaviest."""
    heaviest = max(map(abs, circuit.edges.values()), default=0.0)
    return [
        (source, target, (int(np.sign(weight)), _size(abs(weight), heaviest)))
        for (source, target), weight in circuit.edges.items()
    ]


def _size(weight: float, heaviest: float) -> int:
    return min(SIZES - 1, int(-math.log2(weight / heaviest))) if weight > heaviest * 2.0**-SIZES else SIZES - 1


def gram(first: Sequence[Counter[int]], second: Sequence[Counter[int]] | None = None) -> np.ndarray:
    """Cosines of counts [first, second], the second being the first unless given; 0 for an empty one and another."""
    from scipy.sparse import csr_matrix

    def table(counts: Iterable[Counter[int]]) -> csr_matrix:
        rows = list(counts)
        values = [value for row in rows for value in row.values()]
        columns = [column for row in rows for column in row]
        starts = np.cumsum([0, *map(len, rows)])
        return csr_matrix((np.array(values, dtype=float), columns, starts), shape=(len(rows), width))

    width = 1 + max((column for row in [*first, *(second or [])] for column in row), default=0)
    one = table(first)
    other = one if second is None else table(second)
    norms = [np.sqrt(np.asarray(part.multiply(part).sum(1)).ravel()) for part in (one, other)]
    scale = np.outer(*norms)
    found = (one @ other.T).toarray()
    return np.divide(found, scale, out=np.zeros_like(found), where=scale > 0)
