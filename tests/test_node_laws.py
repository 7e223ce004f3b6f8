"""What node effects must satisfy, on tiny random models of every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import featcircuits as fc
from featcircuits.dictionaries.decomposition import encode
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import mean_states
from featcircuits.tasks.examples import Example, Span
from featcircuits.tasks.task import Batch
from tests.tiny import (
    ALL_SITES,
    EAGER_ONLY,
    FAMILIES,
    KINDS,
    LAYERS,
    WIDTH,
    made_linear,
    put_together,
    random_task,
    seen_at,
    spliced_model,
    taken_apart,
    tiny_model,
    tolerance,
)

families = st.sampled_from(FAMILIES)
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 5)
laws = settings(max_examples=12, deadline=None)


def m(spliced: SplicedModel, task: fc.Task, batch: Batch, edit: object = None) -> Tensor:
    """m = -F of the clean prompts under an edit."""
    with torch.no_grad():
        return -task.F(spliced.run(batch.clean, edit, answers_only=True), batch.answers)  # type: ignore[arg-type]


def states(spliced: SplicedModel, task: fc.Task) -> tuple[Batch, dict[Site, Tensor], dict[Site, Tensor]]:
    """The whole task as one batch, and its clean and corrupted activations."""
    batch = task.batch(range(len(task)))
    assert batch.corrupted is not None
    return batch, spliced.record(batch.clean)[1], spliced.record(batch.corrupted)[1]


@given(family=families, kind=kinds, seed=seeds)
@laws
def test_exact_patching_is_the_slow_obvious_loop(family: str, kind: str, seed: int) -> None:
    """Encode, replace one feature (or the error), decode, add the error, run on."""
    generator = np.random.default_rng(seed)
    names = [*generator.choice(ALL_SITES, 3, replace=False), "mlp_1"]
    spliced, task = spliced_model(tiny_model(family, seed), kind, sorted(set(names))), random_task(2, 4, seed)
    found = fc.node_effects(spliced, task, estimator="exact")
    batch = task.batch(range(len(task)))
    assert batch.corrupted is not None
    before = m(spliced, task, batch)
    for site, dictionary in spliced.dictionaries.items():
        (x, read), (x2, read2) = seen_at(spliced, batch.clean, site), seen_at(spliced, batch.corrupted, site)
        (f, e), (f2, e2) = taken_apart(dictionary, x, read), taken_apart(dictionary, x2, read2, units=read)
        for feature, position in zip(generator.integers(0, 24, 4), generator.integers(0, 4, 4), strict=True):
            patched = f.clone()
            patched[:, position, feature] = f2[:, position, feature]
            value = put_together(dictionary, patched, e, read)
            by_feature = m(spliced, task, batch, lambda s, x, v=value: v if s == site else x)  # noqa: B023
            torch.testing.assert_close(
                found.features(site)[:, position, feature], by_feature - before, rtol=1e-6, atol=2e-6
            )
            error = e.clone()
            error[:, position] = e2[:, position]
            value = put_together(dictionary, f, error, read)
            by_error = m(spliced, task, batch, lambda s, x, v=value: v if s == site else x)  # noqa: B023
            torch.testing.assert_close(found.error(site)[:, position], by_error - before, rtol=1e-6, atol=2e-6)


@given(family=families, layer=st.integers(0, LAYERS - 1), seed=seeds)
@laws
def test_patching_every_node_of_a_full_cut_is_the_corrupted_run(family: str, layer: int, seed: int) -> None:
    """A layer's residual stream, features and errors at all positions, decides everything after it."""
    spliced, task = spliced_model(tiny_model(family, seed)), random_task(2, 4, seed)
    batch, clean, corrupted = states(spliced, task)
    site = Site(layer, "resid")
    dictionary = spliced.dictionaries[site]
    features, error = encode(dictionary, corrupted[site])
    after = m(spliced, task, batch, lambda s, x: dictionary.decode(features) + error if s == site else x)
    total = fc.node_effects(spliced, task, estimator="atp").total_effect
    torch.testing.assert_close(after - m(spliced, task, batch), total, rtol=tolerance(family), atol=tolerance(family))


