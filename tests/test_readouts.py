"""Readouts: states moved between layers and prompts, vectors as nodes, sunk heads, selectivity, splits."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import featcircuits as fc
from featcircuits.interventions.where import Frame
from featcircuits.model.sites import Site, resid
from featcircuits.model.tokens import Tokens
from featcircuits.readouts.answers import answered
from featcircuits.readouts.grid import OTHERS, OWN_STATES, RANDOM, BackPatched, Cell
from featcircuits.readouts.sinking import SINK, ZERO, sinking
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.metrics import Answers
from tests.tiny import FAMILIES, LAYERS, n_hooks, random_task, spliced_model, tiny_model, tolerance, traced


def logits_with(spliced: SplicedModel, tokens: Tokens, site: Site, slot: int, put: Tensor) -> Tensor:
    """Written out: the answer logits with one token's activation replaced."""

    def edit(at: Site, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, slot] = put
        return x

    with torch.no_grad():
        return spliced.run(tokens, edit, sites=[site], answers_only=True)


# --- back-patching


@pytest.mark.parametrize("family", FAMILIES)
def test_back_patching_replaces_the_state_and_own_layer_is_a_no_op(family: str) -> None:
    spliced, task = spliced_model(tiny_model(family)), random_task(4, 5)
    found = fc.back_patch(spliced, task, places=[2, -1])
    assert [(cell.source, cell.target, cell.place) for cell in found.cells] == [
        (s, t, place) for place in ("2", "-1") for s in range(LAYERS) for t in range(s + 1)
    ]
    for cell in found.cells:
        if cell.source == cell.target:
            assert cell.right[OWN_STATES] == found.right
            assert cell.F[OWN_STATES] == found.F, "to the last bit"
        else:
            assert cell.F[OWN_STATES] != found.F
    batch = task.nth_batch(4, 0)
    _, seen = spliced.record(batch.clean, [resid(2)])
    cell = next(cell for cell in found.cells if (cell.source, cell.target, cell.place) == (2, 0, "2"))
    expected = task.F(logits_with(spliced, batch.clean, resid(0), 2, seen[resid(2)][:, 2]), batch.answers)
    torch.testing.assert_close(torch.tensor(cell.F[OWN_STATES]).double(), expected.double(), rtol=1e-4, atol=1e-5)
    assert n_hooks(spliced.model) == 0


def test_controls_put_in_other_states_of_the_same_grid() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(3, 5)
    found = fc.back_patch(spliced, task, places=[1], sources=[2], targets=[0], batch_size=2)
    whole = fc.back_patch(spliced, task, places=[1], sources=[2], targets=[0], batch_size=3)
    (cell,), batch = found.cells, task.nth_batch(3, 0)
    for put in (OWN_STATES, OTHERS, RANDOM):
        assert cell.F[put] == pytest.approx(whole.cells[0].F[put], rel=1e-9)
    _, seen = spliced.record(batch.clean, [resid(2)])
    states = seen[resid(2)][:, 1]
    possible = [
        task.F(logits_with(spliced, batch.clean, resid(0), 1, states.roll(turn, 0)), batch.answers) for turn in (1, 2)
    ]
    assert any(torch.allclose(torch.tensor(cell.F[OTHERS], dtype=torch.float64), one.double()) for one in possible)
    assert len({cell.F[OWN_STATES], cell.F[OTHERS], cell.F[RANDOM]}) == 3
    again = fc.back_patch(spliced, task, places=[1], sources=[2], targets=[0], seed=1)
    assert again.cells[0].F[RANDOM] != cell.F[RANDOM]
    assert again.cells[0].F[OWN_STATES] == whole.cells[0].F[OWN_STATES]


