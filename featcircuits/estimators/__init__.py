"""Estimators of node effects: one file per estimator, a base class, and the table of their names.

Nothing here needs PyTorch until an estimator is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featcircuits.estimators.table import ESTIMATORS

if TYPE_CHECKING:
    from featcircuits.estimators.estimator import Estimator
    from featcircuits.states.baselines import Baseline
    from featcircuits.tasks.task import Task

__all__ = ["ESTIMATORS", "default_estimator", "parse_estimator"]


def parse_estimator(text: str | Estimator) -> Estimator:
    """The estimator that a text describes: `ig`, or `ig:steps=5:quadrature=gauss`; an estimator is returned unchanged.

    Raises `InputError` for an unknown name or option, and for a value that the option cannot have.
    """
    return ESTIMATORS.parse(text)


def default_estimator(task: Task, baseline: Baseline | None = None) -> Estimator:
    """`secant` for pairs, and `relp` for tasks with a single run; docs/frontier.md gives the reasons."""
    return parse_estimator("secant" if task.paired and baseline in (None, "paired") else "relp")


def __getattr__(name: str) -> Any:
    """`estimators.IntegratedGradients` and the other classes of the table."""
    for row, place in ESTIMATORS.rows.items():
        if place.rpartition(".")[2] == name:
            return ESTIMATORS[row]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
