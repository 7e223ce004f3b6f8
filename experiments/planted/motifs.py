"""The planted circuits: what each model computes, its prompts, and its true nodes and edges, written by hand.

Prompts are what the features of tokens 1 and 2 are; token 0 and the last one have none. A truth is the paths of the
mechanism, such as `embed/A@1 attn_0/A@3 metric`: their nodes and steps are the true nodes and edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import featcircuits as fc
from experiments.planted.model import POSITIONS, Design, Head, Neuron, Weights, spliced, token_ids
from experiments.planted.shapes import LENGTH
from featcircuits.circuit.circuit import NodeScore
from featcircuits.model.nodes import METRIC, Node
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel

SIZES = (1.0, 1.125, 1.25, 1.5)
"""The value of all features of a prompt, one pair for each."""
Prompt = tuple[Weights, Weights]
Edge = tuple[Node, Node | str]


@dataclass(frozen=True)
class Motif:
    """A planted circuit. `probes`: further pairs (clean, corrupted), whose single patches show what the first hide."""

    name: str
    design: Design
    clean: Prompt
    corrupted: Prompt
    paths: Sequence[str]
    probes: Sequence[tuple[Prompt, Prompt]] = ()
    answers: tuple[str, str] = ("yes", "no")
    shape: str = "gpt_neox"

    @cached_property
    def tokens(self) -> list[Weights]:
        """What each token of the vocabulary writes; the answers come last."""
        prompts = [self.clean, self.corrupted, *(prompt for probe in self.probes for prompt in probe)]
        written = [_scaled(one, size) for prompt in prompts for one in prompt for size in SIZES]
        distinct = {tuple(sorted(one.items())): one for one in ({}, *written)}
        return [*distinct.values(), *({} for _ in self.design.answers)]

    @cached_property
    def spliced(self) -> SplicedModel:
        """The model with its dictionaries."""
        return spliced(self.design, self.tokens, self.shape)

    @property
    def task(self) -> fc.Task:
        """Clean prompts patched from corrupted ones (noising)."""
        return self.between(self.clean, self.corrupted)

    @property
    def swapped(self) -> fc.Task:
        """Corrupted prompts patched from clean ones (denoising), with the answers exchanged."""
        return self.between(self.corrupted, self.clean, swapped=True)

    def probed(self) -> list[fc.Task]:
        """Noising, denoising and the further probes: the pairs whose exact effects together show the truth."""
        return [self.task, self.swapped, *(self.between(*probe) for probe in self.probes)]

    def between(self, clean: Prompt, corrupted: Prompt, swapped: bool = False) -> fc.Task:
        """A task from what tokens 1 and 2 are in both runs, a pair for each of `SIZES`."""
        order = list(self.design.answers)
        vocabulary = self.spliced.model.config.vocab_size
        right, wrong = (vocabulary - len(order) + order.index(answer) for answer in self.answers)
        count = len(SIZES)
        return fc.Task.from_tokens(
            self._ids(clean), self._ids(corrupted), [wrong if swapped else right] * count,
            [right if swapped else wrong] * count, name=self.name, keep_wrong=True,
        )  # fmt: skip

    def _ids(self, prompt: Prompt) -> list[list[int]]:
        prompts = ([0, *(self.tokens.index(_scaled(one, size)) for one in prompt), 0] for size in SIZES)
        return [token_ids(one, len(self.tokens), self.shape) for one in prompts]

    def node(self, name: str) -> Node:
        """The node of a name such as `attn_0/A@3`."""
        site, _, rest = name.partition("/")
        feature, _, place = rest.partition("@")
        return Node(Site.parse(site), self.design.names.index(feature), int(place))

    def said(self, node: Node) -> str:
        """The inverse: a node with its feature's own name."""
        feature = "error" if node.feature is None else self.design.names[node.feature]
        return f"{node.site}/{feature}@{node.place}"

    @property
    def nodes(self) -> set[Node]:
        """The true nodes."""
        return {end for path in self._parsed for end in path if isinstance(end, Node)}

    @property
    def edges(self) -> set[Edge]:
        """The true edges."""
        return {
            (source, target)
            for path in self._parsed
            for source, target in zip(path, path[1:], strict=False)
            if isinstance(source, Node)
        }

    @property
    def _parsed(self) -> list[list[Node | str]]:
        return [[METRIC if name == METRIC else self.node(name) for name in path.split()] for path in self.paths]

    @property
    def circuit(self) -> fc.Circuit:
        """The true circuit with its exact effects, edges included."""
        task = self.task
        effects = {one.node: NodeScore(one.mean, one.standard_error)
                   for one in fc.node_effects(self.spliced, task, "exact").nodes()}  # fmt: skip
        found = fc.edge_effects(self.spliced, task, self.nodes, "exact").edges()
        weights = {(edge.upstream, edge.downstream): edge.mean for edge in found}
        nodes = {node: effects.get(node, NodeScore(0.0, 0.0)) for node in sorted(self.nodes, key=_order)}
        return fc.Circuit(nodes, {edge: weights.get(edge, 0.0) for edge in self.edges}, task.places, task.aggregate)


