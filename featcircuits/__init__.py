"""featcircuits: sparse feature circuits of language models, traced and measured.

    import featcircuits as fc

    model = fc.load(suite="grammar-4l")
    task = fc.Task.from_jsonl("agreement.jsonl", model.tokenizer)
    circuit = fc.trace(model, task)
    report = fc.evaluate(model, circuit, test_task)

Names are imported when first used, so that `import featcircuits` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcircuits import dictionaries, export
    from featcircuits.attribution.edges import edge_effects
    from featcircuits.attribution.effects import node_effects
    from featcircuits.circuit import Circuit
    from featcircuits.errors import InputError
    from featcircuits.evaluation import evaluate
    from featcircuits.loading import load
    from featcircuits.nodes import Node
    from featcircuits.sites import Site
    from featcircuits.tasks import Task
    from featcircuits.tracing import trace

__version__ = "0.1.0"

_HOMES = {
    "Circuit": "featcircuits.circuit",
    "InputError": "featcircuits.errors",
    "Node": "featcircuits.nodes",
    "Site": "featcircuits.sites",
    "Task": "featcircuits.tasks",
    "edge_effects": "featcircuits.attribution.edges",
    "load": "featcircuits.loading",
    "evaluate": "featcircuits.evaluation",
    "node_effects": "featcircuits.attribution.effects",
    "trace": "featcircuits.tracing",
}
_MODULES = ("dictionaries", "export")

__all__ = [
    "Circuit",
    "InputError",
    "Node",
    "Site",
    "Task",
    "dictionaries",
    "edge_effects",
    "evaluate",
    "export",
    "load",
    "node_effects",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"featcircuits.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'featcircuits' has no attribute {name!r}")
