"""What a trace will take: every loop of a small one, scaled to all examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from featcircuits.effects.nodes import LOOP
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Task
from featcircuits.tracing import estimate as module
from featcircuits.tracing.plan import Plan, planned
from tests.tiny import random_task, spliced_model, tiny_model

ROUNDS, PER_EXAMPLE, ONCE, WARM_UP = 5, 3.0, 7.0, 2.0


@pytest.mark.parametrize("n_examples", [1, 16, 40])
def test_loops_over_examples_count_every_round(monkeypatch: pytest.MonkeyPatch, n_examples: int) -> None:
    """By a clock that a trace of known cost moves."""
    now, rounds = [0.0], [0]

    def fake(spliced: SplicedModel, task: Task, plan: Plan, *, progress: Callable[..., Any], check_fit: bool) -> None:
        assert plan.batch_size is not None
        batches = list(task.batches(plan.batch_size))
        for number, batch in enumerate(progress(batches, f"{LOOP} (atp)", len(batches))):
            now[0] += PER_EXAMPLE * len(batch.index) + (WARM_UP if number == 0 else 0)
        for _ in progress(range(rounds[0]), "learning a mask", rounds[0]):
            now[0] += PER_EXAMPLE * len(task)
        now[0] += ONCE

    monkeypatch.setattr(module, "traced", fake)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0"]), random_task(n_examples, 4)
    for rounds[0] in (0, 1, ROUNDS):
        found = module.estimate(spliced, task, planned(batch_size=8))
        assert found.seconds == pytest.approx((1 + rounds[0]) * PER_EXAMPLE * n_examples + ONCE + WARM_UP)