def _scaled(weights: Weights, size: float) -> dict[str, float]:
    return {name: weight * size for name, weight in weights.items()}


def _order(node: Node) -> tuple[Site, int]:
    return node.site, node.feature or 0


def complete_and_superfluous() -> tuple[Motif, fc.Circuit, fc.Circuit]:
    """(motif, its complete circuit, the same with one superfluous node, which is active and read by nothing)."""
    motif = MOTIFS["distractor"]
    circuit, extra = motif.circuit, motif.node("resid_0/D@3")
    return motif, circuit, replace(circuit, nodes={**circuit.nodes, extra: NodeScore(0.0, 0.0)})


def weak_circuit() -> tuple[Motif, fc.Circuit]:
    """(motif, a circuit that is faithful with all else ablated, although two nodes outside are only so while both are).

    Outside it, U adds to the answer what V takes away: an ablation of one of them alone changes F.
    """
    motif = MOTIFS["opposed"]
    circuit = motif.circuit
    kept = {node: score for node, score in circuit.nodes.items() if motif.design.names[node.feature or 0] == "A"}
    edges = {edge: weight for edge, weight in circuit.edges.items() if {*edge} <= {*kept, METRIC}}
    return motif, replace(circuit, nodes=kept, edges=edges)


FIRST, SECOND, LAST = POSITIONS[1], POSITIONS[2], LENGTH - 1


def _reads(**weights: float) -> Mapping[str, Weights]:
    return {"yes": weights, "no": {}}


def _copied(feature: str, place: int, *rest: str) -> str:
    """The path of a feature that a head of layer 0 copies to the last position, and where it goes on from there."""
    return " ".join([f"embed/{feature}@{place}", f"attn_0/{feature}@3", f"resid_0/{feature}@3", *rest])


def _two(features: str, answers: Mapping[str, Weights], *neurons: Neuron, n_layers: int = 2) -> Design:
    """A and B, or what the first two features are, copied from tokens 1 and 2."""
    first, second = features[:2]
    heads = (Head(0, FIRST, first), Head(0, SECOND, second))
    return Design(tuple(features), answers, heads, neurons, n_layers)


def _one(features: str, answers: Mapping[str, Weights], *neurons: Neuron, n_layers: int = 2) -> Design:
    """The first feature copied from token 1."""
    return Design(tuple(features), answers, (Head(0, FIRST, features[0]),), neurons, n_layers)


_A: Prompt = ({"A": 1.0}, {})
_B: Prompt = ({}, {"B": 1.0})
_AB: Prompt = ({"A": 1.0}, {"B": 1.0})
_NONE: Prompt = ({}, {})
_DIRECT = _copied("A", 1, "resid_1/A@3 metric")
_SHARED = Design(
    ("S", "Q", "Y", "Z"),
    {"yes": {"Y": 1.0}, "no": {}, "right": {"Z": 1.0}, "wrong": {}},
    (Head(0, FIRST, "S"), Head(0, SECOND, "Q")),
    (Neuron(1, {"S": 1.0, "Q": 1.0}, "Y", -1.5), Neuron(1, {"S": 1.0}, "Z")),
)
_WITH_WEAK = Design(("A", "B", "D"), _reads(A=1.0, B=0.125), (Head(0, FIRST, "A"), Head(0, SECOND, "B")))

