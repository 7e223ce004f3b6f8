"""Dossiers beside a slow and obvious computation of each of their figures."""

from __future__ import annotations

import json
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

import featcircuits as fc
from featcircuits.cli import app
from featcircuits.dossiers import checkpoint, mass
from featcircuits.dossiers import text as texts
from featcircuits.dossiers.features import chosen_features
from featcircuits.dossiers.histogram import BINS, edges, quantile
from featcircuits.dossiers.options import Options
from featcircuits.dossiers.reading import read_text
from featcircuits.dossiers.tally import Tally, block_of
from featcircuits.dossiers.text import POSITIONS
from featcircuits.model.sites import Site
from featcircuits.splicing.sinks import usual_tokens
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.token_rows import token_batches
from tests import kinds, tiny

Rows = list[list[int]]
SUITE = Path(__file__).parents[1] / "saes" / "grammar-4l"


def context(row: list[int], position: int) -> tuple[int, ...]:
    """What must be equal for two tokens to be one context."""
    return tuple(row[max(0, position - 5) : position + 1])


class Slow:
    """One feature over documents, token by token; `values` of tokens that count and where it is active."""

    def __init__(self, rows: Rows, values: dict[tuple[int, int], float], n_tokens: int) -> None:
        self.rows, self.values, self.n_tokens = rows, values, n_tokens
        self.sizes = [abs(value) for value in values.values()]

    def strongest(self, count: int) -> list[tuple[int, int]]:
        """The strongest place of each context, the strongest context first."""
        best: dict[tuple[int, ...], tuple[int, int]] = {}
        for (document, position), value in self.values.items():
            key = context(self.rows[document], position)
            if key not in best or abs(value) > abs(self.values[best[key]]):
                best[key] = (document, position)
        return sorted(best.values(), key=lambda place: -abs(self.values[place]))[:count]

    def shares(self) -> list[tuple[int, float]]:
        mass: dict[int, float] = defaultdict(float)
        for (document, position), value in self.values.items():
            mass[self.rows[document][position]] += abs(value)
        return sorted(((token, m / sum(self.sizes)) for token, m in mass.items()), key=lambda one: (-one[1], one[0]))

    def counts(self) -> list[int]:
        inner = edges()[1:-1]
        found = [0] * BINS
        for size in self.sizes:
            found[sum(size >= edge for edge in inner)] += 1
        return found


def slow_features(rows: Rows, features: Tensor, active: Tensor, counted: Tensor) -> list[Slow]:
    """From [row, slot, feature], padded on the right."""
    found = []
    for feature in range(features.shape[-1]):
        values = {
            (r, p): float(features[r, p, feature])
            for r, row in enumerate(rows)
            for p in range(len(row))
            if counted[r, p] and active[r, p, feature]
        }
        found.append(Slow(rows, values, int(counted.sum())))
    return found


@st.composite
def documents(draw: st.DrawFn) -> Rows:
    """Of few different tokens, so that contexts come again."""
    return draw(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=9), min_size=1, max_size=8))


