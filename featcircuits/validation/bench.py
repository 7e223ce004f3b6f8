"""The runs that tests of a circuit share: any set of nodes kept or ablated, on the same examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from featcircuits.circuit.circuit import Circuit
from featcircuits.errors import InputError
from featcircuits.evaluation.ablated import AblatedModel, Subgraph, metric_model, ranks_of
from featcircuits.evaluation.ablations import prepared_ablation
from featcircuits.evaluation.curves import shuffled
from featcircuits.evaluation.faithfulness import Reference, invalid_reason
from featcircuits.evaluation.scope import scope_of, varying
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Bench:
    """A circuit on a task under one ablation. `nodes`: its nodes that are ablated or kept; `others`: nodes with an
    effect that are not in it, for random circuits."""

    ablated: AblatedModel
    task: Task
    ablation: str
    nodes: tuple[Node, ...]
    others: tuple[Node, ...]
    seed: int

    @classmethod
    def of(
        cls,
        spliced: SplicedModel,
        circuit: Circuit,
        task: Task,
        pool: Iterable[Node | str] | None,
        ablation: str,
        error_nodes: str,
        start_layer: int,
        seed: int,
        batch_size: int | None,
    ) -> Bench:
        """The bench; raises `InputError` if a pool has no node beyond the circuit. `pool`: None where none is drawn."""
        scope = scope_of(spliced, start_layer)
        size = fitting_batch(spliced, task, batch_size, most=32, gradients=False)
        ablated = AblatedModel(
            scope, prepared_ablation(ablation, scope, task, size, seed), error_nodes, start_layer, size
        )
        nodes = varying(circuit.nodes, scope, error_nodes)
        own = set(nodes)
        others = [node for node in varying(nodes_of(pool or ()), scope, error_nodes) if node not in own]
        if not nodes or not (others or pool is None):
            lacking = "circuit" if not nodes else "pool beyond the circuit"
            raise InputError(
                f"there is no node in the {lacking}, so nothing could be compared; give all nodes with an effect"
            )
        return cls(ablated, task, ablation, tuple(nodes), tuple(others), seed)

    def F(self, subgraphs: Sequence[Subgraph], task: Task | None = None) -> np.ndarray:
        """F [subgraph, example]."""
        return self.ablated.metric(self.task if task is None else task, subgraphs).numpy()

    def keeping(self, nodes: Sequence[Node], *, complement: bool = False) -> Subgraph:
        """The subgraph of some nodes, or of all but these."""
        return Subgraph(ranks_of(self.ablated.spliced, self.task.places, nodes), len(nodes), complement)

    @cached_property
    def circuit(self) -> Subgraph:
        """The circuit, whose ranks the other nodes follow."""
        ranks = ranks_of(self.ablated.spliced, self.task.places, [*self.nodes, *self.others])
        return Subgraph(ranks, len(self.nodes))

    @cached_property
    def model(self) -> np.ndarray:
        """F of the unedited model [example]."""
        return metric_model(self.ablated.spliced, self.task, self.ablated.batch_size).numpy()

    @cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """F of the circuit, of its complement, and with everything ablated [example]."""
        own = self.circuit
        inside, complement, empty = self.F([own, replace(own, complement=True), replace(own, size=0)])
        return inside, complement, empty

    @cached_property
    def reference(self) -> Reference:
        """The means of F(model) and F(empty)."""
        return Reference(float(self.model.mean()), float(self.ends[2].mean()))

    @property
    def gap(self) -> float:
        """F(model) - F(empty)."""
        return self.reference.model - self.reference.empty

    @cached_property
    def invalid(self) -> str | None:
        """Why shares of the gap would mean nothing; None if they mean something."""
        return invalid_reason(torch.from_numpy(self.model), torch.from_numpy(self.ends[2]))

    def random_circuits(self, draws: int) -> list[Subgraph]:
        """Circuits with as many nodes at each site, drawn from all nodes with an effect."""
        order = [*self.nodes, *self.others]
        drawn = (shuffled(order, self.seed + draw) for draw in range(draws))
        return [self.keeping(nodes[: len(self.nodes)]) for nodes in drawn]
