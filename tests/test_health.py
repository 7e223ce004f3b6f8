"""A suite's health: figures against a slow computation, dictionaries at wrong sites and in wrong models."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import featcircuits as fc
from featcircuits.dictionaries import Affine, Dictionary, identity, relu
from featcircuits.dictionaries.relu import ReLU
from featcircuits.dictionaries.whole import whole
from featcircuits.health import misplaced
from featcircuits.health.check import site_fits
from featcircuits.health.figures import measure, with_site_at
from featcircuits.health.fit import unexplained
from featcircuits.health.trace import _clean, check_states
from featcircuits.model.sites import Site, all_sites
from featcircuits.model.tokens import Tokens
from featcircuits.splicing.sinks import bos_ids, limit_of, usual_anywhere
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import states_of
from featcircuits.tasks.token_rows import Rows, read_rows, rows_of
from tests.tiny import (
    KINDS,
    VOCABULARY,
    WIDTH,
    put_together,
    random_dictionary,
    random_task,
    spliced_model,
    taken_apart,
    tiny_model,
    traced,
)

SUITE = Path(__file__).parents[1] / "saes" / "grammar-4l"


def random_rows(count: int = 12, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (count,), generator=generator).tolist()
    return [torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def mixed(family: str) -> SplicedModel:
    """Autoencoders, some that normalise, and transcoders with and without a bypass."""
    kinds = {
        "embed": "relu", "attn_z_0": "topk", "mlp_0": "skip_transcoder", "resid_0": "constant_norm",
        "attn_1": "layer_norm", "mlp_2": "layer_norm_transcoder",
    }  # fmt: skip
    return fc.load(tiny_model(family), {site: random_dictionary(kind, seed=3) for site, kind in kinds.items()})


@torch.no_grad()
def loss_and_states(
    spliced: SplicedModel,
    rows: Rows,
    replaced: Mapping[Site, str],
    means: Mapping[Site, Tensor],
    sinks: Mapping[Site, set[int]] | None = None,
) -> tuple[float, dict[Site, Tensor]]:
    """Row by row, no padding, every layer run: loss per token, and what the sites held.

    `sinks`: tokens, counted through all rows, that are left as they are at a site.
    """
    total, count, held, before = 0.0, 0, {}, 0
    for row in rows:
        tokens, read = Tokens.pad([row], 0), {}

        def edit(site: Site, x: Tensor, read: dict[Site, Tensor] = read, before: int = before) -> Tensor:
            read[site] = x
            held.setdefault(site, []).append(x[0])
            if site not in replaced:
                return x
            dictionary = spliced.dictionaries[site]
            z = read[Site(site.layer, "mlp_in")] if dictionary.transcodes else x
            rebuilt = put_together(dictionary, dictionary.encode(z), torch.zeros_like(x), z)
            edited = {"reconstructed": rebuilt, "zero": x * 0, "mean": means[site].expand_as(x)}[replaced[site]].clone()
            for slot in range(x.shape[1]):
                if sinks is not None and before + slot in sinks[site]:
                    edited[:, slot] = x[:, slot]
            return edited

        logits = spliced.run(tokens, edit, sites=all_sites(spliced.architecture.n_layers, spliced.architecture.kinds))
        total += cross_entropy(logits[0, :-1], torch.tensor(row[1:]), reduction="sum").item() if row[1:] else 0.0
        count += len(row) - 1
        before += len(row)
    return total / count, {site: torch.cat(parts) for site, parts in held.items()}


@pytest.mark.parametrize("family", ["gpt_neox_parallel", "gemma2"])
def test_figures_are_those_of_a_slow_computation(family: str) -> None:
    spliced, rows = mixed(family), random_rows()
    figures, together = measure(spliced, rows)
    clean, x = loss_and_states(spliced, rows, {}, {})
    means = {site: x[site].mean(0) for site in spliced.sites}

    def recovered(sites: list[Site], against: str) -> float:
        rebuilt, ablated = (
            loss_and_states(spliced, rows, dict.fromkeys(sites, how), means)[0] for how in ("reconstructed", against)
        )
        return (ablated - rebuilt) / (ablated - clean) if ablated > clean else math.nan

    close = {"rel": 1e-4, "nan_ok": True}
    for site, dictionary in spliced.dictionaries.items():
        read = x[Site(site.layer, "mlp_in")] if dictionary.transcodes else x[site]
        features, error = taken_apart(dictionary, x[site], read)
        assert figures[site].l0 == pytest.approx((features != 0).sum(1).double().mean().item())
        variance = (x[site] - means[site]).square().sum()
        assert figures[site].variance_unexplained == pytest.approx((error.square().sum() / variance).item(), rel=1e-4)
        assert figures[site].dead_features == int((features == 0).all(0).sum())
        assert figures[site].loss_recovered == pytest.approx(recovered([site], "zero"), **close)
        assert figures[site].loss_recovered_mean == pytest.approx(recovered([site], "mean"), **close)
    assert together.clean == pytest.approx(clean, rel=1e-5)
    assert together.recovered == pytest.approx(recovered(list(spliced.sites), "zero"), **close)
    assert together.recovered_mean == pytest.approx(recovered(list(spliced.sites), "mean"), **close)


@pytest.mark.parametrize("bos", [None, 2])
@pytest.mark.parametrize("family", ["gpt_neox_parallel", "gemma2"])
def test_sinks_count_for_no_figure_and_are_never_edited(family: str, bos: int | None) -> None:
    """Against a slow computation on the other tokens: token 1 is huge in the stream, BOS is left out everywhere."""
    spliced = mixed(family)
    spliced.model.config.bos_token_id = bos
    with torch.no_grad():
        spliced.model.get_input_embeddings().weight[1] *= 2000
    rows = [[1, *row] for row in random_rows()] + [[2, 5, 2, 7], [2, 1, 9]]
    figures, together = measure(spliced, rows)
    clean, x = loss_and_states(spliced, rows, {}, {})
    tokens = [(place, id) for row in rows for place, id in enumerate(row)]
    named = {n for n, (place, id) in enumerate(tokens) if bos is not None and place == 0 and id == bos}
    huge = {n for n, (_, id) in enumerate(tokens) if id == 1}
    sinks = {
        site: named | (huge if site in (Site.parse("embed"), Site(0, "resid")) else set()) for site in spliced.sites
    }
    usual = {site: torch.tensor([n not in out for n in range(len(tokens))]) for site, out in sinks.items()}
    means = {site: x[site][some].mean(0) for site, some in usual.items()}

    def recovered(sites: list[Site], against: str) -> float:
        rebuilt, ablated = (
            loss_and_states(spliced, rows, dict.fromkeys(sites, how), means, sinks)[0]
            for how in ("reconstructed", against)
        )
        return (ablated - rebuilt) / (ablated - clean) if ablated > clean else math.nan

    close = {"rel": 1e-4, "nan_ok": True}
    for site, dictionary in spliced.dictionaries.items():
        read = x[Site(site.layer, "mlp_in")] if dictionary.transcodes else x[site]
        features, error = (part[usual[site]] for part in taken_apart(dictionary, x[site], read))
        variance = (x[site][usual[site]] - means[site]).square().sum()
        assert figures[site].sink_tokens == len(sinks[site]), site
        assert figures[site].l0 == pytest.approx((features != 0).sum(1).double().mean().item(), rel=1e-6)
        assert figures[site].variance_unexplained == pytest.approx((error.square().sum() / variance).item(), rel=1e-6)
        assert figures[site].dead_features == int((features == 0).all(0).sum())
        assert figures[site].loss_recovered == pytest.approx(recovered([site], "zero"), **close)
        assert figures[site].loss_recovered_mean == pytest.approx(recovered([site], "mean"), **close)
    assert together.recovered == pytest.approx(recovered(list(spliced.sites), "zero"), **close)
    assert together.recovered_mean == pytest.approx(recovered(list(spliced.sites), "mean"), **close)


def test_one_sink_hides_that_nothing_else_is_explained() -> None:
    """A dictionary of the sink's direction alone; and the figures do not depend on how the text is cut."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[1] *= 2000
        direction = torch.nn.functional.normalize(model.get_input_embeddings().weight[1], dim=0)[None]
    spliced = fc.load(model, {"embed": relu(direction.T, torch.zeros(1), direction, torch.zeros(WIDTH))})
    rows = [[1, *row] for row in random_rows()]
    site = Site.parse("embed")
    kept, left_out = (measure(spliced, rows, keep_sinks=keep)[0][site] for keep in (True, False))
    assert (kept.sink_tokens, left_out.sink_tokens) == (0, 12)
    assert kept.variance_unexplained < 1e-4
    assert left_out.variance_unexplained > 0.5
    again = measure(spliced, rows[::-1])[0][site]
    assert again.variance_unexplained == pytest.approx(left_out.variance_unexplained, rel=1e-9)
    found = fc.check_suite(spliced, rows, keep_sinks=True, check_fit=False)
    assert found.figures[site] == kept
    assert found.to_json()["keep_sinks"] is True
    assert found.to_json()["sites"]["embed"]["variance_unexplained_here"] > 0.5  # the fit is told without sinks always