@pytest.mark.parametrize("kind", kinds.KINDS)
@given(rows=documents(), seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=15, deadline=None)
def test_the_tally_of_every_kind_of_dictionary_is_the_slow_one(kind: str, rows: Rows, seed: int, data: Any) -> None:
    dictionary = kinds.dictionary(kind, seed=seed)
    slots = max(map(len, rows))
    ids = np.array([row + [0] * (slots - len(row)) for row in rows])
    x = kinds.activations(len(rows) * slots, dictionary.read_width, seed).view(len(rows), slots, -1)
    features, n = dictionary.encode(x), dictionary.n_features
    counted = torch.from_numpy(ids > 0) & (x[..., 0] < 1)
    active = dictionary.is_active(features) & counted[..., None]
    options = Options(contexts=data.draw(st.integers(1, 4)), samples=data.draw(st.integers(0, 3)), before=3, after=2)
    tally = Tally(torch.arange(n), 4, options)
    size = data.draw(st.integers(1, len(rows)))
    block = block_of(ids, list(range(len(rows))), 1)
    for start in range(0, len(rows), size):
        some = slice(start, start + size)
        flat = features[some].reshape(-1, n), active[some].reshape(-1, n), counted[some].reshape(-1)
        tally.add(*flat, block.rows(start, start + size))
    tally.settle()
    for number, slow in enumerate(slow_features(rows, features, active, counted)):
        assert tally.histogram[number].tolist() == slow.counts()
        assert tally.mass.total[number] == pytest.approx(sum(slow.sizes))
        assert tally.negative[number] == sum(value < 0 for value in slow.values.values())
        found = dict(tally.mass.largest(number, 4))
        assert found == pytest.approx({token: share for token, share in slow.shares() if share > 0})
        check_places(tally.top, number, slow, slow.strongest(options.contexts), features, counted, options)
        drawn = {context(rows[place // POSITIONS], place % POSITIONS): draw
                 for place, draw in zip(block.places.tolist(), block.draws.tolist(), strict=True)
                 if place % POSITIONS < len(rows[place // POSITIONS])}  # fmt: skip
        ways = {context(rows[d], p): (d, p) for d, p in reversed(slow.values)}
        expected = [ways[key] for key in sorted(ways, key=drawn.__getitem__)][: options.samples]
        check_places(tally.drawn, number, slow, expected, features, counted, options)


def check_places(
    best: Any,
    number: int,
    slow: Slow,
    expected: list[tuple[int, int]],
    features: Tensor,
    counted: Tensor,
    options: Options,
) -> None:
    """The places are these, and the windows hold what the features are around them."""
    filled = best.score[number] > -np.inf
    assert [divmod(place, POSITIONS) for place in best.place[number][filled].tolist()] == expected
    for rank, (document, position) in enumerate(expected):
        for i, offset in enumerate(range(-options.before, options.after + 1)):
            at, value = position + offset, best.activations[number, rank, i]
            if 0 <= at < len(slow.rows[document]) and counted[document, at]:
                assert value == pytest.approx(float(features[document, at, number]), rel=1e-6)
            else:
                assert np.isnan(value)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), st.sampled_from([0.05, 0.25, 0.5, 0.95]))
def test_a_quantile_lies_in_the_bin_of_the_true_one(sizes: list[float], share: float) -> None:
    lower = edges()
    counts = np.histogram(sizes, lower)[0]
    true = sorted(sizes)[max(0, int(np.ceil(share * len(sizes))) - 1)]
    b = np.searchsorted(lower, true, "right") - 1
    assert lower[b] * (1 - 1e-9) <= quantile(counts, share) <= lower[b + 1] * (1 + 1e-9)


def random_rows(count: int = 12, longest: int = 9, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(1, 6, (length,), generator=generator).tolist() for length in lengths]


def seen(spliced: SplicedModel, site: Site, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """(features, where they are active, which tokens count) of a plain forward of all rows."""
    (tokens,) = token_batches(sorted(rows, key=len), len(rows))
    x, read = tiny.seen_at(spliced, tokens, site)
    usual = usual_tokens(spliced, [tokens], [site])
    features = spliced.dictionaries[site].encode(read)
    return features, spliced.dictionaries[site].is_active(features), usual.at(site, x, tokens)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_dossiers_of_every_kind_hold_what_a_plain_forward_gives(kind: str) -> None:
    spliced = tiny.spliced_model(tiny.tiny_model("gpt2"), kind, ["embed", "attn_z_0", "mlp_1", "resid_2"])
    rows = sorted(random_rows(), key=len)
    dossiers = fc.features(spliced, rows, options=Options(contexts=5, before=2, after=1, samples=0))
    for site in spliced.sites:
        for number, slow in enumerate(slow_features(rows, *seen(spliced, site, rows))):
            found = dossiers[f"{site}/{number}"]
            assert (found.n_tokens, found.n_active) == (slow.n_tokens, len(slow.values))
            assert found.mean == (pytest.approx(np.mean(slow.sizes), rel=1e-6) if slow.sizes else None)
            assert found.max == (pytest.approx(max(slow.sizes), rel=1e-6) if slow.sizes else None)
            assert sum(found.histogram.values()) == len(slow.sizes)
            assert found.top_tokens[0].id == slow.shares()[0][0] if slow.sizes else not found.top_tokens
            places = [(one.document, one.position) for one in found.contexts]
            expected = [abs(slow.values[place]) for place in slow.strongest(5)]
            # equal prefixes have equal activations but for rounding, so that places are compared by their size
            np.testing.assert_allclose([abs(slow.values[place]) for place in places], expected, rtol=1e-5)
            assert len({context(rows[d], p) for d, p in places}) == len(places) == len(expected)
            for one in found.contexts:
                first = max(0, one.position - 2)
                assert list(one.ids) == rows[one.document][first : one.position + 2]
                assert one.ids[one.at] == rows[one.document][one.position]
                assert one.activations[one.at] == one.activation


def held_norm(family: str, spliced: SplicedModel, rows: Rows) -> tuple[Any, Tensor]:
    """The final norm as a linear map of rows, written out, and the unembedding."""
    (tokens,) = token_batches(rows, len(rows))
    last = Site(tiny.LAYERS - 1, "resid")
    x = spliced.record(tokens, [last])[1][last][tokens.mask > 0]
    norm: Any = spliced.architecture.norms(spliced.model)[-1]
    head: Any = spliced.model.get_output_embeddings()
    weight: Any = norm.weight.detach()
    if family == "gpt2":
        size = (x.var(-1, unbiased=False) + norm.eps).sqrt().mean()
        return lambda rows: (rows - rows.mean(-1, keepdim=True)) / size * weight, head.weight.detach()
    eps = getattr(norm, "variance_epsilon", None) or norm.eps
    size = (x.square().mean(-1) + eps).sqrt().mean()
    gain = 1 + weight if family == "gemma2" else weight
    return lambda rows: rows / size * gain, head.weight.detach()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("site", ["embed", "attn_1", "mlp_1", "resid_0"])
def test_direct_effects_are_the_row_through_a_held_norm_and_the_unembedding(family: str, site: str) -> None:
    kind = "skip_transcoder" if site == "mlp_1" else "relu"
    spliced = tiny.spliced_model(tiny.tiny_model(family), kind, [site])
    rows = random_rows()
    norm, unembedding = held_norm(family, spliced, rows)
    dictionary = spliced.dictionaries[Site.parse(site)]
    logits = norm(dictionary.decoder_rows(torch.arange(dictionary.n_features))) @ unembedding.T
    logits -= logits.mean(-1, keepdim=True)
    check_effects(fc.features(spliced, rows), site, logits)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_direct_effects_of_heads_pass_the_output_projection(family: str) -> None:
    spliced = tiny.spliced_model(tiny.tiny_model(family), sites=["attn_z_1"])
    rows = random_rows()
    norm, unembedding = held_norm(family, spliced, rows)
    block: Any = spliced.architecture.layers(spliced.model)[1]
    projection = block.attn.c_proj.weight if family == "gpt2" else block.self_attn.o_proj.weight.T
    written = spliced.dictionaries[Site(1, "attn_z")].decoder_rows(torch.arange(24)) @ projection.detach()
    logits = norm(written) @ unembedding.T
    check_effects(fc.features(spliced, rows), "attn_z_1", logits - logits.mean(-1, keepdim=True))


def check_effects(dossiers: fc.Dossiers, site: str, logits: Tensor) -> None:
    for number, expected in enumerate(logits):
        found = dossiers[f"{site}/{number}"]
        order = expected.argsort(descending=True).tolist()
        assert [one.id for one in found.promoted] == order[:10]
        assert [one.id for one in found.suppressed] == order[::-1][:10]
        for one in (*found.promoted, *found.suppressed):
            assert one.logit == pytest.approx(float(expected[one.id]), rel=1e-4, abs=1e-6)


def test_neighbours_and_coactivation_are_the_slow_ones() -> None:
    spliced = tiny.spliced_model(tiny.tiny_model("gpt2"), "topk", ["resid_0", "mlp_1", "resid_1", "resid_2"])
    rows = sorted(random_rows(40), key=len)
    dossiers, found_any = fc.features(spliced, rows), False
    directions = {s: torch.nn.functional.normalize(d.decoder_rows(torch.arange(24)), dim=-1)
                  for s, d in spliced.dictionaries.items()}  # fmt: skip
    active, real = {}, torch.empty(0)
    for site in spliced.sites:
        _, where, counted = seen(spliced, site, rows)
        active |= {f"{site}/{n}": (where[..., n] & counted).flatten().double() for n in range(24)}
        real = counted.flatten()
    for name in dossiers:
        found = dossiers[name]
        own = directions[Site.parse(found.site)][found.feature]
        near = {s: (d @ own).tolist() for s, d in directions.items()}
        near[Site.parse(found.site)][found.feature] = -2.0
        expected = sorted(near[Site.parse(found.site)], reverse=True)[:5]
        assert [one.value for one in found.neighbours] == pytest.approx(expected, abs=1e-6)
        later = [v for s, d in near.items() if s.layer == Site.parse(found.site).layer + 1 for v in d]
        assert [one.value for one in found.next_layer] == pytest.approx(sorted(later, reverse=True)[:5], abs=1e-6)
        for one in found.coactive:
            pair = torch.stack([active[name][real], active[one.name][real]])
            found_any = True
            assert one.value == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=1e-6)
    assert found_any


def test_coactivation_is_left_out_where_features_are_active_with_everything() -> None:
    identity = fc.dictionaries.identity(tiny.WIDTH)
    spliced = fc.load(tiny.tiny_model("gpt2"), {"resid_1": identity, "mlp_1": tiny.random_dictionary("topk")})
    reading = read_text(spliced, texts.text_of(spliced, random_rows(40), 9), chosen_features(spliced, None), Options())
    found = {str(site): tally.crowded for site, tally in reading.tallies.items()}
    assert found == {"resid_1": True, "mlp_1": False}
    assert not any(part.place.size for part in reading.tallies[Site(1, "resid")].together[1:])


def test_sinks_are_counted_and_never_read() -> None:
    model: Any = tiny.tiny_model("gpt2")
    with torch.no_grad():
        model.get_input_embeddings().weight[5] *= 100
    spliced = tiny.spliced_model(model, sites=["embed"])
    rows = [[1, 2, 5, 3], [2, 3, 1, 4, 5], [4, 3, 2, 1]]
    dossiers = fc.features(spliced, rows, options=Options(before=4))
    assert dossiers.manifest["text"]["sinks"] == {"embed": 2}
    contexts = [one for name in dossiers for one in dossiers[name].contexts]
    assert contexts
    for one in contexts:
        assert one.ids[one.at] != 5
        assert all((value is None) == (id == 5) for id, value in zip(one.ids, one.activations, strict=True))


def test_values_on_a_task_are_means_over_its_examples() -> None:
    spliced = tiny.spliced_model(tiny.tiny_model("gpt2"), sites=["mlp_1"])
    task = tiny.random_task(6)
    circuit = tiny.traced(spliced, task)
    dossiers = fc.features(spliced, task, nodes=circuit)
    site, batch = Site(1, "mlp"), task.batch(range(6))
    seen = [tiny.seen_at(spliced, tokens, site)[0] for tokens in (batch.clean, batch.corrupted) if tokens is not None]
    sides = [spliced.dictionaries[site].encode(x) for x in seen]
    for name in dossiers:
        for one in dossiers[name].task:
            node = fc.Node.parse(f"{name}@{one.place}")
            pair = [x[:, int(one.place), node.feature] for x in sides]
            assert one.clean == pytest.approx(float(pair[0].mean()))
            assert one.corrupted == pytest.approx(float(pair[1].mean()))
            assert one.change == pytest.approx(float((pair[1] - pair[0]).abs().mean()))
            assert one.effect == (circuit.nodes[node].effect if node in circuit.nodes else None)
    assert {f"{node.site}/{node.feature}" for node in circuit.nodes if not node.is_error} == set(dossiers)


def test_an_interrupted_pass_goes_on_and_ends_with_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(texts, "CHUNK", 3)
    spliced, rows = tiny.spliced_model(tiny.tiny_model("gpt2"), sites=["embed", "resid_1"]), random_rows(11)
    totals: list[int] = []

    def interrupted(items: Any, what: str, total: int) -> Any:
        for number, item in enumerate(items):
            if what == "text" and number == 2:
                raise KeyboardInterrupt
            yield item

    def counted(items: Any, what: str, total: int) -> Any:
        totals.append(total)
        return items

    whole = fc.features(spliced, rows, tmp_path / "whole")
    with pytest.raises(fc.InputError, match="run the same command again"):
        fc.features(spliced, rows, tmp_path / "resumed", progress=interrupted)
    resumed = fc.features(spliced, rows, tmp_path / "resumed", progress=counted)
    assert totals[0] == 2  # of four chunks
    assert [whole[name] for name in whole] == [resumed[name] for name in resumed]
    assert whole.manifest == resumed.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed", "whole"]


def test_text_may_be_a_file_or_a_folder_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    spliced = fc.load(suite="grammar-4l", sites="resid_2")
    lines = ["The prisoner is clever.", "Mary was clever.", "The boys that Mary likes are in the park."]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    datasets.Dataset.from_dict({"words": lines}).save_to_disk(tmp_path / "saved")
    from_file = fc.features(spliced, tmp_path / "text.txt", nodes=["resid_2/303"])
    folder = texts.text_of(spliced, tmp_path / "saved", 128, column="words")
    from_folder = fc.features(spliced, folder, nodes=["resid_2/303"])
    assert from_file["resid_2/303"] == from_folder["resid_2/303"]
    assert "".join(from_file["resid_2/303"].contexts[0].tokens).strip() in lines
    with pytest.raises(fc.InputError, match="has no column 'text'; its columns: words"):
        fc.features(spliced, tmp_path / "saved")
    with pytest.raises(fc.InputError, match="not a folder that datasets' save_to_disk wrote"):
        fc.features(spliced, tmp_path)


def test_dossiers_belong_to_the_dictionaries_that_they_were_made_with(tmp_path: Path) -> None:
    model = tiny.tiny_model("gpt2")
    spliced = tiny.spliced_model(model, sites=["embed", "resid_1"])
    fc.features(spliced, random_rows(), tmp_path / "dossiers", nodes=["resid_1/3@7", "resid_1/5"])
    found = fc.Dossiers.open(tmp_path, spliced)
    assert list(found) == ["resid_1/3", "resid_1/5"]
    assert found["resid_1/5@2"] == found[fc.Node(Site(1, "resid"), 5)]
    assert "resid_1/4" not in found
    assert found.label("resid_1/3@1") == found["resid_1/3"].label
    assert found.label("resid_1/error") is None
    with pytest.raises(fc.InputError, match="there is no dossier of resid_1/4; there are 2 of features of resid 1"):
        found["resid_1/4"]
    with pytest.raises(fc.InputError, match="the dictionary of embed and of 1 more sites is not the one"):
        fc.Dossiers.open(tmp_path, tiny.spliced_model(model, sites=["embed", "resid_1"], seed=7))
    with pytest.raises(fc.InputError, match="exists and is not empty"):
        fc.features(spliced, random_rows(), tmp_path / "dossiers")


def test_damaged_dossiers_are_refused_in_one_line(tmp_path: Path) -> None:
    fc.features(tiny.spliced_model(tiny.tiny_model("gpt2"), sites=["embed"]), random_rows(), tmp_path / "dossiers")
    path = tmp_path / "dossiers" / "features.parquet"
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2], b"\0" * len(whole)):
        path.write_bytes(damaged)
        with pytest.raises(fc.InputError, match="is damaged"):
            fc.Dossiers.open(tmp_path)
    path.write_bytes(whole)
    (tmp_path / "dossiers" / "task.parquet").write_bytes((tmp_path / "dossiers" / "contexts.parquet").read_bytes())
    with pytest.raises(fc.InputError, match="column 'place' is missing"):
        fc.Dossiers.open(tmp_path)
    with pytest.raises(fc.InputError, match="no such manifest of dossiers"):
        fc.Dossiers.open(tmp_path / "nowhere")


def test_a_record_has_a_plain_json_form_and_shows_itself_without_markup_of_strangers() -> None:
    spliced = fc.load(suite="grammar-4l", sites="resid_2")
    found = fc.features(spliced, [spliced.tokenizer("The prisoner is clever.")["input_ids"]])["resid_2/303"]
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (plain["site"], plain["feature"], plain["label"]) == ("resid_2", 303, found.label)
    assert plain["contexts"][0]["tokens"] == list(found.contexts[0].tokens)
    assert plain["histogram"][0].keys() == {"from", "count"}
    hostile = found.__class__(**{**vars(found), "label": "<img src=x onerror=alert(1)>"})
    assert "<img" not in hostile._repr_html_()
    assert "&lt;img" in hostile._repr_html_()


def test_many_dossiers_show_their_first_labels() -> None:
    dossiers = fc.Dossiers.open(SUITE)
    shown = dossiers._repr_html_()
    assert f"Dossiers of {len(dossiers):,} features" in shown
    assert escape(dossiers.labels["embed/0"]) in shown


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ([[]], {}, "the text holds no token"),
        ([[1, 99]], {}, "token id 99 is not in the model's vocabulary"),
        ([[1, 2]], {"nodes": ["embed/error"]}, "nodes holds no feature, only error terms"),
        ([[1, 2]], {"nodes": ["embed/99"]}, "node embed/99 does not exist here"),
        ("nowhere.txt", {}, "the model has no tokenizer to read text with"),
    ],
)
def test_what_cannot_be_read_is_refused(text: Any, options: dict[str, Any], message: str) -> None:
    spliced = tiny.spliced_model(tiny.tiny_model("gpt2"), sites=["embed"])
    with pytest.raises(fc.InputError, match=message):
        fc.features(spliced, text, **options)


