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
    from featcircuits import dictionaries, export, sources
    from featcircuits.agreement import agree, audit
    from featcircuits.attribution.edges import edge_effects
    from featcircuits.attribution.effects import node_effects
    from featcircuits.behaviour import behaviour_of
    from featcircuits.circuit import Circuit
    from featcircuits.corruption import symmetric_replacement
    from featcircuits.diagnostics import illusion
    from featcircuits.errors import InputError
    from featcircuits.evaluation import bound_missed, evaluate, explained_effect, patch
    from featcircuits.health import check_suite
    from featcircuits.loading import load
    from featcircuits.nodes import Node
    from featcircuits.selection import select
    from featcircuits.sites import Site
    from featcircuits.tasks import Task
    from featcircuits.tracing import trace
    from featcircuits.training import train_suite

_HOMES = {
    "Circuit": "featcircuits.circuit",
    "InputError": "featcircuits.errors",
    "Node": "featcircuits.nodes",
    "Site": "featcircuits.sites",
    "Task": "featcircuits.tasks",
    "agree": "featcircuits.agreement",
    "audit": "featcircuits.agreement",
    "behaviour_of": "featcircuits.behaviour",
    "bound_missed": "featcircuits.evaluation",
    "check_suite": "featcircuits.health",
    "edge_effects": "featcircuits.attribution.edges",
    "evaluate": "featcircuits.evaluation",
    "explained_effect": "featcircuits.evaluation",
    "illusion": "featcircuits.diagnostics",
    "load": "featcircuits.loading",
    "node_effects": "featcircuits.attribution.effects",
    "patch": "featcircuits.evaluation",
    "select": "featcircuits.selection",
    "symmetric_replacement": "featcircuits.corruption",
    "trace": "featcircuits.tracing",
    "train_suite": "featcircuits.training",
}
_MODULES = ("dictionaries", "export", "sources")

__all__ = [
    "Circuit",
    "InputError",
    "Node",
    "Site",
    "Task",
    "agree",
    "audit",
    "behaviour_of",
    "bound_missed",
    "check_suite",
    "dictionaries",
    "edge_effects",
    "evaluate",
    "explained_effect",
    "export",
    "illusion",
    "load",
    "node_effects",
    "patch",
    "select",
    "sources",
    "symmetric_replacement",
    "trace",
    "train_suite",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("featcircuits")
    if name in _MODULES:
        return import_module(f"featcircuits.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'featcircuits' has no attribute {name!r}")