def test_sinks_are_told_by_the_median_and_by_bos_at_the_head() -> None:
    assert limit_of(torch.tensor([1.0, 2.0, 3.0, 500.0, 1000.0])) == 30
    assert limit_of(torch.tensor([0.0, 0.0, 1.0])) == math.inf
    assert limit_of(torch.tensor([])) == math.inf
    for side in ("left", "right"):
        tokens = Tokens.pad([[2, 5, 2], [5, 2]], 0, side=side)
        found = usual_anywhere(tokens, {2})
        assert tokens.ids[found].tolist() == [5, 2, 5, 2]
        assert torch.equal(usual_anywhere(tokens, ()), tokens.mask > 0)
    spliced = spliced_model(tiny_model("gpt2"))
    assert bos_ids(spliced) == frozenset()
    spliced.model.config.bos_token_id = 7
    assert bos_ids(replace(spliced, tokenizer=SimpleNamespace(bos_token_id=9))) == {7, 9}


def test_a_perfect_dictionary_recovers_everything() -> None:
    sites = [str(site) for site in all_sites(3)]
    spliced = fc.load(tiny_model("gpt2"), dict.fromkeys(sites, identity(WIDTH)))
    figures, together = measure(spliced, random_rows())
    for found in figures.values():
        assert (found.variance_unexplained, found.dead_features, found.l0) == (0, 0, WIDTH)
        assert math.isnan(found.loss_recovered) or found.loss_recovered == pytest.approx(1)
    assert together.reconstructed == pytest.approx(together.clean)
    silent = {**spliced.dictionaries, Site(0, "attn"): _never_active()}
    dead, _ = measure(replace(spliced, dictionaries=dict(sorted(silent.items()))), random_rows())
    assert (dead[Site(0, "attn")].dead_features, dead[Site(0, "attn")].l0) == (2, 0)
    assert dead[Site(0, "attn")].variance_unexplained >= 1


