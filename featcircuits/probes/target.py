"""A feature, a group of features or a direction as the target: why does it fire there?

The model's logits give way to what the target reads at one position: for features i with encoder rows e_i at a site
whose dictionary reads x,

    F = sum over i of e_i . x       (their pre-activations, up to constants)

and for a direction v at a site F = v . x. Prompts end at the target's position, since nothing after it reaches it. So
every estimator, exact patching, edges, evaluation and interventions explain the target as they explain an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError, shortened
from featcircuits.model.nodes import Node, Place, nodes_of
from featcircuits.model.sites import Site
from featcircuits.splicing.readout import Readout
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.examples import Example, Span
from featcircuits.tasks.task import Task


class Aimed(NamedTuple):
    """The model that gives the target's value in place of logits, and the task whose prompts end where it stands."""

    spliced: SplicedModel
    task: Task


def toward(
    spliced: SplicedModel,
    task: Task,
    target: Node | str | Sequence[Node | str],
    *,
    direction: Tensor | None = None,
    place: Place = None,
) -> Aimed:
    """Aim a model and a task at a feature (`resid_2/303@5`), at several of one site and place, or at a direction.

    `direction`: a vector [width] at the site that `target` then names (`resid_2`). `place`: where it is, a position or
    a role, whose last token counts; by default that of the features. The model keeps the dictionaries that the target
    can depend on, the task the examples in whose clean prompt a feature of the target is active (for a direction, all).
    Pass both results on, to `fc.trace` or anything else; F is the target's value, and grows with it. Raises
    `InputError` for nodes of several sites or places, error nodes, dictionaries that normalise what they read, places
    that a prompt does not have, pairs that do not differ up to there, features that are active in no example, and
    targets that no dictionary stands before.
    """
    nodes: list[Node] = []
    if direction is not None:
        read, weight, name = *_along(spliced, target, direction), f"{target} along a direction"
    else:
        nodes = nodes_of([target] if isinstance(target, (str, Node)) else target)
        read, weight = _read(spliced, nodes)
        place, name = nodes[0].place if place is None else place, " + ".join(map(str, nodes))
    both = torch.stack([weight, torch.zeros_like(weight)])
    readout = Readout(read, both, both.new_zeros(2), last=True)
    kept = [site for site in spliced.sites if _before(site, read, spliced.architecture.sequential)]
    if not kept:
        raise InputError(f"no dictionary stands before {read}, so nothing could explain {shortened(name)}")
    ending = _ending(task, place, name)
    if nodes:
        ending = _firing(spliced, ending, read, nodes)
    return Aimed(replace(spliced.only(kept), readout=readout), ending)


def _along(spliced: SplicedModel, target: object, direction: Tensor) -> tuple[Site, Tensor]:
    """The site that a direction is of, and the direction."""
    if not isinstance(target, (str, Site)):
        raise InputError(f"a direction is at one site, such as 'resid_2'; found {shortened(target)}")
    site = Site.parse(target)
    width = spliced.architecture.site_width(spliced.model, site)
    if direction.shape != (width,) or not bool(torch.isfinite(direction).all()):
        raise InputError(f"a direction at {site} has {width} finite numbers; found {tuple(direction.shape)}")
    return site, direction.detach()


def _read(spliced: SplicedModel, nodes: Sequence[Node]) -> tuple[Site, Tensor]:
    """What features read: the site, and the sum of their encoder rows."""
    if not nodes:
        raise InputError("there is no target; give a feature such as 'resid_2/303@5'")
    site, place = nodes[0].site, nodes[0].place
    for node in nodes:
        if (node.site, node.place) != (site, place):
            raise InputError(f"targets stand at one site and place; {nodes[0]} and {node} do not")
        if node.feature is None:
            raise InputError(f"{node} is an error node, which no single direction reads; give features, or a direction")
    dictionary = spliced.dictionaries[site]
    ids = [node.feature for node in nodes if node.feature is not None]
    if max(ids) >= dictionary.n_features:
        raise InputError(f"{site} has {dictionary.n_features} features, so {site}/{max(ids)} does not exist")
    if dictionary.normalisation is not None:
        raise InputError(
            f"the dictionary at {site} normalises what it reads ({dictionary.normalisation.name}), so its features are "
            "no linear readouts; give their direction instead"
        )
    rows = dictionary.encoder_rows(torch.tensor(ids, device=spliced.device))
    return spliced.read_site(site), rows.sum(0).detach()


def _firing(spliced: SplicedModel, task: Task, read: Site, nodes: Sequence[Node]) -> Task:
    """The examples in whose clean prompt one of the features is active at its last token."""
    dictionary, ids = spliced.dictionaries[nodes[0].site], [node.feature for node in nodes]
    active: list[int] = []
    for batch in task.batches(fitting_batch(spliced, task, None, most=64, gradients=False)):
        clean = batch.clean.to(spliced.device)
        _, seen = spliced.record(clean, [read])
        x = wide(seen[read][torch.arange(len(clean.last)), clean.last])
        fires = (dictionary.encode(x)[:, ids] != 0).any(-1).cpu()
        active += batch.index[fires].tolist()
    if not active:
        raise InputError(
            f"{task.name}: {' + '.join(map(str, nodes))} is active in no clean prompt, so there is nothing to explain; "
            "give prompts in which it fires"
        )
    return task.only(active).with_options(layout=None)


def _before(site: Site, read: Site, sequential: bool) -> bool:
    """Whether what a site writes can reach what is read."""
    beside = not sequential and site.layer == read.layer and site.kind in ("attn", "attn_z")
    return site < read and not (beside and read.kind in ("mlp_in", "mlp"))


def _ending(task: Task, place: Place, name: str) -> Task:
    """The task with prompts that end at a place, and the target's two classes as answers."""
    examples = []
    for number, example in enumerate(task.examples, 1):
        end = _end(example, place, f"{task.name}, example {number}")
        clean, corrupted = example.clean[:end], None if example.corrupted is None else example.corrupted[:end]
        if clean == corrupted:
            raise InputError(
                f"{task.name}, example {number}: both prompts are the same up to {place}, so nothing moves {name}; "
                "leave the pair out, or use a baseline without pairs"
            )
        roles = tuple((role, span) for role, span in example.roles if span.end <= end)
        examples.append(replace(example, clean=clean, corrupted=corrupted, clean_answers=(0,), corrupted_answers=(1,),
                                roles=roles))  # fmt: skip
    return replace(task, examples=tuple(examples), metric="logit_difference", layout=None, keep_wrong=True)


def _end(example: Example, place: Place, where: str) -> int:
    """The number of tokens up to a place, its last token included."""
    if isinstance(place, int):
        if not 0 <= place < len(example.clean):
            raise InputError(f"{where}: there is no position {place} in {len(example.clean)} tokens")
        return place + 1
    span: Span | None = dict(example.roles).get(place) if place is not None else None
    if span is None:
        known = ", ".join(role for role, _ in example.roles) or "none"
        raise InputError(f"{where}: give the target's place, a position or a role (known: {known}); found {place!r}")
    return span.end
