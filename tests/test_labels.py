"""Labels: what a record may be, other programs' forms there and back, labellers, and labels on circuits."""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.cli import app
from featcircuits.inputs.names import LONGEST, one_line
from featcircuits.labels import FORMS, Label, export_labels, import_labels, texts
from featcircuits.labels.record import LONGEST_LABEL
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site, all_sites
from tests.test_circuit import printable

HOSTILE = ["<img src=x onerror=alert(1)>", "</script>", "\u202egnirts", "a\x1b[31mb", "two\nlines", "=1+1", "x" * 5000]
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
words = st.text(printable, min_size=1, max_size=20)


@st.composite
def labels(draw: st.DrawFn) -> Label:
    score = draw(st.none() | st.floats(-1e9, 1e9))
    note = draw(st.just("") | words)
    sites = all_sites(3, ("attn_z", "attn", "mlp", "resid"))
    return Label(draw(st.sampled_from(sites)), draw(st.integers(0, 10**9)), draw(words), draw(words), score, note)


@quick
@given(some=st.lists(labels(), max_size=5))
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_a_file_gives_back_what_was_written(some: list[Label], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"labels.{suffix}"
    fc.labels.write(some, path, overwrite=True)
    assert fc.labels.read(path) == some


@given(text=st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_becomes_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= LONGEST
    assert line == line.strip()
    if text.isprintable() and text == text.strip() and len(text) <= LONGEST:
        assert line == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "two\nlines"}, "the label of resid_2/303 .* cannot be printed"),
        ({"label": "\x1b[31mred"}, "cannot be printed"),
        ({"label": "\u202eevil"}, "cannot be printed"),
        ({"label": "x" * (LONGEST_LABEL + 1)}, f"it may have {LONGEST_LABEL}"),
        ({"label": ""}, "is empty"),
        ({"label": ["a"]}, "must be a text"),
        ({"note": 3}, "the note of resid_2/303 must be a text"),
        ({"source": "s" * 101}, "it may have 100"),
        ({"score": "high"}, "the score of resid_2/303 is 'high'"),
        ({"score": True}, "the score of resid_2/303 is True"),
        ({"feature": "303"}, "'303' is no feature's number"),
        ({"site": "nowhere_1"}, "unknown site 'nowhere_1'"),
        ({"origin": [1]}, "it must be an object"),
        ({"lable": "x"}, "did you mean 'label'"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    row = {"site": "resid_2", "feature": 303, "label": "a", "source": "me"}
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | change) + "\n")
    with pytest.raises(fc.InputError, match=rf"labels.jsonl, line 2: .*{message}"):
        fc.labels.read(path)


def test_a_compressed_file_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}\n" * 1000)[:-9])
    with pytest.raises(fc.InputError, match="not a gzip file, or a damaged one"):
        fc.labels.read(path)


ANNOTATIONS = [
    {"Component": "resid", "Layer": "5", "Feature": "3036", "Name": "resid_5/3036", "Annotation": "a", "Notes": "n, m"},
    {"Component": "mlp", "Layer": 3, "Feature": 26, "Name": "mlp_3/26", "Annotation": 'says "is"', "Notes": ""},
    {"Component": "embed", "Layer": "", "Feature": "293", "Name": "embed/293", "Annotation": "plural", "Notes": ""},
    {"Name": "embed/946", "Annotation": "'his'"},
]
HEADING = {name: name for name in ANNOTATIONS[0]}
EXPLANATIONS = [
    {"modelId": "m", "layer": "6-res-x", "index": "650", "description": "names", "typeName": "t",
     "explanationModelName": "gpt", "scores": [{"value": 0.5, "explanationScoreTypeName": "recall"}]},
    {"modelId": "m", "layer": "6-res-x", "index": "650", "description": "names, again", "typeName": "u",
     "explanationModelName": "o/p", "scores": []},
    {"modelId": "m", "layer": "0-res-x", "index": "3", "description": "verbs", "typeName": "t",
     "explanationModelName": "gpt", "scores": []},
]  # fmt: skip


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in raw.splitlines()]


