"""Which sites to splice: nodes that a circuit needs, by the sites that its nodes may be at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import featcircuits as fc
from experiments.frontier.circuits import features_alone
from experiments.selection.cells import Setting, ablated_model
from featcircuits.evaluation.ablated import Subgraph, metric_model, ranks_of
from featcircuits.evaluation.faithfulness import Reference, area, faithfulness
from featcircuits.model.sites import Site
from featcircuits.runs.cost import measured
from featcircuits.splicing.spliced import SplicedModel

SIZES = (1, 2, 4, 7, 10, 15, 20, 30, 40, 60, 80, 120, 180, 270, 400, 600, 900, 1350)
REACHED = (0.5, 0.8)
Choices = Mapping[str, Callable[[Site], bool]]
CHOICES: Choices = {
    "all": lambda site: True,
    "attention and MLPs": lambda site: site.kind != "resid",
    "stream": lambda site: site.kind in ("resid", "embed"),
    "stream at every 3rd layer": lambda site: site.kind == "embed" or (site.kind == "resid" and site.layer % 3 == 2),
    "attention, MLPs, stream at every 3rd layer": lambda site: site.kind != "resid" or site.layer % 3 == 2,
}

TRAINED: Choices = {
    "all twelve": lambda site: True,
    "attention and MLPs": lambda site: site.kind != "resid",
    "stream": lambda site: site.kind == "resid",
    "resid_8": lambda site: str(site) == "resid_8",
    "resid_22": lambda site: str(site) == "resid_22",
}
"""Of the sites with dictionaries."""


def places(
    spliced: SplicedModel,
    task: fc.Task,
    held_out: fc.Task,
    choices: Choices = CHOICES,
    ablations: Iterable[str] = ("paired",),
) -> list[dict[str, Any]]:
    """A row per choice of sites and ablation: sites, nodes for a faithfulness of .5 and .8, area, and the cost.

    `cap`: the faithfulness of all features without error nodes; None for whole outputs, which have no features.
    """
    rows = []
    for name, kept in choices.items():
        chosen = {site: one for site, one in spliced.dictionaries.items() if kept(site)}
        scope = replace(spliced, dictionaries=chosen)
        with measured(scope, len(task) * task.longest) as cost:
            effects = fc.node_effects(scope, task, "secant", keep_examples=False)
        order = fc.select(scope, task, effects, "effect")
        sizes = [size for size in SIZES if size <= len(order)]
        row = {"sites": name, "n_sites": len(chosen), "n_nodes": len(order), "cpu": cost.cpu_seconds, "sizes": sizes}
        for ablation in ablations:
            ranks = ranks_of(scope, held_out.places, order)
            setting = Setting(ablation, "as-circuit")
            model = ablated_model(scope, held_out, setting, 0)
            means = model.metric(held_out, [Subgraph(ranks, size) for size in (0, *sizes)]).mean(1).tolist()
            reference = Reference(float(metric_model(scope, held_out, 50).mean()), means[0])
            curve = [faithfulness(mean, reference) for mean in means[1:]]
            has_features = any(dictionary.n_features for dictionary in chosen.values())
            cap = features_alone(scope, held_out, setting) if has_features else None
            rows.append(
                row | {"ablation": ablation, "cap": cap, "curve": curve, "area": area(sizes, curve)}
                | {f"nodes_{bound}": _first(sizes, curve, bound) for bound in REACHED}
            )  # fmt: skip
    return rows


def _first(sizes: list[int], curve: list[float], bound: float) -> int | None:
    """The smallest size from which on all larger circuits reach the bound, too."""
    reached = None
    for size, score in zip(reversed(sizes), reversed(curve), strict=True):
        if score < bound:
            break
        reached = size
    return reached
