"""featcircuits: sparse feature circuits of language models, traced and measured.

    import featcircuits as fc

    model = fc.load(suite="grammar-4l")
    task = fc.Task.from_jsonl("agreement.jsonl", model.tokenizer)
    circuit = fc.trace(model, task).circuit
    report = fc.evaluate(model, circuit, test_task)

Names are imported when first used, so that `import featcircuits` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcircuits import dictionaries, export, groups, labels, page, sources
    from featcircuits.agreement import agree
    from featcircuits.attention.splits import attention_splits
    from featcircuits.checks.audit import audit
    from featcircuits.checks.bound import bound_missed
    from featcircuits.checks.edge_areas import mib_areas
    from featcircuits.checks.edge_curve import edge_curve
    from featcircuits.checks.illusion import illusion
    from featcircuits.checks.patching import patch
    from featcircuits.checks.paths import explained_effect
    from featcircuits.checks.reliability import reliability
    from featcircuits.circuit.circuit import Circuit
    from featcircuits.circuit.influence import influence, pruned_by_influence
    from featcircuits.comparison.compare import compare
    from featcircuits.comparison.kernel import wl_kernel
    from featcircuits.comparison.matching import match_features
    from featcircuits.dossiers.dossiers import Dossiers
    from featcircuits.dossiers.features import features
    from featcircuits.effects.edges import edge_effects
    from featcircuits.effects.nodes import node_effects
    from featcircuits.errors import InputError
    from featcircuits.evaluation.evaluate import evaluate
    from featcircuits.health import check_suite
    from featcircuits.interventions.generation import generate
    from featcircuits.interventions.intervene import intervene
    from featcircuits.interventions.intervention import Intervention
    from featcircuits.interventions.steering import steered
    from featcircuits.loading.load import load, load_bare
    from featcircuits.model.nodes import Node
    from featcircuits.model.sites import Site
    from featcircuits.probes.shift import shift
    from featcircuits.probes.target import toward
    from featcircuits.readouts.back_patch import back_patch
    from featcircuits.readouts.patchscope import patchscope
    from featcircuits.readouts.selectivity import selectivity
    from featcircuits.readouts.sinking import sink_heads
    from featcircuits.readouts.splits import promote_suppress, split_by_outcome
    from featcircuits.readouts.vector import vector_effect
    from featcircuits.selection.select import select
    from featcircuits.tasks.behaviour import behaviour_of
    from featcircuits.tasks.corruption import symmetric_replacement
    from featcircuits.tasks.task import Task
    from featcircuits.tracing.stability import stability
    from featcircuits.tracing.trace import trace
    from featcircuits.training import Recipe, train_suite
    from featcircuits.validation.constants import optimal_constants
    from featcircuits.validation.controls import control_curves
    from featcircuits.validation.joint import joint_effects
    from featcircuits.validation.nonsense import nonsense_task
    from featcircuits.validation.outside import probe_outside
    from featcircuits.validation.validate import validate

_HOMES = {
    "Circuit": "featcircuits.circuit.circuit",
    "Dossiers": "featcircuits.dossiers.dossiers",
    "InputError": "featcircuits.errors",
    "Intervention": "featcircuits.interventions.intervention",
    "Node": "featcircuits.model.nodes",
    "Recipe": "featcircuits.training",
    "Site": "featcircuits.model.sites",
    "Task": "featcircuits.tasks.task",
    "agree": "featcircuits.agreement",
    "attention_splits": "featcircuits.attention.splits",
    "audit": "featcircuits.checks.audit",
    "back_patch": "featcircuits.readouts.back_patch",
    "behaviour_of": "featcircuits.tasks.behaviour",
    "bound_missed": "featcircuits.checks.bound",
    "check_suite": "featcircuits.health",
    "compare": "featcircuits.comparison.compare",
    "control_curves": "featcircuits.validation.controls",
    "edge_curve": "featcircuits.checks.edge_curve",
    "edge_effects": "featcircuits.effects.edges",
    "evaluate": "featcircuits.evaluation.evaluate",
    "explained_effect": "featcircuits.checks.paths",
    "features": "featcircuits.dossiers.features",
    "generate": "featcircuits.interventions.generation",
    "illusion": "featcircuits.checks.illusion",
    "influence": "featcircuits.circuit.influence",
    "intervene": "featcircuits.interventions.intervene",
    "joint_effects": "featcircuits.validation.joint",
    "load": "featcircuits.loading.load",
    "load_bare": "featcircuits.loading.load",
    "match_features": "featcircuits.comparison.matching",
    "mib_areas": "featcircuits.checks.edge_areas",
    "node_effects": "featcircuits.effects.nodes",
    "nonsense_task": "featcircuits.validation.nonsense",
    "optimal_constants": "featcircuits.validation.constants",
    "patch": "featcircuits.checks.patching",
    "patchscope": "featcircuits.readouts.patchscope",
    "probe_outside": "featcircuits.validation.outside",
    "promote_suppress": "featcircuits.readouts.splits",
    "pruned_by_influence": "featcircuits.circuit.influence",
    "reliability": "featcircuits.checks.reliability",
    "select": "featcircuits.selection.select",
    "selectivity": "featcircuits.readouts.selectivity",
    "shift": "featcircuits.probes.shift",
    "sink_heads": "featcircuits.readouts.sinking",
    "split_by_outcome": "featcircuits.readouts.splits",
    "stability": "featcircuits.tracing.stability",
    "steered": "featcircuits.interventions.steering",
    "symmetric_replacement": "featcircuits.tasks.corruption",
    "toward": "featcircuits.probes.target",
    "trace": "featcircuits.tracing.trace",
    "train_suite": "featcircuits.training",
    "validate": "featcircuits.validation.validate",
    "vector_effect": "featcircuits.readouts.vector",
    "wl_kernel": "featcircuits.comparison.kernel",
}
_MODULES = ("dictionaries", "export", "groups", "labels", "page", "sources")

__all__ = [
    "Circuit",
    "Dossiers",
    "InputError",
    "Intervention",
    "Node",
    "Recipe",
    "Site",
    "Task",
    "agree",
    "attention_splits",
    "audit",
    "back_patch",
    "behaviour_of",
    "bound_missed",
    "check_suite",
    "compare",
    "control_curves",
    "dictionaries",
    "edge_curve",
    "edge_effects",
    "evaluate",
    "explained_effect",
    "export",
    "features",
    "generate",
    "groups",
    "illusion",
    "influence",
    "intervene",
    "joint_effects",
    "labels",
    "load",
    "load_bare",
    "match_features",
    "mib_areas",
    "node_effects",
    "nonsense_task",
    "optimal_constants",
    "page",
    "patch",
    "patchscope",
    "probe_outside",
    "promote_suppress",
    "pruned_by_influence",
    "reliability",
    "select",
    "selectivity",
    "shift",
    "sink_heads",
    "sources",
    "split_by_outcome",
    "stability",
    "steered",
    "symmetric_replacement",
    "toward",
    "trace",
    "train_suite",
    "validate",
    "vector_effect",
    "wl_kernel",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("featcircuits")
    if name in _MODULES:
        return import_module(f"featcircuits.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'featcircuits' has no attribute {name!r}")
