"""The attribution-graph JSON: it follows the published schema and holds the circuit's figures."""

from __future__ import annotations

import gzip
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

import featcircuits as fc
from featcircuits.cli import app
from featcircuits.dossiers.dossiers import Dossiers
from featcircuits.export.neuronpedia import attribution_graph, cantor, rows_of
from featcircuits.model.nodes import METRIC
from tests.tiny import random_task, spliced_model, tiny_model

SCHEMA = json.loads((Path(__file__).parent / "golden" / "neuronpedia" / "graph-schema.json").read_text())


def task_of(model: Any, count: int = 1, **options: Any) -> fc.Task:
    return fc.Task.from_jsonl(model.suite.task_file("agreement_rc", "train"), model.tokenizer, **options).take(count)


@pytest.fixture(scope="module")
def model() -> Any:
    return fc.load(suite="grammar-4l")


@pytest.fixture(scope="module")
def circuit(model: Any) -> fc.Circuit:
    return fc.trace(model, task_of(model), keep_nodes="top=60").circuit


def test_it_follows_the_schema_with_unique_ids(circuit: fc.Circuit) -> None:
    graph = attribution_graph(circuit)
    jsonschema.validate(graph, SCHEMA)
    ids = [node["node_id"] for node in graph["nodes"]]
    assert len(set(ids)) == len(ids)
    assert {end for link in graph["links"] for end in (link["source"], link["target"])} <= set(ids)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", graph["metadata"]["slug"])
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", graph["metadata"]["scan"])
    assert all(int(node["layer"]) > 0 for node in graph["nodes"] if node["layer"] != "E")


def test_every_node_and_edge_is_the_circuits(model: Any, circuit: fc.Circuit) -> None:
    graph, rows = attribution_graph(circuit), rows_of(circuit)
    nodes = {node["node_id"]: node for node in graph["nodes"]}
    _, seen = model.record(task_of(model).batch([0]).clean)
    for node in circuit.nodes:
        number = -1 if node.feature is None else node.feature
        own = nodes[f"{rows[node.site]}_{number}_{node.place}"]
        assert own["ctx_idx"] == node.place
        if node.feature is None:
            assert (own["feature"], own["feature_type"]) == (-1, "mlp reconstruction error")
        else:
            assert own["feature"] == cantor(rows[node.site], node.feature)
            value = model.dictionaries[node.site].encode(seen[node.site])[0, node.place, node.feature]
            assert own["activation"] == pytest.approx(value.item(), rel=1e-5, abs=1e-6)
    named = {node_id: node_id for node_id in nodes}
    weights = {(named[link["source"]], link["target"]): link["weight"] for link in graph["links"]}
    assert sorted(weights.values()) == sorted(circuit.edges.values())
    last = len(rows) + 1
    to_metric = {a: w for (a, b), w in weights.items() if b.startswith(f"{last}_")}
    assert sum(to_metric.values()) == pytest.approx(sum(w for (_, b), w in circuit.edges.items() if b == METRIC))


def test_the_metric_is_the_answer_with_its_probability(model: Any, circuit: fc.Circuit) -> None:
    (logit,) = [node for node in attribution_graph(circuit)["nodes"] if node["feature_type"] == "logit"]
    task = task_of(model)
    logits, _ = model.record(task.batch([0]).clean)
    answer = task.examples[0].clean_answers[0]
    assert logit["feature"] == answer
    assert logit["token_prob"] == pytest.approx(logits[0].softmax(-1)[answer].item(), rel=1e-5)
    assert re.search(r"\(p=\d\.\d{3}\)", logit["clerp"])


def test_labels_are_clerps_and_groups_supernodes(circuit: fc.Circuit) -> None:
    first, second = [node for node in circuit.nodes if not node.is_error][:2]
    hostile = "<img src=x> \u202e"
    graph = attribution_graph(circuit.labelled({first: hostile}).with_groups({"both": [first, second]}))
    jsonschema.validate(graph, SCHEMA)
    rows = rows_of(circuit)
    ids = [f"{rows[node.site]}_{node.feature}_{node.place}" for node in (first, second)]
    assert graph["qParams"]["supernodes"] == [["both", *ids]]
    clerps = {node["node_id"]: node["clerp"] for node in graph["nodes"]}
    assert clerps[ids[0]].startswith("<img src=x>")


@pytest.mark.parametrize(
    ("count", "aggregate", "said"),
    [(4, "none", "of 4 prompts has no place"), (1, "sum", "aggregate='sum'"), (1, "role", "aggregate='role'")],
)
def test_other_circuits_are_refused_with_the_reason(
    model: Any, tmp_path: Path, count: int, aggregate: str, said: str
) -> None:
    other = fc.trace(model, task_of(model, count, aggregate=aggregate), keep_nodes="top=20").circuit
    with pytest.raises(fc.InputError, match=re.escape(said)):
        fc.export.neuronpedia(other, tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


def test_a_circuit_of_transcoders_is_written_too(tmp_path: Path) -> None:
    spliced = spliced_model(tiny_model("llama"), "transcoder", ["mlp_0", "mlp_1", "resid_1"])
    circuit = fc.trace(spliced, random_task(1, 5), keep_nodes="top=30", check_fit=False).circuit
    fc.export.neuronpedia(circuit, tmp_path / "graph")
    listed = json.loads((tmp_path / "graph" / "graph-metadata.json").read_text())["graphs"]
    graph = json.loads((tmp_path / "graph" / f"{listed[0]['slug']}.json").read_text())
    jsonschema.validate(graph, SCHEMA)
    assert len(graph["nodes"]) == circuit.to_networkx().number_of_nodes()
    with pytest.raises(fc.InputError, match="exists and is not empty"):
        fc.export.neuronpedia(circuit, tmp_path / "graph")
    fc.export.neuronpedia(circuit, tmp_path / "graph", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(fc.InputError, match="exists and is not empty"):
        fc.export.neuronpedia(circuit, tmp_path / "other", overwrite=True)


def test_the_command_line_writes_dashboards_in_both_layouts(model: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for command in (
        ["trace", "--limit", "1", "--keep-nodes", "top=20", "-o", str(run)],
        ["export", str(run), "--to", "neuronpedia,json"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    assert (run / "circuit.json").is_file()
    circuit, features = fc.Circuit.load(run / "circuit.safetensors"), run / "circuit-neuronpedia" / "features"
    rows, known = rows_of(circuit), Dossiers.open(model.suite.folder)
    index = json.loads(gzip.decompress((features / "index.json.gz").read_bytes()))
    some = [node for node in circuit.nodes if f"{node.site}/{node.feature}" in known]
    assert some
    for node in some:
        row = rows[node.site]
        page = json.loads((features / f"{cantor(row, node.feature or 0)}.json").read_text())
        raw = (features / index[str(row)]["filename"]).read_bytes()
        offset = index[str(row)]["offsets"][node.feature]
        (length,) = struct.unpack_from("<I", raw, offset)
        assert json.loads(zlib.decompress(raw[offset + 4 : offset + 4 + length])) == page
        own = known[node]
        assert page["top_logits"] == [row.token for row in own.promoted]
        assert page["examples_quantiles"][0]["examples"][0]["tokens"] == list(own.contexts[0].tokens)
        assert page["act_max"] == own.max