def test_a_dossier_says_what_a_reader_of_its_contexts_would() -> None:
    """resid_2/303 of the shipped suite: the open subject is singular."""
    from experiments.shipped_suite.grammar import corpus

    spliced = fc.load(suite="grammar-4l", sites="resid_2")
    rows = spliced.tokenizer(list(corpus(11, 600)))["input_ids"]
    found = fc.features(spliced, rows, nodes=["resid_2/303"])["resid_2/303"]
    assert {"has", "is", "was"} <= {one.token.strip() for one in found.promoted[:4]}
    assert {"have", "are", "do"} <= {one.token.strip() for one in found.suppressed[:4]}
    assert found.label.endswith("-> has / is / was, not have / are / do")


def run_of(folder: Path, *options: str) -> Path:
    """A small run of the shipped suite, traced by the command line."""
    invoke("trace", "-o", str(folder), "--limit", "4", "--sites", "resid_2", "--edges", "none", *options)
    return folder


def invoke(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_makes_and_shows_dossiers_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "text.txt").write_text("Mary was clever.\nThe actors are clever.\n", encoding="utf-8")
    run = run_of(tmp_path / "run", "--keep-nodes", "top=5")
    label = fc.Dossiers.open(SUITE).labels["resid_2/303"]
    assert label in invoke("features", str(run), "--show", "resid_2/303@5")  # as the suite has it
    printed = invoke("features", str(run), "--text", str(tmp_path / "text.txt"), "--contexts", "2")
    found = fc.Dossiers.open(run)
    circuit = fc.Circuit.load(run / "circuit.safetensors")
    assert set(found) == {f"{node.site}/{node.feature}" for node in circuit.nodes if not node.is_error}
    assert f"dossiers of {len(found)} features on 9 tokens of text.txt" in printed.replace("\n", " ")
    shown = invoke("features", str(run), "--show", "resid_2/303")
    assert found["resid_2/303"].label in shown
    assert "[Mary] was clever." in shown
    assert f"{circuit.nodes[fc.Node.parse('resid_2/303@5')].effect:+.4f}" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either a run folder, or --suite"),
        (["--suite", "grammar-4l"], "give --output with a folder"),
        (["--suite", "grammar-4l", "--show", "resid_2/9999"], "there is no dossier of resid_2/9999"),
        (["--suite", "grammar-4l", "--show", "resid"], "'resid' is not a node"),
        (["nowhere", "--show", "resid_2/303"], "nowhere is not a run folder"),
    ],
)
def test_what_the_command_cannot_do_ends_in_one_line(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["features", *words])
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_dossiers_of_other_dictionaries_label_nothing(tmp_path: Path) -> None:
    spliced = tiny.spliced_model(tiny.tiny_model("gpt2"), sites=["embed"])
    dossiers = fc.features(spliced, random_rows())
    assert dossiers.fits(dossiers.manifest)
    assert not dossiers.fits(fc.Dossiers.open(SUITE).manifest)


def test_tokens_beyond_what_is_kept_leave_the_largest_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mass, "KEPT", 4)
    monkeypatch.setattr(mass, "DENSE", 0)
    found = mass.Mass(2, 50)
    for token in range(50):
        size = np.array([100.0 + token if token < 2 else 1.0] * 2)
        found.add(np.array([0, 1]), np.array([token, token]), size)
        found.settle()
    assert found.dropped
    assert found.total.tolist() == [249.0, 249.0]
    assert found.largest(0, 2) == [(1, 101 / 249), (0, 100 / 249)]
