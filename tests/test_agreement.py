"""Comparing estimators with exact patching, counting what they cost, and auditing what adds up."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

import featcircuits as fc
from experiments.relp import correlation
from featcircuits.agreement import Agreement, Score, agree
from featcircuits.agreement.bases import in_basis
from featcircuits.agreement.moving import joined, moving
from featcircuits.agreement.plot import plot_frontier, plot_scatter
from featcircuits.agreement.scores import Comparison, compare
from featcircuits.checks.audit import audit
from featcircuits.checks.patching import swapped
from featcircuits.cli.tables import agreement_tables
from featcircuits.dictionaries import whole
from featcircuits.model.sites import Site
from featcircuits.runs.cost import measured
from featcircuits.states.states import SiteState, States, states_of
from tests.tiny import FAMILIES, LAYERS, WIDTH, made_linear, n_hooks, random_task, spliced_model, tiny_model, tolerance

SHIPPED = Path(__file__).parents[1] / "saes" / "grammar-4l"
ESTIMATORS = ("atp", "ig:steps=2:quadrature=gauss", "ig-inputs:steps=2", "relp:rules=gradient", "atp-hop1")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(8, 60))
def test_scores_are_what_numpy_says(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    truth, noise = rng.standard_normal((2, n))
    estimate = 2 * truth + 0.3 * noise + 1
    found = compare(estimate, truth, top=5)
    assert found.pearson == pytest.approx(np.corrcoef(estimate, truth)[0, 1])
    ranks = [np.argsort(np.argsort(values)) for values in (estimate, truth)]
    assert found.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert found.slope == pytest.approx(np.polyfit(truth, estimate, 1)[0])
    best = [set(sorted(range(n), key=lambda i: -abs(values[i]))[: found.k]) for values in (estimate, truth)]
    assert found.overlap == pytest.approx(len(best[0] & best[1]) / found.k)


@pytest.mark.parametrize(
    ("truth", "too_alike"),
    [
        (np.zeros(9), True),
        (np.arange(2.0), True),
        (np.empty(0), True),
        (np.arange(7.0), True),
        (np.arange(8.0), False),
        (5 + 0.04 * np.sin(np.arange(30.0)), True),  # standard deviation .006 of the size
        (-5 + 0.1 * np.sin(np.arange(30.0)), False),
        (1e-9 * np.sin(np.arange(30.0)), False),  # small is not alike
    ],
)
def test_nothing_is_claimed_of_effects_that_are_few_or_nearly_equal(truth: np.ndarray, too_alike: bool) -> None:
    found = compare(2 * truth + np.cos(np.arange(len(truth))), truth, 3)
    assert found.too_alike == too_alike
    for figure in (found.pearson, found.slope, found.spearman, found.overlap):
        assert math.isnan(figure) == too_alike


def test_a_blind_estimate_has_slope_0_and_no_correlation() -> None:
    found = compare(np.full(20, 0.3), np.arange(20.0), 5)
    assert (found.slope, found.too_alike) == (0.0, False)
    assert math.isnan(found.pearson)
    assert math.isnan(found.spearman)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), still=st.integers(1, 500))
def test_nodes_that_cannot_move_change_no_figure_but_their_number(seed: int, still: int) -> None:
    rng = np.random.default_rng(seed)
    estimate, truth = rng.standard_normal((2, 20)) + 3
    alone = compare(estimate, truth, 5)
    moves = np.zeros(20 + still, dtype=bool)
    moves[rng.permutation(20 + still)[:20]] = True
    both = np.zeros((2, 20 + still))
    both[:, moves] = estimate, truth
    among = compare(*both, 5, moves)
    assert (among.n, among.n_moving) == (20 + still, 20)
    assert among[1:] == alone[1:]


@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_linear_model_every_estimator_agrees_fully(family: str) -> None:
    spliced = spliced_model(made_linear(tiny_model(family)))
    found = agree(spliced, random_task(8, 4), ESTIMATORS, bases=("features", "neurons", "whole"), edge_nodes=0)
    assert {(s.basis, s.what) for s in found.scores} == {
        ("features", "feature"), ("features", "error"), ("neurons", "feature"), ("whole", "whole"),
    }  # fmt: skip
    for score in found.scores:
        assert score.comparison.pearson == pytest.approx(1, abs=1e-6)
        assert score.comparison.slope == pytest.approx(1, abs=1e-6)
        assert score.comparison.overlap == 1
    assert n_hooks(spliced.model) == 0


@pytest.fixture(scope="module")
def shipped() -> fc.SplicedModel:
    return fc.load(suite="grammar-4l")


def pairs_of(spliced: fc.SplicedModel, name: str, count: int) -> fc.Task:
    return fc.Task.from_jsonl(SHIPPED / "tasks" / f"{name}_train.jsonl", spliced.tokenizer).take(count)


def test_of_whole_outputs_that_move_only_the_secant_tells(shipped: fc.SplicedModel) -> None:
    """Half of the positions are before the first difference; with them AtP would have .82 and RelP .96."""
    found = agree(shipped, pairs_of(shipped, "agreement_simple", 12), ["atp", "relp", "secant"], bases=["whole"])
    resid = {score.estimator: score.comparison for score in found.scores if score.site_kind == "resid"}
    assert {(c.n, c.n_moving, c.too_alike) for c in resid.values()} == {(96, 48, False)}
    assert [round(c.pearson, 2) for c in resid.values()] == [-0.01, 0.11, 1.00]
    assert [round(c.slope, 2) for c in resid.values()] == [-0.08, 0.88, 1.00]
    assert resid["secant"].overlap == 1
    assert len(found.values["atp", "whole", "whole", "resid"][0]) == 48


def test_ranks_of_features_are_those_of_features_that_move(shipped: fc.SplicedModel) -> None:
    """With the others RelP's would be .53 at residual sites."""
    found = agree(shipped, pairs_of(shipped, "agreement_simple", 20), ["relp"], bases=["features"], edge_nodes=0)
    (resid,) = [s.comparison for s in found.scores if (s.what, s.site_kind) == ("feature", "resid")]
    assert resid.spearman == pytest.approx(0.69, abs=0.005)
    assert 0.35 < resid.n_moving / resid.n < 0.45


