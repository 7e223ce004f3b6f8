"""Chained integrated gradients, conductance, blends and exact errors against slow, obvious versions."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from torch import Tensor

import featcircuits as fc
from featcircuits.dictionaries import relu, whole
from featcircuits.dictionaries.decomposition import encode
from featcircuits.estimators.ig_conductance import Conductance
from featcircuits.estimators.quadrature import points
from featcircuits.model.sites import EMBED, Site, all_sites, resid
from featcircuits.splicing.spliced import SplicedModel
from tests.test_estimators import batch_states, close
from tests.tiny import (
    FAMILIES,
    LAYERS,
    WIDTH,
    assert_padding_changes_nothing,
    made_linear,
    n_hooks,
    random_task,
    spliced_model,
    tiny_model,
    tolerance,
)

SOME = ["gpt2", "gpt_neox_parallel", "gemma2"]
ESTIMATORS = ["ig-chain", "ig-conductance", "blend"]


def sums(effects: fc.NodeEffects, site: str | Site) -> Tensor:
    return effects.features(site).sum((1, 2)) + effects.error(site).sum(1)


# --- chained integrated gradients


def slow_chain(spliced: SplicedModel, task: fc.Task, path: list[tuple[float, float]]) -> dict[Site, Tensor]:
    """From the last site to the first: mean slope, over the points, of m and of what later sites receive directly."""
    states = batch_states(spliced, task)
    found: dict[Site, Tensor] = {}
    for site in reversed(spliced.sites):
        total = torch.zeros_like(states.sites[site].x)
        for alpha, weight in path:
            leaves: dict[Site, Tensor] = {}
            incoming: dict[Site, Tensor] = {}

            def cut(
                at: Site, x: Tensor, alpha: float = alpha, leaves: dict = leaves, incoming: dict = incoming
            ) -> Tensor:
                incoming[at] = x
                leaves[at] = (states.sites[at].x + alpha * states.sites[at].x_change).requires_grad_()
                return leaves[at]

            logits = spliced.run(states.batch.clean, cut, answers_only=True)
            value = states.objective(logits).sum()
            value = value + sum((found[later] * incoming[later]).sum() for later in found)
            total += weight * torch.autograd.grad(value, leaves[site])[0]
        found[site] = total
    return found


@pytest.mark.parametrize("names", [["embed", "attn_0", "mlp_1", "resid_1", "resid_2"], ["attn_1", "resid_0"]])
@pytest.mark.parametrize("family", SOME)
def test_the_chain_multiplies_mean_jacobians(family: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows go through the model at once."""
    spliced, task = spliced_model(tiny_model(family), sites=names), random_task(3, 4)
    expected = slow_chain(spliced, task, points("gauss", 3))
    states = batch_states(spliced, task)
    for max_rows in (512, 4):
        monkeypatch.setattr("featcircuits.estimators.ig_chain.ROWS", max_rows)
        found = fc.node_effects(spliced, task, "ig-chain:steps=3")
        for site, state in states.sites.items():
            close(found.error(site), (state.error_change * expected[site]).sum(-1), 1e-9)
            rows = spliced.dictionaries[site].decoder_rows(state.feature)
            features = found.entries(site)[3]
            at_rows = expected[site].flatten(0, 1)[state.row]
            close(features, state.change * (rows * at_rows).sum(-1), 1e-9)


@pytest.mark.parametrize("rule", ["left", "midpoint", "gauss"])
def test_the_chain_of_one_site_is_its_integrated_gradient(rule: str) -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_1"]), random_task(3, 4)
    chain, per_site = (
        fc.node_effects(spliced, task, f"{estimator}:quadrature={rule}:steps=4") for estimator in ("ig-chain", "ig")
    )
    close(chain.features("resid_1"), per_site.features("resid_1"), 1e-9)
    close(chain.error("resid_1"), per_site.error("resid_1"), 1e-9)


@pytest.mark.parametrize("estimator", ["ig-chain", "ig-conductance"])
def test_effects_of_a_full_cut_add_up_as_points_grow(estimator: str) -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(3, 4)

    def worst(steps: int) -> float:
        effects = fc.node_effects(spliced, task, f"{estimator}:steps={steps}:quadrature=midpoint")
        gaps = [sums(effects, site) - effects.total_effect for site in (EMBED, resid(0), resid(2))]
        return (torch.stack(gaps).abs().max() / effects.total_effect.abs().max()).item()

    few, many = worst(20), worst(80)
    assert many < 2e-3
    # midpoints: the error falls with the square of their number
    assert many < 0.15 * few