def test_prompts_of_unequal_length_take_states_at_their_own_places() -> None:
    spliced = spliced_model(tiny_model("gpt2"))
    short, long = random_task(2, 4, seed=1), random_task(2, 7, seed=2)
    both = fc.Task((*short.examples, *long.examples), aggregate="sum", keep_wrong=True)
    together = fc.back_patch(spliced, both, places=["all"], sources=[1], targets=[0]).cells[0]
    alone = [fc.back_patch(spliced, task, places=["all"], sources=[1], targets=[0]).cells[0] for task in (short, long)]
    assert together.F[OWN_STATES] == pytest.approx([*alone[0].F[OWN_STATES], *alone[1].F[OWN_STATES]], rel=1e-9)


def test_scores_count_fixed_and_broken_answers(tmp_path: Path) -> None:
    def cell(target: int, own: tuple[bool, ...]) -> Cell:
        return Cell(1, target, "-1", {OWN_STATES: own}, {OWN_STATES: (0.0,) * 4})

    grid = BackPatched(
        "t", "kl", (True, True, False, False), (0.0,) * 4,
        (cell(1, (True, True, False, False)), cell(0, (True, False, True, False))),
    )  # fmt: skip
    first, second = grid.cells
    assert grid.score(first) == (grid.score(first).__class__)(0.0, 0.0, 0.0)
    assert (grid.score(second).fixed, grid.score(second).broken, grid.score(second).net) == (0.5, 0.5, 0.0)
    best = grid.any_cell()
    assert (best.fixed, best.broken, best.net) == (0.5, 0.5, 0.25)
    grid.save(tmp_path / "grid.json")
    assert json.loads((tmp_path / "grid.json").read_text())["cells"][1]["right"]["own"] == [True, False, True, False]


def test_an_answer_is_right_above_wrong_answers_or_above_all() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    clean = torch.tensor([[2], [2]])
    assert answered(logits, Answers(clean, torch.tensor([[0], [-1]]))).tolist() == [True, False]
    assert answered(logits, Answers(clean, torch.empty(2, 0, dtype=torch.long))).tolist() == [False, False]


# --- patchscopes


@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_put_into_its_own_prompt_changes_nothing(family: str) -> None:
    spliced = spliced_model(tiny_model(family, dtype=torch.float32))
    prompt = [3, 1, 4, 1, 5]
    bare = fc.generate(spliced, [prompt], max_new_tokens=4).continuations[0]
    for read in fc.patchscope(spliced, prompt, ["resid_0", "resid_2"], prompt, max_new_tokens=4):
        assert read.ids == bare.ids
    assert n_hooks(spliced.model) == 0


def test_a_patchscope_is_the_run_with_the_state_put_in() -> None:
    spliced, source, into = spliced_model(tiny_model("gpt2")), [3, 1, 4], [7, 7, 2, 9]
    _, seen = spliced.record(Tokens.pad([source], 0), [resid(1)])
    one, feature = fc.patchscope(
        spliced, source, ["resid_1", "resid_1/3"], into, place=1, placeholder=2, target="resid_0", value=2.5,
        max_new_tokens=1,
    )  # fmt: skip
    row = spliced.dictionaries["resid_1"].decoder_rows(torch.tensor([3]))[0]
    for read, put in ((one, seen[resid(1)][0, 1]), (feature, 2.5 * row)):
        logits = logits_with(spliced, Tokens.pad([into], 0), resid(0), 2, put)
        assert read.ids == (int(logits.argmax()),)
        assert read.probabilities[0] == pytest.approx(float(logits.softmax(-1).max()), rel=1e-6)
    assert (one.value, feature.value) == (None, 2.5)
    assert (one.of, one.into) == ("resid_1@1", "resid_0")


def test_a_feature_is_read_at_its_own_value() -> None:
    spliced, prompt = spliced_model(tiny_model("gpt2")), [3, 1, 4]
    _, seen = spliced.record(Tokens.pad([prompt], 0), [resid(1)])
    f = spliced.dictionaries["resid_1"].encode(seen[resid(1)])[0, -1]
    active, silent = int(f.argmax()), int((f == 0).nonzero()[0])
    (found,) = fc.patchscope(spliced, prompt, [f"resid_1/{active}"], [7, 2], max_new_tokens=1)
    assert found.value == pytest.approx(float(f[active]))
    with pytest.raises(fc.InputError, match="writes nothing"):
        fc.patchscope(spliced, prompt, [f"resid_1/{silent}"], [7, 2])


