"""fc.shift: a classifier freed from a cue by removing the features that a judge rejects, beside its controls."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featcircuits.agreement.bases import in_basis
from featcircuits.errors import InputError
from featcircuits.estimators.estimator import Estimator
from featcircuits.inputs.ranges import MOST, SEEDS, Range, check_number
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.probes.candidates import Candidate, Judge, effects_on, random_like, rejected
from featcircuits.probes.probe import Probe, fit, pooled, up_to
from featcircuits.probes.rows import Row, row
from featcircuits.probes.texts import Text, check_texts, without
from featcircuits.progress import Progress, silent
from featcircuits.splicing.spliced import SplicedModel


@dataclass(frozen=True)
class Shift:
    """What became of a classifier: its rows, and the features that were judged, those with the largest effect first."""

    site: str
    rows: tuple[Row, ...]
    candidates: tuple[Candidate, ...]
    removed: tuple[Node, ...]

    def __getitem__(self, name: str) -> Row:
        """The row of a name."""
        for each in self.rows:
            if each.name == name:
                return each
        raise InputError(f"there is no row {name!r}; rows: {', '.join(each.name for each in self.rows)}")

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "site": self.site,
            "rows": [each.to_json() for each in self.rows],
            "candidates": [{"node": str(each.node), "effect": each.effect} for each in self.candidates],
            "removed": [str(node) for node in self.removed],
        }


@dataclass(frozen=True, eq=False)
class _Work:
    """What all rows share. `pooled` of the texts without edits are kept."""

    spliced: SplicedModel
    site: Site
    skip: int
    penalty: float
    estimator: str | Estimator | None
    batch_size: int | None

    def pooled(self, texts: Sequence[Text], removed: Iterable[Node] = (), basis: str = "features") -> Tensor:
        model = in_basis(self.spliced, basis)
        return pooled(model, texts, self.site, self.skip, removed, self.batch_size)

    def fit(self, rows: Tensor, classes: Sequence[int]) -> Probe:
        return fit(rows, classes, self.penalty)

    def effects(self, probe: Probe, texts: Sequence[Text], basis: str = "features") -> list[Candidate]:
        options = {"skip": self.skip, "estimator": self.estimator, "batch_size": self.batch_size}
        return effects_on(in_basis(self.spliced, basis), probe, self.site, texts, **options)


def shift(
    spliced: SplicedModel,
    train: Sequence[Text],
    test: Sequence[Text],
    *,
    site: Site | str,
    judge: Judge,
    balanced: Sequence[Text] = (),
    count: int = 50,
    examples: int = 100,
    estimator: str | Estimator | None = None,
    keywords: Iterable[Sequence[int]] = (),
    delete: Collection[int] = (),
    penalty: float = 1e-3,
    skip: int = 0,
    draws: int = 10,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress = silent,
) -> Shift:
    """Free a linear classifier of the label from the cue (SHIFT, Marks et al. 2024, section 4).

    A logistic regression on the mean activation at `site` learns the label from `train`, where the cue goes with it.
    The `count` features with the largest effect on its logit in the first `examples` of these texts (set to 0, by
    `estimator`) go to the `judge`: a function of a node that says whether it is about the cue, or a list of the nodes
    that are. Those are set to 0 in the model at every token, and `test`, in which label and cue are independent, is
    classified again. Rows:

    - original; random: as many other features with an effect removed at each site, the mean of `draws` draws;
    - SHIFT; SHIFT + retrain: the classifier learned again on the model without the features;
    - with `delete` (token ids that carry the cue): tokens deleted from the test texts, and + retrain from all texts;
    - with `keywords` (token ids of words about the label): concept bottleneck, a classifier that sees only the
      cosines to the keywords' activations;
    - with `balanced` (texts in which label and cue are independent): neuron skyline, feature skyline: as many
      neurons or features as SHIFT removes, those with the largest effect on a classifier of the cue; oracle: the
      classifier learned from these texts.

    `skip`: how many tokens at each text's start the mean leaves out (a BOS). `penalty`: times |weight|^2, in the
    regression. Raises `InputError` for sites without dictionaries before them, texts that lack a combination of label
    and cue, and judges that reject nothing, everything, or something that is no candidate.
    """
    site = Site.parse(site)
    up_to(spliced, site)
    check_texts("train", train, balanced=False)
    check_texts("test", test, balanced=True)
    if balanced:
        check_texts("balanced", balanced, balanced=True)
    for what, value in (("count", count), ("examples", examples), ("draws", draws)):
        check_number(what, value, Range(1, MOST))
    check_number("skip", skip, Range(0, min(len(text.ids) for text in (*train, *test, *balanced)) - 1))
    check_number("penalty", penalty, Range(0, 1e6, above=True), float)
    check_number("seed", seed, SEEDS)
    torch.manual_seed(seed)
    work = _Work(up_to(spliced, site), site, skip, penalty, estimator, batch_size)

    trained, tested = work.pooled(train), work.pooled(test)
    probe = work.fit(trained, _labels(train))
    effects = work.effects(probe, train[:examples])
    removed = rejected(effects[:count], judge)
    rows = [row("original", probe.predicts(tested), test, seed)]
    parts = [
        _random(work, probe, test, effects, removed, draws, seed),
        _removed(work, probe, train, test, removed, seed),
        _deleted(work, probe, train, test, frozenset(delete), seed),
        _bottleneck(work, [tuple(word) for word in keywords], (trained, train), (tested, test), seed),
        _skylines(work, probe, balanced, test, len(removed), examples, seed),
        _oracle(work, balanced, tested, test, seed),
    ]
    for part in progress(parts, "rows of SHIFT", len(parts)):
        rows += part
    return Shift(str(site), tuple(rows), tuple(effects[:count]), removed)


def _labels(texts: Sequence[Text]) -> list[int]:
    return [text.label for text in texts]


def _random(
    work: _Work, probe: Probe, test: Sequence[Text], found: Sequence[Candidate], removed: Sequence[Node], draws: int,
    seed: int,
) -> Iterator[Row]:  # fmt: skip
    drawn = (random_like(found, removed, seed + draw) for draw in range(draws))
    predicted = [probe.predicts(work.pooled(test, nodes)) for nodes in drawn]
    yield row("random", predicted, test, seed, len(removed))


def _removed(
    work: _Work, probe: Probe, train: Sequence[Text], test: Sequence[Text], removed: Sequence[Node], seed: int
) -> Iterator[Row]:
    tested = work.pooled(test, removed)
    yield row("SHIFT", probe.predicts(tested), test, seed, len(removed))
    again = work.fit(work.pooled(train, removed), _labels(train))
    yield row("SHIFT + retrain", again.predicts(tested), test, seed, len(removed))


def _deleted(
    work: _Work, probe: Probe, train: Sequence[Text], test: Sequence[Text], ids: Collection[int], seed: int
) -> Iterator[Row]:
    if not ids:
        return
    tested = work.pooled(without(test, ids))
    yield row("tokens deleted", probe.predicts(tested), test, seed)
    again = work.fit(work.pooled(without(train, ids)), _labels(train))
    yield row("tokens deleted + retrain", again.predicts(tested), test, seed)


def _bottleneck(
    work: _Work, keywords: Sequence[tuple[int, ...]], train: tuple[Tensor, Sequence[Text]],
    test: tuple[Tensor, Sequence[Text]], seed: int,
) -> Iterator[Row]:  # fmt: skip
    if not keywords:
        return
    centre = train[0].mean(0)
    concepts = torch.nn.functional.normalize(work.pooled([Text(word, 0, 0) for word in keywords]) - centre)
    cosines = [torch.nn.functional.normalize(rows - centre) @ concepts.T for rows, _ in (train, test)]
    probe = work.fit(cosines[0], _labels(train[1]))
    yield row("concept bottleneck", probe.predicts(cosines[1]), test[1], seed)


def _skylines(
    work: _Work, probe: Probe, balanced: Sequence[Text], test: Sequence[Text], count: int, examples: int, seed: int
) -> Iterator[Row]:
    if not balanced:
        return
    cue_probe = work.fit(work.pooled(balanced), [text.cue for text in balanced])
    by_cue = [text._replace(label=text.cue) for text in balanced[:examples]]
    for name, basis in (("neuron skyline", "neurons"), ("feature skyline", "features")):
        strongest = [each.node for each in work.effects(cue_probe, by_cue, basis)[:count]]
        yield row(name, probe.predicts(work.pooled(test, strongest, basis)), test, seed, len(strongest))


def _oracle(work: _Work, balanced: Sequence[Text], tested: Tensor, test: Sequence[Text], seed: int) -> Iterator[Row]:
    if balanced:
        yield row("oracle", work.fit(work.pooled(balanced), _labels(balanced)).predicts(tested), test, seed)
