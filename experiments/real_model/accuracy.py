"""Every estimator beside exact patching: whole outputs of all modules, neurons of some, and features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import featcircuits as fc
from experiments.frontier.models import ESTIMATORS, REFERENCE
from featcircuits.agreement.bases import in_basis
from featcircuits.agreement.moving import moving
from featcircuits.agreement.scores import compare
from featcircuits.effects.results import NodeEffects
from featcircuits.model.sites import Site
from featcircuits.runs.cost import measured
from featcircuits.splicing.spliced import SplicedModel

BANDS = ("early", "middle", "late", "all")
"""Thirds of the layers, and all of them."""
TOP = 100
NEURONS = ("resid_10", "attn_23", "mlp_24")
"""Where single neurons are patched: one forward pass for each of 576 at every position."""
Values = Mapping[Site, np.ndarray]


def whole_outputs(bare: SplicedModel, task: fc.Task) -> dict[str, list[dict[str, Any]]]:
    """Rows over (site, position) cells, effects averaged over pairs, as Rezaei Jafari et al. (2025) compare them."""
    outputs = in_basis(bare, "whole")
    moves = {site: np.asarray(errors.any(0)) for site, (_, errors) in moving(outputs, task, len(task)).items()}
    return _rows(outputs, task, moves, lambda found, site: found.error(site).mean(0).double().numpy())


def neurons(bare: SplicedModel, task: fc.Task) -> dict[str, list[dict[str, Any]]]:
    """Rows over single effects (pair, position, neuron)."""
    basis = fc.dictionaries.identity(bare.architecture.width).to(bare.device, bare.model.dtype)
    return features(replace(bare, dictionaries={Site.parse(name): basis for name in NEURONS}), task)


def features(spliced: SplicedModel, task: fc.Task) -> dict[str, list[dict[str, Any]]]:
    """Rows over single effects (pair, position, feature)."""
    moves = {site: entries for site, (entries, _) in moving(spliced, task, len(task)).items()}
    return _rows(spliced, task, moves, lambda found, site: found.entries(site)[3].numpy())


def _rows(
    spliced: SplicedModel, task: fc.Task, moves: Values, values_at: Callable[[NodeEffects, Site], np.ndarray]
) -> dict[str, list[dict[str, Any]]]:
    """`scores`: a row per estimator, kind of site and band; `costs`: a row per estimator."""

    def values(estimator: str) -> Values:
        with measured(spliced, len(task) * task.longest) as cost:
            found = fc.node_effects(spliced, task, estimator)
        costs.append(
            {"estimator": estimator, "forwards": cost.forwards, "backwards": cost.backwards, "cpu": cost.cpu_seconds}
        )
        return {site: values_at(found, site) for site in spliced.sites}

    costs: list[dict[str, Any]] = []
    truth = values(REFERENCE)
    scores = []
    for estimator in ESTIMATORS:
        if ":error_effects" not in estimator:
            estimate = values(estimator)
            for (kind, band), sites in _groups(spliced).items():
                own, right, moved = (_joined(column, sites) for column in (estimate, truth, moves))
                scores.append({"estimator": estimator, "kind": kind, "band": band, **_figures(own, right, moved)})
    return {"scores": scores, "costs": costs}


def _joined(values: Values, sites: Sequence[Site]) -> np.ndarray:
    return np.concatenate([values[site] for site in sites])


def _groups(spliced: SplicedModel) -> dict[tuple[str, str], list[Site]]:
    """(kind of site, band) -> its sites."""
    found: dict[tuple[str, str], list[Site]] = {}
    for site in spliced.sites:
        third = "early" if site.kind == "embed" else BANDS[3 * site.layer // spliced.architecture.n_layers]
        for band in (third, "all"):
            found.setdefault((site.kind, band), []).append(site)
    return found


def _figures(estimate: np.ndarray, truth: np.ndarray, moves: np.ndarray) -> dict[str, Any]:
    """Correlation and slope over the nodes that move, and over all of these but the largest."""
    comparison = compare(estimate, truth, TOP, moves)
    rest = moves.copy()
    if moves.any():
        rest[np.argmax(np.abs(truth) * moves)] = False
    without = compare(estimate, truth, TOP, rest)
    return {
        "n": comparison.n_moving,
        **{key: _known(getattr(comparison, key)) for key in ("pearson", "slope", "overlap")},
        **{f"{key}_rest": _known(getattr(without, key)) for key in ("pearson", "slope")},
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