def through_a_file(some: list[Label], folder: Path) -> list[Label]:
    fc.labels.write(some, folder / "labels.jsonl")
    return fc.labels.read(folder / "labels.jsonl")


def test_annotations_come_out_as_they_went_in(tmp_path: Path) -> None:
    source = lines(tmp_path / "annotations.jsonl", [*ANNOTATIONS, HEADING])
    with pytest.warns(UserWarning, match="line 5: names no feature; 1 such"):
        found = import_labels("feature-circuits", source)
    assert [one.name for one in found] == ["resid_5/3036", "mlp_3/26", "embed/293", "embed/946"]
    assert (found[0].label, found[0].note) == ("a", "n, m")
    export_labels("feature-circuits", through_a_file(found, tmp_path), tmp_path / "again.jsonl")
    assert rows_of(tmp_path / "again.jsonl") == ANNOTATIONS


def test_neuronpedia_batches_come_out_as_they_went_in(tmp_path: Path) -> None:
    folder = lines(tmp_path / "explanations" / "batch-2.jsonl.gz", EXPLANATIONS[:2]).parent
    lines(folder / "batch-10.jsonl.gz", EXPLANATIONS[2:])
    found = import_labels("neuronpedia", folder, at="blocks.{layer}.hook_resid_pre")
    assert [one.name for one in found] == ["resid_5/650", "resid_5/650", "embed/3"]
    assert [one.score for one in found] == [0.5, None, None]
    export_labels("neuronpedia", through_a_file(found, tmp_path), tmp_path / "batch-0.jsonl.gz")
    assert rows_of(tmp_path / "batch-0.jsonl.gz") == EXPLANATIONS
    with pytest.raises(fc.InputError, match="does not say where its dictionaries read; give at"):
        import_labels("neuronpedia", folder)


