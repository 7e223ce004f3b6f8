"""Linear probes of texts, and SHIFT."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import featcircuits as fc
from experiments.shift import grammar
from experiments.shift.__main__ import main, toy
from featcircuits.model.tokens import Tokens
from featcircuits.probes.candidates import effects_on, random_like, rejected
from featcircuits.probes.probe import Probe, fit, pooled, reading
from featcircuits.probes.rows import row
from featcircuits.probes.texts import Text, read_texts, without
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import VOCABULARY, spliced_model, tiny_model

SITE = fc.Site.parse("resid_1")


@pytest.fixture(scope="module")
def tiny() -> SplicedModel:
    return spliced_model(tiny_model("gpt2"))


def _texts(count: int = 6, seed: int = 0) -> list[Text]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 7, (count,), generator=generator).tolist()
    rows = [torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return [Text(tuple(ids), number % 2, number // 2 % 2) for number, ids in enumerate(rows)]


def _probe(width: int = 16) -> Probe:
    return Probe(torch.randn(width, generator=torch.Generator().manual_seed(3), dtype=torch.float64), torch.tensor(0.3))


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_readout_is_linear_in_the_mean_over_a_prompts_own_tokens(tiny: SplicedModel, skip: int, side: str) -> None:
    texts, probe = _texts(), _probe()
    tokens = Tokens.pad([text.ids for text in texts], 0, side)
    read = reading(tiny, probe.readout(SITE, skip)).run(tokens, answers_only=True)
    for number, text in enumerate(texts):
        alone = tiny.record(Tokens.pad([text.ids], 0), [SITE])[1][SITE][0, skip:].mean(0)
        torch.testing.assert_close(read[number, 1] - read[number, 0], alone @ probe.weight + probe.bias)


def test_effects_on_a_probe_are_those_of_removing_the_feature_by_hand(tiny: SplicedModel) -> None:
    texts, probe = _texts(), _probe()
    exact = {each.node: each.effect for each in effects_on(tiny, probe, SITE, texts, estimator="exact")}
    before = pooled(tiny, texts, SITE) @ probe.weight
    sign = torch.tensor([1.0 if text.label else -1.0 for text in texts], dtype=torch.float64)
    for node in [*exact][:3]:
        if node.site != SITE:  # exact patching moves one token at a time, so its sum is not all tokens at once
            continue
        after = pooled(tiny, texts, SITE, removed=[node]) @ probe.weight
        assert exact[node] == pytest.approx(float(((before - after) * sign).mean()), rel=1e-6)
    # at the probe's own site the logit is linear in features, so every estimator is exact
    atp = {each.node: each.effect for each in effects_on(tiny, probe, SITE, texts, estimator="atp")}
    own = [node for node in exact if node.site == SITE]
    assert len(own) > 10
    for node in own:
        assert atp[node] == pytest.approx(exact[node], rel=1e-6, abs=1e-9)


def test_removing_features_at_the_probes_site_takes_what_they_write(tiny: SplicedModel) -> None:
    texts, nodes = _texts(), [fc.Node(SITE, 3), fc.Node(SITE, 8)]
    dictionary = tiny.dictionaries[SITE]
    expected = pooled(tiny, texts, SITE)
    for number, text in enumerate(texts):
        x = tiny.record(Tokens.pad([text.ids], 0), [SITE])[1][SITE][0]
        for node in nodes:
            expected[number] -= (
                dictionary.encode(x)[:, node.feature].mean() * dictionary.decoder_rows(torch.tensor([node.feature]))[0]
            )
    torch.testing.assert_close(pooled(tiny, texts, SITE, removed=nodes, batch_size=4), expected)


def test_a_probe_minimises_its_loss_and_needs_no_seed() -> None:
    rows = torch.randn(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes = (rows[:, 0] + 0.5 * rows[:, 1] > 0).long().tolist()
    first, second = fit(rows, classes, 1e-2), fit(rows, classes, 1e-2)
    assert torch.equal(first.weight, second.weight)
    wrong = torch.sigmoid(rows @ first.weight + first.bias) - torch.tensor(classes, dtype=torch.float64)
    slope = (wrong[:, None] * rows).mean(0) + 2e-2 * first.weight
    assert slope.abs().max() < 1e-5
    assert (first.predicts(rows) == torch.tensor(classes)).double().mean() > 0.95


def test_a_row_counts_labels_cues_and_the_worst_group() -> None:
    texts = [Text((1,), label, cue) for label in (0, 1) for cue in (0, 1) for _ in range(25)]
    by_cue = row("by cue", torch.tensor([text.cue for text in texts]), texts, seed=0)
    assert (by_cue.label.value, by_cue.cue.value, by_cue.worst.value) == (0.5, 1.0, 0.0)
    right = row("right", torch.tensor([text.label for text in texts]), texts, seed=0)
    assert (right.label.value, right.cue.value, right.worst.value) == (1.0, 0.5, 1.0)
    assert right.cue.low < 0.5 < right.cue.high
    both = row("draws", [torch.tensor([text.label for text in texts]), torch.tensor([text.cue for text in texts])],
               texts, seed=0)  # fmt: skip
    assert both.label.value == 0.75
    assert both == row("draws", [torch.tensor([t.cue for t in texts]), torch.tensor([t.label for t in texts])],
                       texts, seed=0)  # fmt: skip


def test_effects_on_a_probe_are_not_those_of_the_model(tiny: SplicedModel) -> None:
    model = reading(tiny, _probe().readout(SITE))
    task = fc.Task.from_tokens([[1, 2, 3]], None, [1], [0], keep_wrong=True, aggregate="sum")
    effects = fc.node_effects(model, task, "atp", baseline="zero")
    with pytest.raises(fc.InputError, match="weights differ"):
        fc.edge_effects(tiny, task, effects, node_threshold=0.0)


@pytest.fixture(scope="module")
def freed() -> Any:
    return toy(fc.load(), "number", "resid_1", 50, 300)


def test_shift_frees_the_toy_classifier(freed: Any) -> None:
    """The claims of docs/shift.md, on fewer texts."""
    rows = {each.name: each for each in freed.rows}
    assert [*rows] == [
        "original", "random", "SHIFT", "SHIFT + retrain", "tokens deleted", "tokens deleted + retrain",
        "concept bottleneck", "neuron skyline", "feature skyline", "oracle",
    ]  # fmt: skip
    assert rows["original"].cue.low > 0.95
    assert rows["random"].cue.low > 0.95
    assert rows["SHIFT + retrain"].worst.low > 0.8
    assert rows["tokens deleted + retrain"].worst.low > 0.9
    assert rows["oracle"].label.low > 0.95
    assert rows["SHIFT"].removed == len(freed.removed)
    assert {*freed.removed} < {each.node for each in freed.candidates}
    assert json.loads(json.dumps(freed.to_json()))["rows"][0]["name"] == "original"


def test_judges_reject_candidates_alone_and_not_all_or_none(freed: Any) -> None:
    found = freed.candidates
    for judge, message in (
        ([], "none of the 50"),
        (lambda node: True, "all of the 50"),
        (["resid_1/1000"], "is none of the 50 candidates"),
    ):
        with pytest.raises(fc.InputError, match=message):
            rejected(found, judge)
    drawn = random_like(found, freed.removed, seed=1)
    assert drawn == random_like(found, freed.removed, seed=1)
    assert not {*drawn} & {*freed.removed}


def test_texts_come_from_files_and_bad_lines_are_named(tmp_path: Path) -> None:
    tokenizer = fc.load().tokenizer
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "Mary lost her keys.", "label": 1, "cue": 1}\n')
    (text,) = read_texts(path, tokenizer)
    assert (text.label, text.cue, len(text.ids)) == (1, 1, 5)
    assert without([text], {text.ids[0]})[0].ids == text.ids[1:]
    for line, message in (
        ('{"text": "Mary lost her keys.", "label": 2, "cue": 1}', "label is 2; it must be 0 or 1"),
        ('{"text": "Mary lost her keys.", "label": 1}', "line 1: "),
        ("", "holds no texts"),
    ):
        path.write_text(line)
        with pytest.raises(fc.InputError, match=message):
            read_texts(path, tokenizer)


def test_bad_requests_are_refused(tiny: SplicedModel) -> None:
    texts, judge = _texts(8), ["resid_1/1"]
    for options, message in (
        ({"site": "resid_9"}, "resid_9"),
        ({"skip": 3}, "skip is 3"),
        ({"test": [text for text in texts if text.cue == 0]}, "test: no text has"),
        ({"train": [text for text in texts if text.label == 1]}, "train: no text has label 0"),
        ({"train": ["a text"]}, "give a list of Text"),
        ({"penalty": 0.0}, "penalty is 0.0"),
    ):
        given: dict[str, Any] = {"train": texts, "test": texts, "site": SITE, "judge": judge, **options}
        with pytest.raises(fc.InputError, match=message):
            fc.shift(tiny, given.pop("train"), given.pop("test"), **given)


def test_texts_of_ones_own_are_judged_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published setting: folders and files, candidates written first, then judged."""
    for name, seed, balanced in (("train", 0, False), ("test", 1, True)):
        texts = grammar.sentences("number", 80, seed, balanced=balanced)
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in texts))
    (tmp_path / "delete.txt").write_text(" ".join(grammar.CUE_WORDS))
    files = ["--train", f"{tmp_path}/train.jsonl", "--test", f"{tmp_path}/test.jsonl", "--count", "6"]

    def run(out: str, *more: str) -> None:
        monkeypatch.setattr(
            sys, "argv", ["shift", "--out", str(tmp_path / out), "--suite", "grammar-4l", *files, *more]
        )
        main()

    run("first")
    candidates = tmp_path / "first" / "candidates.jsonl"
    rows = [json.loads(line) for line in candidates.read_text().splitlines()]
    assert len(rows) == 6
    for number, each in enumerate(rows):
        each["rejected"] = number < 2
    candidates.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    run("second", "--judged", str(candidates), "--delete", str(tmp_path / "delete.txt"))
    found = json.loads((tmp_path / "second" / "shift.json").read_text())["texts"]
    assert found["removed"] == [each["node"] for each in rows[:2]]
    assert [each["name"] for each in found["rows"]][-1] == "tokens deleted + retrain"
