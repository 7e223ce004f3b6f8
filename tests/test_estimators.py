"""The variants of attribution patching against slow, obvious versions of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import featcircuits as fc
from featcircuits.estimators.atp_star import AtPStar, FiniteFirstHop, QueryKeyFix
from featcircuits.estimators.ig import IntegratedGradients
from featcircuits.estimators.ig_inputs import InputIntegratedGradients
from featcircuits.estimators.writes import reads, writes
from featcircuits.model.sites import EMBED, Site, all_sites, resid
from featcircuits.propagation.moved_attention import MovedToken, attention_effects, key_effect
from featcircuits.propagation.open_attention import Pattern, attending, per_head
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import States, states_of
from tests.tiny import (
    FAMILIES,
    LAYERS,
    assert_padding_changes_nothing,
    made_linear,
    n_hooks,
    random_task,
    spliced_model,
    tiny_model,
    tolerance,
)

ATTENTION = {"gpt2": "attn", "gpt_neox": "attention"}


def batch_states(spliced: SplicedModel, task: fc.Task) -> States:
    return states_of(spliced, task, task.batch(range(len(task))))


def close(found: Tensor, expected: Tensor, rtol: float) -> None:
    assert (found - expected).abs().max() <= rtol * expected.abs().max()


# --- the closed form of the key fix


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), keys=st.integers(1, 9), sharpness=st.sampled_from([0.1, 1.0, 10.0, 100.0]))
def test_the_key_fix_equals_a_softmax_computed_anew(seed: int, keys: int, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, gamma, change = (torch.randn(3, keys, generator=generator, dtype=torch.float64) for _ in range(3))
    logits, change = logits * sharpness, change * sharpness
    found = key_effect(logits, gamma, change)
    for key in range(keys):
        moved = logits.clone()
        moved[:, key] += change[:, key]
        brute = ((moved.softmax(-1) - logits.softmax(-1)) * gamma).sum(-1)
        assert torch.allclose(found[:, key], brute, rtol=0, atol=1e-12)


def test_the_key_fix_holds_where_one_key_has_all_the_weight() -> None:
    """Brute force by the answer itself: leaving the saturated key gives everything to the second."""
    logits = torch.tensor([60.0, 0.0, -5.0], dtype=torch.float64)
    gamma = torch.tensor([1.0, 3.0, -2.0], dtype=torch.float64)
    found = key_effect(logits, gamma, torch.tensor([-200.0, 0.0, 0.0], dtype=torch.float64))
    others = (logits[1:].softmax(-1) * gamma[1:]).sum()
    assert found[0].item() == pytest.approx((others - gamma[0]).item(), abs=1e-12)
    assert found[1:].abs().max() == 0


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("window", [9, 2])
@pytest.mark.parametrize("sharpness", [1.0, 9.0])
def test_a_moved_position_changes_attention_as_if_all_were_computed_anew(
    cap: float | None, window: int, sharpness: float
) -> None:
    torch.manual_seed(0)
    examples, heads, slots, width, n = 2, 3, 5, 4, 12
    query, key, value, gradient = (torch.randn(examples, heads, slots, width, dtype=torch.float64) for _ in range(4))
    visible = torch.ones(1, 1, slots, slots, dtype=torch.bool).tril().triu(1 - window)
    pattern = Pattern(query, key, value, visible, sharpness, cap)
    example, slot = torch.randint(0, examples, (n,)), torch.randint(0, slots, (n,))
    new = [torch.randn(n, heads, width, dtype=torch.float64) for _ in range(3)]
    held, moved = attention_effects(pattern, gradient, MovedToken(example, slot, *new))
    for i in range(n):
        for values_move, found in ((False, held), (True, moved)):
            q, k, v = (x[example[i] : example[i] + 1].clone() for x in (query, key, value))
            before = Pattern(q, k, v, visible, sharpness, cap).output()
            q, k, v = q.clone(), k.clone(), v.clone()
            q[0, :, slot[i]], k[0, :, slot[i]] = new[0][i], new[1][i]
            if values_move:
                v[0, :, slot[i]] = new[2][i]
            change = Pattern(q, k, v, visible, sharpness, cap).output() - before
            expected = (change.transpose(1, 2) * gradient[example[i]]).sum()
            assert found[i].item() == pytest.approx(expected.item(), abs=1e-11)


# --- first-hop readers, by whole forwards in which the stream is forced


@contextmanager
def heads_of(spliced: SplicedModel, kept: list[Tensor], values: list[Tensor] | None = None) -> Iterator[None]:
    """Records what each layer's heads write; optionally with given values in place of the layer's own."""

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any) -> Any:
        pattern = Pattern.of(module, query, key, value, mask, **rest)
        if values is not None:
            pattern = Pattern(
                pattern.query, pattern.key, values[len(kept)], pattern.visible, pattern.scale, pattern.cap
            )
        kept.append(pattern.output())
        return kept[-1], None

    with attending(spliced.model, attend):
        yield


def slow_first_hop(spliced: SplicedModel, states: States, site: Site, row: int, vector: Tensor) -> tuple[float, float]:
    """(finite queries and keys, all readers finite), by full-length forwards and plain autograd."""
    model, batch, slots = spliced.model, states.batch, states.batch.clean.ids.shape[1]
    example, slot = divmod(row, slots)
    sites = all_sites(LAYERS)
    clean: dict[Site, Tensor] = {}
    values: list[Tensor] = []

    def keep(at: Site, x: Tensor) -> Tensor:
        clean[at] = x if x.requires_grad else x.detach().requires_grad_()
        return clean[at]

    def note(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any) -> Any:
        values.append(per_head(value, query.shape[1]).detach())
        heads.append(Pattern.of(module, query, key, value, mask, **rest).output())
        return heads[-1], None

    heads: list[Tensor] = []
    with attending(model, note):
        logits = spliced.run(batch.clean, keep, sites=sites, answers_only=True)
    metric = states.objective(logits)
    gradients = torch.autograd.grad(metric.sum(), [*clean.values(), *heads], materialize_grads=True, allow_unused=True)
    at_site, at_heads = dict(zip(clean, gradients, strict=False)), gradients[len(clean) :]

    def forced(held_values: list[Tensor] | None) -> tuple[list[Tensor], dict[Site, Tensor], Tensor]:
        outputs: list[Tensor] = []
        seen: dict[Site, Tensor] = {}

        def force(at: Site, x: Tensor) -> Tensor:
            seen[at] = x
            value = clean[at].detach().clone()
            if at == site or (at.kind == "resid" and at.layer >= site.layer):
                value[example, slot] += vector
            return value

        with torch.no_grad(), heads_of(spliced, outputs, held_values):
            moved = spliced.run(batch.clean, force, sites=sites, answers_only=True)
        return outputs, seen, moved

    def attention(outputs: list[Tensor]) -> float:
        layers = [n for n in range(LAYERS) if reads(spliced, Site(n, "attn"), site)]
        return sum(((outputs[n] - heads[n]) * at_heads[n])[example].sum().item() for n in layers)

    free, seen, moved = forced(None)
    mlps = [write for write in writes(spliced) if write.kind == "mlp" and reads(spliced, write, site)]
    mlp = sum(((seen[at] - clean[at]) * at_site[at])[example].sum().item() for at in mlps)
    direct = (states.objective(moved) - metric)[example].item()
    return attention(forced(values)[0]), attention(free) + mlp + direct


@pytest.mark.parametrize("family", FAMILIES)
def test_first_hop_readers_equal_whole_forwards(family: str) -> None:
    spliced = spliced_model(tiny_model(family))
    task = random_task(2, 5)
    states = batch_states(spliced, task)
    hop1 = FiniteFirstHop().effects(spliced, states)
    for site in (EMBED, Site(0, "attn"), Site(1, "mlp"), resid(1)):
        state, dictionary = states.sites[site], spliced.dictionaries[site]
        for entry in range(0, len(state.row), max(1, len(state.row) // 4)):
            vector = dictionary.decoder_rows(state.feature[entry : entry + 1])[0] * state.change[entry]
            _, expected = slow_first_hop(spliced, states, site, int(state.row[entry]), vector)
            scale = hop1[site].features.abs().max().item()
            assert hop1[site].features[entry].item() == pytest.approx(expected, abs=tolerance(family) * 10 * scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_query_key_fix_puts_a_finite_part_in_place_of_the_linear_one(family: str) -> None:
    """For a small move the two are the same; for any move the finite part is the slow one's."""
    spliced = spliced_model(tiny_model(family))
    states = batch_states(spliced, random_task(2, 5))
    fixed = QueryKeyFix().effects(spliced, states)
    plain = fc.node_effects(spliced, random_task(2, 5), "atp")
    for site in (EMBED, Site(0, "mlp"), resid(0)):
        state, dictionary = states.sites[site], spliced.dictionaries[site]
        entry = int(state.change.abs().argmax())
        vector = dictionary.decoder_rows(state.feature[entry : entry + 1])[0] * state.change[entry]
        small = 1e-4
        finite, _ = slow_first_hop(spliced, states, site, int(state.row[entry]), vector)
        linear, _ = slow_first_hop(spliced, states, site, int(state.row[entry]), vector * small)
        row, feature = int(state.row[entry]), int(state.feature[entry])
        atp = plain.features(site)[row // 5, row % 5, feature].item()
        # linear / small is the slope up to O(small)
        scale = fixed[site].features.abs().max().item() + abs(atp)
        assert fixed[site].features[entry].item() == pytest.approx(atp + finite - linear / small, abs=2e-3 * scale)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("estimator", ["atp-qk", "atp-hop1", "ig-inputs"])
def test_on_a_linear_model_the_variants_are_exact(family: str, estimator: str) -> None:
    model = made_linear(tiny_model(family))
    spliced, task = spliced_model(model), random_task(2, 4)
    exact, found = fc.node_effects(spliced, task, "exact"), fc.node_effects(spliced, task, estimator)
    for site in spliced.sites:
        close(found.features(site), exact.features(site), tolerance(family) * 10)
        close(found.error(site), exact.error(site), tolerance(family) * 10)


@pytest.mark.parametrize("estimator", ["atp-drop", "atp-qk", "atp-star", "atp-hop1", "ig-inputs"])
def test_nothing_stays_on_the_model(estimator: str) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model = tiny_model("llama")
    model.config._attn_implementation = "sdpa"
    fc.node_effects(spliced_model(model), random_task(), estimator)
    assert n_hooks(model) == 0
    assert model.config._attn_implementation == "sdpa"
    assert "eager" not in ALL_ATTENTION_FUNCTIONS._local_mapping


def test_the_model_attends_as_before_after_an_exception() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ZeroDivisionError), attending(model, lambda *_, **__: 1 / 0):
        model(torch.tensor([[1, 2]]))
    assert torch.isfinite(model(torch.tensor([[1, 2]])).logits).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("estimator", ["atp-qk", "atp-star", "atp-hop1", "atp-drop", "ig-inputs"])
