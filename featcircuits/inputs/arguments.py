"""Arguments of the wrong type, in one message at every public function."""

from __future__ import annotations

from typing import Any

from featcircuits.errors import InputError, shortened

_MADE_BY = {
    "SplicedModel": "fc.load(...)",
    "Task": "fc.Task.from_jsonl(path, model.tokenizer)",
    "Circuit": "fc.trace(model, task).circuit or fc.Circuit.load(path)",
    "NodeEffects": "fc.node_effects(model, task)",
}


def expect(what: str, value: Any, kind: type) -> None:
    """Raise `InputError` for an argument of another type, naming the function that makes the right one."""
    if not isinstance(value, kind):
        shown = f" {shortened(value, 60)}" if isinstance(value, (str, int, float)) else ""
        raise InputError(
            f"{what} is{shown} of type {type(value).__name__}; give a {kind.__name__}, as made by "
            f"{_MADE_BY[kind.__name__]}"
        )
