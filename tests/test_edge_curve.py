"""Edges judged by runs along them: limits, identities, and a slow, obvious implementation."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import featcircuits as fc
from featcircuits.checks.edge_curve import EdgeJudge, edge_judge
from featcircuits.checks.edge_plan import Edge, edges_in_order, nodes_in_order, planned, shuffled_edges
from featcircuits.checks.edge_plot import draw_edges, plot_edges
from featcircuits.checks.edge_runs import count_without, run_plan, run_without
from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.dictionaries import relu
from featcircuits.evaluation.ablated import Subgraph, metric_model, ranks_of
from featcircuits.model.nodes import METRIC, Endpoint, Node
from featcircuits.model.sites import Site
from featcircuits.progress import silent
from featcircuits.splicing.spliced import SplicedModel
from tests.test_exact_edges import whole_graph
from tests.tiny import FAMILIES, WIDTH, made_linear, n_hooks, random_dictionary, random_task, tiny_model, tolerance

SITES = ("embed", "attn_1", "mlp_1", "resid_1", "resid_2")


def small(
    family: str, sites: tuple[str, ...] = SITES, bias: float = 0.0, seed: int = 1, **options: bool
) -> SplicedModel:
    """Three features per site; with a large bias all are always active, so that dictionaries are affine."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.3

    def dictionary() -> object:
        return relu(normal(WIDTH, 3), normal(3) + bias, normal(3, WIDTH), normal(WIDTH))

    model = tiny_model(family)
    return fc.load(made_linear(model) if options.get("linear") else model, {site: dictionary() for site in sites})


def judge(spliced: SplicedModel, task: fc.Task, **options: object) -> EdgeJudge:
    return edge_judge(spliced, task, whole_graph(spliced, task), **options)  # type: ignore[arg-type]


def close(found: Tensor, expected: Tensor, rtol: float) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


# --- limits