_ALL = (
    Motif("copy", _one("A", _reads(A=1.0)), _A, _NONE, [_DIRECT]),
    Motif(
        "relay",
        _one("ABC", _reads(C=1.0), Neuron(1, {"A": 1.0}, "B", 0.25), Neuron(2, {"B": 1.0}, "C", 0.25), n_layers=3),
        _A, _NONE, [_copied("A", 1, "mlp_1/B@3 resid_1/B@3 mlp_2/C@3 resid_2/C@3 metric")],
    ),
    Motif(
        "and", _two("ABC", _reads(C=1.0), Neuron(1, {"A": 1.0, "B": 1.0}, "C", -1.5)),
        _AB, _NONE, [_copied(name, place, "mlp_1/C@3 resid_1/C@3 metric") for name, place in (("A", 1), ("B", 2))],
    ),
    Motif(
        "or",
        _two(
            "ABC", _reads(C=1.0), Neuron(1, {"A": 1.0, "B": 1.0}, "C", 0.25),
            Neuron(1, {"A": 1.0, "B": 1.0}, "C", -0.75, -1.0),
        ),
        _AB, _NONE, [_copied(name, place, "mlp_1/C@3 resid_1/C@3 metric") for name, place in (("A", 1), ("B", 2))],
    ),
    Motif(
        "negation", _one("AN", _reads(N=1.0), Neuron(1, {"A": -1.0}, "N", 1.0)),
        _NONE, _A, [_copied("A", 1, "mlp_1/N@3 resid_1/N@3 metric")],
    ),
    Motif(
        "backup",
        _two("ABPQ", _reads(P=1.0, Q=1.0), Neuron(1, {"A": 1.0}, "P"), Neuron(2, {"B": 1.0, "P": -2.0}, "Q"),
             n_layers=3),
        _AB, _NONE,
        [
            _copied("A", 1, "mlp_1/P@3 resid_1/P@3 resid_2/P@3 metric"),
            _copied("B", 2, "resid_1/B@3 mlp_2/Q@3 resid_2/Q@3 metric"),
            "resid_1/P@3 mlp_2/Q@3",
        ],
        [(_B, _NONE), (_B, _AB)],
    ),
    Motif(
        "cancelling", _one("AM", _reads(A=1.0, M=-1.0), Neuron(1, {"A": 1.0}, "M", -0.5)),
        _A, _NONE, [_DIRECT, _copied("A", 1, "mlp_1/M@3 resid_1/M@3 metric")],
    ),
    Motif(
        "opposed",
        _one("AUV", _reads(A=1.0, U=1.0, V=-1.0), Neuron(1, {"A": 1.0}, "U"), Neuron(1, {"A": 1.0}, "V")),
        _A, _NONE, [_DIRECT, *(_copied("A", 1, f"mlp_1/{name}@3 resid_1/{name}@3 metric") for name in "UV")],
    ),
    Motif(
        "saturated", Design(("A", "K"), _reads(A=1.0), (Head(0, "K", "A", idle=20.0, match=60.0),)),
        ({"A": 1.0, "K": 1.0}, {}), ({"A": 1.0}, {"K": 1.0}),
        [f"embed/K@{place} attn_0/A@3 resid_0/A@3 resid_1/A@3 metric" for place in (1, 2)],
    ),
    Motif(
        "distractor",
        Design(("A", "D", "E"), _reads(A=1.0), (Head(0, FIRST, "AD"),), (Neuron(1, {"D": 2.0}, "E"),)),
        ({"A": 1.0, "D": 1.0}, {}), _NONE, [_DIRECT],
    ),
    Motif(
        "shared-1", _SHARED, ({"S": 1.0}, {"Q": 1.0}), _NONE,
        [_copied(name, place, "mlp_1/Y@3 resid_1/Y@3 metric") for name, place in (("S", 1), ("Q", 2))],
    ),
    Motif(
        "shared-2", _SHARED, ({"S": 1.0}, {"Q": 1.0}), _NONE, [_copied("S", 1, "mlp_1/Z@3 resid_1/Z@3 metric")],
        answers=("right", "wrong"),
    ),
    Motif("weak", _WITH_WEAK, _AB, _NONE, [_DIRECT, _copied("B", 2, "resid_1/B@3 metric")]),
    Motif(
        "decoys", replace(_WITH_WEAK, decoys={"D": "A"}), _AB, _NONE,
        [_DIRECT, _copied("B", 2, "resid_1/B@3 metric")],
    ),
)  # fmt: skip
MOTIFS: Mapping[str, Motif] = {motif.name: motif for motif in _ALL}
"""All planted circuits by name. `weak` is `decoys` without its decoys."""
