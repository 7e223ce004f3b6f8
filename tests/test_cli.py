"""The commands from end to end on the shipped suite: what they leave behind, and what they refuse."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import networkx as nx
import pytest
import torch
from safetensors.torch import load_file, save_file

import featcircuits as fc
from featcircuits import cli
from featcircuits.circuit.circuit import Circuit
from featcircuits.cli import watch
from featcircuits.cli.output import PlainConsole
from featcircuits.evaluation.report import Report

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "saes" / "grammar-4l"
TRACE = ("trace", "--nodes", "atp", "--limit", "12", "--keep-nodes", "top=60")
RUN_FILES = {"circuit.safetensors", "nodes.safetensors", "manifest.json", "config.json"}


class Result(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Result]


def call(*arguments: object) -> int:
    """Exit code of a command line."""
    before, sys.argv = sys.argv, ["featcircuits", *map(str, arguments)]
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    finally:
        sys.argv = before
    return 0


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = call(*arguments)
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that no test changes."""
    folder = tmp_path_factory.mktemp("runs") / "traced"
    assert call(*TRACE, "-o", folder) == 0
    return folder


@pytest.fixture
def run_folder(traced: Path, tmp_path: Path) -> Path:
    return shutil.copytree(traced, tmp_path / "run")


def test_help_answers_without_loading_torch() -> None:
    code = (
        "import sys; sys.argv = ['featcircuits', 'trace', '--help']\n"
        "from featcircuits.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'networkx', 'matplotlib'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for option in ("--suite", "--keep-nodes", "--config", "--aggregate", "cuda:N"):
        assert option in done.stdout


def test_trace_leaves_a_whole_run_folder(traced: Path) -> None:
    assert {path.name for path in traced.iterdir()} == RUN_FILES
    circuit = Circuit.load(traced / "circuit.safetensors")
    assert 0 < circuit.n_nodes <= 60
    assert circuit.n_edges > circuit.n_nodes
    graph = circuit.to_networkx()
    assert all(nx.has_path(graph, str(node), "metric") for node in circuit.nodes)
    manifest = json.loads((traced / "manifest.json").read_text())
    assert manifest == dict(circuit.manifest)
    assert manifest["settings"]["nodes"] == "atp"
    assert manifest["task"]["n_examples"] == 12
    assert len(manifest["suite"]["sites"]) == 13
    assert all(len(site["sha256"]) == 64 for site in manifest["suite"]["sites"].values())
    ranking = Circuit.load(traced / "nodes.safetensors")
    strongest = sorted(ranking.nodes, key=lambda node: -abs(ranking.nodes[node].effect))[:60]
    assert set(circuit.nodes) <= set(strongest)


def test_trace_prints_the_strongest_nodes_and_edges(command: Command, tmp_path: Path) -> None:
    found = command(*TRACE, "--top", "5", "-o", tmp_path / "run")
    assert found.code == 0
    assert re.search(r"Strongest 5 of \d+ nodes", found.out)
    assert re.search(r"Strongest 5 of \d+ edges", found.out)
    circuit = Circuit.load(tmp_path / "run" / "circuit.safetensors")
    best = max(circuit.nodes, key=lambda node: abs(circuit.nodes[node].effect))
    assert str(best) in found.out


def test_a_saved_config_repeats_the_run_and_options_override_it(command: Command, traced: Path, tmp_path: Path) -> None:
    assert command("trace", "--config", traced / "config.json", "-o", tmp_path / "again").code == 0
    again, first = (folder / "circuit.safetensors" for folder in (tmp_path / "again", traced))
    assert again.read_bytes() == first.read_bytes()
    assert command("trace", "--config", traced / "config.json", "--keep-nodes", "top=9", "-o", tmp_path / "b").code == 0
    assert Circuit.load(tmp_path / "b" / "circuit.safetensors").n_nodes <= 9


def test_evaluate_reports_the_ratios_and_what_they_are_made_of(command: Command, run_folder: Path) -> None:
    settings = ("--limit", 40, "--start-layer", 1, "--sizes", "10,20,60", "--draws", 2)
    found = command("evaluate", run_folder, *settings)
    assert found.code == 0
    report = json.loads((run_folder / "report.json").read_text())
    for name in ("faithfulness", "completeness", "F_model", "F_circuit", "F_empty", "n_nodes", "n_edges", "curve"):
        assert name in report
    share = (report["F_circuit"] - report["F_empty"]) / (report["F_model"] - report["F_empty"])
    assert report["faithfulness"] == pytest.approx(share)
    assert report["curve"]["sizes"] == [10, 20, 60]
    assert all(a > b for a, b in zip(report["curve"]["faithfulness"], report["curve"]["random"], strict=True))
    assert (run_folder / "faithfulness.png").read_bytes().startswith(b"\x89PNG")
    assert f"{report['faithfulness']:.3f}" in found.out
    assert f"{report['F_empty']:.3f}" in found.out
    before = (run_folder / "report.json").read_bytes()
    refused = command("evaluate", run_folder, *settings)
    assert (refused.code, "--overwrite" in refused.err) == (2, True)
    assert command("evaluate", run_folder, *settings, "--overwrite").code == 0
    assert (run_folder / "report.json").read_bytes() == before


def test_evaluate_draws_every_control_on_request(
    command: Command, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = partial(fc.control_curves, learning=3, steps=1, nonsense=1)
    monkeypatch.setattr("featcircuits.cli.controls.control_curves", short)
    settings = ("--limit", 4, "--sizes", "60", "--draws", 1, "--overwrite")
    found = command("evaluate", run_folder, *settings, "--controls")
    assert found.code == 0
    record = json.loads((run_folder / "controls.json").read_text())
    names = [curve["name"] for curve in record["curves"]]
    assert names[:5] == ["mean", "zero", "resample", "paired", "optimal"]
    assert names[-1] == "nonsense"
    for curve in record["curves"]:
        assert curve["name"] in found.out
        assert curve["invalid"] is None
        assert f"{curve['scores'][0]:.2f}" in found.out
    assert (run_folder / "controls.png").read_bytes().startswith(b"\x89PNG")
    # an evaluation without them leaves none of another evaluation behind
    assert command("evaluate", run_folder, *settings).code == 0
    assert not (run_folder / "controls.json").exists()


def test_edges_are_judged_by_runs_along_them(command: Command, run_folder: Path, tmp_path: Path) -> None:
    settings = ("--ablations", "paired,mean", "--limit", 10, "--sizes", "20,60", "--draws", 1)
    found = command("edges", run_folder, *settings, "--mib", tmp_path / "mib")
    assert found.code == 0
    record = json.loads((run_folder / "edges.json").read_text())
    assert [curve["ablation"] for curve in record["curves"]] == ["paired", "mean"]
    for curve in record["curves"]:
        assert curve["sizes"] == [20, 60]
        assert f"{curve['F_empty']:.3f}" in found.out
        assert all(f"{without:.3f}" in found.out for without in curve["necessity"])
    assert (run_folder / "edges.png").read_bytes().startswith(b"\x89PNG")
    written = sorted(str(path.relative_to(tmp_path / "mib")) for path in (tmp_path / "mib").glob("*/*.json"))
    assert len(written) == 8
    assert written[-1].endswith("_node/agreement-rc-test_grammar-4l_test_abs-True.json")
    assert (
        json.loads((tmp_path / "mib" / written[-1]).read_text())["area_under"] == record["areas"][0]["areas"][2]["cpr"]
    )
    refused = command("edges", run_folder, *settings)
    assert (refused.code, "--overwrite" in refused.err) == (2, True)
    for option, value, message in [
        ("--ablations", "median", "unknown ablation 'median'"),
        ("--order", "size", "order is 'size'; known: absolute, signed"),
        ("--most-rows", "5", "more than most_rows=5 in all"),
        ("--sizes", "few", "sizes is 'few'"),
    ]:
        refused = command("edges", run_folder, "--limit", 10, option, value, "--overwrite")
        assert (refused.code, message in refused.err) == (2, True), refused.err


def test_evaluate_says_first_whether_prompts_are_held_out(command: Command, run_folder: Path) -> None:
    """And what else a reader has to know; the report holds the same sentences."""
    train = ROOT / "saes/grammar-4l/tasks/agreement_rc_train.jsonl"
    within = "agreement_within_rc"
    cases = (
        ("agreement_rc", "Held out: none of these 12 prompts was traced on (agreement_rc_train, 12 examples)."),
        (train, "Not held out: the circuit was traced on these very prompts (agreement_rc_train, 12 examples)."),
    )
    for task, line in cases:
        found = command("evaluate", run_folder, "--task", task, "--limit", 12, "--sizes", "60", "--overwrite")
        assert " ".join(found.out.split()).startswith(line), found.out
        assert json.loads((run_folder / "report.json").read_text())["notes"] == [line]
    found = command("evaluate", run_folder, "--task", within, "--limit", 12, "--overwrite")
    assert (
        "These sentences differ from those that the circuit was traced on: prompts have 5 tokens instead of 6"
        in " ".join(found.out.split())
    )


def test_evaluate_starts_where_the_trace_said(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command(*TRACE, "--edges", "none", "--start-layer", 2, "-o", run).code == 0
    assert {node.site.layer for node in Circuit.load(run / "circuit.safetensors").nodes} == {2, 3}
    settings = ("--limit", 8, "--sizes", "60", "--draws", 1, "--overwrite")
    for given, start in (((), 2), (("--start-layer", 1), 1), (("--start-layer", 0), 0)):
        assert command("evaluate", run, *settings, *given).code == 0
        assert json.loads((run / "report.json").read_text())["start_layer"] == start
    assert "start_layer is -1; it must be at least 0" in command("evaluate", run, *settings, "--start-layer", -1).err
    assert (
        "start_layer is 9; the model has layers 0 to 3" in command(*TRACE, "--start-layer", 9, "-o", tmp_path / "b").err
    )


def test_a_selection_rule_orders_the_ranking_and_its_curve(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command(*TRACE, "--edges", "none", "--select", "helpful", "-o", run).code == 0
    ranking, circuit = (Circuit.load(run / f"{name}.safetensors") for name in ("nodes", "circuit"))
    effects = [score.effect for score in ranking.nodes.values()]
    assert effects == sorted((x for x in effects if x > 0), reverse=True) + sorted(x for x in effects if x < 0)
    assert list(circuit.nodes) == list(ranking.nodes)[:60]
    assert json.loads((run / "config.json").read_text())["select"] == "helpful"
    assert command("evaluate", run, "--limit", 8, "--sizes", "60", "--draws", 1).code == 0
    report = json.loads((run / "report.json").read_text())
    assert report["curve"]["faithfulness"][0] == pytest.approx(report["faithfulness"], rel=1e-5)
    refused = command(*TRACE, "--select", "best", "-o", tmp_path / "other")
    assert (refused.code, "unknown selection rule 'best'" in refused.err) == (2, True)


@pytest.mark.parametrize("nodes", ["ig-chain", "ig-chain:steps=3", "ig-chain:steps=3:quadrature=left"])
def test_the_manifest_names_the_estimator_with_its_options(command: Command, tmp_path: Path, nodes: str) -> None:
    small = ("--sites", "resid_1,resid_2", "--limit", 2, "--edges", "none")
    assert command("trace", *small, "--nodes", nodes, "-o", tmp_path / "run").code == 0
    settings = json.loads((tmp_path / "run" / "manifest.json").read_text())["settings"]
    assert (settings["nodes"], settings["edges"]) == (nodes, None)


def test_edges_take_options_too(command: Command, tmp_path: Path) -> None:
    weights = []
    for name in ("ig:steps=1", "atp", "ig:steps=3"):
        run = tmp_path / name.replace(":", "-")
        assert command(*TRACE, "--sites", "resid", "--edges", name, "-o", run).code == 0
        weights.append(Circuit.load(run / "circuit.safetensors").edges)
        assert json.loads((run / "manifest.json").read_text())["settings"]["edges"] == name
    one, gradients, three = weights
    assert one == pytest.approx(gradients, rel=1e-3, abs=1e-6)  # the only point on the left is the clean run
    assert max(abs(three[edge] - one[edge]) for edge in one.keys() & three.keys()) > 1e-3


def test_export_writes_files_that_networkx_reads_back(command: Command, run_folder: Path) -> None:
    assert command("export", run_folder, "--to", "gexf,graphml,json").code == 0
    expected = Circuit.load(run_folder / "circuit.safetensors").to_networkx()
    record = json.loads((run_folder / "circuit.json").read_text())
    for graph in (
        nx.read_gexf(run_folder / "circuit.gexf"),
        nx.read_graphml(run_folder / "circuit.graphml"),
        nx.node_link_graph(record),
    ):
        assert set(graph.nodes) == set(expected.nodes)
        assert {edge: graph.edges[edge]["weight"] for edge in graph.edges} == {
            edge: expected.edges[edge]["weight"] for edge in expected.edges
        }
    assert command("export", run_folder).code == 2
    assert command("export", run_folder, "--overwrite").code == 0


def test_export_draws_pictures(command: Command, run_folder: Path) -> None:
    assert command("export", run_folder, "--to", "svg,png,heatmap.pdf", "--top", "5").code == 0
    begin = {"circuit.svg": b"<?xml", "circuit.png": b"\x89PNG", "heatmap.pdf": b"%PDF"}
    for name, start in begin.items():
        assert (run_folder / name).read_bytes().startswith(start)
    assert "did you mean 'heatmap.pdf'" in command("export", run_folder, "--to", "heatmap.pfd").err
    small, shown = (run_folder / "circuit.svg").stat().st_size, Circuit.load(run_folder / "circuit.safetensors").n_nodes
    assert shown > 5
    assert command("export", run_folder, "--to", "svg", "--overwrite").code == 0
    assert (run_folder / "circuit.svg").stat().st_size > small


def test_suites_are_listed_with_their_tasks(command: Command) -> None:
    found = command("suites")
    assert found.code == 0
    assert "grammar-4l" in found.out
    assert "agreement_rc" in found.out.replace("\n", "")


def test_a_suite_is_checked_on_a_task_and_on_text(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "out" / "health.json"
    found = command("suites", "check", "--task", "ioi", "--limit", 4, "-o", path)
    assert found.code == 0, found.err
    record = json.loads(path.read_text())
    row = record["sites"]["resid_1"]
    for figures, bracketed in ((row, "{:.2%}"), (row["recorded"], "({:.2%})"), (record["together"], "{:.2%}")):
        assert bracketed.format(figures["loss_recovered"]) in found.out
    for term in ("variance unexplained", "loss recovered (zero)", "loss recovered (mean)"):
        assert all(word in found.out for word in term.split())
    fit = re.search(r"resid_1 +([\d.]+)% +([\d.]+)% +(\w+)", found.out)
    assert fit is not None
    here, there, other = fit.groups()
    assert (other, float(here)) == (row["best_other_site"], round(100 * row["variance_unexplained_here"], 2))
    assert float(there) == round(100 * row["variance_unexplained_there"], 2)
    before = path.read_bytes()
    again = command("suites", "check", "--task", "ioi", "--limit", 4, "-o", path)
    assert (again.code, "health.json exists" in again.err) == (2, True)
    assert path.read_bytes() == before
    text = tmp_path / "text.txt"
    text.write_text("The editors that the hunter calls are here.\nThe editor calls the hunter.\n")
    found = command("suites", "check", "--text", text)
    assert found.code == 0, found.err
    assert "2 rows of text.txt" in found.out


def test_swapped_dictionaries_are_named_unless_told_otherwise(command: Command, tmp_path: Path) -> None:
    suite = damaged(tmp_path, swap)
    arguments = ("suites", "check", "--suite", suite, "--task", "agreement_rc", "--limit", 8)
    found = command(*arguments)
    assert found.code == 2
    assert "site resid_1: " in found.err
    assert "explains resid_2 much better" in found.err
    assert "--no-check-fit" in found.err
    found = command(*arguments, "--no-check-fit", "-o", tmp_path / "health.json")
    assert found.code == 0, found.err
    faults = {site: row["fault"] for site, row in json.loads((tmp_path / "health.json").read_text())["sites"].items()}
    assert {site for site, fault in faults.items() if fault} == {"resid_1", "resid_2"}


def test_a_trace_warns_of_swapped_dictionaries_in_one_line(command: Command, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        found = command(*TRACE, "--suite", damaged(tmp_path, swap), "-o", tmp_path / "run")
    assert found.code == 0, found.err
    (line,) = (line for line in found.err.splitlines() if line.startswith("Warning: "))
    assert line.startswith("Warning: site resid_1: its dictionary leaves ")
    assert "explains resid_2 much better" in line
    assert "likewise resid_2 (rather resid_1)" in line
    assert line.endswith("(--no-check-fit)")
    assert ".py" not in found.err


def test_sinks_are_kept_where_that_is_asked_for(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    found = command("suites", "check", "--limit", 2, "--sites", "embed", "--keep-sinks", "-o", path)
    assert found.code == 0, found.err
    assert "sink tokens kept" in found.out
    assert json.loads(path.read_text())["keep_sinks"] is True
    assert "sink tokens:" not in found.out  # no pass that looks for them


def test_without_a_terminal_loops_write_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end, and every so many seconds; none is cut or coloured."""
    written = StringIO()
    with watch.watching(PlainConsole(file=written, width=20)) as progress:
        assert list(progress(iter("abc"), "node effects ([red]atp[/])", 3)) == ["a", "b", "c"]
        assert list(progress([], "nothing", 0)) == []
        monkeypatch.setattr(watch, "SECONDS", 0.0)
        assert list(progress(range(3), "embed", 3)) == [0, 1, 2]
    lines = [re.sub(r"\d+ s", "N s", line) for line in written.getvalue().splitlines()]
    assert lines == [
        "node effects ([red]atp[/]): 3 of 3, N s",
        "embed: 1 of 3, N s, about N s left",
        "embed: 2 of 3, N s, about N s left",
        "embed: 3 of 3, N s",
    ]


def test_a_trace_refuses_a_dictionary_that_explains_nothing(command: Command, tmp_path: Path) -> None:
    suite = damaged(tmp_path, negate)
    found = command(*TRACE, "--suite", suite, "-o", tmp_path / "out" / "run")
    refused(found, ["site mlp_1: ", "of the variance unexplained", "--no-check-fit"], tmp_path / "out")
    assert command(*TRACE, "--suite", suite, "--no-check-fit", "-o", tmp_path / "out" / "run").code == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # sae_lens's own, on import
def test_a_suite_is_trained_checked_and_traced(command: Command, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    rows = [json.loads(line)["clean_prefix"] for line in (SUITE / "tasks" / "ioi_train.jsonl").read_text().splitlines()]
    text.write_text("\n".join(rows[:120]))
    settings = ("--sites", "resid_1,mlp", "--features", 64, "--k", 4, "--steps", 60, "--batch-size", 128)
    train = ("suites", "train", "--model", SUITE / "model", "--text", text, *settings, "-o", tmp_path / "mine")
    found = command(*train)
    assert found.code == 0, found.err
    assert "suite of 5 sites" in found.out
    for line in ("activations: 1 of 1, ", "mlp_0: 60 of 60, ", "resid_1: 60 of 60, ", "figures: 1 of 1, "):
        assert line in found.out
    assert "keep_sinks = false" in (tmp_path / "mine" / "suite.toml").read_text()
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"README.md", "sites", "suite.toml"}
    own = ("--suite", tmp_path / "mine", "--model", SUITE / "model")
    assert command("suites", "check", *own, "--text", text, "--no-check-fit").code == 0
    task = ("--task", SUITE / "tasks" / "ioi_train.jsonl", "--aggregate", "sum", "--no-check-fit")
    assert command(*TRACE, *own, *task, "-o", tmp_path / "run").code == 0
    again = command(*train)
    assert (again.code, "is not empty" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["check", "--text", "nothing.txt"], ["nothing.txt: no such text file"]),
        (["check", "--text", "a.txt", "--task", "ioi"], ["give a task or a text, not both"]),
        (["check", "--task", "iou"], ["has no task 'iou'"]),
        (["check", "--suite", "nowhere"], ["unknown suite 'nowhere'"]),
        (["check", "--text", "README.md", "--longest", "1"], ["longest is 1"]),
        (["check", "--text", "LICENSE", "--limit", "100000"], ["100000 lines were asked for"]),
        (["train", "--text", "README.md"], ["no model was given", "--model"]),
        (["train", "--model", SUITE / "model"], ["give either --text with a file, or --sample"]),
        (["train", "--model", SUITE / "model", "--sample", "10"], ["no BOS token"]),
        (["train", "--model", SUITE / "model", "--sample", "9", "--k", "900"], ["k is 900.0"]),
        (["train", "--model", SUITE / "model", "--text", "LICENSE", "--sites", "resid_9"], ["no site fits 'resid_9'"]),
        (["train", "--model", SUITE / "model", "--text", "LICENSE", "--batch-size", "99999"], ["give more text"]),
    ],
)
def test_bad_options_of_suites_are_refused(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], parts: list[str]
) -> None:
    monkeypatch.chdir(ROOT)
    refused(command("suites", *arguments, "-o", tmp_path / "out" / "x"), parts, tmp_path / "out")


def damaged(folder: Path, change: Callable[[Path], None]) -> Path:
    """A copy of the shipped suite with one thing wrong."""
    copy = shutil.copytree(SUITE, folder / "suite")
    change(copy)
    return copy


def truncate(suite: Path) -> None:
    path = suite / "sites" / "mlp_1.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def tamper(suite: Path) -> None:
    path = suite / "sites" / "mlp_1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def remove(suite: Path) -> None:
    (suite / "sites" / "mlp_1.safetensors").unlink()


def swap(suite: Path) -> None:
    """Two dictionaries of neighbouring sites, each at the other's."""
    unhashed(suite)
    first, second = (suite / "sites" / f"resid_{layer}.safetensors" for layer in (1, 2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    record = suite / "suite.toml"
    lines = [line for line in record.read_text().splitlines() if not line.startswith("n_features")]
    record.write_text("\n".join(lines))


def negate(suite: Path) -> None:
    unhashed(suite)
    path = suite / "sites" / "mlp_1.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "W_enc": -tensors["W_enc"]}, path)


def unhashed(suite: Path) -> None:
    """Forget the hashes, so that a changed file gets as far as its content."""
    path = suite / "suite.toml"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("sha256") and '.safetensors" = ' not in line]
    path.write_text("\n".join(kept))


def narrow(suite: Path) -> None:
    unhashed(suite)
    path = suite / "sites" / "mlp_1.safetensors"
    tensors = load_file(path)
    cut = {"W_enc": tensors["W_enc"][:64], "W_dec": tensors["W_dec"][:, :64], "b_dec": tensors["b_dec"][:64]}
    save_file({name: t.contiguous() for name, t in {**tensors, **cut}.items()}, path)


def not_a_number(suite: Path) -> None:
    unhashed(suite)
    path = suite / "model" / "model.safetensors"
    weights = load_file(path)
    weights["gpt_neox.layers.2.mlp.dense_h_to_4h.weight"][0, 0] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (truncate, ["mlp_1.safetensors: sha256 is", "restore it"]),
        (tamper, ["mlp_1.safetensors: sha256 is", "restore it"]),
        (remove, ["mlp_1.safetensors: no such file"]),
        (narrow, ["mlp_1: the suite records width = 128, but the weights have 64"]),
        (not_a_number, ["holds NaN or infinity", "gpt_neox.layers.2.mlp"]),
    ],
)
def test_a_damaged_suite_is_refused(
    command: Command, tmp_path: Path, change: Callable[[Path], None], parts: list[str]
) -> None:
    suite = damaged(tmp_path, change)
    refused(command(*TRACE, "--suite", suite, "-o", tmp_path / "out" / "run"), parts, tmp_path / "out")


def refused(found: Result, parts: list[str], folder: Path) -> None:
    """Exit code 2, one clear message, nothing half-written."""
    assert found.code == 2
    assert "Traceback" not in found.err
    for part in parts:
        assert part in found.err
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--suite", "nowhere"], ["unknown suite 'nowhere'", "grammar-4l"]),
        (["--task", "agreement"], ["has no task 'agreement'", "agreement_rc"]),
        (["--task", "nothing.jsonl"], ["nothing.jsonl: no such task file"]),
        (["--nodes", "igg"], ["unknown estimator 'igg'"]),
        (["--edges", "igg"], ["unknown estimator 'igg'"]),
        (["--nodes", "ig:steps=0"], ["steps is 0"]),
        (["--metric", "loss"], ["unknown metric 'loss'"]),
        (["--aggregate", "mean"], ["unknown aggregate 'mean'"]),
        (["--baseline", "median"], ["unknown baseline 'median'"]),
        (["--keep-nodes", "best"], ["unknown pruning rule 'best'"]),
        (["--keep-edges", "top=some"], ["top is 'some', but must be of type int"]),
        (["--limit", "-3"], ["-3"]),
        (["--limit", "5000"], ["5000 examples were asked for"]),
        (["--batch-size", "-1"], ["batch_size is -1"]),
        (["--dtype", "int3"], ["unknown dtype 'int3'"]),
        (["--model", "tests"], ["model folder tests"]),
        (["--task", "gender"], ["have no common positions", "aggregate='role'"]),
    ],
)
def test_bad_options_are_refused(command: Command, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    refused(command(*TRACE, *arguments, "-o", tmp_path / "out" / "run"), parts, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trace", "--top", "-5"], "Invalid value for '--top': Input should be greater than or equal to 0"),
        (["trace", "--limit", "-3"], "limit is -3; it must be at least 0"),
        (["trace", "--seed", "-1"], "seed is -1; it must be at least 0"),
        (["trace", "--seed", str(2**32)], "seed is 4294967296; it must be at least 0 and at most 4294967295"),
        (["trace", "--seed", "9" * 400], "it has more digits than a number can have"),
        (["trace", "--limit", "1_0"], "limit is '1_0', but must be of type int"),
        (["trace", "--limit", "٣"], "limit is '٣', but must be of type int"),
        (["trace", "--limit", " 5"], "limit is ' 5', but must be of type int"),
        (["trace", "--limit", "+5"], "limit is '+5', but must be of type int"),
        (["trace", "--limit", "1e3"], "limit is '1e3', but must be of type int"),
        (["trace", "--limit", "05"], "limit is '05', but must be of type int"),
        (["trace", "--batch-size", "1000000"], "batch_size is 1000000; it must be at least 0 and at most 65536"),
        (["trace", "--nodes", "ig:steps=1001"], "steps is 1001; it must be at least 1 and at most 1000"),
        (
            ["trace", "--nodes", "ig:steps=30000:quadrature=gauss"],
            "steps is 30000; it must be at least 1 and at most 1000",
        ),
        (["trace", "--nodes", "ig:steps=100000000"], "steps is 100000000; it must be at least 1"),
        (["trace", "--nodes", "ig:steps=1_0"], "steps is '1_0', but must be of type int"),
        (["trace", "--nodes", "ig:steps=٣"], "steps is '٣', but must be of type int"),
        (["trace", "--nodes", "ig-chain:steps=101"], "steps is 101; it must be at least 1 and at most 100"),
        (["trace", "--nodes", "ig:steps=" + "9" * 30], "more digits than a number can have"),
        (["trace", "--keep-nodes", "top=" + "9" * 400], "more digits than a number can have"),
        (["trace", "--keep-edges", "threshold=nan"], "threshold is 'nan', but must be of type float"),
        (["trace", "--select", "mask:steps=1000000"], "steps is 1000000; it must be at least 1 and at most 100000"),
        (["agree", "--estimators", "atp,ig:steps=1001"], "steps is 1001; it must be at least 1"),
        (["suites", "train", "--model", "m", "--sample", "9", "--k", "nan"], "k is 'nan', but must be of type float"),
        (["suites", "train", "--model", "m", "--sample", "9", "--learning-rate", "11"], "learning_rate is 11"),
        (["suites", "train", "--model", "m", "--sample", "9", "--features", "2000000"], "features is 2000000"),
        (["agree", "--top", "-5"], "top is -5; it must be at least 1"),
        (["agree", "--edge-nodes", "-5"], "edge_nodes is -5; it must be at least 0"),
        (["agree", "--batch-size", "-1"], "batch_size is -1; it must be at least 0"),
        (["suites", "check", "--limit", "-3"], "limit is -3; it must be at least 0"),
        (["suites", "train", "--model", "m", "--sample", "-4"], "sample is -4; it must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_loading(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    forbid_loading(monkeypatch)
    refused(command(*arguments, "-o", tmp_path / "out" / "run"), [part], tmp_path / "out")


def forbid_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    from featcircuits.cli import datacheck, dictionaries, tasks

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(tasks, "load", loaded)
    monkeypatch.setattr(dictionaries, "load_bare", loaded)
    monkeypatch.setattr(datacheck, "load_bare", loaded)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trace", "--nodes", "igg"], "unknown estimator 'igg'"),
        (["trace", "--nodes", "ig:quadrature=simpson"], "unknown quadrature 'simpson'"),
        (["trace", "--nodes", "ig:steps=3:steps=4"], "steps is given twice"),
        (["trace", "--steps", "4"], "'steps' is now part of 'nodes': ig:steps=20"),
        (["trace", "--rule", "gauss"], "'rule' is now part of 'nodes': ig:quadrature=gauss"),
        (["trace", "--rules", "default"], "'rules' is now part of 'nodes': relp:rules=with_ah"),
        (["trace", "--errors", "exact"], "'errors' is now 'error_effects'"),
        (["trace", "--nodes", "ig:rule=gauss"], "estimator 'ig': 'rule' is now 'quadrature'"),
        (["agree", "--methods", "atp"], "'methods' is now 'estimators'"),
        (["trace", "--nodes", "secant:steps=10"], "no option 'steps'; its options: none; ig, ig-inputs"),
        (["trace", "--nodes", "relp:quadrature=left"], "ig, ig-inputs, ig-chain, ig-conductance have it"),
        (["trace", "--nodes", "ig:rules=default"], "no option 'rules'; its options: steps, quadrature; relp has it"),
        (["trace", "--nodes", "atp:share=prompt"], "its options: none; blend has it"),
        (["trace", "--edges", "none", "--keep-edges", "top=5"], "leave the rule out, or ask for edges"),
        (["suites", "check", "--text", "nothing.txt"], "nothing.txt: no such text file"),
        (["suites", "train", "--model", "m", "--text", "nothing.txt"], "nothing.txt: no such text file"),
        (["suites", "check", "--task", "ioi", "--longest", "9"], "longest cuts the lines of a text"),
        (["trace", "--edges", "igg"], "unknown estimator 'igg'"),
        (["trace", "--nodes", "blend"], "estimator 'blend' has no coefficients for edges"),
        (["trace", "--select", "best"], "unknown selection rule 'best'"),
        (["trace", "--baseline", "median"], "unknown baseline 'median'"),
        (["trace", "--error-effects", "none"], "error_effects is 'none'"),
        (["trace", "--keep-nodes", "best"], "unknown pruning rule 'best'"),
        (["trace", "--keep-nodes", "top=0"], "top is 0; it must be at least 1"),
        (["trace", "--keep-edges", "top=1.5"], "top is '1.5', but must be of type int"),
        (["trace", "--dry-run", "--nodes", "igg"], "unknown estimator 'igg'"),
        (["agree", "--estimators", "igg"], "unknown estimator 'igg'"),
        (["agree", "--bases", "whole", "--edge-nodes", "9"], "leave edge_nodes out too"),
        (["agree", "--bases", "heads"], "unknown basis 'heads'"),
        (["agree", "--pictures", "gif"], "pictures cannot be written as 'gif'; known: png, pdf, svg"),
    ],
)
def test_names_are_checked_before_loading(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    forbid_loading(monkeypatch)
    refused(command(*arguments, "-o", tmp_path / "out" / "run"), [part], tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--draws", "-1"], "draws is -1; it must be at least 0"),
        (["--ablation", "median"], "unknown ablation 'median'"),
        (["--error-nodes", "none"], "error_nodes is 'none'; known: as-circuit, keep, remove"),
        (["--sizes", "few"], "sizes is 'few'"),
    ],
)
def test_an_evaluation_is_checked_before_loading(
    command: Command, traced: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    forbid_loading(monkeypatch)
    found = command("evaluate", traced, *arguments)
    assert (found.code, part in found.err) == (2, True), found.err


def test_sites_to_train_are_checked_before_text_is_sampled(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featcircuits.cli import dictionaries

    monkeypatch.delattr(dictionaries, "sample_rows")
    train = ("suites", "train", "--model", SUITE / "model", "--sample", 9, "--sites", "bogus")
    refused(command(*train, "-o", tmp_path / "out" / "x"), ["no site fits 'bogus'"], tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--keep-nodes", "top=10"], ["10 nodes and 14 of 14 edges were chosen", "top=14 would add"]),
        (["--keep-nodes", "threshold=1e7"], ["threshold=10000000.0 keeps", "the strongest of which has |effect|"]),
        (["--keep-edges", "threshold=1e7"], ["threshold=10000000.0 keeps", "the strongest of which has |weight|"]),
        (["--edges", "none", "--keep-nodes", "threshold=1e7"], ["keeps none of"]),
    ],
)
def test_a_circuit_of_nothing_is_refused_with_what_to_do(
    command: Command, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    found = command("trace", "--task", "ioi", "--limit", 20, *arguments, "-o", tmp_path / "out" / "run")
    assert found.code == 2
    assert all(part in found.err for part in parts), found.err
    assert not (tmp_path / "out" / "run").exists()


def test_a_trace_says_how_many_nodes_and_edges_it_chose_dropped_and_kept(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = command("trace", "--task", "ioi", "--limit", 20, "--keep-nodes", "top=14", "-o", run)
    assert found.code == 0, found.err
    counts = json.loads((run / "manifest.json").read_text())["counts"]
    circuit, ranking = Circuit.load(run / "circuit.safetensors"), Circuit.load(run / "nodes.safetensors")
    assert (counts["nodes"]["all"], counts["nodes"]["kept"]) == (ranking.n_nodes, circuit.n_nodes)
    assert counts["nodes"]["chosen"] == 14 == counts["nodes"]["dropped"] + counts["nodes"]["kept"]
    assert counts["edges"]["chosen"] - counts["edges"]["dropped"] == counts["edges"]["kept"] == circuit.n_edges > 0
    for what, row in counts.items():
        line = f"{what}: {row['chosen']} of {row['all']} chosen, {row['dropped']} dropped (no path to the metric)"
        assert f"{line}, {row['kept']} kept" in " ".join(found.out.split())


def test_an_evaluation_refuses_another_model_unless_told_otherwise(
    command: Command, run_folder: Path, tmp_path: Path
) -> None:
    other = damaged(tmp_path, scale)
    config = json.loads((run_folder / "config.json").read_text())
    (run_folder / "config.json").write_text(json.dumps({**config, "suite": str(other)}))
    settings = ("--task", "agreement_rc", "--limit", 8, "--sizes", "20", "--draws", 0)
    found = command("evaluate", run_folder, *settings)
    assert (found.code, "circuit: the dictionary of mlp_1 is not the one that it was made with" in found.err) == (
        2,
        True,
    )
    assert not (run_folder / "report.json").exists()
    assert command("evaluate", run_folder, *settings, "--no-check").code == 0
    found = command("audit", run_folder, "--limit", 2)
    assert (found.code, "circuit: the dictionary of mlp_1 is not the one that it was made with" in found.err) == (
        2,
        True,
    )


def scale(suite: Path) -> None:
    unhashed(suite)
    path = suite / "sites" / "mlp_1.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "W_dec": 1.01 * tensors["W_dec"]}, path)


def test_cuda_is_refused_where_there_is_none(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = command(*TRACE, "--device", "cuda", "-o", tmp_path / "out" / "run")
    refused(found, ["device 'cuda' was asked for", "use device='cpu'"], tmp_path / "out")


def test_a_malformed_line_is_named_by_its_number(command: Command, tmp_path: Path) -> None:
    lines = (SUITE / "tasks" / "agreement_rc_train.jsonl").read_text().splitlines()[:5]
    lines[3] = lines[3][:-9]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines))
    found = command("trace", "--task", path, "-o", tmp_path / "out" / "run")
    refused(found, [f"{path}, line 4: not valid JSON"], tmp_path / "out")


def test_a_model_of_another_suite_is_refused(command: Command, tmp_path: Path) -> None:
    model = shutil.copytree(SUITE / "model", tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["gpt_neox.embed_in.weight"] += 0.1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    found = command(*TRACE, "--model", model, "-o", tmp_path / "out" / "run")
    refused(found, ["belongs to another model", "embedding's weights differ"], tmp_path / "out")


def test_a_folder_that_holds_something_is_never_written_to(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    found = command(*TRACE, "-o", tmp_path)
    assert (found.code, "is not empty" in found.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a config is a JSON object, found list"),
        ('{"node": "ig"}', "unknown setting 'node'; known: "),
        ('{"limit": "ten"}', "limit is 'ten', but must be of type int"),
        ('{"steps": 10, "errors": "exact"}', "'steps' is now part of 'nodes': ig:steps=20; 'errors' is now 'error_eff"),
    ],
)
def test_a_bad_config_is_refused(command: Command, tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    refused(command("trace", "--config", path, "-o", tmp_path / "out" / "run"), [str(path), part], tmp_path / "out")


def test_what_is_not_a_run_is_refused(command: Command, tmp_path: Path, run_folder: Path) -> None:
    for name in ("evaluate", "export"):
        assert "is not a run folder: circuit.safetensors is missing" in command(name, tmp_path / "none").err
    assert "unknown export format 'dot'" in command("export", run_folder, "--to", "gexf,dot").err
    assert not (run_folder / "circuit.gexf").exists()
    content = (run_folder / "circuit.safetensors").read_bytes()
    (run_folder / "circuit.safetensors").write_bytes(content[:200])
    for name in ("evaluate", "export"):
        found = command(name, run_folder)
        assert found.code == 2
        assert "circuit.safetensors" in found.err
    assert {path.name for path in run_folder.iterdir()} == RUN_FILES


def test_a_dry_run_estimates_and_leaves_nothing(command: Command, tmp_path: Path) -> None:
    result = command("trace", "--limit", "20", "--dry-run", "-o", tmp_path / "out" / "run")
    assert result.code == 0
    text = " ".join(result.out.split())
    assert re.search(r"20 examples in batches of 16, about \d+ s and \d+\.\d GB", text), text
    assert list(tmp_path.iterdir()) == []
    result = command("trace", "--limit", "20", "--batch-size", "4", "--dry-run")
    assert "20 examples in batches of 4" in " ".join(result.out.split())


def test_an_interrupted_run_can_be_finished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from featcircuits.tracing import trace as tracing

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(tracing, "edge_effects", interrupt)
        assert call(*TRACE, "-o", tmp_path / "out" / "run") == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".run.partial"]
    assert call(*TRACE, "-o", tmp_path / "out" / "run") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run"]


def test_the_example_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saes").symlink_to(ROOT / "saes")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    report = names["report"]
    assert isinstance(report, Report)
    assert report.faithfulness > 0.5
    assert Circuit.load(tmp_path / "circuit.safetensors") == names["circuit"]


def test_a_run_compared_with_itself_has_distance_0(command: Command, traced: Path, tmp_path: Path) -> None:
    result = command("compare", traced, traced, "--json", "-o", tmp_path / "compared", "--to", "gexf,heatmap.svg")
    assert result.code == 0, result.err
    (pair,) = json.loads(result.out)["pairs"]
    assert (pair["first"], pair["second"]) == ("traced", "traced (2)")
    assert pair["nodes"]["distance"] == pair["edges"]["distance"] == 0
    written = {path.name for path in (tmp_path / "compared").iterdir()}
    assert written == {"comparison.json", "config.json", "distances.png", "union.gexf", "heatmap.svg"}
    shown = " ".join(
        command("compare", traced, traced, "--places", "sum", "--top", "3", "--match", "decoder").out.split()
    )
    assert re.search(r"traced \(2\): (\d+) of the \1 features of traced have a match, mean decoder score 1.00", shown)
    assert "Edges in common" in shown
    assert re.search(r"Strongest 3 of \d+ shared nodes", shown)