@pytest.mark.parametrize("ablation", ["paired", "mean", "zero", "resample"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_edges_are_the_model_and_none_the_empty_circuit(family: str, ablation: str) -> None:
    """Exact but for rounding, since a site is written as its ablation value and the moves of its nodes."""
    spliced, task = small(family), random_task(3, 3)
    judged, everything = judge(spliced, task, ablation=ablation), edges_in_order(whole_graph(spliced, task), "absolute")
    whole, nothing = run_plan(judged.ablated, task, planned([everything, []]), "")
    left, bare = run_without(judged.ablated, task, [[], everything])
    model = metric_model(spliced, task, 3)
    empty = judged.ablated.metric(task, [Subgraph(ranks_of(spliced, task.places, []), 0)])[0]
    close(whole, model, tolerance(family))
    assert torch.equal(left, model)
    close(nothing, empty, tolerance(family))
    close(bare, empty, tolerance(family))
    assert not torch.allclose(model, empty, rtol=1e-3)
    assert n_hooks(spliced.model) == 0


@pytest.mark.parametrize("kind", ["skip_sae", "skip_transcoder", "constant_norm", "layer_norm", "topk"])
@pytest.mark.parametrize("ablation", ["paired", "mean", "zero"])
def test_the_limits_hold_with_every_kind_of_dictionary(kind: str, ablation: str) -> None:
    sites = ("embed", "mlp_1", "resid_1")
    given = {
        site: random_dictionary("relu" if "transcoder" in kind and site != "mlp_1" else kind, n_features=6, seed=number)
        for number, site in enumerate(sites)
    }
    spliced, task = fc.load(tiny_model("gpt2"), given), random_task(3, 3)
    if ablation == "zero" and "norm" in kind:
        with pytest.raises(fc.InputError, match="'zero' has no fixed value at embed, where the dictionary normalises"):
            judge(spliced, task, ablation=ablation)
        return
    judged, everything = judge(spliced, task, ablation=ablation), edges_in_order(whole_graph(spliced, task), "absolute")
    whole, nothing = run_plan(judged.ablated, task, planned([everything, []]), "")
    empty = judged.ablated.metric(task, [Subgraph(ranks_of(spliced, task.places, []), 0)])[0]
    close(whole, metric_model(spliced, task, 3), 1e-9)
    close(nothing, empty, 1e-9)
    close(run_without(judged.ablated, task, [everything])[0], empty, 1e-9)


@pytest.mark.parametrize("ablation", ["paired", "mean"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox_parallel", "gemma2"])
def test_nodes_with_every_edge_among_them_are_the_node_circuit(family: str, ablation: str) -> None:
    """So the price of dropping edges is 0 if none is dropped."""
    spliced, task = small(family), random_task(3, 3)
    judged, graph = judge(spliced, task, ablation=ablation), whole_graph(spliced, task)
    kept = [node for number, node in enumerate(graph.nodes) if number % 3]
    edges = [edge for edge in edges_in_order(graph, "absolute") if all(end in kept or end == METRIC for end in edge)]
    along = run_plan(judged.ablated, task, planned([edges]), "")[0]
    nodes = judged.ablated.metric(task, [Subgraph(ranks_of(spliced, task.places, kept), len(kept))])[0]
    close(along, nodes, tolerance(family))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox_parallel", "llama"])
def test_removing_edges_is_keeping_all_others(family: str) -> None:
    """Two ways to compute it: every node along all other edges, and corrections of the whole model's run."""
    spliced, task = small(family), random_task(2, 3)
    judged, everything = judge(spliced, task), edges_in_order(whole_graph(spliced, task), "absolute")
    sets = [shuffled_edges(everything, seed)[:size] for seed, size in enumerate((1, 7, 200, 900))]
    others = [[edge for edge in everything if edge not in set(removed)] for removed in sets]
    close(
        run_without(judged.ablated, task, sets), run_plan(judged.ablated, task, planned(others), ""), tolerance(family)
    )


def test_rows_come_in_one_order_whatever_order_edges_and_sets_have() -> None:
    """Sums of floats hang on it, so figures would differ from process to process."""
    spliced, task = small("gpt2"), random_task(2, 3)
    edges = edges_in_order(whole_graph(spliced, task), "absolute")[:300]
    plan = planned([edges])
    assert planned([edges[::-1]]).values == plan.values
    assert [value.node for value in plan.values] == sorted(
        (value.node for value in plan.values), key=lambda node: (node.site, str(node))
    )


# --- linear models


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_a_linear_model_a_cut_edge_costs_its_effect(family: str, seed: int) -> None:
    """Attention patterns are constant and features always active, so each edge's effect is what its removal loses."""
    spliced, task = small(family, ("embed", "mlp_1", "resid_1"), bias=1e4, seed=seed, linear=True), random_task(1, 3)
    circuit = fc.trace(
        spliced, task, nodes="atp", keep_nodes="top=1000", keep_edges="top=100000", check_fit=False
    ).circuit
    judged, edges = judge(spliced, task), edges_in_order(circuit, "absolute")
    some = edges[:: max(1, len(edges) // 40)]
    lost = metric_model(spliced, task, 1) - run_without(judged.ablated, task, [[edge] for edge in some])
    effects = torch.tensor([circuit.edges[edge] for edge in some], dtype=torch.float64)
    assert len(some) > 20
    # features of about 1e4 round at 1e-12, far below the tolerance, which float32 inside some families needs
    torch.testing.assert_close(lost[:, 0], effects, rtol=1e-5, atol=1e-5 * float(effects.abs().max()))


# --- a slow implementation


def slow(spliced: SplicedModel, task: fc.Task, edges: list[Edge], number: int) -> float:
    """F along edges under paired ablation, node by node, from whole runs and dense tensors; no node is shared."""
    example = task.examples[number]
    batch = task.batch([number])
    assert batch.corrupted is not None
    other = spliced.record(batch.corrupted, spliced.sites)[1]

    def run(reads: dict[Node, Tensor], until: Site | None) -> Tensor:
        seen: list[Tensor] = []

        def put(site: Site, x: Tensor) -> Tensor:
            if site == until:
                seen.append(x)
            return other[site] + sum(move for node, move in reads.items() if node.site == site)

        with torch.no_grad():
            logits = spliced.run(batch.clean, put)
        return seen[0] if until is not None else logits[0, -1]

    def moved(node: Node) -> Tensor:
        reads = {source: moved(source) for source, target in edges if target == node}
        x, dictionary = run(reads, node.site), spliced.dictionaries[node.site]
        steps = dictionary.encode(x) - dictionary.encode(other[node.site])
        if node.feature is None:
            move = x - other[node.site] - dictionary.decode_change(steps)
        else:
            move = steps[..., [node.feature]] * dictionary.decoder_rows(torch.tensor([node.feature]))
        mask = torch.zeros(len(example.clean), 1, dtype=torch.float64)
        mask[node.place] = 1  # type: ignore[index]
        return move * mask

    logits = run({source: moved(source) for source, target in edges if target == METRIC}, None)
    return float(logits[example.clean_answers[0]] - logits[example.corrupted_answers[0]])


def test_a_slow_implementation_agrees() -> None:
    spliced, task = small("gpt2", ("embed", "attn_1", "resid_1", "resid_2")), random_task(2, 3)
    everything = edges_in_order(whole_graph(spliced, task), "absolute")
    by_name = {str(node): node for node in whole_graph(spliced, task).nodes}
    chains = [["embed/0@1", "attn_1/error@2", "resid_1/1@2", "resid_2/error@2"], ["embed/error@1", "resid_1/1@2"]]
    chains += [["embed/error@1", "resid_1/error@2", "resid_2/2@2"], ["embed/2@0", "attn_1/0@1", "resid_1/error@1"]]
    edges: list[Edge] = [
        (by_name[source], by_name[target]) for chain in chains for source, target in itertools.pairwise(chain)
    ]
    edges = list(dict.fromkeys([*edges, (by_name["resid_2/error@2"], METRIC), (by_name["resid_2/2@2"], METRIC)]))
    edges.append((by_name["resid_1/error@1"], by_name["resid_2/error@2"]))
    assert set(edges) <= set(everything)
    judged = judge(spliced, task)
    sizes = range(len(edges) + 1)
    found = run_plan(judged.ablated, task, planned([edges[::-1][:size] for size in sizes]), "")
    expected = torch.tensor(
        [[slow(spliced, task, edges[::-1][:size], n) for n in range(2)] for size in sizes], dtype=torch.float64
    )
    close(found, expected, 1e-9)
    assert found.std(0).min() > 1e-3


# --- the plan


def test_rows_are_shared_and_dead_ends_left_out() -> None:
    a, b, c, d = (Node.parse(name) for name in ("embed/0@0", "embed/1@0", "resid_0/0@0", "resid_0/1@0"))
    edges: list[Edge] = [(a, c), (a, d), (c, METRIC), (d, METRIC), (b, METRIC)]
    plan = planned([edges[:2], edges[:3], edges[:4], edges])
    # one row computes both features of the embedding, one both of resid_0, and one the metric of each circuit
    assert [row.site for row in plan.rows] == [None, Site.parse("embed"), Site.parse("resid_0"), None, None, None]
    assert len(plan.values) == 4
    assert plan.outputs == (0, 3, 4, 5)
    assert count_without([edges[:2], [(c, METRIC)]]) == (1 + 1 + 1) + (1 + 1)


def test_random_edges_keep_the_number_of_every_connection() -> None:
    spliced, task = small("gpt2"), random_task(2, 3)
    edges = edges_in_order(whole_graph(spliced, task), "absolute")

    def connections(some: list[Edge]) -> list[tuple[str, str]]:
        return [(str(u.site), str(v.site) if isinstance(v, Node) else METRIC) for u, v in some]

    shuffled = shuffled_edges(edges, 3)
    assert connections(shuffled) == connections(edges)
    assert shuffled != edges
    assert sorted(shuffled, key=str) == sorted(edges, key=str)


def test_orders() -> None:
    names = ["embed/0@0", "embed/1@0", "embed/2@0"]
    nodes = dict.fromkeys(names, NodeScore(1.0))
    weights = dict(zip(names, (1.0, -3.0, 2.0), strict=True))
    pairs: dict[tuple[Endpoint, Endpoint], float] = {(name, METRIC): weight for name, weight in weights.items()}
    circuit = Circuit(nodes, {**pairs, ("input@0", "embed/0@0"): 9.0}, (0, 1, 2), "none")  # type: ignore[arg-type]
    absolute, signed = (edges_in_order(circuit, order) for order in ("absolute", "signed"))
    assert [str(u) for u, _ in absolute] == ["embed/1@0", "embed/2@0", "embed/0@0"]
    assert [str(u) for u, _ in signed] == ["embed/2@0", "embed/0@0", "embed/1@0"]
    assert edges_in_order(circuit, [("embed/0@0", METRIC)]) == [(Node.parse("embed/0@0"), METRIC)]
    assert nodes_in_order(signed) == ([u for u, _ in signed], [1, 2, 3])
    for order, message in [
        ("size", "order is 'size'; known: absolute, signed"),
        ([("embed/0@0", "resid_0/0@0")], "the circuit has no edge embed/0@0 -> resid_0/0@0"),
        ([("input@0", "embed/0@0")], "the circuit has no edge input@0 -> embed/0@0 from a node"),
        (["embed/0@0"], "'embed/0@0' is not an edge"),
    ]:
        with pytest.raises(fc.InputError, match=message):
            edges_in_order(circuit, order)  # type: ignore[arg-type]


# --- the curve


@pytest.fixture(scope="module")
def traced() -> tuple[SplicedModel, fc.Task, Circuit]:
    spliced, task = small("gpt2"), random_task(40, 3)
    return spliced, task, fc.trace(spliced, task, keep_nodes="top=30", keep_edges="top=200", check_fit=False).circuit


@pytest.mark.parametrize("ablation", ["paired", "mean"])
def test_a_curve_is_made_of_its_parts(traced: tuple[SplicedModel, fc.Task, Circuit], ablation: str) -> None:
    spliced, task, circuit = traced
    curve = fc.edge_curve(spliced, task, circuit, ablation=ablation, sizes=[1, 5, 50, 100], draws=2)
    assert curve.n_edges == sum(isinstance(source, Node) for source, _ in circuit.edges)
    assert curve.sizes == (1, 5, 50, 100)
    assert len(curve.necessity) == len(curve.random) == len(curve.intervals) == 4
    assert all(pair is not None for pair in curve.intervals)
    judged, edges = edge_judge(spliced, task, circuit, ablation), edges_in_order(circuit, "absolute")
    metrics = run_plan(judged.ablated, task, planned([edges[:50], []]), "")
    assert curve.F_empty == pytest.approx(float(metrics[1].mean()), rel=1e-9)
    expected = float(metrics[0].mean() - metrics[1].mean()) / (curve.F_model - curve.F_empty)
    assert curve.faithfulness[2] == pytest.approx(expected, rel=1e-9)
    lost = float(run_without(judged.ablated, task, [edges[:5]]).mean() - curve.F_empty)
    assert curve.necessity[1] == pytest.approx(lost / (curve.F_model - curve.F_empty), rel=1e-9)
    assert curve.price[2] == pytest.approx(curve.nodes[2] - curve.faithfulness[2])
    json.dumps(curve.to_json(), allow_nan=False)


def test_all_edges_under_paired_ablation_are_the_path_hypothesis(
    traced: tuple[SplicedModel, fc.Task, Circuit],
) -> None:
    spliced, task, circuit = traced
    judged, edges = edge_judge(spliced, task, circuit, "paired"), edges_in_order(circuit, "absolute")
    found = run_plan(judged.ablated, task, planned([edges]), "")[0]
    close(found, fc.explained_effect(spliced, task, circuit).hypothesis.double(), 1e-9)


def test_batches_and_rows_change_nothing(traced: tuple[SplicedModel, fc.Task, Circuit]) -> None:
    spliced, task, circuit = traced
    options = {"sizes": [5, 100], "draws": 1}
    first = fc.edge_curve(spliced, task, circuit, **options)  # type: ignore[arg-type]
    again = fc.edge_curve(spliced, task, circuit, batch_size=7, max_rows=9, **options)  # type: ignore[arg-type]
    for name in ("faithfulness", "random", "necessity", "nodes"):
        assert getattr(again, name) == pytest.approx(getattr(first, name), rel=1e-9)


def test_a_later_start_judges_only_later_edges(traced: tuple[SplicedModel, fc.Task, Circuit]) -> None:
    spliced, task, circuit = traced
    curve = fc.edge_curve(spliced, task, circuit, start_layer=1, sizes=[5], draws=0, ablation="mean")
    assert 5 < curve.n_edges < sum(isinstance(source, Node) for source, _ in circuit.edges)
    everything = [edge for edge in edges_in_order(whole_graph(spliced, task), "absolute") if edge[0].site.layer >= 1]
    judged = edge_judge(spliced, task, circuit, "mean", start_layer=1)
    whole, _ = run_plan(judged.ablated, task, planned([everything, []]), "")
    close(whole, metric_model(spliced, task, 32), 1e-9)
    report = fc.evaluate(spliced, circuit, task, start_layer=1, sizes=(), draws=0)
    assert curve.F_empty == pytest.approx(report.F_empty, rel=1e-9)


def test_refusals(traced: tuple[SplicedModel, fc.Task, Circuit]) -> None:
    spliced, task, circuit = traced
    with pytest.raises(fc.InputError, match=r"forward rows for each of 40 examples, more than most_rows=100 in all"):
        fc.edge_curve(spliced, task, circuit, most_rows=100)
    with pytest.raises(fc.InputError, match=r"size is 0; it must be at least 1 and at most \d+"):
        fc.edge_curve(spliced, task, circuit, sizes=[0])
    with pytest.raises(fc.InputError, match="sizes is empty"):
        fc.edge_curve(spliced, task, circuit, sizes=[])
    with pytest.raises(fc.InputError, match="the circuit has no edges to judge"):
        fc.edge_curve(spliced, task, Circuit(circuit.nodes, {}, circuit.places, circuit.aggregate))


# --- CPR and CMD


def test_areas_are_those_of_their_curves(traced: tuple[SplicedModel, fc.Task, Circuit], tmp_path: Path) -> None:
    spliced, task, circuit = traced
    found = fc.mib_areas(spliced, task, circuit)
    assert [(area.level, area.order) for area in found.areas] == list(
        itertools.product(("edge", "node"), ("absolute", "signed"))
    )
    edges, judged = edges_in_order(circuit, "signed"), edge_judge(spliced, task, circuit)
    assert found.of == {"edge": len(edges), "node": len(circuit.nodes)}
    signed = found.areas[1]
    assert signed.sizes == tuple(int(p * len(edges)) for p in signed.fractions)
    measured = judged.measure([edges[:size] for size in signed.sizes], [], silent)
    scores = measured.f(measured.circuits)
    assert signed.faithfulness == pytest.approx(scores, rel=1e-9)
    steps = list(itertools.pairwise(zip(signed.fractions, scores, strict=True)))
    assert signed.cpr == pytest.approx(sum((q - p) * (f + g) / 2 for (p, f), (q, g) in steps))
    assert signed.cmd == pytest.approx(sum((q - p) * (abs(1 - f) + abs(1 - g)) / 2 for (p, f), (q, g) in steps))
    nodes = found.areas[2]
    kept = sorted(circuit.nodes, key=lambda node: -abs(circuit.nodes[node].effect))[: nodes.sizes[-2]]
    ranks = ranks_of(spliced, task.places, kept)
    metric = judged.ablated.metric(task, [Subgraph(ranks, len(kept))])
    assert nodes.faithfulness[-2] == pytest.approx(measured.f(metric)[0], rel=1e-9)
    assert nodes.n_edges[-1] == len(edges)
    assert nodes.n_edges[-2] == sum(all(end in kept or end == METRIC for end in edge) for edge in edges)

    json.dumps(found.to_json(), allow_nan=False)
    paths = found.write_mib(tmp_path, method="secant", model="tiny", split="test")
    names = [str(path.relative_to(tmp_path)) for path in paths]
    assert names[0] == f"secant_patching_edge/{task.name}_tiny_test_abs-True.json"
    assert names[3] == f"secant_patching_node/{task.name}_tiny_test_abs-False.json"
    record = json.loads(paths[1].read_text())
    assert record["area_under"] == pytest.approx(signed.cpr)
    assert record["area_from_1"] == pytest.approx(signed.cmd)
    assert record["weighted_edge_counts"] == list(signed.sizes)
    with pytest.raises(fc.InputError, match="model is 'a/b'; it becomes a part of a file's name"):
        found.write_mib(tmp_path, method="secant", model="a/b")
    with pytest.raises(fc.InputError, match="there are no areas to write: nothing"):
        replace(found, invalid="nothing").write_mib(tmp_path, method="secant", model="tiny")


# --- the picture


def test_the_picture_has_a_panel_per_ablation(traced: tuple[SplicedModel, fc.Task, Circuit], tmp_path: Path) -> None:
    spliced, task, circuit = traced
    curves = [
        fc.edge_curve(spliced, task, circuit, ablation=ablation, sizes=[5, 100], draws=2, necessity=needed)
        for ablation, needed in (("paired", True), ("mean", False))
    ]
    curves = [replace(curve, invalid=None) for curve in curves]  # random models do not show the behaviour
    first, second = draw_edges(curves).axes
    assert [len(axes.lines) for axes in (first, second)] == [6, 5]
    assert first.lines[0].get_xydata().tolist() == [[5, curves[0].faithfulness[0]], [100, curves[0].faithfulness[1]]]
    for some in (curves, curves[:1]):
        figure = draw_edges(some)
        figure.draw_without_rendering()
        box, (legend,) = figure.bbox, figure.legends
        assert box.x0 <= legend.get_window_extent().x0
        assert legend.get_window_extent().x1 <= box.x1
    plot_edges(curves[:1], tmp_path / "edges.svg")
    assert (tmp_path / "edges.svg").read_text().startswith("<?xml")
    with pytest.raises(fc.InputError, match="there are no edge curves to draw"):
        draw_edges([])
    with pytest.raises(fc.InputError, match="under mean ablation cannot be drawn: nothing to explain"):
        draw_edges([curves[0], replace(curves[1], invalid="nothing to explain")])
