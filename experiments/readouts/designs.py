"""Planted models that show what the shipped one does not: late first hops, overwriting, fixation, two negations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import featcircuits as fc
from experiments.planted.model import POSITIONS, Design, Head, Neuron, Weights, spliced
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel

SIZES = (1.0, 1.125, 1.25, 1.375)
"""The value of the features of a prompt, one example for each."""
FIRST, SECOND = POSITIONS[1:3]


@dataclass(frozen=True)
class Case:
    """One kind of prompt: the features of tokens 1 and 2, those of its twin, and the right and the wrong answer."""

    clean: tuple[Weights, Weights]
    corrupted: tuple[Weights, Weights]
    right: str
    wrong: str


@dataclass(frozen=True)
class Planted:
    """A design with the kinds of prompts it is asked."""

    name: str
    design: Design
    cases: Mapping[str, Sequence[Case]]
    """Task -> its kinds of prompts."""

    @cached_property
    def tokens(self) -> list[Weights]:
        """What each token writes; the answers come last."""
        kinds = [case for cases in self.cases.values() for case in cases]
        written = [_scaled(one, size) for case in kinds for one in (*case.clean, *case.corrupted) for size in SIZES]
        distinct = {tuple(sorted(one.items())): one for one in ({}, *written)}
        return [*distinct.values(), *({} for _ in self.design.answers)]

    @cached_property
    def spliced(self) -> SplicedModel:
        """The model with its dictionaries."""
        return spliced(self.design, self.tokens)

    def task(self, name: str) -> fc.Task:
        """A task: every kind of prompt at every size."""
        pairs = [(case, size) for case in self.cases[name] for size in SIZES]
        order = list(self.design.answers)
        first = len(self.tokens) - len(order)
        return fc.Task.from_tokens(
            [self._ids(case.clean, size) for case, size in pairs],
            [self._ids(case.corrupted, size) for case, size in pairs],
            [first + order.index(case.right) for case, _ in pairs],
            [first + order.index(case.wrong) for case, _ in pairs],
            name=name, keep_wrong=True,
        )  # fmt: skip

    def _ids(self, prompt: tuple[Weights, Weights], size: float) -> list[int]:
        return [0, *(self.tokens.index(_scaled(one, size)) for one in prompt), 0]

    def node(self, name: str) -> Node:
        """The node of a name such as `resid_0/A@3`."""
        site, _, rest = name.partition("/")
        feature, _, place = rest.partition("@")
        return Node(Site.parse(site), self.design.names.index(feature), int(place))

    def said(self, node: Node) -> str:
        """The inverse: a node with its feature's own name."""
        feature = "error" if node.feature is None else self.design.names[node.feature]
        return f"{node.site}/{feature}@{node.place}"


def _scaled(weights: Weights, size: float) -> dict[str, float]:
    return {name: weight * size for name, weight in weights.items()}


def two_hops() -> Planted:
    """Layer 1 knows the second hop (bridge -> answer), but late entities become their bridge only in layer 2.

    Early entities become their bridge in layer 0 and are answered right. A head of layer 3 reads the answer at token 1.
    """
    features = ("late1", "late2", "early1", "early2", "bridge1", "bridge2", "answer1", "answer2")
    neurons = [
        Neuron(layer, {name: 1.0}, written)
        for k in (1, 2)
        for layer, name, written in (
            (0, f"early{k}", f"bridge{k}"), (1, f"bridge{k}", f"answer{k}"), (2, f"late{k}", f"bridge{k}"),
        )
    ]  # fmt: skip
    answers = {"one": {"answer1": 1.0}, "two": {"answer2": 1.0}}
    design = Design(features, answers, (Head(3, FIRST, ("answer1", "answer2")),), neurons, n_layers=4)
    cases = [
        Case(({f"{kind}{k}": 1.0}, {}), ({f"{kind}{3 - k}": 1.0}, {}), *(("one", "two") if k == 1 else ("two", "one")))
        for kind in ("late", "early")
        for k in (1, 2)
    ]
    return Planted("two hops", design, {"two_hops": cases})