@pytest.mark.parametrize("behaviour", ["agreement_rc", "ioi", "gender"])
def test_nothing_moves_before_the_prompts_differ(shipped: fc.SplicedModel, behaviour: str) -> None:
    task = pairs_of(shipped, behaviour, 9)
    first = [next(i for i, (a, b) in enumerate(zip(e.clean, e.corrupted or (), strict=True)) if a != b)
             for e in task.examples]  # fmt: skip
    found = moving(in_basis(shipped, "whole"), task, batch_size=4)
    for site, (_, whole_moves) in found.items():
        assert whole_moves.shape == (9, task.longest)
        for row, begin, example in zip(whole_moves, first, task.examples, strict=True):
            assert not row[:begin].any()
            assert row[begin]
            if site.kind == "embed":
                assert row.sum() == sum(a != b for a, b in zip(example.clean, example.corrupted or (), strict=True))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_features_move_that_have_another_value(family: str) -> None:
    spliced, task = spliced_model(tiny_model(family)), random_task(3, 4)
    found, states = moving(spliced, task, batch_size=2), states_of(spliced, task, task.batch(range(3)))
    for site, state in states.sites.items():
        features, errors = found[site]
        assert features.tolist() == (state.change.abs() > 1e-9).tolist()
        assert errors.flatten().tolist() == (state.error_change.flatten(0, 1).norm(dim=-1) > 1e-9).tolist()