def _never_active() -> Dictionary:
    return relu(*(torch.zeros(shape, dtype=torch.float64) for shape in ((WIDTH, 2), (2,), (2, WIDTH), (WIDTH,))))


def test_a_run_that_starts_late_is_a_whole_run() -> None:
    spliced, tokens = spliced_model(tiny_model("llama")), Tokens.pad([[3, 5, 7], [4, 4, 9]], 0)
    _, seen = spliced.record(tokens)
    for site in spliced.sites:
        value = torch.zeros_like(seen[site])
        whole_run = spliced.run(tokens, lambda _, x, value=value: value, sites=[site])
        assert torch.allclose(with_site_at(spliced, tokens, site, seen, value), whole_run, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_a_trace_is_the_encoded_one(kind: str) -> None:
    """What the states hold already says how well each dictionary fits."""
    spliced, task = spliced_model(tiny_model("gpt_neox_parallel"), kind), random_task()
    for site, state in states_of(spliced, task, task.batch(range(3))).sites.items():
        dictionary = spliced.dictionaries[site]
        x, error = _clean(dictionary, state)
        _, expected = taken_apart(dictionary, state.x.flatten(0, 1), state.read.flatten(0, 1))
        assert torch.allclose(error, expected, atol=1e-9), site
        assert torch.equal(x, state.x.flatten(0, 1))


def test_a_trace_refuses_what_does_not_fit_unless_told_otherwise() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task()
    assert fc.node_effects(spliced, task, "atp").total_effect.shape == (3,)
    with pytest.raises(fc.InputError, match=r"site \w+: its dictionary leaves .* of task|check_fit=False"):
        fc.trace(spliced, task, nodes="atp")
    assert traced(spliced, task, nodes="atp").n_nodes > 0
    outputs = fc.load(tiny_model("gpt2"), {"mlp_1": whole(WIDTH)})
    assert fc.trace(outputs, task, nodes="atp", edges=None).circuit.n_nodes > 0


def test_the_check_of_a_trace_runs_the_model_no_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    spliced, calls = shipped(), []
    task = shipped_task(spliced, "agreement_rc", 4)
    spliced.model.register_forward_pre_hook(lambda *_: calls.append(1))
    counts = []
    for check_fit in (True, False):
        calls.clear()
        fc.trace(spliced, task, nodes="atp", keep_nodes="top=20", check_fit=check_fit)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


def shipped(**moved: str) -> SplicedModel:
    """The shipped suite; `resid_2="resid_1"`: at resid_2 the dictionary of resid_1."""
    spliced = fc.load(suite=SUITE)
    changed = {Site.parse(to): spliced.dictionaries[Site.parse(source)] for to, source in moved.items()}
    return replace(spliced, dictionaries=dict(sorted({**spliced.dictionaries, **changed}.items())))


def shipped_task(spliced: SplicedModel, name: str, count: int) -> fc.Task:
    return fc.Task.from_jsonl(SUITE / "tasks" / f"{name}_train.jsonl", spliced.tokenizer, aggregate="sum").take(count)


TASKS = ("agreement_simple", "agreement_nounpp", "agreement_rc", "agreement_within_rc", "ioi", "gender", "greater_than")


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("task", TASKS)
def test_a_trace_says_nothing_about_dictionaries_at_their_own_sites(task: str, count: int) -> None:
    """A warning would be an error here; whatever sites it has, and whatever the basis."""
    spliced = shipped()
    found = shipped_task(spliced, task, count)
    states = states_of(spliced, found, found.batch(range(count)))
    check_states(spliced, states, task)
    names = [str(site) for site in spliced.sites]
    for basis in (identity(128), whole(128)):
        neurons = fc.load(spliced.model, dict.fromkeys(names, basis), tokenizer=spliced.tokenizer)
        check_states(neurons, states_of(neurons, found, found.batch(range(count))), task)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize(
    ("one", "other"), [("resid_1", "resid_2"), ("resid_0", "resid_1"), ("mlp_1", "mlp_2"), ("attn_2", "attn_1")]
)
def test_a_trace_warns_of_swapped_dictionaries(
    one: str, other: str, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neighbours leave less than all variance, so that nothing is refused; one token is enough to find them."""
    spliced = shipped(**{one: other, other: one})
    task = shipped_task(spliced, "agreement_nounpp", 8)
    if few:
        monkeypatch.setattr(misplaced, "PRODUCTS", 0)
    with pytest.warns(UserWarning, match="explains .* much better") as caught:
        assert fc.trace(spliced, task, nodes="atp", keep_nodes="top=20").circuit.n_nodes > 0
    (text,) = (str(warning.message) for warning in caught)
    first, second = sorted([one, other], key=Site.parse)
    assert re.search(rf"site {first}: .* it explains {second} much better .*likewise {second} \(rather {first}\)", text)
    assert "check_fit=False" in text
    fc.trace(spliced, task, nodes="atp", keep_nodes="top=20", check_fit=False)


def test_what_fits_its_own_site_is_encoded_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trace's own decomposition tells that, so that a good suite costs nothing."""
    spliced = shipped()
    task = shipped_task(spliced, "agreement_nounpp", 8)
    states = states_of(spliced, task, task.batch(range(8)))
    monkeypatch.setattr(type(spliced.dictionaries["mlp_1"]), "encode", None)
    check_states(spliced, states, task.name)


def test_the_worst_of_each_kind_of_site_is_tried_first() -> None:
    """A kind that is hard to explain leaves room for the others."""
    shares = {"attn_0": 0.5, "attn_1": 0.6, "attn_2": 0.4, "resid_0": 0.1, "resid_1": 0.2, "mlp_3": 0.3}
    order = misplaced._worst_first({Site.parse(name): share for name, share in shares.items()})
    assert list(map(str, order)) == ["attn_1", "mlp_3", "resid_1", "attn_0", "resid_0", "attn_2"]


@pytest.mark.parametrize("task", ["agreement_rc", "ioi", "gender"])
def test_the_shipped_dictionaries_fit_and_nowhere_else_better(task: str) -> None:
    spliced = shipped()
    for site, fit in site_fits(spliced, rows_of(shipped_task(spliced, task, 20))).items():
        assert fit.unexplained < 0.05, site
        assert fit.unexplained_there > 4 * fit.unexplained, site
        assert fit.fault == ""


def test_a_dictionary_at_another_site_is_named() -> None:
    """resid_1's dictionary explains most of resid_2, and still is found out; at embed it is refused by a trace."""
    spliced = shipped(resid_2="resid_1")
    rows = rows_of(shipped_task(spliced, "agreement_rc", 20))
    with pytest.raises(fc.InputError, match=r"site resid_2: .* it explains resid_1 much better .*check_fit=False"):
        fc.check_suite(spliced, rows)
    found = fc.check_suite(spliced, rows, check_fit=False)
    faults = {str(site): fit.fault for site, fit in found.fits.items() if fit.fault}
    assert list(faults) == ["resid_2"]
    assert found.to_json()["sites"]["resid_2"]["best_other_site"] == "resid_1"
    assert found.figures[Site(2, "resid")].variance_unexplained > 0.1
    spliced = shipped(embed="resid_3")
    with pytest.raises(fc.InputError, match=r"site embed: .* on agreement_rc_train .* explains resid_3 much better"):
        fc.trace(spliced, shipped_task(spliced, "agreement_rc", 8), nodes="atp")


def test_another_model_and_shuffled_dictionaries_are_refused() -> None:
    spliced = shipped()
    task = shipped_task(spliced, "agreement_rc", 8)
    torch.manual_seed(1)
    other = type(spliced.model)(spliced.model.config).eval()
    with pytest.raises(fc.InputError, match="belongs to another model"):
        fc.trace(replace(spliced, model=other), task.with_options(keep_wrong=True), nodes="atp")
    for site, dictionary in spliced.dictionaries.items():
        assert isinstance(dictionary, Affine)
        order = torch.randperm(dictionary.n_features, generator=torch.Generator().manual_seed(2))
        broken = replace(dictionary, W_dec=dictionary.W_dec[order])
        with pytest.raises(fc.InputError, match=f"site {site}: "):
            fc.trace(replace(spliced, dictionaries={site: broken}), task, nodes="atp")


def test_one_huge_token_does_not_decide() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 8, generator=generator)
    error = 0.1 * torch.randn(50, 8, generator=generator)
    usual = unexplained(x, error)
    assert usual == pytest.approx((error.square().sum() / (x - x.mean(0)).square().sum()).item(), rel=1e-5)
    sink, missed = torch.cat([x, x[:1] * 1000]), torch.cat([error, x[:1] * 2000])
    assert unexplained(sink, missed) == pytest.approx(usual, rel=1e-5)
    assert math.isnan(unexplained(torch.ones(4, 8), error[:4]))


def test_a_wrong_transcoder_layer_is_named() -> None:
    """A transcoder is tried at the other layers' MLPs; a linear one that is exact at layer 2 sits at layer 0."""
    model = tiny_model("gpt_neox_parallel")
    spliced = replace(spliced_model(model, sites=["embed"]), dictionaries={})
    tokens = Tokens.pad([list(range(1, 13)), list(range(13, 25))], 0)
    _, seen = spliced.record(tokens, all_sites(3, spliced.architecture.kinds))
    read, written = (seen[Site(2, kind)].flatten(0, 1) for kind in ("mlp_in", "mlp"))
    both = torch.cat([read, torch.ones(len(read), 1)], 1)
    solved = torch.linalg.lstsq(both, written).solution  # 17 unknowns a dimension, 24 tokens: nearly exact
    W_dec = torch.zeros(1, WIDTH, dtype=torch.float64)
    bent = Affine("skip", torch.zeros(WIDTH, 1).double(), torch.zeros(1).double(), W_dec, solved[-1], ReLU(),
                  W_skip=solved[:-1], transcodes=True)  # fmt: skip
    fits = site_fits(replace(spliced, dictionaries={Site(0, "mlp"): bent}), [list(range(1, 13)), list(range(13, 25))])
    assert fits[Site(0, "mlp")].other == Site(2, "mlp")
    assert fits[Site(0, "mlp")].misplaced


@pytest.mark.parametrize(("given", "right"), [("mlp_in", "resid_mid"), ("resid_mid", "mlp_in")])
def test_a_transcoder_that_reads_another_place_is_told_so(given: str, right: str) -> None:
    """A linear one that is exact if it reads the other place before its MLP."""
    spliced = replace(spliced_model(tiny_model("gpt2"), sites=["embed"]), dictionaries={})
    rows, mlp = [list(range(1, 13)), list(range(13, 25))], Site(1, "mlp")
    _, seen = spliced.record(Tokens.pad(rows, 0), [mlp, Site(1, right)])
    read, written = (seen[site].flatten(0, 1) for site in (Site(1, right), mlp))
    solved = torch.linalg.lstsq(torch.cat([read, torch.ones(len(read), 1)], 1), written).solution
    W_dec = torch.zeros(1, WIDTH, dtype=torch.float64)
    bent = Affine("skip", torch.zeros(WIDTH, 1).double(), torch.zeros(1).double(), W_dec, solved[-1], ReLU(),
                  W_skip=solved[:-1], transcodes=True, reads=given)  # fmt: skip
    fit = site_fits(replace(spliced, dictionaries={mlp: bent}), rows)[mlp]
    assert fit.other == Site(1, right)
    assert f"it leaves much less if it reads {right}_1 (" in fit.fault
    assert f'reads = "{right}" for its site' in fit.fault
    assert not site_fits(replace(spliced, dictionaries={mlp: replace(bent, reads=right)}), rows)[mlp].fault


def test_health_is_plain_json_with_the_recorded_figures() -> None:
    spliced = shipped()
    found = fc.check_suite(spliced, shipped_task(spliced, "ioi", 6))
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["text"] == "ioi_train"
    assert record["n_tokens"] == sum(map(len, rows_of(shipped_task(spliced, "ioi", 6))))
    assert record["sites"]["resid_0"]["recorded"]["variance_unexplained"] == 0.00844
    assert len(record["sites"]) == 13
    with pytest.raises(fc.InputError, match="no next token to predict"):
        fc.check_suite(spliced, [[3], [4]])


def test_the_recorded_figures_come_out_on_text_of_the_same_kind() -> None:
    grammar = pytest.importorskip("experiments.shipped_suite.grammar")
    spliced = shipped().only([Site(1, "resid"), Site(3, "mlp")])
    rows = spliced.tokenizer(list(grammar.corpus(7, 200)))["input_ids"]
    found = fc.check_suite(spliced, rows)
    for site, figures in found.figures.items():
        recorded = found.recorded[site]
        assert figures.variance_unexplained == pytest.approx(recorded["variance_unexplained"], rel=0.2)
        assert figures.l0 == pytest.approx(recorded["l0"], rel=0.05)
        assert figures.loss_recovered == pytest.approx(recorded["loss_recovered"], abs=0.005)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "no such text file"),
        (b"\n  \n", "no text in it"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"a\0b", "the character NUL"),
    ],
)
def test_bad_text_is_refused(tmp_path: Path, content: bytes | None, part: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(fc.InputError, match=part):
        read_rows(path, shipped().tokenizer, 8)


def test_lines_are_rows_cut_to_length(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("The editors that the hunter calls are here.\n\nThe editor calls.\n", encoding="utf-8")
    tokenizer = shipped().tokenizer
    rows = read_rows(path, tokenizer, 5)
    assert [len(row) for row in rows] == [5, 4]
    assert rows[1] == tokenizer("The editor calls.")["input_ids"]