def test_delphi_files_come_out_as_they_went_in(tmp_path: Path) -> None:
    folder = tmp_path / "explanations"
    folder.mkdir()
    texts_in = {
        "layers.3_latent7": "is",
        "model.layers.3.mlp_latent12": 'says "was"',
        "layers.0.attention_latent0": "é",
    }
    for name, text in texts_in.items():
        (folder / f"{name}.txt").write_text(json.dumps(text))
    found = import_labels("delphi", tmp_path)
    assert [one.name for one in found] == ["attn_0/0", "mlp_3/12", "resid_3/7"]
    export_labels("delphi", through_a_file(found, tmp_path), tmp_path / "again")
    assert {path.stem: json.loads(path.read_text()) for path in (tmp_path / "again").iterdir()} == texts_in
    with pytest.raises(fc.InputError, match="resid_3/7 has two labels, and delphi keeps one"):
        export_labels("delphi", [*found, found[-1]], tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def graph(clerps: list[str]) -> dict[str, Any]:
    features = [
        {"node_id": f"{layer}_{feature}_{place}", "feature_type": "cross layer transcoder", "clerp": clerp}
        for (layer, feature, place), clerp in zip([(0, 5, 1), (0, 5, 2), (2, 9, 2)], clerps, strict=True)
    ]
    logit = {"node_id": "3_11_2", "feature_type": "logit", "clerp": 'Output " is" (p=0.5)'}
    return {"metadata": {"slug": "s"}, "qParams": {}, "nodes": [*features, logit], "links": []}


def test_labels_get_into_a_graph_and_out_of_it(tmp_path: Path) -> None:
    bare, own = tmp_path / "bare.json", tmp_path / "own.json"
    bare.write_text(json.dumps(graph(["", "", ""])))
    own.write_text(json.dumps(graph(["nouns", "nouns", "verbs"])))
    found = import_labels("circuit-tracer", own)
    assert texts(found) == {"mlp_0/5": "nouns", "mlp_2/9": "verbs"}
    export_labels("circuit-tracer", found, tmp_path / "made.json", into=str(bare))
    assert json.loads((tmp_path / "made.json").read_text()) == graph(["nouns", "nouns", "verbs"])


def own_options(form: str, folder: Path) -> dict[str, Any]:
    if form == "circuit-tracer":
        (folder / "graph.json").write_text(json.dumps(graph(["", "", ""])))
        return {"into": str(folder / "graph.json")}
    return {"into": "m/{layer}-res-x"} if form == "neuronpedia" else {}


@pytest.mark.parametrize("form", FORMS)
def test_labels_made_here_survive_every_form(form: str, tmp_path: Path) -> None:
    some = [Label(Site.parse("mlp_0"), 5, "nouns", "me"), Label(Site.parse("mlp_2"), 9, "</script>", "me")]
    path = tmp_path / "out"
    export_labels(form, some, path, **own_options(form, tmp_path))
    again = import_labels(form, path, **({"at": "mlp_{layer}"} if form == "neuronpedia" else {}))
    assert texts(again) == texts(some)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_one_bounded_line(text: str, tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", [{**ANNOTATIONS[0], "Annotation": text}])
    (found,) = import_labels("feature-circuits", source)
    assert found.label.isprintable()
    assert len(found.label) <= LONGEST_LABEL
    circuit = Circuit({Node.parse("resid_5/3036@0"): NodeScore(1.0)}, {}, (0,), "none").labelled(texts([found]))
    assert len(circuit.labels["resid_5/3036@0"]) <= LONGEST
    assert Circuit.from_networkx(circuit.to_networkx()).labels == circuit.labels


def circuit_of(*names: str, aggregate: str = "none") -> Circuit:
    nodes = {Node.parse(name): NodeScore(1.0) for name in names}
    places = tuple(dict.fromkeys(node.place for node in nodes))
    return Circuit(nodes, {(node, "metric"): 1.0 for node in nodes}, places, aggregate)


def test_the_label_of_a_feature_is_that_of_its_nodes_at_all_places() -> None:
    circuit = circuit_of("resid_2/303@1", "resid_2/303@5", "mlp_1/error@5")
    given: dict[str, str] = {"resid_2/303": "singular", "resid_2/303@5": "open subject", "resid_0/1": "elsewhere"}
    labelled = circuit.labelled(given)
    expected = {"resid_2/303@1": "singular", "resid_2/303@5": "open subject"}
    assert {str(node): label for node, label in labelled.labels.items()} == expected
    del given["resid_0/1"]
    made: Any = Circuit(circuit.nodes, circuit.edges, circuit.places, "none", labels=given)  # type: ignore[arg-type]
    assert made.labels == labelled.labels
    summed = circuit_of("resid_2/303", aggregate="sum").labelled(given)
    assert {str(node): label for node, label in summed.labels.items()} == {"resid_2/303": "singular"}


def test_a_default_label_counts_least_and_the_last_most() -> None:
    sources = {"b": "me", "d": "default", "c": "you"}
    some = [Label(Site.parse("mlp_0"), 5, text, source) for text, source in sources.items()]
    assert texts(some) == {"mlp_0/5": "c"}
    assert texts(some[:2]) == {"mlp_0/5": "b"}


class Dossier:
    name = "mlp_0/5"

    def to_json(self) -> dict[str, Any]:
        return {"site": "mlp_0", "feature": 5, "top_tokens": [{"token": " is"}]}


def python(code: str) -> str:
    return f'"{sys.executable}" -c "import json, sys; d = json.load(sys.stdin); {code}"'


def test_functions_and_commands_make_labels() -> None:
    by_function = fc.labels.made([Dossier()], lambda dossier: f"a\n{dossier.name}", "me")
    assert [(one.name, one.label, one.source) for one in by_function] == [("mlp_0/5", "a mlp_0/5", "me")]
    by_command = fc.labels.made([Dossier()], fc.labels.command(python("print(d['top_tokens'][0]['token'])")), "it")
    assert [one.label for one in by_command] == ["is"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (python("sys.exit(3)"), "for mlp_0/5 ended with code 3"),
        (python("pass"), "printed no label for mlp_0/5"),
        (python("print('x' * 2000)"), "printed 2000 characters"),
        ("/no/such/program", "cannot be run: No such file"),
        ("'", "cannot be read: No closing quotation"),
        (" ", "is empty"),
    ],
)
def test_a_command_that_gives_no_label_is_named(line: str, message: str) -> None:
    with pytest.raises(fc.InputError, match=message):
        list(fc.labels.made([Dossier()], fc.labels.command(line), "it"))


ROOT = Path(__file__).parents[1]
SUITE = ROOT / "saes" / "grammar-4l"


def called(*arguments: object) -> tuple[int, str]:
    """Exit code of a command line, and what it says."""
    result = CliRunner().invoke(app, ["labels", *map(str, arguments)])
    return result.exit_code, result.output


def test_default_labels_are_those_of_the_dossiers(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    assert called("default", SUITE, "-o", path)[0] == 0
    assert texts(fc.labels.read(path)) == dict(fc.Dossiers.open(SUITE).labels)
    assert called("default", SUITE, "-o", path)[0] == 2


def test_a_command_that_fails_leaves_what_was_made_and_goes_on(tmp_path: Path) -> None:
    model = fc.load(suite="grammar-4l")
    rows = model.tokenizer(["The boy that the girls like is here ."])["input_ids"]
    names = ["resid_1/118", "resid_2/10", "resid_2/303"]
    fc.features(model, rows, tmp_path / "dossiers", nodes=names)
    path = tmp_path / "labels.jsonl"
    default = ("default", tmp_path / "dossiers", "-o", path)
    failing = python("print(d['site']) if d['feature'] != 303 else sys.exit(1)")
    code, said = called(*default, "--command", failing, "--name", "it")
    assert code == 2
    assert "2 labels are in" in said
    assert texts(fc.labels.read(path)) == {"resid_1/118": "resid_1", "resid_2/10": "resid_2"}
    assert called(*default, "--command", python("print('new')"), "--name", "it", "--add")[0] == 0
    assert texts(fc.labels.read(path)) == {"resid_1/118": "resid_1", "resid_2/10": "resid_2", "resid_2/303": "new"}


def test_labels_come_and_go_by_the_command_line(tmp_path: Path) -> None:
    source, path = lines(tmp_path / "annotations.jsonl", ANNOTATIONS), tmp_path / "labels.jsonl"
    assert called("import", "feature-circuits", source, "-o", path)[0] == 0
    assert called("import", "feature-circuits", source, "-o", path, "--add")[0] == 0
    assert len(fc.labels.read(path)) == len(ANNOTATIONS)
    assert called("export", "feature-circuits", path, "-o", tmp_path / "again.jsonl")[0] == 0
    assert rows_of(tmp_path / "again.jsonl") == ANNOTATIONS
    code, said = called("import", "autointerp", source, "-o", tmp_path / "other.jsonl")
    assert code == 2
    assert "unknown form of labels 'autointerp'" in said
    assert not (tmp_path / "other.jsonl").exists()


def test_the_labels_of_a_run_are_in_its_exports(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trace = ["trace", "--nodes", "atp", "--limit", "8", "--keep-nodes", "top=60", "-o", str(run)]
    assert CliRunner().invoke(app, trace).exit_code == 0
    fc.labels.write([Label(Site.parse("resid_2"), 303, "open subject, singular", "me")], run / "labels.jsonl")
    assert CliRunner().invoke(app, ["export", str(run), "--to", "json"]).exit_code == 0
    nodes = {node["id"]: node["label"] for node in json.loads((run / "circuit.json").read_text())["nodes"]}
    assert nodes["resid_2/303@5"] == "open subject, singular"
    defaults = fc.Dossiers.open(SUITE)
    assert nodes["resid_1/118@5"] == defaults.label("resid_1/118")


def test_the_page_of_labels_runs_from_top_to_bottom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "labels.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), {})
    assert capsys.readouterr().out.endswith("open subject is singular\n")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    (tmp_path / "labels.jsonl").write_text(example)
    assert texts(fc.labels.read(tmp_path / "labels.jsonl")) == {"resid_2/303": "open subject is singular"}
    assert set(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) >= set(FORMS)
