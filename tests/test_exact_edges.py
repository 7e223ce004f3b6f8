"""Exact edges against a slow version with plain hooks, and against what must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import featcircuits as fc
from featcircuits.checks.paths import explained_effect
from featcircuits.circuit.circuit import Circuit, Endpoint, NodeScore
from featcircuits.dictionaries import Affine, Dictionary, relu
from featcircuits.effects.direct import arcs_of
from featcircuits.model.architecture import INPUTS
from featcircuits.model.nodes import METRIC, Node
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.examples import Example
from tests.tiny import (
    FAMILIES,
    KINDS,
    LAYERS,
    WIDTH,
    made_linear,
    n_hooks,
    random_task,
    spliced_model,
    taken_apart,
    tiny_model,
    tolerance,
    traced,
)

Hook = Callable[[Tensor], Tensor]
Seen = dict[Site, Tensor]


def hooked(spliced: SplicedModel, ids: Tensor, edits: dict[Site, Hook]) -> Tensor:
    """The answer logits of a whole forward with a plain hook at each of some sites."""
    handles = []
    for site, edit in edits.items():

        def on_output(_m: Any, _a: Any, out: Any, edit: Hook = edit) -> Any:
            return (edit(out[0]), *out[1:]) if isinstance(out, tuple) else edit(out)

        def on_input(_m: Any, args: Any, edit: Hook = edit) -> Any:
            return (edit(args[0]), *args[1:])

        module = spliced.architecture.module(spliced.model, site)
        if site.kind in INPUTS:
            handles.append(module.register_forward_pre_hook(on_input))
        else:
            handles.append(module.register_forward_hook(on_output))
    with torch.no_grad():
        logits = spliced.model(input_ids=ids).logits[:, -1]
    for handle in handles:
        handle.remove()
    return logits


def part_of(spliced: SplicedModel, node: Node, seen: Seen, units: Seen) -> Tensor:
    """What the node adds to an activation [1, position, width], in the units of what is read in `units`."""
    dictionary, part, place = spliced.dictionaries[node.site], torch.zeros_like(seen[node.site]), node.place
    read_site = spliced.read_site(node.site)
    features, error = taken_apart(dictionary, seen[node.site], seen[read_site], units[read_site])
    if node.feature is None:
        part[:, place] = error[:, place]
    else:
        row, statistics = dictionary.decoder_rows(torch.tensor([node.feature])), dictionary.statistics(units[read_site])
        row = row if statistics is None else row * statistics.scale[:, place]
        part[:, place] = features[:, place, node.feature, None] * row
    return part


def activations(spliced: SplicedModel, ids: Tensor) -> Seen:
    """At every site, and where transcoders read."""
    seen: Seen = {}

    def keep(site: Site) -> Hook:
        return lambda x: seen.setdefault(site, x)

    hooked(spliced, ids, {site: keep(site) for site in spliced.with_reads(spliced.sites)})
    return seen


def holding(spliced: SplicedModel, values: Seen, plain: Seen, now: Seen | None = None) -> dict[Site, Hook]:
    """Hooks that put these activations in place of the model's own; bypasses go on with what they read `now`,
    which was `plain` when nothing was put anywhere."""
    now = {} if now is None else now

    def note(site: Site) -> Hook:
        return lambda x: now.setdefault(site, x)

    def hold(site: Site) -> Hook:
        def put(x: Tensor) -> Tensor:
            dictionary, read = spliced.dictionaries[site], spliced.read_site(site)
            arrived = x if read == site else now[read]
            past = dictionary.bypass(arrived - plain[read]) if dictionary.has_bypass else None
            return values[site] if past is None else values[site] + past

        return put

    return {site: hold(site) if site in spliced.dictionaries else note(site) for site in values}


def arriving(spliced: SplicedModel, ids: Tensor, values: Seen, plain: Seen, at: Site) -> Seen:
    """What arrives at a site, and is read there, when all others hold given activations."""
    seen: Seen = {}

    def note(x: Tensor) -> Tensor:
        return seen.setdefault(at, x)

    hooked(spliced, ids, {**holding(spliced, values, plain, seen), at: note})
    return seen


def slow_edge(spliced: SplicedModel, task: fc.Task, upstream: Node, downstream: Node | str) -> float:
    """One edge, one example at a time: aligned positions, every other site held."""
    return sum(_slow_edge(spliced, example, upstream, downstream) for example in task.examples) / len(task)


def _slow_edge(spliced: SplicedModel, example: Example, upstream: Node, downstream: Node | str) -> float:
    clean = torch.tensor([example.clean])
    x, y = activations(spliced, clean), activations(spliced, torch.tensor([example.corrupted]))

    def metric(edits: dict[Site, Hook]) -> float:
        logits = hooked(spliced, clean, edits)[0]
        return (logits[example.corrupted_answers[0]] - logits[example.clean_answers[0]]).item()

    site = upstream.site
    moved = {**x, site: x[site] + part_of(spliced, upstream, y, x) - part_of(spliced, upstream, x, x)}
    if isinstance(downstream, str):
        return metric(holding(spliced, moved, x)) - metric({})
    arrived = arriving(spliced, clean, moved, x, downstream.site)
    step = part_of(spliced, downstream, arrived, x) - part_of(spliced, downstream, x, x)
    return metric({downstream.site: lambda v: v + step}) - metric({})


def chosen_nodes(spliced: SplicedModel, task: fc.Task, count: int = 3) -> list[Node]:
    """A few of the strongest nodes of each site, its errors among them."""
    effects = fc.node_effects(spliced, task, "exact")
    ranked = sorted(effects.nodes(), key=lambda row: -abs(row[1]))
    nodes = []
    for site in spliced.sites:
        here = [node for node, _, _ in ranked if node.site == site]
        nodes += here[:count] + [node for node in here[count:] if node.is_error][:1]
    return nodes


SOME = ["embed", "attn_z_0", "mlp_0", "attn_z_1", "attn_1", "mlp_1", "resid_1"]


@pytest.mark.parametrize(
    ("family", "kind", "sites"),
    [
        *((family, "relu", None) for family in FAMILIES),
        *((family, "relu", ["embed", "mlp_0", "attn_1", "resid_1", "mlp_2"]) for family in FAMILIES),
        # each kind in some families, each family with some kinds
        *((family, kind, SOME) for turn, kind in enumerate(KINDS[3:-1]) for family in FAMILIES[turn % 4 :: 4]),
        *((family, KINDS[-1], ["embed", "attn_1", "mlp_1"]) for family in FAMILIES[::2]),
    ],
)
def test_exact_edges_equal_one_patch_at_a_time(family: str, kind: str, sites: list[str] | None) -> None:
    """With all sites spliced, and with some absent, whose paths belong to their neighbours' edges."""
    spliced, task = spliced_model(tiny_model(family), kind, sites), random_task(2, 4)
    nodes = chosen_nodes(spliced, task)
    found = {(u, d): v for u, d, v in fc.edge_effects(spliced, task, nodes, estimator="exact").edges()}
    scale = max(map(abs, found.values()))
    arcs = {(a.upstream, a.downstream) for a in arcs_of(spliced)}
    assert {(u.site, d.site if isinstance(d, Node) else None) for u, d in found} <= arcs
    pairs = [(u, d) for u in nodes for d in nodes if (u.site, d.site) in arcs]
    some: list[tuple[Node, Node | str]] = [*pairs[:: max(1, len(pairs) // 12)]]
    some += [(u, METRIC) for u in nodes if (u.site, None) in arcs][:4]
    assert len(some) > 8
    for source, target in some:
        expected = slow_edge(spliced, task, source, target)
        assert found.get((source, target), 0.0) == pytest.approx(expected, abs=10 * tolerance(family) * scale)
    assert n_hooks(spliced.model) == 0


def always_on(spliced: SplicedModel) -> SplicedModel:
    """Dictionaries whose features are never off: nothing is left that is not linear."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.25

    bias, zero = torch.full((5,), 1e3, dtype=torch.float64), torch.zeros(WIDTH, dtype=torch.float64)

    def always(site: Site) -> Dictionary:
        own = spliced.dictionaries[site]
        assert isinstance(own, Affine)
        made = relu(normal(WIDTH, 5), bias, normal(5, WIDTH), zero)
        return replace(made, transcodes=own.transcodes, W_skip=own.W_skip)

    return fc.load(spliced.model, {str(site): always(site) for site in spliced.sites})


@pytest.mark.parametrize("kind", ["relu", "transcoder", "skip_transcoder"])
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_linear_model_estimated_edges_are_exact(family: str, kind: str) -> None:
    sites = ["embed", "attn_0", "mlp_0", "resid_0", "attn_z_1", "mlp_1", "attn_2", "mlp_2"]
    spliced, task = always_on(spliced_model(made_linear(tiny_model(family)), kind, sites)), random_task(2, 4)
    nodes = chosen_nodes(spliced, task)
    exact = {(u, d): v for u, d, v in fc.edge_effects(spliced, task, nodes, estimator="exact").edges()}
    scale = max(map(abs, exact.values()))
    for estimator in ("atp", "ig", "relp:rules=gradient"):
        found = {(u, d): v for u, d, v in fc.edge_effects(spliced, task, nodes, estimator=estimator).edges()}
        for pair in exact.keys() | found.keys():
            gap = exact.get(pair, 0.0) - found.get(pair, 0.0)
            assert abs(gap) <= 10 * tolerance(family) * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_stream_has_all_its_effect_in_its_edge(family: str) -> None:
    spliced, task = spliced_model(tiny_model(family)), random_task(3, 4)
    effects = fc.node_effects(spliced, task, "exact")
    last = f"resid_{LAYERS - 1}"
    nodes = {node: effect for node, effect, _ in effects.nodes() if str(node.site) == last}
    edges = {u: v for u, d, v in fc.edge_effects(spliced, task, nodes, estimator="exact").edges() if d == METRIC}
    scale = max(map(abs, nodes.values()))
    for node, effect in nodes.items():
        assert edges.get(node, 0.0) == pytest.approx(effect, abs=10 * tolerance(family) * scale)


def test_positions_of_a_place_are_summed() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["mlp_0", "resid_1"]), random_task(2, 4)
    kinds = [(Site.parse(site), feature) for site in ("mlp_0", "resid_1") for feature in (*range(8), None)]
    apart = [Node(*kind, place) for kind in kinds for place in range(4)]
    totals: dict[tuple[Node, Node | str], float] = {}
    for u, d, v in fc.edge_effects(spliced, task, apart, estimator="exact").edges():
        key = (u._replace(place=None), d._replace(place=None) if isinstance(d, Node) else d)
        totals[key] = totals.get(key, 0.0) + v
    together = fc.edge_effects(
        spliced, task.with_options(aggregate="sum"), [Node(*kind) for kind in kinds], estimator="exact"
    )
    found = {(u, d): v for u, d, v in together.edges()}
    assert found.keys() == totals.keys()
    for pair, value in totals.items():
        assert found[pair] == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_exact_edges_take_a_collection_of_nodes() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    with pytest.raises(fc.InputError, match="give it a collection of nodes"):
        fc.edge_effects(spliced, task, fc.node_effects(spliced, task, "atp"), "exact", node_threshold=0.1)
    with pytest.raises(fc.InputError, match="estimator 'atp-drop' has no coefficients"):
        fc.edge_effects(spliced, task, [], "atp-drop")
    circuit = traced(spliced, task, nodes="exact", keep_nodes="top=12")
    assert circuit.n_edges > 0


# --- path hypotheses


def whole_graph(spliced: SplicedModel, task: fc.Task) -> Circuit:
    """Every node and every edge that there is."""
    nodes = [
        Node(site, feature, place)
        for site, dictionary in spliced.dictionaries.items()
        for place in task.places
        for feature in (*range(dictionary.n_features), None)
    ]
    arcs = arcs_of(spliced)
    by_site: dict[Site, list[Node]] = {}
    for node in nodes:
        by_site.setdefault(node.site, []).append(node)
    edges: dict[tuple[Endpoint, Endpoint], float] = {}
    for arc in arcs:
        for u in by_site[arc.upstream]:
            targets: list[Endpoint] = [METRIC] if arc.downstream is None else [*by_site[arc.downstream]]
            edges |= dict.fromkeys(((u, d) for d in targets), 1.0)
    return Circuit(dict.fromkeys(nodes, NodeScore(1.0)), edges, task.places, task.aggregate)


def small_spliced(family: str) -> SplicedModel:
    generator = torch.Generator().manual_seed(1)

    def dictionary() -> Any:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.3

        return relu(normal(WIDTH, 3), normal(3), normal(3, WIDTH), normal(WIDTH))

    return fc.load(tiny_model(family), {site: dictionary() for site in ("embed", "attn_1", "resid_1", "resid_2")})


@pytest.mark.parametrize("family", FAMILIES)
def test_all_paths_explain_everything_and_none_nothing(family: str) -> None:
    spliced, task = small_spliced(family), random_task(2, 3)
    everything = whole_graph(spliced, task)
    found = explained_effect(spliced, task, everything)
    assert found.explained == pytest.approx(1, abs=1e-6)
    nothing = explained_effect(spliced, task, Circuit({}, {}, task.places, "none"))
    assert nothing.explained == pytest.approx(0, abs=1e-6)
    assert nothing.aue == pytest.approx(nothing.ate, rel=1e-6)
    assert torch.allclose(found.clean - found.corrupted, nothing.clean - nothing.hypothesis, atol=1e-6)
    assert n_hooks(spliced.model) == 0


def test_a_hypothesis_is_what_hand_made_hooks_compute() -> None:
    """embed feature -> resid_1 feature -> resid_2 error -> metric, everything else corrupted."""
    spliced, task = small_spliced("gpt2"), random_task(1, 3)
    chain = [Node.parse(name) for name in ("embed/0@1", "resid_1/1@2", "resid_2/error@2")]
    edges: dict[tuple[Endpoint, Endpoint], float] = {
        (chain[0], chain[1]): 1.0, (chain[1], chain[2]): 1.0, (chain[2], METRIC): 1.0,
    }  # fmt: skip
    circuit = Circuit(dict.fromkeys(chain, NodeScore(1.0)), edges, task.places, "none")
    found = explained_effect(spliced, task, circuit)
    example = task.examples[0]
    clean, corrupted = torch.tensor([example.clean]), torch.tensor([example.corrupted])
    x, y = activations(spliced, clean), activations(spliced, corrupted)
    current, arrived = y, x
    for node, following in zip(chain, [*chain[1:], None], strict=True):
        site = node.site
        moved = y[site] + part_of(spliced, node, arrived, y) - part_of(spliced, node, y, y)
        current = {**y, site: moved}  # only the next node reads this one: all else stays corrupted
        if following is not None:
            arrived = arriving(spliced, clean, current, y, following.site)
    logits = hooked(spliced, clean, holding(spliced, current, y))[0]
    expected = logits[example.clean_answers[0]] - logits[example.corrupted_answers[0]]
    assert found.hypothesis[0].item() == pytest.approx(expected.item(), abs=1e-9)


def test_hypotheses_that_cannot_be_tested_are_refused() -> None:
    spliced, task = small_spliced("gpt2"), random_task(2, 3)
    node = Node(Site.parse("mlp_0"), 0, 1)
    with pytest.raises(fc.InputError, match="the suite has no dictionary at mlp_0"):
        explained_effect(spliced, task, Circuit({node: NodeScore(1.0)}, {}, task.places, "none"))
    with pytest.raises(fc.InputError, match="the circuit's places are"):
        explained_effect(spliced, task, Circuit({}, {}, (None,), "sum"))
    unpaired = fc.Task.from_tokens([[1, 2, 3]], None, [4], [5])
    with pytest.raises(fc.InputError, match="there are no pairs"):
        explained_effect(spliced, unpaired, Circuit({}, {}, unpaired.places, "none"))
