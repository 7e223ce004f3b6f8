"""What readouts say about the shipped model, as plain records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import featcircuits as fc
from featcircuits.splicing.spliced import SplicedModel

TASKS = Path(__file__).parents[2] / "saes" / "grammar-4l" / "tasks"
BEHAVIOURS = ("gender", "ioi", "greater_than")
"""A name's gender is recalled; the receiver of a gift and a later year follow from words before."""


def task_of(model: SplicedModel, name: str, split: str, count: int, aggregate: str = "sum") -> fc.Task:
    """Examples of one of the shipped behaviours."""
    path = TASKS / f"{name}_{split}.jsonl"
    return fc.Task.from_jsonl(path, model.tokenizer, aggregate=aggregate).take(count)


def dissociation(model: SplicedModel, count: int = 40, draws: int = 100, nodes: int = 20) -> dict[str, Any]:
    """Circuits of the strongest nodes on training words, ablated on held-out words of each behaviour."""
    circuits = {
        name: fc.trace(model, task_of(model, name, "train", count), keep_nodes=f"top={nodes}").circuit
        for name in BEHAVIOURS
    }
    tasks = {name: task_of(model, name, "test", count) for name in BEHAVIOURS}
    return fc.selectivity(model, circuits, tasks, draws=draws).to_json()


def right_everywhere(model: SplicedModel) -> dict[str, float]:
    """The share of right answers on all held-out words, which says what there is to fix."""
    found = {}
    for path in sorted(TASKS.glob("*_test.jsonl")):
        task = fc.Task.from_jsonl(path, model.tokenizer, aggregate="sum", keep_wrong=True)
        right = fc.behaviour_of(model, task).right_clean
        found[path.stem.removesuffix("_test")] = sum(right) / len(right)
    return found


def sunk_heads(model: SplicedModel, count: int = 100) -> list[dict[str, Any]]:
    """Every head on gifts (ioi), sunk and zeroed at the last token."""
    task = task_of(model, "ioi", "test", count)
    heads = model.model.config.get_text_config().num_attention_heads
    layers = model.architecture.n_layers
    return [
        fc.sink_heads(model, task, [(layer, head)], -1).to_json() for layer in range(layers) for head in range(heads)
    ]


def number_vector(model: SplicedModel, site: str, count: int) -> Tensor:
    """Mean activation after plural subjects less that after singular ones, on training words."""
    task = task_of(model, "agreement_simple", "train", count, "none")
    auxiliaries = {"are": 1, "were": 1, "have": 1, "do": 1}
    plural = [model.tokenizer.decode(one.clean_answers).strip() in auxiliaries for one in task.examples]
    batch = task.nth_batch(count, 0)
    _, seen = model.record(batch.clean, [fc.Site.parse(site)])
    last = seen[fc.Site.parse(site)][torch.arange(count), batch.clean.last]
    chosen = torch.tensor(plural)
    return last[chosen].mean(0) - last[~chosen].mean(0)


def steering(model: SplicedModel, site: str = "resid_1", count: int = 100) -> dict[str, Any]:
    """The number's vector added at the last token of singular sentences: its effect, with patterns held, its tokens."""
    task = task_of(model, "agreement_simple", "test", 2 * count, "none")
    singular = {"is", "was", "has", "does"}
    own = [n for n, e in enumerate(task.examples) if model.tokenizer.decode(e.clean_answers).strip() in singular]
    found = fc.vector_effect(model, task.only(own[:count]), site, number_vector(model, site, 2 * count), where=-1)
    control = found.free.controls[-1]
    return {
        "n_examples": found.free.n_examples, "norm": found.norm, "F_before": found.free.before.mean,
        "F_after": found.free.after.mean, "effect": found.free.whole.measured.mean,
        "predicted": found.free.whole.predicted.mean, "held": found.held.whole.measured.mean,
        "share_without_attention": found.share_without_attention, "random_mean": control.mean,
        "random_largest": control.largest, "promoted": [one.token for one in found.promoted],
        "suppressed": [one.token for one in found.suppressed],
    }  # fmt: skip
