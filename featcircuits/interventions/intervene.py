"""fc.intervene: what interventions do, beside what was predicted and what the same does elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from featcircuits.estimators.estimator import Estimator
from featcircuits.inputs.ranges import SEEDS, Range, check_number
from featcircuits.interventions.controls import matched, strengths
from featcircuits.interventions.downstream import check_downstream
from featcircuits.interventions.intervention import Intervention
from featcircuits.interventions.measured import Asked, Batched, measured
from featcircuits.interventions.named import named
from featcircuits.interventions.outcome import Outcome
from featcircuits.interventions.plan import planned
from featcircuits.interventions.predicted import check_edges, estimator_for
from featcircuits.interventions.prompts import task_of
from featcircuits.interventions.summary import summary
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_nodes, check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task

CONTROLS = 10
"""How many controls of each kind there are, unless it is said."""
MOST_PARTS = 64
"""The most parts that are run one by one; of more, each intervention is run as a whole."""


def intervene(
    spliced: SplicedModel,
    prompts: Task | str | Iterable[str | Sequence[int]],
    interventions: Iterable[Intervention | str] | Intervention | str,
    *,
    groups: Mapping[str, Iterable[Node | str]] | None = None,
    vectors: Mapping[str, Any] | None = None,
    runs: Mapping[str, str | Sequence[int]] | None = None,
    estimator: str | Estimator | None = None,
    downstream: Iterable[Node | str] = (),
    controls: int = CONTROLS,
    tokens: int = 5,
    batch_size: int | None = None,
    seed: int = 0,
    check: bool = True,
    progress: Progress = silent,
) -> Outcome:
    """Make interventions, and measure what comes of them beside a prediction and controls.

    `prompts`: a task, or texts (or rows of token ids), whose metric is the log probability of the token that the
    unedited model finds likeliest. `interventions`: values or texts such as "resid_2/303@5=0".
    `groups`, `vectors`, `runs`: what interventions call by name: nodes, vectors [width], other prompts.
    `estimator`: what predicts the change, as in `fc.node_effects`; the sum of the effects of the same moves (with
    "direct" effects held: of the edges to the metric). By default that of `fc.node_effects`, or RelP under the rules
    for what is held. `downstream`: features whose change is predicted by edges and measured. `controls`: how many
    features of the same site, most alike in how strong and how frequent they are at the changed tokens, and how many
    random directions are changed in the same way. `tokens`: how many tokens' changes to report.
    Raises `InputError`, before any run of the edited model, for whatever does not exist or does not go together.
    """
    task = prompts if isinstance(prompts, Task) else task_of(spliced, prompts)
    check_task(spliced, task, check)
    for what, value, least in (("controls", controls, 0), ("tokens", tokens, 0)):
        check_number(what, value, Range(least, 1000))
    check_number("seed", seed, SEEDS)
    nodes = nodes_of(downstream)
    check_nodes(spliced, nodes)
    check_downstream(nodes)
    size = fitting_batch(spliced, task, batch_size)
    plan = planned(spliced, task, interventions, named(spliced, groups, vectors, runs), size, seed)
    chosen = estimator_for(task, plan.held, estimator)
    check_edges(chosen, plan.held, nodes)
    batches = [batch.to(spliced.device) for batch in task.batches(size)]
    alike = strengths(plan.spliced, plan.parts, (plan.prompts(batch) for batch in batches)) if controls else {}
    exchanged = list(matched(plan.parts, alike, controls)) if alike else []
    units = [[part] for part in plan.parts]
    if len(units) > MOST_PARTS:
        numbers = range(len(plan.interventions))
        units = [[part for part in plan.parts if part.number == number] for number in numbers]
    asked = Asked(plan, chosen, units, exchanged, controls, nodes, seed, tokens)
    found: list[Batched] = []
    with torch.no_grad():
        for batch in progress(batches, "interventions", len(batches)):
            found.append(measured(asked, batch))
    return summary(asked, found, alike)