def test_padding_changes_nothing(estimator: str, side: str) -> None:
    assert_padding_changes_nothing(estimator, side)


# --- GradDrop


@pytest.mark.parametrize("family", FAMILIES)
def test_graddrop_is_the_mean_over_dropped_writes(family: str) -> None:
    """Each write's gradient is stopped by a plain hook of its own, one run each."""
    spliced, task = spliced_model(tiny_model(family)), random_task(2, 4)
    found = fc.node_effects(spliced, task, "atp-drop")
    plain = fc.node_effects(spliced, task, "atp")
    terms = {}
    for write in writes(spliced):
        module = spliced.architecture.module(spliced.model, write)
        handle = module.register_forward_hook(
            lambda _m, _a, out: (out[0].detach(), *out[1:]) if isinstance(out, tuple) else out.detach()
        )
        terms[write] = fc.node_effects(spliced, task, "atp")
        handle.remove()
    for site in spliced.sites:
        kept = [plain, *(effects for write, effects in terms.items() if reads(spliced, write, site))]
        expected = torch.stack([effects.features(site).abs() for effects in kept]).mean(0)
        close(found.features(site).abs(), expected, 1e-9)
        nonzero = plain.features(site) != 0
        assert torch.equal(found.features(site)[nonzero].sign(), plain.features(site)[nonzero].sign())