# --- a steering vector as a node


def test_a_vector_is_a_node_with_an_effect_with_patterns_held_and_a_lens() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(3, 5)
    vector = torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.01
    found = fc.vector_effect(
        spliced, task, "resid_0", vector, where=2, downstream=["resid_2/3@4"], estimator="atp", controls=3, tokens=40
    )
    whole = found.free.whole
    assert whole.predicted.mean == pytest.approx(whole.measured.mean, rel=0.1)
    assert found.free.controls[0].what == "random directions"
    assert len(found.free.controls[0].changes) == 3
    assert found.free.downstream[0].node == "resid_2/3@4"
    assert found.share_without_attention == pytest.approx(found.held.whole.measured.mean / whole.measured.mean)
    assert found.share_without_attention != pytest.approx(1, abs=1e-3)
    last = fc.vector_effect(spliced, task, "resid_2", vector, where=-1, controls=0, tokens=40)
    assert last.share_without_attention == pytest.approx(1, rel=1e-9), "no attention comes after the last layer"
    assert found.norm == pytest.approx(float(vector.norm()))
    assert json.dumps(found.to_json())
    with pytest.raises(fc.InputError, match="output projection"):
        fc.vector_effect(spliced, task, "attn_z_0", vector)


def test_the_lens_is_the_change_of_logits_with_the_final_norm_held() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(1, 5)
    vector = torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = fc.vector_effect(spliced, task, "resid_2", vector, where=-1, strength=0.5, controls=0, tokens=40)
    logit = {one.id: one.logit for one in found.promoted}
    expected = logit[task.examples[0].clean_answers[0]] - logit[task.examples[0].corrupted_answers[0]]
    text = "resid_2/vector:v@-1+0.5:held=attention+norms"
    held = fc.intervene(spliced, task, text, vectors={"v": vector}, controls=0)
    assert held.whole.measured.mean == pytest.approx(expected, rel=1e-6)
    assert {one.id for one in found.suppressed} == set(range(40))


# --- sunk heads


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sunk_head_writes_the_first_tokens_value(family: str) -> None:
    """At the first token itself every head looks at it already, so sinking there changes nothing."""
    spliced, task = spliced_model(tiny_model(family)), random_task(3, 5)
    tokens = task.nth_batch(3, 0).clean
    frame = Frame.of(tokens, task.examples)
    site = Site.parse("attn_z_1")
    _, before = spliced.record(tokens, [site])
    with sinking(spliced, [(1, 1)], frame, 3, 1.0, SINK):
        _, sunk = spliced.record(tokens, [site])
    with sinking(spliced, [(1, 1)], frame, 3, 1.0, ZERO):
        _, zeroed = spliced.record(tokens, [site])
    width = spliced.architecture.head_width
    head = slice(width, 2 * width)
    margin = {"rtol": tolerance(family), "atol": tolerance(family)}
    torch.testing.assert_close(sunk[site][:, 3, head], before[site][:, 0, head], **margin)
    assert not zeroed[site][:, 3, head].any()
    for after in (sunk, zeroed):
        kept = torch.ones_like(before[site], dtype=torch.bool)
        kept[:, 3, head] = False
        assert torch.equal(after[site][kept], before[site][kept])
    same = fc.sink_heads(spliced, task, [(0, 0), (2, 1)], 0)
    assert same.sunk.mean == pytest.approx(0, abs=tolerance(family))
    assert same.zeroed.mean != 0
    assert fc.sink_heads(spliced, task, [(1, 0)], "all", share=0.0).zeroed.mean == pytest.approx(0, abs=1e-6)
    assert n_hooks(spliced.model) == 0