@given(family=families, kind=kinds, seed=seeds)
@settings(max_examples=8, deadline=None)
def test_integrated_gradients_add_up_to_the_sites_total(family: str, kind: str, seed: int) -> None:
    """All nodes of a site at all positions sum to m(all its nodes patched) - m(clean).

    A bypass is no node: it stays what it is. Many points: a path that passes near zero makes a norm's slope jump.
    """
    spliced, task = spliced_model(tiny_model(family, seed), kind), random_task(2, 4, seed)
    found = fc.node_effects(spliced, task, estimator="ig:quadrature=gauss:steps=200")
    batch = task.batch(range(len(task)))
    assert batch.corrupted is not None
    before = m(spliced, task, batch)
    for site, dictionary in spliced.dictionaries.items():
        (_, read), (x2, read2) = seen_at(spliced, batch.clean, site), seen_at(spliced, batch.corrupted, site)
        features, error = taken_apart(dictionary, x2, read2, units=read)
        patched = put_together(dictionary, features, error, read)
        whole = m(spliced, task, batch, lambda s, x, at=site, v=patched: v if s == at else x)
        total = found.features(site).sum((1, 2)) + found.error(site).sum(1)
        torch.testing.assert_close(total, whole - before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_linear_model_all_estimators_agree(family: str, kind: str) -> None:
    """Without nonlinearity a gradient is exact; only the dictionaries' gates remain, and they cut nothing here."""
    model = made_linear(tiny_model(family))
    spliced, task = spliced_model(model, kind, ["embed", "attn_z_0", "attn_1", "mlp_1", "resid_1"]), random_task(3, 5)
    exact = fc.node_effects(spliced, task, estimator="exact")
    assert exact.total_effect.abs().min() > 1e-3
    for estimator in ("atp", "ig:steps=3"):
        found = fc.node_effects(spliced, task, estimator=estimator)
        for site in spliced.sites:
            scale = exact.features(site).abs().max().item()
            torch.testing.assert_close(found.features(site), exact.features(site), rtol=1e-9, atol=1e-9 * scale)
            torch.testing.assert_close(found.error(site), exact.error(site), rtol=1e-9, atol=1e-9 * scale)


@given(
    family=families.filter(lambda name: name not in EAGER_ONLY),
    seed=seeds,
    estimator=st.sampled_from(["atp", "ig", "exact"]),
)
@laws
def test_padding_batching_and_order_change_nothing(family: str, seed: int, estimator: str) -> None:
    """Prompts of several lengths, padded left or right, in batches of any size and in any order."""
    spliced = spliced_model(tiny_model(family, seed))
    spliced.model.set_attn_implementation("sdpa")
    long, short = random_task(2, 6, seed).examples, random_task(2, 4, seed + 1).examples
    task = fc.Task((*long, *short), aggregate="sum")
    turned = fc.Task((*short, *long), aggregate="sum", padding_side="left", pad_id=7)
    first = {node: mean for node, mean, _ in fc.node_effects(spliced, task, estimator=estimator).nodes()}
    others = fc.node_effects(spliced, turned, estimator=estimator, batch_size=3)
    second = {node: mean for node, mean, _ in others.nodes()}
    for node in first.keys() | second.keys():
        assert first.get(node, 0) == pytest.approx(second.get(node, 0), rel=1e-4, abs=1e-5)


@given(family=families, baseline=st.sampled_from(["zero", "mean"]), seed=seeds)
@laws
def test_unpaired_baselines_put_in_zero_or_the_mean(family: str, baseline: str, seed: int) -> None:
    spliced, paired = spliced_model(tiny_model(family, seed)), random_task(3, 4, seed)
    task = _unpaired(paired)
    found = fc.node_effects(spliced, task, estimator="exact", baseline=baseline)
    batch = task.batch(range(len(task)))
    clean = spliced.record(batch.clean)[1]
    before, site = m(spliced, task, batch), Site(1, "resid")
    dictionary = spliced.dictionaries[site]
    features, error = encode(dictionary, clean[site])
    mean = mean_states(spliced, task, 2).sites[site]
    feature = int(features[0, 2].argmax())
    patched = features.clone()
    patched[:, 2, feature] = 0.0 if baseline == "zero" else mean.features[2, feature]
    after = m(spliced, task, batch, lambda s, x: dictionary.decode(patched) + error if s == site else x)
    torch.testing.assert_close(found.features(site)[:, 2, feature], after - before, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(mean.features[2], features[:, 2].mean(0), rtol=1e-9, atol=1e-12)


def _unpaired(task: fc.Task) -> fc.Task:
    rows = task.examples
    clean = [example.clean for example in rows]
    return fc.Task.from_tokens(clean, None, [e.clean_answers for e in rows], [e.corrupted_answers for e in rows])


@pytest.mark.parametrize("estimator", ["atp", "exact"])
def test_means_and_standard_errors_are_those_of_the_examples(estimator: str) -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(7, 4)
    found = fc.node_effects(spliced, task, estimator=estimator, batch_size=3)
    seen = 0
    for node, mean, error in found.nodes():
        position = node.place
        each = (
            found.error(node.site)[:, position]
            if node.is_error
            else found.features(node.site)[:, position, node.feature]
        )
        assert mean == pytest.approx(each.mean().item(), rel=1e-9, abs=1e-12)
        assert error == pytest.approx(each.std(unbiased=True).item() / len(task) ** 0.5, rel=1e-7, abs=1e-12)
        seen += 1
    assert seen > 100


def test_positions_are_added_up_by_role_and_by_sum() -> None:
    spliced, task = spliced_model(tiny_model("gpt_neox_parallel")), random_task(4, 5)
    spans = (("start", Span(0, 2)), ("end", Span(4, 5)))
    by_role = fc.Task(
        tuple(Example(e.clean, e.corrupted, e.clean_answers, e.corrupted_answers, spans) for e in task.examples),
        aggregate="role",
    )
    site = Site(1, "mlp")
    dense = fc.node_effects(spliced, task, estimator="atp").features(site).mean(0)
    roles = {"start": dense[:2].sum(0), "end": dense[4:].sum(0), "other": dense[2:4].sum(0)}
    for node, mean, _ in fc.node_effects(spliced, by_role, estimator="atp").nodes():
        if node.site == site and not node.is_error:
            assert mean == pytest.approx(roles[str(node.place)][node.feature].item(), rel=1e-9, abs=1e-12)
    summed = fc.node_effects(spliced, task.with_options(aggregate="sum"), estimator="atp")
    for node, mean, _ in summed.nodes():
        if node.site == site and not node.is_error:
            assert node.place is None
            assert mean == pytest.approx(dense.sum(0)[node.feature].item(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_models_give_nearly_the_same_effects(family: str) -> None:
    task = random_task(4, 5)
    precise = fc.node_effects(spliced_model(tiny_model(family, dtype=torch.float32)), task, estimator="atp")
    rough = fc.node_effects(spliced_model(tiny_model(family, dtype=torch.bfloat16)), task, estimator="atp")
    site = Site(2, "resid")
    a, b = precise.features(site).flatten(), rough.features(site).flatten()
    assert b.dtype == torch.float32
    assert np.corrcoef(a, b)[0, 1] > 0.95


def test_bad_requests_are_refused() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    with pytest.raises(fc.InputError, match="unknown estimator 'igg'; known: exact, atp, "):
        fc.node_effects(spliced, task, estimator="igg")
    with pytest.raises(fc.InputError, match="'atp' has no option 'steps'"):
        fc.node_effects(spliced, task, estimator="atp:steps=3")
    with pytest.raises(fc.InputError, match="option 'steps'.*; ig, ig-inputs, ig-chain, ig-conductance have it"):
        fc.node_effects(spliced, task, "secant:steps=10")
    with pytest.raises(fc.InputError, match="steps is 0"):
        fc.node_effects(spliced, task, estimator="ig:steps=0")
    with pytest.raises(fc.InputError, match="unknown quadrature 'simpson'"):
        fc.node_effects(spliced, task, estimator="ig:quadrature=simpson")
    with pytest.raises(fc.InputError, match="unknown baseline 'median'"):
        fc.node_effects(spliced, task, baseline="median")
    with pytest.raises(fc.InputError, match="corrupted"):
        fc.node_effects(spliced, _unpaired(task))
    with pytest.raises(fc.InputError, match="keep_examples=True"):
        fc.node_effects(spliced, task, estimator="atp", keep_examples=False).features("embed")
    with pytest.raises(fc.InputError, match="no effects at attn_1"):
        fc.node_effects(spliced.only([Site(0, "mlp")]), task, estimator="atp").features("attn_1")


def test_a_model_that_computes_nan_is_named_with_the_site() -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.weight[0, 0] = float("nan")
    with pytest.raises(
        fc.InputError, match=r"activation at mlp_1 holds NaN or infinity \(module transformer.h.1.mlp\)"
    ):
        spliced_model(model)
    unchecked = fc.load(model, {"mlp_1": fc.dictionaries.identity(WIDTH)}, check=False)
    with pytest.raises(fc.InputError, match="activation at mlp_1 holds NaN"):
        fc.node_effects(unchecked, random_task(2, 4), estimator="atp")
