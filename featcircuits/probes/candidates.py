"""The features that a probe's decision rests on, and the ones that a judge rejects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from featcircuits.dossiers.dossiers import Dossiers
from featcircuits.effects.nodes import node_effects
from featcircuits.errors import InputError, shortened
from featcircuits.estimators.estimator import Estimator
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.model.sites import Site
from featcircuits.probes.probe import Probe, reading, task_of
from featcircuits.probes.texts import Text
from featcircuits.splicing.spliced import SplicedModel

Judge = Callable[[Node], bool] | Iterable[Node | str]
"""Whether a feature is about the cue rather than the label; or the features that are."""


class Candidate(NamedTuple):
    """A feature, and the mean over texts of what it adds to the logit of the text's own class."""

    node: Node
    effect: float


def effects_on(
    spliced: SplicedModel,
    probe: Probe,
    site: Site,
    texts: Sequence[Text],
    *,
    skip: int = 0,
    estimator: str | Estimator | None = None,
    batch_size: int | None = None,
) -> list[Candidate]:
    """Every feature with an effect on the probe's logit if it is set to 0, summed over tokens; the largest first.

    Error nodes are left out: nobody can judge them.
    """
    model = reading(spliced, probe.readout(site, skip))
    task = task_of(texts, range(len(texts)))
    effects = node_effects(model, task, estimator, baseline="zero", batch_size=batch_size, keep_examples=False)
    found = [Candidate(node, mean) for node, mean, _ in effects.nodes() if not node.is_error and mean]
    return sorted(found, key=lambda each: -abs(each.effect))


def rejected(found: Sequence[Candidate], judge: Judge) -> tuple[Node, ...]:
    """The candidates that the judge says are about the cue.

    Raises `InputError` for a node that is no candidate, and if nothing or everything is rejected, since SHIFT would
    then do nothing or remove the whole classifier.
    """
    nodes = [each.node for each in found]
    if callable(judge):
        chosen = tuple(node for node in nodes if judge(node))
    else:
        chosen = tuple(dict.fromkeys(nodes_of(judge)))
        if unknown := [node for node in chosen if node not in nodes]:
            raise InputError(
                f"judge: {unknown[0]} is none of the {len(nodes)} candidates, on which the classifier rests; "
                "judge those, or raise `count`"
            )
    if len(chosen) in (0, len(nodes)):
        which = "none" if not chosen else "all"
        raise InputError(
            f"judge: {which} of the {len(nodes)} candidates are rejected; some must be, and some must stay"
        )
    return chosen


def about(dossiers: Dossiers, words: Iterable[str], share: float = 0.5) -> Callable[[Node], bool]:
    """A judge that reads dossiers as a person would: rejects features that are about some words.

    These words have at least `share` of the activation on the feature's listed tokens, or are at least that share of
    the tokens that it promotes and suppresses. `words`: tokens without the mark of a word's beginning. A feature
    without a dossier is an `InputError`.
    """
    wanted = frozenset(map(_bare, words))

    def judge(node: Node) -> bool:
        dossier = dossiers[Node(node.site, node.feature)]
        on = {each.token: each.share for each in dossier.top_tokens}
        moved = dict.fromkeys((each.token for each in (*dossier.promoted, *dossier.suppressed)), 1.0)
        return any(_share(tokens, wanted) >= share for tokens in (on, moved))

    return judge


def _share(tokens: Mapping[str, float], wanted: Collection[str]) -> float:
    inside = sum(weight for token, weight in tokens.items() if _bare(token) in wanted)
    return inside / total if (total := sum(tokens.values())) else 0.0


def _bare(token: str) -> str:
    if not isinstance(token, str):
        raise InputError(f"word {shortened(token)} is not a text")
    return token.strip("\u0120\u2581 ")


def random_like(found: Sequence[Candidate], removed: Sequence[Node], seed: int) -> list[Node]:
    """As many features of each site as are removed there, drawn from the others that have an effect."""
    generator, drawn = torch.Generator().manual_seed(seed), []
    for site in sorted({node.site for node in removed}):
        others = [each.node for each in found if each.node.site == site and each.node not in removed]
        count = sum(node.site == site for node in removed)
        drawn += [others[n] for n in torch.randperm(len(others), generator=generator)[:count].tolist()]
    return drawn