def overwritten_count() -> Planted:
    """The count (two) reaches the answer, and where D stands beside it, a neuron of the last layer writes `three`."""
    design = Design(
        ("count", "D", "overwrite"), {"two": {"count": 1.0}, "three": {"overwrite": 2.0}},
        (Head(0, FIRST, ("count",)), Head(0, SECOND, ("D",))),
        (Neuron(2, {"count": 1.0, "D": 1.0}, "overwrite", -0.875),), n_layers=3,
    )  # fmt: skip
    nothing: tuple[Weights, Weights] = ({}, {})
    plain = Case(({"count": 0.5}, {}), nothing, "two", "three")
    beside = Case(({"count": 1.0}, {"D": 1.0}), nothing, "two", "three")
    return Planted("overwritten count", design, {"count": [plain, beside], "overwritten": [beside]})


def label_fixation() -> Planted:
    """The input at token 1 speaks for its label, and a head copies the label shown at token 2, which weighs more."""
    design = Design(
        ("is_yes", "is_no", "shown_yes", "shown_no"),
        {"yes": {"is_yes": 1.0, "shown_yes": 1.5}, "no": {"is_no": 1.0, "shown_no": 1.5}},
        (Head(0, FIRST, ("is_yes", "is_no")), Head(1, SECOND, ("shown_yes", "shown_no"))),
    )
    cases = [
        Case(({f"is_{own}": 1.0}, {f"shown_{shown}": 1.0}), ({f"is_{own}": 1.0}, {}), own, other)
        for own, other in (("yes", "no"), ("no", "yes"))
        for shown in ("yes", "no")
    ]
    return Planted("label fixation", design, {"labels": cases})


def negation(by_suppression: bool) -> Planted:
    """`hot` and `not` mean cold: a neuron writes the feature `cold`, or takes away what `hot` would write.

    Both models answer the same: cold, by a difference of logits that is the same, with `not`, and hot without.
    """
    seen = (Head(0, FIRST, ("hot",)), Head(0, SECOND, ("not",)))
    both = {"hot": 1.0, "not": 1.0}
    neuron = Neuron(1, both, "said_hot", -1.0, -2.0) if by_suppression else Neuron(1, both, "said_cold", -1.0, 2.0)
    design = Design(
        ("hot", "not", "said_hot", "said_cold"),
        {"hot": {"hot": 1.0, "said_hot": 1.0}, "cold": {"said_cold": 1.0}}, seen, (neuron,),
    )  # fmt: skip
    case = Case(({"hot": 1.0}, {"not": 1.0}), ({"hot": 1.0}, {}), "cold", "hot")
    return Planted("suppression" if by_suppression else "construction", design, {"negated": [case]})


def recall_and_reasoning(shared: bool) -> Planted:
    """Recall: a fact stands for its answer. Reasoning: two premises together do.

    If it is shared, recall reads the first premise, so that the two circuits have nodes in common.
    """
    fact = "P" if shared else "fact"
    design = Design(
        ("fact", "P", "Q", "recalled", "concluded"),
        {"known": {"recalled": 1.0}, "unknown": {}, "follows": {"concluded": 1.0}, "open": {}},
        (Head(0, FIRST, ("fact", "P")), Head(0, SECOND, ("Q",))),
        (Neuron(1, {fact: 1.0}, "recalled"), Neuron(1, {"P": 1.0, "Q": 1.0}, "concluded", -1.5)),
    )
    nothing: tuple[Weights, Weights] = ({}, {})
    return Planted("shared" if shared else "apart", design, {
        "recall": [Case(({fact: 1.0}, {"Q": 1.0}), nothing, "known", "unknown")],
        "reasoning": [Case(({"P": 1.0}, {"Q": 1.0}), nothing, "follows", "open")],
    })  # fmt: skip
