"""Which effects by attribution patching to trust: the second order of each site's move beside the first.

With g the gradient at a site, H the Hessian of m there and D the site's whole change, a node whose own change is d has

    first order    g . d               (AtP)
    second order   d . H D / 2         (its share in the correction by a Hessian-vector product)

and the reliability |first| / (|first| + |second|), from 0 to 1: below 1/2 the correction is larger than the estimate.
After Zhang and Wang (2026), who correct whole components, for which d = D. A feature's *own* curvature, d . H d / 2,
takes a product for each node, which costs more than patching the node exactly; so it is not offered: patch those nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from featcircuits.effects.nodes import node_effects
from featcircuits.model.nodes import Node
from featcircuits.progress import Progress, silent
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Baseline
from featcircuits.tasks.task import Task

TRUSTED = 0.5
"""The least reliability of an estimate that is not flagged."""


class Orders(NamedTuple):
    """A node's mean effect to first order, and what the second adds."""

    first: float
    second: float

    @property
    def reliability(self) -> float:
        """|first| / (|first| + |second|); NaN where both are 0."""
        whole = abs(self.first) + abs(self.second)
        return abs(self.first) / whole if whole else math.nan


@dataclass(frozen=True)
class Reliability:
    """Both orders of every node with an effect, in the order of |first|."""

    task: str
    nodes: dict[Node, Orders]

    @property
    def flagged(self) -> list[Node]:
        """The nodes whose correction is larger than their estimate, the strongest first."""
        return [node for node, orders in self.nodes.items() if orders.reliability < TRUSTED]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = {str(node): {**one._asdict(), "reliability": one.reliability} for node, one in self.nodes.items()}
        return {"task": self.task, "nodes": rows, "flagged": [*map(str, self.flagged)]}


def reliability(
    spliced: SplicedModel,
    task: Task,
    *,
    baseline: Baseline = "paired",
    batch_size: int | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> Reliability:
    """The reliability of AtP for every node: one gradient of all sites, and two more for each site.

    Raises `InputError` as `fc.node_effects` does.
    """
    options = {"baseline": baseline, "batch_size": batch_size, "keep_examples": False, "check": check}
    first, both = (
        {node: mean for node, mean, _ in node_effects(spliced, task, name, progress=progress, **options).nodes()}
        for name in ("atp", "ig:steps=1:quadrature=taylor")
    )
    found = {node: Orders(first.get(node, 0.0), both.get(node, 0.0) - first.get(node, 0.0)) for node in first | both}
    return Reliability(task.name, dict(sorted(found.items(), key=lambda item: -abs(item[1].first))))
