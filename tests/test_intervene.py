"""Interventions measured beside predicted: where the two must be equal, controls, and what other programs hold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import t, ttest_1samp
from torch import Tensor, nn

import featcircuits as fc
from featcircuits.interventions.controls import matched, strengths
from featcircuits.interventions.named import named
from featcircuits.interventions.outcome import Figure
from featcircuits.interventions.plan import planned
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from tests.test_cli import Command, command
from tests.tiny import FAMILIES, made_linear, n_hooks, random_task, spliced_model, tiny_model, tolerance

__all__ = ["command"]

MLPS = ["embed", "mlp_0", "mlp_1", "mlp_2"]


def transcoded(family: str, kind: str = "transcoder") -> SplicedModel:
    model = tiny_model(family)
    model.config.final_logit_softcapping = None  # no module computes it, so nothing could hold it
    return spliced_model(model, kind, MLPS)


def active_in(spliced: SplicedModel, task: fc.Task, site: str, place: int) -> int:
    """The feature that is active at a position in most examples."""
    sites = spliced.with_reads([Site.parse(site)])
    _, seen = spliced.record(task.nth_batch(len(task), 0).clean, sites)
    f = spliced.dictionaries[Site.parse(site)].encode(seen[spliced.read_site(Site.parse(site))])
    return int((f[:, place] > 0.05).sum(0).argmax())


@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder"])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_all_else_held_edges_predict_exactly(family: str, kind: str) -> None:
    """On a suite of transcoders, and with patterns, norms and other nodes held, what is left is linear."""
    spliced, task = transcoded(family, kind), random_task(3, 4)
    later = [f"mlp_2/{active_in(spliced, task, 'mlp_2', 3)}@3", f"mlp_1/{active_in(spliced, task, 'mlp_1', 2)}@2"]
    texts = [f"{text}:held=direct" for text in ("mlp_0/2@1+0.01", "mlp_0/7@2+0.02", "mlp_2/5@3+2", "embed@3*1.01")]
    found = fc.intervene(spliced, task, texts, downstream=later, controls=0)
    margin = 30 * tolerance(family)
    assert found.estimator == "relp:rules=ln+ah"
    for one in (found.whole, *found.parts):
        assert one.predicted.mean == pytest.approx(one.measured.mean, rel=margin, abs=margin)
        assert one.off is not True
    for example in found.examples:
        assert example.predicted == pytest.approx(example.after - example.before, rel=margin, abs=margin)
    for node in found.downstream:
        assert node.predicted.mean == pytest.approx(node.direct.mean, rel=margin, abs=margin)
        assert abs(node.direct.mean) > 1e-6
        assert node.off is not True
    assert found.interaction.mean == pytest.approx(0, abs=margin)
    assert n_hooks(spliced.model) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_patching_predicts_one_node_exactly(family: str) -> None:
    spliced, task = spliced_model(tiny_model(family)), random_task(3, 4)
    found = fc.intervene(spliced, task, ["resid_0/3@2=1.5", "mlp_1/error@1=0"], estimator="exact", controls=0)
    for one in found.parts:
        assert one.predicted.mean == pytest.approx(one.measured.mean, rel=1e-5, abs=1e-7)
    assert found.alone.mean == pytest.approx(sum(one.measured.mean for one in found.parts))
    assert found.whole.measured.mean == pytest.approx(found.alone.mean + found.interaction.mean)


def test_on_a_linear_model_gradients_predict_and_nothing_interacts() -> None:
    spliced, task = spliced_model(made_linear(tiny_model("gpt2")), sites=["mlp_0", "resid_1"]), random_task(3, 4)
    texts = ["mlp_0/3@2+2", "resid_1/vector:any@3+1.5", "mlp_0/error@1*0.5", "attn_1@2*2"]
    vector = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fc.intervene(spliced, task, texts, estimator="atp", vectors={"any": vector}, controls=0)
    assert len(found.parts) == len(texts)
    for one in found.parts:
        assert one.predicted.mean == pytest.approx(one.measured.mean, rel=1e-9)
    # where attention is the same everywhere, nothing but the edit before the doubled site can interact with it
    only = fc.intervene(spliced, task, texts[:3], estimator="atp", vectors={"any": vector}, controls=0)
    assert only.interaction.mean == pytest.approx(0, abs=1e-9)


def test_a_prediction_that_is_off_is_marked_and_the_figures_are_students() -> None:
    values = [0.1, 0.4, -0.2, 0.9]
    figure = Figure.of(values)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (figure.low, figure.high) == pytest.approx((expected.low, expected.high))
    assert t.ppf(0.975, 3) == pytest.approx((figure.high - figure.mean) / (torch.tensor(values).std().item() / 2))
    assert figure.holds(0.3)
    assert not figure.holds(2.0)
    assert Figure.of([1.0]).holds(5.0) is None
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0"]), random_task(12, 4)
    far = fc.intervene(spliced, task, "resid_0/3@2+300", estimator="atp", controls=0)
    assert far.whole.off


def test_what_is_left_out_of_the_metric_is_there_too(tmp_path: Path) -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0", "resid_1"]), random_task(3, 4)
    found = fc.intervene(spliced, task, "group:both@2=2", groups={"both": ["resid_0/3", "resid_1/4@1"]}, tokens=4)
    assert [one.what for one in found.parts] == ["resid_0/3@2=2", "resid_1/4@2=2"]
    first = found.examples[0]
    batch = task.nth_batch(3, 0)
    before, _ = spliced.record(batch.clean, [])
    chances = before.softmax(-1)
    for token in first.tokens:
        assert token.probability_before == pytest.approx(chances[0, token.id].item())
        assert token.logit_before == pytest.approx(before[0, token.id].item())
    moved = [abs(token.probability_after - token.probability_before) for token in first.tokens]
    assert moved == sorted(moved, reverse=True)
    assert first.kl > 0
    assert found.kl.mean == pytest.approx(sum(example.kl for example in found.examples) / 3)
    found.save(tmp_path / "outcome.json")
    record = json.loads((tmp_path / "outcome.json").read_text(encoding="utf-8"))
    assert record["whole"]["measured"]["mean"] == found.whole.measured.mean
    assert record["made_on"]["task"]["sha256"] == task.sha256
    with pytest.raises(fc.InputError, match="exists"):
        found.save(tmp_path / "outcome.json")


def test_batches_and_padding_change_nothing() -> None:
    spliced = spliced_model(tiny_model("llama"), sites=["mlp_0", "resid_1"])
    examples = (*random_task(2, 4, seed=1).examples, *random_task(3, 6, seed=2).examples)
    task = fc.Task(examples, aggregate="sum")
    texts = ["resid_1/3@-1=2", "mlp_0/error@1=0", "resid_1/5@active*2"]
    found = [fc.intervene(spliced, task, texts, batch_size=size, controls=2) for size in (1, 2, 5)]
    for other in found[1:]:
        assert other.whole.measured.mean == pytest.approx(found[0].whole.measured.mean, rel=1e-5)
        assert other.whole.predicted.mean == pytest.approx(found[0].whole.predicted.mean, rel=1e-4)
        assert [control.mean for control in other.controls] == pytest.approx(
            [control.mean for control in found[0].controls], rel=1e-4, abs=1e-6
        )


def test_prompts_without_answers_are_about_the_models_own_next_token() -> None:
    spliced = spliced_model(tiny_model("gpt2"), sites=["resid_1"])
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8]]
    found = fc.intervene(spliced, prompts, "resid_1/3@-1=4", controls=0)
    for prompt, example in zip(prompts, found.examples, strict=True):
        logits, _ = spliced.record(fc.Task.from_tokens([prompt], None, [1], metric="probability").batch([0]).clean, [])
        assert example.before == pytest.approx(logits[0].log_softmax(-1).max().item())
    assert found.metric == "log_probability"


# --- controls


def test_matched_features_are_as_strong_and_as_frequent_and_others() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0", "resid_1"]), random_task(20, 4)
    plan = planned(spliced, task, ["resid_0/3@2=0", "resid_0/4@2=0", "resid_1/5@3=0"], named(spliced), 20)
    found = strengths(spliced, plan.parts, [plan.prompts(task.nth_batch(20, 0))])
    x = spliced.record(task.nth_batch(20, 0).clean)[1][Site.parse("resid_0")][:, 2]
    dictionary = spliced.dictionaries[Site.parse("resid_0")]
    f = dictionary.encode(x)
    strength = found[plan.parts[0]]
    torch.testing.assert_close(strength.density, (f > 0).double().mean(0))
    norms = dictionary.decoder_rows(torch.arange(24)).norm(dim=-1)
    torch.testing.assert_close(strength.norm, f.mean(0) * norms)
    draws = list(matched(plan.parts, found, 5))
    assert len(draws) == 5
    for parts in draws:
        assert [part.site for part in parts] == [part.site for part in plan.parts]
        assert len({part.feature for part in parts[:2]} | {3, 4}) == 4
        assert parts[2].feature != 5
    # no other feature is nearer than the first that is taken
    log = (strength.norm + strength.least).log()
    rows = norms.log()
    far = (strength.density - strength.density[3]).abs() + (log - log[3]).abs() + (rows - rows[3]).abs()
    far[[3, 4]] = math.inf
    assert draws[0][0].feature == int(far.argmin())


def test_a_planted_feature_acts_and_controls_do_not() -> None:
    """Only one direction of the stream is read by the unembedding: features without it do nothing."""
    model = made_linear(tiny_model("gpt2"))
    spliced = spliced_model(model, "relu", ["resid_2"])
    site = Site.parse("resid_2")
    with torch.no_grad():
        rows = spliced.dictionaries[site].decoder_rows(torch.arange(24))
        unit = rows[3] / rows[3].norm()
        rest = rows[[i for i in range(24) if i != 3]][:15]
        q, _ = torch.linalg.qr(rest.T)
        reader = unit - q @ (q.T @ unit)  # orthogonal to fifteen other rows
        model.get_output_embeddings().weight[:] = 0
        model.get_output_embeddings().weight[7] = reader
    task = fc.Task.from_tokens([[1, 2, 3], [4, 5, 6]], None, [7, 7], [8, 8])
    found = fc.intervene(spliced, task, "resid_2/3@-1+5", estimator="atp", controls=8)
    others = {int(draw.partition("/")[2]) for draw in found.controls[0].draws}
    silent = [i for i in range(24) if i != 3][:15]
    changes = dict(zip(found.controls[0].draws, found.controls[0].changes, strict=True))
    assert found.whole.measured.mean == pytest.approx(5 * float(rows[3] @ reader), rel=1e-9)
    assert all(abs(changes[f"resid_2/{i}"]) < 1e-9 for i in others & set(silent))
    assert others & set(silent)
    assert all(abs(change) < abs(found.whole.measured.mean) for change in found.controls[1].changes)


# --- the three modes of circuit-tracer, by hand


@contextmanager
def replayed(*functions: tuple[Any, str], after: Callable[[], bool]) -> Iterator[None]:
    """Functions of torch whose results of a first run come back, call by call, once `after` is true."""
    before = {each: getattr(*each) for each in functions}
    kept: dict[Any, list[Tensor]] = {each: [] for each in functions}
    turn: dict[Any, int] = dict.fromkeys(functions, 0)

    def stand_in(each: Any) -> Callable[..., Tensor]:
        def call(*args: Any, **options: Any) -> Tensor:
            if not after():
                kept[each].append(before[each](*args, **options))
                return kept[each][-1]
            turn[each] += 1
            return kept[each][turn[each] - 1]

        return call

    try:
        for each in functions:
            setattr(*each, stand_in(each))
        yield
    finally:
        for each in functions:
            setattr(*each, before[each])


@pytest.mark.parametrize("held", ["nothing", "attention", "direct"])
@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder"])
def test_held_modes_are_those_of_circuit_tracer(held: str, kind: str) -> None:
    """Frozen patterns (softmax), and for direct effects frozen norms (rsqrt) and MLP outputs with their skips."""
    spliced, task = spliced_model(tiny_model("llama"), kind, ["mlp_0", "mlp_1", "mlp_2"]), random_task(2, 4)
    tokens = task.nth_batch(2, 0).clean
    edits = {Site.parse("mlp_0"): (2, 1, 3.0), Site.parse("mlp_1"): (5, 2, 0.0)}
    running: list[bool] = []
    outputs: dict[Site, tuple[Tensor, Tensor]] = {}

    def edit(site: Site, x: Tensor, read: Tensor) -> Tensor:
        dictionary = spliced.dictionaries[site]
        if not running:
            outputs[site] = x, read
            return x
        base, base_read = outputs[site] if held == "direct" else (x, read)
        x = base.clone()
        if held == "direct" and kind == "skip_transcoder":
            x += (read - base_read) @ dictionary.tensors()["W_skip"]
        if site in edits:
            feature, slot, value = edits[site]
            f = dictionary.encode(base_read)[:, slot, feature]
            x[:, slot] += (value - f)[:, None] * dictionary.decoder_rows(torch.tensor([feature]))
        return x

    names: dict[str, list[tuple[Any, str]]] = {
        "nothing": [], "attention": [(nn.functional, "softmax")],
        "direct": [(nn.functional, "softmax"), (torch, "rsqrt")],
    }  # fmt: skip
    with torch.no_grad(), replayed(*names[held], after=lambda: bool(running)):
        before = spliced.run_reading(tokens, edit, answers_only=True)
        running.append(True)
        after = spliced.run_reading(tokens, edit, answers_only=True)
    texts = [f"{site}/{i}@{slot}={value}:held={held}" for site, (i, slot, value) in edits.items()]
    task = task.with_options(metric="kl")
    found = fc.intervene(spliced, task, texts, estimator="atp", controls=0, tokens=40)
    for row, example in enumerate(found.examples):
        for token in example.tokens:
            assert token.logit_before == pytest.approx(before[row, token.id].item(), rel=1e-5, abs=1e-5)
            assert token.logit_after == pytest.approx(after[row, token.id].item(), rel=1e-5, abs=1e-5)


# --- the shipped suite


def test_the_command_on_the_shipped_suite(command: Command, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "acts.json"
    assert command("trace", "--nodes", "atp", "--limit", "8", "--keep-nodes", "top=40", "-o", run).code == 0
    (run / "groups.json").write_text(
        json.dumps({
            "format": "featcircuits-groups", "version": 1,
            "groups": [{"name": "number", "nodes": ["resid_2/303@5", "resid_2/10@5"]}],
        }),
        encoding="utf-8",
    )  # fmt: skip
    found = command(
        "intervene", run, "--do", "group:number=0", "--limit", "12", "-o", out, "--downstream", "resid_3/56@5"
    )
    assert found.code == 0, found.err
    for word in ("resid_2/303@5=0", "resid_2/10@5=0", "all together", "random directions", "'is'", "resid_3/56@5"):
        assert word in found.out
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["interventions"] == ["group:number=0"]
    assert len(record["examples"]) == 12
    prompt = command(
        "intervene", run, "--do", "resid_2/303@-1=0", "--prompt", "The author that the guides avoid", "--controls", "2"
    )
    assert prompt.code == 0, prompt.err
    assert "One prompt has no interval" in prompt.out
    again = command("intervene", run, "--do", "group:number=0", "-o", out)
    assert (again.code, "exists" in again.err) == (2, True)


def test_prompts_of_unknown_words_are_refused() -> None:
    with pytest.raises(fc.InputError, match=r"does not know 'zebra', and the model would read <unk> instead"):
        fc.intervene(fc.load(suite="grammar-4l"), "The zebra that the guide calls", "resid_2/303@-1=0")