def cancelling() -> tuple[SplicedModel, fc.Task, Site]:
    """A linear model with a feature at resid_0 whose way through mlp_1 cancels all the others."""
    model, task = made_linear(tiny_model("gpt2")), random_task(1, 4, seed=3)
    bare = spliced_model(model, sites=["resid_0"])
    states = batch_states(bare, task)
    whole = fc.node_effects(fc.load(model, {"resid_0": fc.dictionaries.identity(16)}), task, "atp")
    total = whole.features("resid_0")[0, -1] / states.sites[resid(0)].x_change[0, -1]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(16, generator=generator, dtype=torch.float64)
    direction = direction - (direction @ total) / (total @ total) * total
    encoder = torch.randn(16, 1, generator=generator, dtype=torch.float64)
    always_on = torch.full((1,), 100.0, dtype=torch.float64)
    dictionary = fc.dictionaries.relu(encoder, always_on, direction[None], torch.zeros(16, dtype=torch.float64))
    return fc.load(model, {"resid_0": dictionary}), task, resid(0)


@pytest.mark.parametrize("estimator", ["atp-drop", "atp-star"])
def test_a_planted_cancelling_node_is_found(estimator: str) -> None:
    spliced, task, site = cancelling()
    missed = fc.node_effects(spliced, task, "atp").features(site)[0, -1, 0].abs().item()
    found = fc.node_effects(spliced, task, estimator).features(site)[0, -1, 0].abs().item()
    assert missed < 1e-9
    assert found > 0.01