# --- conductance


@pytest.mark.parametrize("rule", ["left", "midpoint", "gauss"])
@pytest.mark.parametrize("family", SOME)
def test_conductance_is_slope_times_increment(family: str, rule: str) -> None:
    spliced, task = spliced_model(tiny_model(family), sites=["embed", "attn_1", "resid_1"]), random_task(2, 4)
    found = fc.node_effects(spliced, task, Conductance(3, rule))
    states = batch_states(spliced, task)
    batch, embed = states.batch, spliced.architecture.module(spliced.model, EMBED)
    assert batch.corrupted is not None
    with torch.no_grad():
        move = embed(batch.corrupted.ids) - embed(batch.clean.ids)

    def run(alpha: float) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
        seen: dict[Site, Tensor] = {}

        def keep(site: Site, x: Tensor) -> Tensor:
            seen[site] = (x + alpha * move).detach().requires_grad_() if site == EMBED else x
            return seen[site]

        m = states.objective(spliced.run(batch.clean, keep, answers_only=True)).sum()
        slopes = torch.autograd.grad(m, list(seen.values()))
        return {site: x.detach() for site, x in seen.items()}, dict(zip(seen, slopes, strict=True))

    path = points(rule, 3)
    ends = [0.0, *accumulate(weight for _, weight in path)]
    for site, state in states.sites.items():
        dictionary, features, errors = spliced.dictionaries[site], 0.0, 0.0
        listed = torch.zeros(2 * 4, 24, dtype=torch.bool)
        listed[state.row, state.feature] = True
        for (alpha, _), start, end in zip(path, ends[:-1], ends[1:], strict=True):
            before, after, slope = run(start)[0][site], run(end)[0][site], run(alpha)[1][site]
            moved = (encode(dictionary, after)[0] - encode(dictionary, before)[0]) * listed.view(2, 4, 24)
            features = features + moved * (slope @ dictionary.decode_change(torch.eye(24).double()).T)
            errors = errors + ((after - before - dictionary.decode_change(moved)) * slope).sum(-1)
        close(found.features(site), features, tolerance(family))  # type: ignore[arg-type]
        close(found.error(site), errors, tolerance(family))  # type: ignore[arg-type]


# --- blends


@pytest.mark.parametrize(("kind", "share"), [("relu", "position"), ("relu", "prompt"), ("skip_sae", "position")])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_blend_leans_by_the_share_of_the_streams_change(family: str, kind: str, share: str) -> None:
    """The share written out for every feature, from whole runs and dense tensors; a bypass is part of the stream."""
    sites = ["embed", "attn_1", "mlp_1", "resid_1"]
    spliced, task = spliced_model(tiny_model(family), kind, sites), random_task(2, 4)
    near, far, found = (
        fc.node_effects(spliced, task, estimator) for estimator in ("atp", "secant", f"blend:share={share}")
    )
    batch = task.batch(range(2))
    assert batch.corrupted is not None
    clean, other = (spliced.record(tokens, all_sites(LAYERS))[1] for tokens in (batch.clean, batch.corrupted))
    change = {site: other[site] - clean[site] for site in clean}
    after = {
        EMBED: change[EMBED],
        Site(1, "attn"): change[resid(0)] + change[Site(1, "attn")],
        Site(1, "mlp"): change[resid(1)],
        resid(1): change[resid(1)],
    }
    if not spliced.architecture.sequential:
        after[Site(1, "attn")] = change[resid(1)]
    for site in spliced.sites:
        dictionary, stream = spliced.dictionaries[site], after[site]
        (f, e), (f2, e2) = encode(dictionary, clean[site]), encode(dictionary, other[site])
        features, rest = f2 - f, e2 - e
        size = stream.norm(dim=-1) * (stream.norm(dim=-1) if share == "position" else stream.norm(dim=(1, 2))[:, None])
        size = torch.where(size == 0, 1.0, size)
        along = features * (stream @ dictionary.decode_change(torch.eye(24).double()).T)
        expected = near.features(site) + along / size[..., None] * (far.features(site) - near.features(site))
        close(found.features(site), expected, tolerance(family))
        expected = near.error(site) + (rest * stream).sum(-1) / size * (far.error(site) - near.error(site))
        close(found.error(site), expected, tolerance(family))


