"""Training and held-out pairs of a suite's behaviours."""

from __future__ import annotations

import featcircuits as fc
from featcircuits.splicing.spliced import SplicedModel


def tasks(spliced: SplicedModel, name: str, train: int | None, test: int | None) -> tuple[fc.Task, fc.Task]:
    """So many training and held-out pairs (None: all of the file); roles where prompts differ in length."""
    assert spliced.suite is not None
    found = []
    for split, count in (("train", train), ("test", test)):
        task = fc.Task.from_jsonl(spliced.suite.task_file(name, split), spliced.tokenizer)
        task = task.with_options(metric=spliced.suite.tasks[name].get("metric", task.metric))
        lengths = {len(example.clean) for example in task.examples}
        placed = task if len(lengths) == 1 else task.with_options(aggregate="role")
        found.append(placed if count is None else placed.take(count))
    return found[0], found[1]
