"""Every page on adding something: its code runs, and does what the page says.

The pages on propagation rules, sources and model families run beside what they are about: in test_propagation,
test_sources and test_completeness.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import featcircuits as fc
from tests.tiny import WIDTH

FEATURES = 12
HOWTO = Path(__file__).parents[1] / "docs" / "howto"
ELSEWHERE = {"rule": "test_propagation", "source": "test_sources", "model-family": "test_completeness"}


def run(page: str) -> dict[str, Any]:
    """The names that a page's code leaves behind."""
    names: dict[str, Any] = {"__name__": __name__}
    text = (HOWTO / f"{page}.md").read_text(encoding="utf-8")
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    return names


def test_every_page_is_run() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    for page in HOWTO.glob("*.md"):
        if page.stem in ELSEWHERE:
            assert page.name in (Path(__file__).parent / f"{ELSEWHERE[page.stem]}.py").read_text(encoding="utf-8")
        else:
            assert f'run("{page.stem}")' in here, page.name


def test_the_estimator_of_the_page_lies_between_its_ends() -> None:
    names = run("estimator")
    model, task = names["model"], names["task"]
    ends = [fc.node_effects(model, task, names["TwoEndedGradients"](share=share)) for share in (0.0, 1.0)]
    clean = fc.node_effects(model, task, "atp")
    for site in model.sites:
        torch.testing.assert_close(ends[0].features(site), clean.features(site), rtol=1e-5, atol=1e-7)
        mixed = 0.7 * ends[0].features(site) + 0.3 * ends[1].features(site)
        torch.testing.assert_close(names["effects"].features(site), mixed, rtol=1e-4, atol=1e-6)
    assert len(names["circuit"].nodes) > 0


def test_the_metric_of_the_page_is_the_margin() -> None:
    names = run("metric")
    task, report = names["task"], names["report"]
    batch = task.batch(range(len(task)))
    logits, _ = names["model"].record(batch.clean)
    expected = []
    for row, right in zip(logits, batch.answers.clean[:, 0].tolist(), strict=True):
        others = [value for token, value in enumerate(row.tolist()) if token != right]
        expected.append(row[right].item() - max(others))
    assert report.F_model == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert report.metric == "Margin"
    with pytest.raises(fc.InputError, match="reads one clean answer, and there are 2"):
        fc.Task.from_tokens([[1, 2]], None, [[3, 4]], metric=names["Margin"]())
    with pytest.raises(fc.InputError, match="share"):
        names["Margin"](share=3.0)


def test_the_ablation_of_the_page_lies_halfway() -> None:
    names = run("ablation")
    model, task, report = names["model"], names["task"], names["report"]
    batch = task.batch(range(len(task)))
    values = names["Halfway"].prepare(model, task, 8, 0).values(model, task, batch)
    _, clean = model.record(batch.clean)
    _, corrupted = model.record(batch.corrupted)
    for site in model.sites:
        torch.testing.assert_close(values(site).x, (clean[site] + corrupted[site]) / 2)
    assert report.F_empty != report.F_model
    with pytest.raises(fc.InputError, match="needs corrupted prompts"):
        names["Halfway"].check(fc.Task.from_tokens([[1, 2]], None, [3], metric="probability"))


def test_the_selection_rule_of_the_page_orders_all_nodes() -> None:
    names = run("selection-rule")
    model, task = names["model"], names["task"]
    effects = fc.node_effects(model, task)
    plain, late = fc.select(model, task, effects, "effect"), fc.select(model, task, effects, names["LateFirst"]())
    assert set(plain) == set(late)
    assert plain != late
    assert len(names["circuit"].nodes) > 0


def test_the_exporter_of_the_page_writes_every_edge(tmp_path: Path) -> None:
    edge_list = run("exporter")["edge_list"]
    circuit = small_circuit()
    edge_list(circuit, tmp_path / "edges.tsv")
    rows = [line.split("\t") for line in (tmp_path / "edges.tsv").read_text().splitlines()]
    expected = {(str(a), str(b)): weight for (a, b), weight in circuit.edges.items()}
    assert {(a, b): float(weight) for a, b, weight in rows} == expected
    assert expected
    with pytest.raises(fc.InputError, match="edges.tsv"):
        edge_list(circuit, tmp_path / "edges.tsv")


def small_circuit() -> fc.Circuit:
    model = fc.load(suite="grammar-4l")
    task = fc.Task.from_jsonl(model.suite.task_file("agreement_simple", "train"), model.tokenizer).take(4)  # type: ignore[union-attr]
    return fc.trace(model, task, keep_nodes="top=20").circuit


def test_the_dictionary_of_the_page_keeps_the_largest() -> None:
    abstopk = run("dictionary-kind")["abstopk"]
    torch.manual_seed(0)
    W_enc, W_dec = torch.randn(WIDTH, FEATURES), torch.randn(FEATURES, WIDTH)
    made = abstopk(W_enc, torch.zeros(FEATURES), W_dec, torch.zeros(WIDTH), 3)
    theirs = fc.dictionaries.abstopk(W_enc, torch.zeros(FEATURES), W_dec, torch.zeros(WIDTH), 3)
    x = torch.randn(5, WIDTH)
    assert (made.encode(x) != 0).sum(-1).tolist() == [3] * 5
    torch.testing.assert_close(made.encode(x), theirs.encode(x), rtol=0, atol=0)