def test_a_change_below_rounding_is_no_move() -> None:
    """As runs of other shapes bring it; a feature at such a position does not move, and one elsewhere does."""
    x = torch.tensor([[[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]]])
    change = torch.tensor([[[0.0, 0.0], [2e-6, 0.0], [2e-3, 0.0]]])
    row, ones = torch.tensor([0, 1, 2, 2]), torch.ones(4)
    state = SiteState(x, x, change, change, row, row, ones, torch.tensor([0.0, 1e-6, 1e-6, 0.0]), ones > 0)
    features, errors = state.moves()
    assert features.tolist() == [False, False, True, False]
    assert errors.tolist() == [[False, False, True]]
    features, errors = replace(state, x=x.double()).moves()
    assert errors.tolist() == [[False, True, True]]
    features, errors = replace(state, error_change=0 * change).moves()
    assert (features.tolist(), errors.any()) == ([False, False, True, False], False)


def test_a_move_counts_in_half_precision_however_large_the_activation() -> None:
    x = torch.full((1, 2, 64), 3e4, dtype=torch.float16)  # its norm is beyond float16
    change = torch.zeros(1, 2, 64)
    change[0, 1, 0] = 16.0  # one step of float16 there
    nothing = torch.empty(0, dtype=torch.long)
    _, errors = SiteState(x, x, change, change, nothing, nothing, *2 * [torch.empty(0)], nothing > 0).moves()
    assert errors.tolist() == [[False, True]]


