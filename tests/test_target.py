"""Features and directions as targets: why does it fire there?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import featcircuits as fc
from featcircuits.cli import app
from featcircuits.model.nodes import METRIC
from tests.tiny import FAMILIES, random_task, spliced_model, tiny_model

SITES = ["embed", "attn_0", "mlp_0", "resid_0", "attn_1", "mlp_1", "resid_1"]


def _value(spliced: fc.SplicedModel, task: fc.Task, site: str) -> Tensor:
    """The activation at a site's last token [example, width]."""
    (batch,) = task.batches(len(task))
    _, seen = spliced.record(batch.clean, [fc.Site.parse(site)])
    return seen[fc.Site.parse(site)][torch.arange(len(task)), batch.clean.last]


def _active(spliced: fc.SplicedModel, task: fc.Task, site: str, place: int) -> int:
    """A feature that is active at a place of some prompt."""
    (batch,) = task.batches(len(task))
    reads = spliced.read_site(fc.Site.parse(site))
    _, seen = spliced.record(batch.clean, [reads])
    found = spliced.dictionaries[fc.Site.parse(site)].encode(seen[reads][:, place])
    return int(found.sum(0).argmax())


@pytest.mark.parametrize(
    ("family", "kind", "site"),
    [
        *((family, "relu", "resid_1") for family in FAMILIES),
        *((family, "transcoder", "mlp_1") for family in ("gpt_neox_parallel", "gemma2")),
        *((family, "relu", "mlp_1") for family in ("gpt_neox_parallel", "llama")),
        ("llama", "relu", "attn_1"),
    ],
)
def test_effects_are_conserved_and_F_is_what_the_feature_reads(family: str, kind: str, site: str) -> None:
    sites = [each for each in SITES if kind == "relu" or each.startswith(("embed", "mlp"))]
    spliced, task = spliced_model(tiny_model(family), kind, sites), random_task(4, 6)
    feature = _active(spliced, task, site, 4)
    aimed = fc.toward(spliced, task, f"{site}/{feature}@4")
    assert aimed.task.longest == 5
    assert all(each < spliced.read_site(fc.Site.parse(site)) for each in aimed.spliced.sites)
    effects = fc.node_effects(aimed.spliced, aimed.task, "atp")
    row = spliced.dictionaries[fc.Site.parse(site)].encoder_rows(torch.tensor([feature]))[0]
    read = _value(spliced, aimed.task, str(spliced.read_site(fc.Site.parse(site))))
    assert effects.metric_clean.tolist() == pytest.approx(
        (-(read.double() @ row.double())).tolist(), rel=1e-4, abs=1e-5
    )
    edges = fc.edge_effects(aimed.spliced, aimed.task, effects, node_threshold=0.0)
    passed: dict[Any, float] = {}
    for edge in edges.edges():
        passed[edge.upstream] = passed.get(edge.upstream, 0.0) + edge.mean
    assert any(edge.downstream == METRIC for edge in edges.edges())
    means = {node: mean for node, mean, _ in effects.nodes()}
    largest = max(map(abs, means.values()))
    assert max(abs(passed.get(node, 0.0) - mean) for node, mean in means.items()) < 1e-4 * largest


def test_a_direction_is_a_target_and_a_group_is_its_sum() -> None:
    spliced, task = spliced_model(tiny_model("llama"), "relu", SITES), random_task(4, 6)
    dictionary = spliced.dictionaries[fc.Site.parse("resid_1")]
    ids = [_active(spliced, task, "resid_1", 4), 0]
    rows = dictionary.encoder_rows(torch.tensor(ids)).sum(0)
    group = fc.toward(spliced, task, [f"resid_1/{ids[0]}@4", "resid_1/0@4"])
    line = fc.toward(spliced, task, "resid_1", direction=rows, place=4)
    chosen = [
        task.examples.index(one) for one in task.examples if one.clean[:5] in {e.clean for e in group.task.examples}
    ]
    first = fc.node_effects(group.spliced, group.task, "atp").metric_clean
    assert first.tolist() == pytest.approx(
        fc.node_effects(line.spliced, line.task, "atp").metric_clean[chosen].tolist()
    )


def test_the_demo_feature_has_a_circuit_of_its_own() -> None:
    spliced = fc.load()
    task = fc.Task.from_jsonl("saes/grammar-4l/tasks/agreement_rc_train.jsonl", spliced.tokenizer).take(12)
    aimed = fc.toward(spliced, task, "resid_2/303@5")
    assert 0 < len(aimed.task) < 12
    circuit = fc.trace(aimed.spliced, aimed.task, keep_nodes="top=60").circuit
    report = fc.evaluate(aimed.spliced, circuit, aimed.task, ablation="paired", sizes=())
    assert report.F_model > report.F_empty + 10
    assert report.faithfulness > 0.8
    with pytest.raises(fc.InputError, match="weights differ"):
        fc.evaluate(spliced, circuit, task, sizes=())


def test_the_command_line_traces_and_evaluates_a_target(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    options = ["--task", "agreement_rc", "--limit", "12", "--keep-nodes", "top=60"]
    done = CliRunner().invoke(app, ["trace", "--target", "resid_2/303@5", *options, "--output", run])
    assert done.exit_code == 0, done.output
    assert "prompts in which the target is active" in done.output
    done = CliRunner().invoke(app, ["evaluate", run, "--limit", "12", "--ablation", "paired", "--sizes", "20,40"])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["faithfulness"] > 0.7
    done = CliRunner().invoke(app, ["evaluate", run, "--limit", "12", "--full"])
    assert done.exit_code != 0
    assert "explains resid_2/303@5" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ([], {}, "there is no target"),
        (["resid_1/0@4", "mlp_1/0@4"], {}, "at one site and place"),
        ("resid_1/error@4", {}, "error node"),
        ("resid_1/99999@4", {}, "does not exist"),
        ("resid_1/0", {}, "give the target's place"),
        ("resid_1/0@60", {}, "no position 60"),
        ("resid_1/0@0", {}, "the same up to 0"),
        ("embed/0@4", {}, "no dictionary stands before embed"),
        ("resid_1", {"place": 4, "direction": torch.zeros(3)}, "finite numbers"),
        (["resid_1"], {"place": 4, "direction": torch.zeros(3)}, "at one site, such as"),
        ("resid_1", {}, "is not a node"),
    ],
)
def test_targets_that_make_no_sense_are_refused(target: Any, options: dict[str, Any], message: str) -> None:
    spliced, task = spliced_model(tiny_model("llama"), "relu", SITES), random_task(4, 6)
    with pytest.raises(fc.InputError, match=message):
        fc.toward(spliced, task, target, **options)
