"""The outside of a circuit, ablated in more ways than one: in part and at random, and as does most harm.

Ablating everything outside a circuit looks at one corner of a cube. Give each outside node the value
(1 - r) own + r ablated: r = 1 everywhere is the usual ablation, r = 0 the whole model. A circuit that explains the
behaviour has F near F(model) wherever r is in [0, 1]^n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from featcircuits.circuit.circuit import Circuit
from featcircuits.evaluation.ablated import AblatedModel, Prepared, Subgraph, circuit_subgraph, metric_model
from featcircuits.evaluation.ablations import Ablation, name_of, prepared_ablation
from featcircuits.evaluation.faithfulness import Reference, faithfulness, invalid_reason
from featcircuits.evaluation.masked import Masks, masked_metric, masks_of_circuit
from featcircuits.evaluation.scope import scope_of
from featcircuits.files.plain import plain
from featcircuits.inputs.ranges import MOST, SEEDS, Range, check_number
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_circuit, check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task

LOW = 0.05
"""The quantile over draws that is given beside their mean."""


class Extreme(NamedTuple):
    """The faithfulness at a point of the cube that a search found, and the share of outside nodes that it restores."""

    faithfulness: float
    restored: float


def worst_of(*found: Extreme) -> float:
    """The faithfulness farthest from 1."""
    return max((one.faithfulness for one in found), key=lambda f: abs(1 - f))


@dataclass(frozen=True)
class Outside:
    """How faithful a circuit is under other ablations of its outside.

    `ablated`: the usual faithfulness, r = 1. `mean`, `low`: the mean and the 5 % quantile over `draws` of every r from
    U(0, 1). `lowest`, `highest`: the extremes that `steps` signed gradient steps from each of `starts` points found; a
    search gives only a bound, and the true extremes lie at or beyond. `free`: how many outside nodes the search could
    restore. All are None, with the reason in `invalid`, if F(model) is not clearly above F(empty).
    """

    ablation: str
    ablated: float | None
    mean: float | None
    low: float | None
    draws: int
    lowest: Extreme | None
    highest: Extreme | None
    free: int
    steps: int
    starts: int
    n_examples: int
    seed: int
    invalid: str | None

    @property
    def worst(self) -> float | None:
        """The faithfulness farthest from 1 that was found."""
        return None if self.lowest is None or self.highest is None else worst_of(self.lowest, self.highest)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        named = {name: None if (at := getattr(self, name)) is None else at._asdict() for name in ("lowest", "highest")}
        return plain({**self.__dict__, **named, "worst": self.worst})


@dataclass(frozen=True, eq=False)
class Cube:
    """The relaxed ablations of a circuit's outside on a task; masks are 1 - r, and 1 at the circuit's nodes."""

    ablated: AblatedModel
    batches: Sequence[Prepared]
    inside: Masks
    """1 at the circuit's nodes and at errors that are kept, else 0."""

    @classmethod
    def of(cls, ablated: AblatedModel, task: Task, circuit: Subgraph) -> Cube:
        """The cube around a circuit."""
        return cls(ablated, list(ablated.prepared(task)), {}).around(circuit)

    def around(self, circuit: Subgraph) -> Cube:
        """The cube around another circuit, on the same batches."""
        return replace(self, inside=masks_of_circuit(self.ablated, circuit))

    def at(self, restored: Masks) -> Masks:
        """The masks that restore outside nodes by these shares, 1 - r."""
        return {site: own + (1 - own) * restored[site] for site, own in self.inside.items()}

    def metric(self, masks: Masks) -> Tensor:
        """F [example]."""
        with torch.no_grad():
            return torch.cat([masked_metric(self.ablated, batch, masks).detach() for batch in self.batches]).double()

    def slope(self, masks: Masks) -> tuple[float, dict[Any, Tensor]]:
        """(mean F, its gradient with respect to the masks)."""
        leaves = {site: mask.detach().requires_grad_() for site, mask in masks.items()}
        total, slopes = 0.0, {site: torch.zeros_like(mask) for site, mask in masks.items()}
        for batch in self.batches:
            F = masked_metric(self.ablated, batch, leaves).sum()
            total += float(F.detach())
            for site, slope in zip(leaves, torch.autograd.grad(F, list(leaves.values())), strict=True):
                slopes[site] += slope
        count = sum(len(batch.batch.index) for batch in self.batches)
        return total / count, {site: slope / count for site, slope in slopes.items()}

    def random(self, generator: torch.Generator) -> Masks:
        """Every outside node restored by a share from U(0, 1)."""
        return self.at(
            {
                site: torch.rand(own.shape, generator=generator, dtype=own.dtype).to(own)
                for site, own in self.inside.items()
            }
        )


