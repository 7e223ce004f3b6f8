"""The time and memory of a trace, estimated from a small part of its examples before it is run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from featcircuits.effects import edges, nodes
from featcircuits.runs.cost import measured, resident_bytes
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task
from featcircuits.tracing.plan import Plan
from featcircuits.tracing.trace import EmptyCircuit, traced

BY_BATCH = (nodes.LOOP, edges.LOOP)
"""The loops over the batches of a task; all other loops of a trace belong to a selection rule."""


class Estimate(NamedTuple):
    """The estimate. `gigabytes`: memory of the whole process, or of the model's device if it is on one."""

    seconds: float
    gigabytes: float
    n_examples: int
    batch_size: int


def estimate(spliced: SplicedModel, task: Task, plan: Plan, *, check_fit: bool = True) -> Estimate:
    """Estimate the time and memory of a trace by the plan, from two small batches of its examples.

    In a loop over batches only the second batch is timed, since the first is slower. Each round of a selection rule's
    loop runs all examples, and all rounds count. Work that is done once (ranking, pruning, hashes) is not multiplied.
    Model and suite are already loaded and count only for the memory.
    """
    batch_size = fitting_batch(spliced, task, plan.batch_size)
    small = max(1, min(batch_size, len(task) // 8))
    sample = task.take(min(len(task), 2 * small)).with_options(keep_wrong=True)
    per_example: list[float] = []
    """Seconds per example, one entry per loop."""

    def timed(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        seconds = []
        for item in items:
            began = time.perf_counter()
            yield item
            seconds.append(time.perf_counter() - began)
        if description.startswith(BY_BATCH):
            per_example.append(seconds[-1] / small)
        else:
            per_example.append(sum(seconds) / len(sample))

    began = time.perf_counter()
    # a few examples may give an empty circuit where many do not
    with measured(spliced, len(sample) * task.longest) as cost, suppress(EmptyCircuit):
        traced(spliced, sample, replace(plan, batch_size=small), check_fit=check_fit, progress=timed)
    once = time.perf_counter() - began - len(sample) * sum(per_example)
    grown = cost.megabytes * 2**20 * batch_size / small
    return Estimate(
        seconds=max(0.0, once) + sum(per_example) * len(task),
        gigabytes=(resident_bytes(spliced.device) + grown) / 2**30,
        n_examples=len(task),
        batch_size=batch_size,
    )