@pytest.mark.parametrize("family", SOME)
def test_a_blend_is_far_for_a_whole_stream_and_near_for_what_hardly_moves(family: str) -> None:
    model, task = tiny_model(family), random_task(2, 4)
    sites = ["embed", "resid_0", "resid_2"]
    everything = fc.load(model, dict.fromkeys(sites, whole(WIDTH)))
    far, blend = (fc.node_effects(everything, task, estimator) for estimator in ("secant", "blend"))
    for site in sites:
        close(blend.error(site), far.error(site), 1e-9)
    # the embedding changes at one position alone, so that is the prompt's whole change
    close(fc.node_effects(everything, task, "blend:share=prompt").error("embed"), far.error("embed"), 1e-9)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((WIDTH, 24), (24, WIDTH))]
    b_enc, b_dec = torch.ones(24, dtype=torch.float64), torch.zeros(WIDTH, dtype=torch.float64)
    faint = fc.load(model, {"resid_0": relu(weights[0], b_enc, weights[1] * 1e-7, b_dec)})
    near, far, blend = (
        fc.node_effects(faint, task, estimator).features("resid_0") for estimator in ("atp", "secant", "blend")
    )
    close(blend, near, 1e-5)
    assert (far - near).abs().max() > 1e-2 * near.abs().max()


def test_a_blend_goes_between_any_two_methods() -> None:
    spliced, task = spliced_model(tiny_model("llama"), sites=["attn_0", "resid_1"]), random_task(2, 4)
    hop, same = (
        fc.node_effects(spliced, task, estimator).features("attn_0")
        for estimator in ("atp-hop1", "blend:near=atp-hop1:far=atp-hop1")
    )
    close(same, hop, 1e-9)
    with pytest.raises(fc.InputError, match="'blend' cannot use 'blend'; it blends two of exact, atp"):
        fc.node_effects(spliced, task, "blend:far=blend")
    with pytest.raises(fc.InputError, match="share is 'all'; known: position, prompt"):
        fc.node_effects(spliced, task, "blend:share=all")
    with pytest.raises(fc.InputError, match="'blend' has no coefficients"):
        fc.edge_effects(spliced, task, [], "blend")


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_a_blend_at_the_heads_leans_as_what_they_write_does(family: str) -> None:
    """Heads side by side: the share is that of their output projection."""
    model, task = tiny_model(family), random_task(2, 4)
    spliced = fc.load(model, {"attn_z_1": whole(WIDTH)})
    near, far, found = (fc.node_effects(spliced, task, name).error("attn_z_1") for name in ("atp", "secant", "blend"))
    moved = found != near
    assert moved.any()
    between = (found - near)[moved] / (far - near)[moved]
    assert between.abs().max() < 2


# --- all of them, and exact errors


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_on_a_linear_model_they_are_exact(family: str, estimator: str) -> None:
    spliced, task = spliced_model(made_linear(tiny_model(family)), "jumprelu"), random_task(2, 4)
    exact, found = (fc.node_effects(spliced, task, name) for name in ("exact", estimator))
    for site in spliced.sites:
        close(found.features(site), exact.features(site), tolerance(family) * 10)
        close(found.error(site), exact.error(site), tolerance(family) * 10)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_padding_changes_nothing_and_nothing_stays(estimator: str, side: str) -> None:
    assert n_hooks(assert_padding_changes_nothing(estimator, side).model) == 0


def test_errors_are_patched_where_asked() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    exact, atp, both = (
        fc.node_effects(spliced, task, estimator, error_effects=errors)
        for estimator, errors in (("exact", "estimated"), ("atp", "estimated"), ("atp", "exact"))
    )
    for site in spliced.sites:
        assert torch.equal(both.error(site), exact.error(site))
        assert torch.equal(both.features(site), atp.features(site))
    assert not torch.equal(atp.error("resid_0"), exact.error("resid_0"))
    with pytest.raises(fc.InputError, match="error_effects is 'none'; known: estimated, exact"):
        fc.node_effects(spliced, task, "atp", error_effects="none")
    kept = fc.trace(
        spliced, task, nodes="atp", error_effects="exact", keep_nodes="top=20", check_fit=False
    ).circuit.nodes
    means = {node: mean for node, mean, _ in both.nodes()}
    for node, score in kept.items():
        assert score.effect == pytest.approx(means[node], rel=1e-6)
    found = fc.agree(spliced, task, ["atp:error_effects=exact"], bases=["features"], edge_nodes=5)
    errors = [
        score.comparison.slope for score in found.scores if score.what == "error" and not score.comparison.too_alike
    ]
    assert errors == pytest.approx([1.0, 1.0, 1.0])