def probe_outside(
    spliced: SplicedModel,
    circuit: Circuit,
    task: Task,
    *,
    ablation: str | Ablation = "mean",
    error_nodes: str = "as-circuit",
    start_layer: int = 0,
    draws: int = 50,
    steps: int = 12,
    starts: int = 3,
    budget: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> Outside:
    """Ablate a circuit's outside in part: at random, and as does most harm.

    `ablation`, `error_nodes`, `start_layer`: as in `fc.evaluate`. The adversary begins with nothing restored, with
    everything restored, and from random points (`starts` in all), and moves each outside node by signed gradient steps
    that shrink, once towards a lower and once towards a higher F. `budget`: it may restore only so many outside nodes,
    those with the largest gradients where nothing and where everything is restored. Raises `InputError` as
    `fc.evaluate` does.
    """
    check_task(spliced, task, check)
    check_circuit(spliced, circuit, check=check, whole=True)
    for what, value, least in (("draws", draws, 1), ("steps", steps, 1), ("starts", starts, 1)):
        check_number(what, value, Range(least, 100_000))
    if budget is not None:
        check_number("budget", budget, Range(1, MOST))
    check_number("seed", seed, SEEDS)
    scope = scope_of(spliced, start_layer)
    size = fitting_batch(spliced, task, batch_size, most=32)
    ablated = AblatedModel(scope, prepared_ablation(ablation, scope, task, size, seed), error_nodes, start_layer, size)
    own = circuit_subgraph(scope, circuit, task.places)
    model = metric_model(scope, task, size)
    inside, empty = ablated.metric(task, [own, replace(own, size=0)])
    reference, invalid = Reference(float(model.mean()), float(empty.mean())), invalid_reason(model, empty)
    name = name_of(ablation)
    cube = Cube.of(ablated, task, own)
    if invalid is not None:
        free = count_free(free_nodes(cube, budget))
        return Outside(name, None, None, None, draws, None, None, free, steps, starts, len(task), seed, invalid)
    drawn = drawn_scores(cube, reference, draws, seed, progress)
    lowest, highest, free = extremes(cube, reference, steps, starts, budget, seed, progress)
    return Outside(
        name, faithfulness(float(inside.mean()), reference), float(np.mean(drawn)), float(np.quantile(drawn, LOW)),
        draws, lowest, highest, free, steps, starts, len(task), seed, None,
    )  # fmt: skip


def drawn_scores(
    cube: Cube, reference: Reference, draws: int, seed: int = 0, progress: Progress = silent
) -> list[float]:
    """The faithfulness at random points of the cube [draw]; a seed draws the same points for every circuit."""
    generator = torch.Generator().manual_seed(seed)
    return [
        faithfulness(float(cube.metric(cube.random(generator)).mean()), reference)
        for _ in progress(range(draws), "outside at random", draws)
    ]


def extremes(
    cube: Cube,
    reference: Reference,
    steps: int,
    starts: int,
    budget: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Extreme, Extreme, int]:
    """The lowest and the highest faithfulness that a search finds in the cube, and how many nodes it could restore."""
    free = free_nodes(cube, budget)
    lowest, highest = (_extreme(cube, free, reference, sign, steps, starts, seed, progress) for sign in (-1, 1))
    return lowest, highest, count_free(free)


def count_free(free: Masks) -> int:
    """How many nodes may be restored."""
    return sum(int((mask > 0).sum()) for mask in free.values())


def free_nodes(cube: Cube, budget: int | None) -> Masks:
    """1 at the outside nodes that may be restored."""
    outside = {site: 1 - own for site, own in cube.inside.items()}
    if cube.ablated.error_nodes != "as-circuit":
        outside = {site: torch.cat([mask[:, :-1], torch.zeros_like(mask[:, -1:])], 1) for site, mask in outside.items()}
    if budget is None:
        return outside
    # at both ends, since a node that only acts together with others has no slope where these are ablated
    ends = [cube.slope(cube.at({site: mask * share for site, mask in outside.items()}))[1] for share in (0, 1)]
    sizes = torch.cat(
        [(torch.stack([end[site].abs() for end in ends]).sum(0) * mask).flatten() for site, mask in outside.items()]
    )
    chosen = torch.zeros_like(sizes)
    chosen[sizes.topk(min(budget, len(sizes))).indices] = 1
    parts = chosen.split([mask.numel() for mask in outside.values()])
    return {site: mask * part.view_as(mask) for (site, mask), part in zip(outside.items(), parts, strict=True)}


def _extreme(
    cube: Cube, free: Masks, reference: Reference, sign: int, steps: int, starts: int, seed: int, progress: Progress
) -> Extreme:
    best: tuple[float, Masks] | None = None
    for restored in progress(_starts(free, starts, seed), "outside at its worst", starts):
        for turn in range(steps + 1):
            F, slopes = cube.slope(cube.at(restored))
            if best is None or sign * F > sign * best[0]:
                best = F, restored
            if turn < steps:
                length = 1 - turn / steps  # the first step crosses the cube, the last one settles
                restored = {
                    site: (share + sign * length * slopes[site].sign() * free[site]).clamp(0, 1)
                    for site, share in restored.items()
                }
    assert best is not None
    count = sum(float(mask.sum()) for mask in free.values())
    return Extreme(
        faithfulness(best[0], reference), sum(float(share.sum()) for share in best[1].values()) / max(count, 1)
    )


def _starts(free: Masks, starts: int, seed: int) -> Iterator[Masks]:
    """Nothing restored, everything that may be, and random points."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(starts):
        if start < 2:
            yield {site: mask * start for site, mask in free.items()}
        else:
            yield {
                site: mask * torch.rand(mask.shape, generator=generator, dtype=mask.dtype).to(mask)
                for site, mask in free.items()
            }
