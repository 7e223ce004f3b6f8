"""What a circuit of a single prompt keeps of it: tokens, activations and the probabilities of the answers."""

from __future__ import annotations

from typing import Any

import torch

from featcircuits.circuit.circuit import Circuit
from featcircuits.effects.results import NodeEffects
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import SiteState, states_of
from featcircuits.tasks.task import Task


def prompt_record(spliced: SplicedModel, task: Task, effects: NodeEffects, circuit: Circuit) -> dict[str, Any]:
    """For a manifest: {"prompt": ...} of a task with one example and positions apart, else empty.

    `activations` has the clean values of the circuit's features, by name; `answers` and `other_answers` the clean and
    corrupted answers with the probabilities that the model gives them after the clean prompt.
    """
    if len(task) != 1 or task.aggregate != "none":
        return {}
    (example,), batch = task.examples, task.batch([0]).to(spliced.device)
    states = effects.kept[0].states if 0 in effects.kept else states_of(spliced, task, batch, effects.baseline)
    logits, _ = spliced.record(batch.clean, [])
    probabilities = logits[0].double().softmax(-1)
    sites = {node.site for node in circuit.nodes if not node.is_error}
    values = {site: _values(states.sites[site]) for site in sites}
    activations = {
        str(node): values[node.site].get((node.place, node.feature), 0.0)
        for node in circuit.nodes
        if node.feature is not None
    }

    def answers(ids: tuple[int, ...]) -> list[dict[str, Any]]:
        return [{"id": i, "token": _text(spliced, i), "probability": float(probabilities[i])} for i in ids]

    return {
        "prompt": {
            "tokens": [_text(spliced, token) for token in example.clean],
            "ids": list(example.clean),
            "answers": answers(example.clean_answers),
            "other_answers": answers(example.corrupted_answers),
            "activations": activations,
        }
    }


def _values(state: SiteState) -> dict[tuple[Any, int], float]:
    """(position, feature) -> its clean value, where it is not 0."""
    some = state.value != 0
    columns = (torch.as_tensor(column)[some].tolist() for column in (state.row, state.feature, state.value))
    return {(row % state.slots, feature): value for row, feature, value in zip(*columns, strict=True)}


def _text(spliced: SplicedModel, token: int) -> str:
    return f"<{token}>" if spliced.tokenizer is None else spliced.tokenizer.decode([token])