@pytest.mark.parametrize("basis", ["features", "neurons", "whole"])
def test_exact_patching_runs_a_row_for_each_node_that_moves(
    shipped: fc.SplicedModel, basis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featcircuits.estimators import exact

    model, task = in_basis(shipped, basis), pairs_of(shipped, "ioi", 2)
    rows, patched = [], exact.patched_metric

    def counted(spliced: fc.SplicedModel, states: States, site: Site, row: Tensor, moves: Tensor) -> Tensor:
        rows.append(len(row))
        return patched(spliced, states, site, row, moves)

    monkeypatch.setattr(exact, "patched_metric", counted)
    effects = fc.node_effects(model, task, "exact")
    states = states_of(model, task, task.batch(range(2)))
    moved = [(s.change != 0).sum() + (s.error_change != 0).any(-1).sum() for s in states.sites.values()]
    every = sum(len(s.row) + s.error_change[..., 0].numel() for s in states.sites.values())
    assert sum(rows) == sum(map(int, moved)) < 0.6 * every
    for site, state in states.sites.items():
        assert not effects.entries(site)[3][state.change == 0].any()


def test_cells_that_cannot_move_are_left_out_of_the_experiment_on_relp(shipped: fc.SplicedModel) -> None:
    """Of the two positions of agreement_simple only the second moves."""
    task = pairs_of(shipped, "agreement_simple", 12)
    outputs = in_basis(shipped, "whole")
    moves = correlation.moving_cells(outputs, task)
    assert {kind: (len(found), int(found.sum())) for kind, found in moves.items()} == dict.fromkeys(
        correlation.KINDS, (8, 4)
    )
    twice = [task, pairs_of(shipped, "agreement_rc", 12)]
    found = correlation.correlations(shipped, twice)["atp"]["resid"]
    tasks = [swapped(one) for one in twice]
    truth, atp = (
        np.concatenate([correlation.cells(outputs, one, estimator)["resid"] for one in tasks])
        for estimator in ("exact", "atp")
    )
    moved = np.concatenate([correlation.moving_cells(outputs, one)["resid"] for one in tasks])
    assert found["all"] == pytest.approx(np.corrcoef(truth, atp)[0, 1])
    assert found["moving"] == pytest.approx(np.corrcoef(truth[moved], atp[moved])[0, 1])
    assert found["moving"] < found["all"]


def test_a_bound_is_of_the_nodes_that_move(shipped: fc.SplicedModel) -> None:
    task = pairs_of(shipped, "agreement_simple", 3)
    effects = fc.node_effects(shipped, task, "atp")
    states = states_of(shipped, task, task.batch(range(3)))
    nodes = {
        (site, int(row) % 2, int(feature))
        for site, state in states.sites.items()
        for row, feature in zip(state.row[state.change != 0], state.feature[state.change != 0], strict=True)
    }
    errors = len(states.sites)  # at the second position alone: the first word is the same
    assert fc.bound_missed(shipped, task, effects, [], samples=10).n_nodes == len(nodes) + errors
    assert {place for _, place, _ in nodes} == {1}


def test_edges_are_compared_for_methods_that_have_them() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    found = agree(spliced, task, ["atp", "atp-hop1", "relp:rules=gradient"], bases=["features"], edge_nodes=30)
    edges = [score for score in found.scores if score.what == "edge"]
    assert {score.estimator for score in edges} == {"atp", "relp:rules=gradient"}
    both = [[s.comparison for s in edges if s.estimator == estimator] for estimator in ("atp", "relp:rules=gradient")]
    assert sum(c.n for c in both[0]) > 30
    for one, other in zip(*both, strict=True):
        assert one.n == other.n
        assert one.pearson == pytest.approx(other.pearson, rel=1e-9, nan_ok=True)


def test_edges_of_all_methods_are_compared_on_one_set() -> None:
    spliced, task = spliced_model(tiny_model("llama")), random_task(2, 4)
    found = agree(spliced, task, ["atp", "relp", "ig:steps=3", "secant"], bases=["features"], edge_nodes=30)
    counts: dict[str, set[tuple[int, int]]] = {}
    for score in found.scores:
        if score.what == "edge":
            counts.setdefault(score.site_kind, set()).add((score.comparison.n, score.comparison.n_moving))
    assert "metric" in counts
    for sets in counts.values():
        ((n, n_moving),) = sets
        assert 0 < n_moving <= n


@pytest.mark.parametrize("aggregate", ["none", "sum"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox_parallel"])
@pytest.mark.parametrize("kind", ["relu", "skip_transcoder"])
def test_no_edge_has_an_effect_that_cannot_move(family: str, kind: str, aggregate: str) -> None:
    """Neither by exact patching nor by an estimator; and most that can have one."""
    sites = {"sites": ["mlp_0", "mlp_2"]} if kind == "skip_transcoder" else {}
    spliced, task = spliced_model(tiny_model(family), kind, **sites), random_task(2, 4, aggregate=aggregate)
    effects = fc.node_effects(spliced, task, "exact")
    nodes = [node for node, _, _ in sorted(effects.nodes(), key=lambda row: -abs(row[1]))[:40]]
    edges = joined(spliced, task, nodes)
    able = {edge for edge, moves in edges.items() if moves}
    for method in ("exact", "atp", "secant"):
        values = {(u, d): value for u, d, value in fc.edge_effects(spliced, task, nodes, method).edges() if value != 0}
        assert values.keys() <= able
        assert len(values) > 0.3 * len(able)


@pytest.fixture(scope="module")
def small() -> Agreement:
    return agree(spliced_model(tiny_model("gpt2")), random_task(2, 4), ["atp", "relp", "blend"])


def test_an_agreement_is_plain_data(small: Agreement) -> None:
    record = json.loads(json.dumps(small.to_json(), allow_nan=False))
    assert {row["estimator"] for row in record["costs"]} == {"exact", "atp", "relp", "blend"}
    assert len(record["scores"]) == len(small.scores)
    for row in record["scores"]:
        assert 0 < row["n_moving"] <= row["n"]
        assert row["too_alike"] == (row["slope"] is None)


PICTURES = (plot_scatter, plot_frontier)


@pytest.mark.parametrize("plot", PICTURES)
@pytest.mark.parametrize(
    ("suffix", "begin"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml"), ("PNG", b"\x89")]
)
def test_pictures_have_the_format_of_their_suffix(
    small: Agreement, plot: Callable[[Agreement, Path], None], suffix: str, begin: bytes, tmp_path: Path
) -> None:
    plot(small, tmp_path / f"one.{suffix}")
    written = (tmp_path / f"one.{suffix}").read_bytes()
    assert written.startswith(begin)
    plot(small, tmp_path / f"one.{suffix}")
    assert (tmp_path / f"one.{suffix}").read_bytes() == written


@pytest.mark.parametrize("name", ["one.gif", "one", "one.png.txt"])
def test_a_picture_of_another_format_is_refused(small: Agreement, name: str, tmp_path: Path) -> None:
    with pytest.raises(fc.InputError, match="pictures cannot be written as .*; known: png, pdf, svg"):
        plot_scatter(small, tmp_path / name)
    assert not list(tmp_path.iterdir())


def drawn(plot: Callable[[Agreement, Path], None], agreement: Agreement, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The figure in place of its file, laid out."""
    figures: list[Figure] = []
    monkeypatch.setattr("featcircuits.agreement.plot.save", lambda figure, path: figures.append(figure))
    plot(agreement, Path("one.png"))
    figures[0].draw_without_rendering()
    return figures[0]


@pytest.mark.parametrize("plot", PICTURES)
def test_no_legend_covers_data(
    small: Agreement, plot: Callable[[Agreement, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = drawn(plot, small, monkeypatch)
    (legend,) = figure.legends
    assert not any(axes.get_legend() for axes in figure.axes)
    assert not any(legend.get_window_extent().overlaps(axes.get_tightbbox()) for axes in figure.axes)  # type: ignore[arg-type]


def test_every_estimator_has_a_mark_of_its_own(small: Agreement, monkeypatch: pytest.MonkeyPatch) -> None:
    estimators = [f"ig:steps={n}" for n in range(1, 40)]
    scores = tuple(
        s._replace(estimator=estimator) for s in small.scores if s.estimator == "atp" for estimator in estimators
    )
    costs = dict(small.costs) | {
        (basis, m): small.costs[basis, "exact"] for basis in ("features", "whole") for m in estimators
    }
    figure = drawn(plot_frontier, replace(small, scores=scores, costs=costs), monkeypatch)
    marks = {line.get_label(): (line.get_marker(), line.get_fillstyle()) for line in figure.legends[0].get_lines()}
    assert len({marks[estimator] for estimator in estimators}) == len(estimators)


def test_a_panel_without_data_is_said_to_have_none(small: Agreement, monkeypatch: pytest.MonkeyPatch) -> None:
    """`blend` has no edges: no axes, no diagonal. All others have points of a size that shows."""
    figure = drawn(plot_scatter, small, monkeypatch)
    columns = list(dict.fromkeys((score.basis, score.what) for score in small.scores))
    empty = figure.axes[2 * len(columns) + columns.index(("features", "edge"))]
    assert (empty.axison, list(empty.lines)) == (False, [])
    assert [text.get_text() for text in empty.texts if text.get_text() != "blend"] == ["none"]
    for axes in figure.axes:
        if axes is not empty:
            assert axes.axison
            assert all(line.get_markersize() >= 3 for line in axes.lines if line.get_marker() == "o")


def test_the_tables_of_an_agreement_give_counts_slopes_and_what_nobody_can_tell(small: Agreement) -> None:
    few = Comparison(40, 5, True, *4 * [math.nan], 1)
    scores = (*small.scores, Score("atp", "neurons", "feature", "attn", few))
    console = Console(width=120, record=True, file=io.StringIO())
    for table in agreement_tables(replace(small, scores=scores)):
        console.print(table)
    text = console.export_text()
    assert "too alike to tell" in text
    assert "5 of 40" in text
    whole = next(s.comparison for s in small.scores if (s.estimator, s.what, s.site_kind) == ("atp", "whole", "mlp"))
    assert f"{whole.n_moving} of {whole.n}" in text
    numbers = (whole.pearson, whole.slope, whole.spearman, whole.overlap)
    assert " ".join(f"{f'{number:.2f}'.replace('0.', '.'):>4}" for number in numbers) in text


def test_bad_requests_are_refused_before_anything_runs() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    for estimators, bases, message in (
        (["atpp"], ["features"], "unknown estimator 'atpp'"),
        (["ig:step=3"], ["features"], "estimator 'ig' has no option 'step'"),
        (["ig:quadrature=simpson"], ["features"], "unknown quadrature 'simpson'"),
        (["atp:error_effects=none"], ["features"], "error_effects is 'none'; known: estimated, exact"),
        (["atp"], ["heads"], "unknown basis 'heads'; known: features, neurons, whole"),
    ):
        with pytest.raises(fc.InputError, match=message):
            agree(spliced, task, estimators, bases=bases)


@pytest.mark.parametrize(("estimator", "backwards"), [("atp", 1), ("relp", 1), ("ig-inputs:steps=4", 4)])
def test_passes_are_counted(estimator: str, backwards: int) -> None:
    """Two forwards read the states; each point of an estimator is one forward and one backward."""
    spliced, task = spliced_model(tiny_model("llama")), random_task(3, 4)
    cost = agree(spliced, task, [estimator], bases=["features"]).costs["features", estimator]
    assert cost.forwards == pytest.approx(2 + backwards)
    assert cost.backwards == pytest.approx(backwards)
    assert cost.seconds > 0
    with measured(spliced, 12) as nothing:
        pass
    assert (nothing.forwards, nothing.backwards) == (0, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_audit_finds_the_laws_kept(family: str) -> None:
    rows = audit(spliced_model(tiny_model(family)), random_task(2, 4), "ig:steps=4")
    laws = {row.law for row in rows if row.exact}
    assert len(laws) == 7
    for row in rows:
        if row.exact:
            assert row.residual <= 10 * tolerance(family)
    quadrature = {row.law: row.residual for row in rows if row.law.startswith("quadrature")}
    assert quadrature["quadrature of ig, gauss, 10 points"] < quadrature["quadrature of ig, gauss, 2 points"]
    assert n_hooks(rows and spliced_model(tiny_model(family)).model) == 0


def test_an_audit_sees_a_broken_law() -> None:
    """A model whose MLPs read the attention of their layer, said not to: those edges are missing."""
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    broken = replace(spliced, architecture=replace(spliced.architecture, sequential=False))
    worst = {row.law: row.residual for row in audit(broken, task) if row.exact}
    assert worst["edges (atp) out of a node = its effect"] > 1e-3
    assert worst["the unedited splice changes no logit"] == 0


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_conductance_of_a_whole_output_is_the_sum_of_its_neurons(family: str) -> None:
    model, task = tiny_model(family), random_task(2, 4)
    outputs, neurons = (fc.load(model, {"mlp_1": make(WIDTH)}) for make in (whole, fc.dictionaries.identity))
    found = fc.node_effects(outputs, task, "ig-conductance").error("mlp_1")
    assert found.abs().max() > 1e-3
    assert torch.allclose(found, fc.node_effects(neurons, task, "ig-conductance").features("mlp_1").sum(-1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_output_is_the_sum_of_its_neurons(family: str) -> None:
    """AtP is linear; and patching a whole residual output is patching everything."""
    model, task = tiny_model(family), random_task(2, 4)
    outputs = fc.load(model, {"mlp_1": whole(WIDTH), f"resid_{LAYERS - 1}": whole(WIDTH)})
    neurons = fc.load(model, {"mlp_1": fc.dictionaries.identity(WIDTH)})
    whole_atp = fc.node_effects(outputs, task, "atp").error("mlp_1")
    assert torch.allclose(whole_atp, fc.node_effects(neurons, task, "atp").features("mlp_1").sum(-1))
    exact = fc.node_effects(outputs, task, "exact")
    assert exact.features("mlp_1").shape == (2, 4, 0)
    last = exact.error(f"resid_{LAYERS - 1}")[:, -1]
    assert torch.allclose(last, exact.total_effect, rtol=10 * tolerance(family), atol=1e-8)
    edges = fc.edge_effects(outputs, task, fc.node_effects(outputs, task, "atp"), node_threshold=0.0, estimator="atp")
    sums = torch.zeros(4)
    for source, _, value in edges.edges():
        if str(source.site) == "mlp_1":
            assert isinstance(source.place, int)
            sums[source.place] += value
    assert torch.allclose(sums.double(), whole_atp.mean(0), rtol=1e-4, atol=1e-6)


def test_a_whole_needs_a_width() -> None:
    with pytest.raises(fc.InputError, match="width is 0"):
        whole(0)