def test_padding_on_either_side_sinks_to_the_first_token() -> None:
    spliced = spliced_model(tiny_model("gpt2", dtype=torch.float32))
    short, long = random_task(1, 4, seed=1), random_task(1, 7, seed=2)
    alone = [fc.sink_heads(spliced, task, [(1, 0)], -1).sunk.mean for task in (short, long)]
    for side in ("left", "right"):
        both = fc.Task((*short.examples, *long.examples), aggregate="sum", padding_side=side, keep_wrong=True)
        found = fc.sink_heads(spliced, both, [(1, 0)], -1)
        assert found.sunk.mean == pytest.approx(sum(alone) / 2, rel=1e-3, abs=1e-4)


# --- selectivity


def test_selectivity_is_what_ablated_runs_lose() -> None:
    spliced = spliced_model(tiny_model("gpt2"))
    tasks = {"a": random_task(3, 5, seed=1, metric="probability"), "b": random_task(3, 5, seed=2, metric="probability")}
    circuits = {name: traced(spliced, task, nodes="atp", keep_nodes="top=20") for name, task in tasks.items()}
    found = fc.selectivity(spliced, circuits, tasks, draws=5)
    for a, circuit in enumerate(circuits.values()):
        for b, task in enumerate(tasks.values()):
            report = fc.evaluate(spliced, circuit, task, sizes=())
            assert found.F_before[b] == pytest.approx(report.F_model)
            assert found.loss[a][b] == pytest.approx((report.F_model - report.F_complement) / report.F_model)
    for a, b in ((0, 1), (1, 0)):
        own = found.loss[a][a]
        expected = (own - found.loss[a][b]) / own if own > 0 else math.nan
        assert found.selectivity[a][b] == pytest.approx(expected, nan_ok=True)
        assert 1 / 6 <= found.p[a][b] <= 1
        assert found.random_loss[a][b] != found.loss[a][b]
    assert math.isnan(found.p[0][0])
    assert found.sizes == tuple(circuit.n_nodes for circuit in circuits.values())
    again = fc.selectivity(spliced, circuits, tasks, draws=5)
    assert again.random_loss == found.random_loss
    with pytest.raises(fc.InputError, match="at least two"):
        fc.selectivity(spliced, {"a": circuits["a"]}, {"a": tasks["a"]})


# --- splits


def test_two_effects_add_up_to_the_effect_on_the_difference() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(4, 5)
    rows = fc.promote_suppress(spliced, task, "atp")
    whole = {one.node: one.mean for one in fc.node_effects(spliced, task, "atp").nodes()}
    assert {row.node for row in rows} >= set(whole)
    for row in rows:
        assert row.whole == pytest.approx(whole.get(row.node, 0.0), rel=1e-6, abs=1e-9)
    assert {row.does for row in rows} == {"raises right", "lowers right", "raises wrong", "lowers wrong"}
    assert fc.promote_suppress(spliced, task, "atp", count=3) == rows[:3]
    single = fc.Task.from_tokens([[1, 2]], None, [3], metric="log_probability", keep_wrong=True)
    with pytest.raises(fc.InputError, match="no wrong answer"):
        fc.promote_suppress(spliced, single, "atp")


def test_a_split_by_outcome_has_the_effects_of_each_side() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(12, 5)
    right = fc.behaviour_of(spliced, task).right_clean
    assert 2 <= sum(right) <= 10
    rows = fc.split_by_outcome(spliced, task, "atp")
    sides = [
        {one.node: one for one in fc.node_effects(spliced, task.only(some), "atp").nodes()}
        for some in ([n for n, one in enumerate(right) if one], [n for n, one in enumerate(right) if not one])
    ]
    for row in rows:
        first, second = (side[row.node].mean if row.node in side else 0.0 for side in sides)
        assert (row.right, row.wrong) == pytest.approx((first, second), rel=1e-9, abs=1e-12)
        assert not row.flips or row.right * row.wrong < 0
    assert [row.flips for row in rows] == sorted((row.flips for row in rows), reverse=True)
    only = task.only([n for n, one in enumerate(right) if one])
    with pytest.raises(fc.InputError, match="0 wrong"):
        fc.split_by_outcome(spliced, only, "atp")