def test_atp_star_joins_the_fix_and_graddrop() -> None:
    """With every way through queries and keys linear in effect (a linear model), it is GradDrop."""
    spliced, task = spliced_model(made_linear(tiny_model("llama"))), random_task(2, 4)
    star, drop = (fc.node_effects(spliced, task, estimator) for estimator in ("atp-star", "atp-drop"))
    for site in spliced.sites:
        close(star.features(site), drop.features(site), 1e-5)
    nonlinear = spliced_model(tiny_model("llama"))
    states = batch_states(nonlinear, task)
    star_effects, fixed = AtPStar().effects(nonlinear, states), QueryKeyFix().effects(nonlinear, states)
    last = resid(LAYERS - 1)
    # nothing reads the last residual but the metric, so only the plain term is there
    close(star_effects[last].features, fixed[last].features, 1e-9)


# --- IG over the inputs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["left", "midpoint", "gauss"])
def test_ig_over_inputs_is_ig_at_the_embedding(family: str, rule: str) -> None:
    """There the path of the inputs and the path of the site are the same."""
    spliced, task = spliced_model(tiny_model(family)), random_task(3, 4)
    per_site = fc.node_effects(spliced, task, IntegratedGradients(4, rule))
    inputs = fc.node_effects(spliced, task, InputIntegratedGradients(4, rule))
    close(inputs.features("embed"), per_site.features("embed"), tolerance(family))
    assert (inputs.features("resid_1") - per_site.features("resid_1")).abs().max() > 1e-4


def test_ig_over_inputs_needs_pairs() -> None:
    spliced = spliced_model(tiny_model("gpt2"))
    task = fc.Task.from_tokens([[1, 2, 3]], None, [4], [5])
    with pytest.raises(fc.InputError, match="the task has none"):
        fc.node_effects(spliced, task, "ig-inputs", baseline="zero")


def test_few_gauss_points_do_what_many_left_points_do() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(4, 5)

    def residual(**options: Any) -> float:
        effects = fc.node_effects(spliced, task, IntegratedGradients(**options))
        sums = effects.features("resid_1").sum((1, 2)) + effects.error("resid_1").sum(1)
        return (sums - effects.total_effect).abs().mean().item()

    assert residual(quadrature="gauss", steps=3) < residual(quadrature="left", steps=10)
    assert residual(quadrature="gauss", steps=8) < 0.1 * residual(quadrature="gauss", steps=3)
