"""The documentation: its code runs, its links lead somewhere, its command lines parse."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import typer

import featcircuits as fc
from experiments import supported
from experiments.shipped_suite import words
from featcircuits.cli import app
from featcircuits.dossiers.schema import CONTEXTS, FEATURES, TASK
from featcircuits.inputs.names import LONGEST
from featcircuits.loading.load import load_bare, load_tokenizer
from featcircuits.selection import SELECTIONS
from featcircuits.tasks.behaviour import AMONG, LEAST_RIGHT
from featcircuits.tasks.jsonl import _OPTIONAL, _PAIRED, _UNPAIRED, MOST_ANSWERS
from featcircuits.tasks.table import METRICS
from tests.tokenizers import CHAT, byte_level

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("saes/*/*.md")])
TEST_PAIRS = ROOT / "saes/grammar-4l/tasks/agreement_rc_test.jsonl"
COMMANDS: Any = typer.main.get_command(app)


def test_the_tutorial_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the figures and nodes that its text speaks of are the ones that come out."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (tmp_path / "saes").symlink_to(ROOT / "saes")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    printed = capsys.readouterr().out
    circuit, report = names["circuit"], names["report"]
    assert all(fc.Node.parse(name) in circuit.nodes for name in re.findall(r"`(\w+_\d/\d+@\d)`", text))
    assert (circuit.n_nodes, circuit.n_edges) == (99, 499)
    assert report.faithfulness == pytest.approx(0.99, abs=0.005)
    assert (report.n_nodes, report.n_error_nodes) == (63, 0)
    curve = dict(zip(report.curve.sizes, report.curve.faithfulness, strict=True))
    assert curve[42] == pytest.approx(0.92, abs=0.005)
    for line in ("resid_2/303@5 1.0 0.0", "resid_1/118@5 0.0 1.0", "resid_3/56@5 1.0 0.0", "resid_2/10@5 0.0 1.0"):
        assert line in printed
    singular, plural = names["acted"]
    assert [singular.before.mean, singular.after.mean] == pytest.approx([7.25, -0.80], abs=0.01)
    assert [singular.whole.predicted.mean, singular.whole.measured.mean] == pytest.approx([-8.17, -8.05], abs=0.01)
    figures = [figure for control in singular.controls for figure in (control.mean, control.largest)]
    assert figures == pytest.approx([0.21, 0.89, -0.56, -1.26], abs=0.01)
    assert [plural.whole.predicted.mean, plural.whole.measured.mean] == [0, 0]
    for line in ("['was', 'are']", "['should', 'are']", "were in the"):
        assert line in printed
    assert (tmp_path / "agreement.gexf").is_file()


def test_the_page_of_checks_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    assert names["paths"].explained == pytest.approx(0.96, abs=0.005)
    assert {one.note("logit_difference") for one in names["patched"].single} == {"needed and enough"}
    assert max(names["patched"].synergy("logit_difference")) < 0
    assert 0 < names["bound"].theta < 0.5


def test_the_page_of_training_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    assert len(names["health"].figures) == 13
    assert names["health"].together.recovered > 0.9


def test_the_page_of_selection_rules_runs_from_top_to_bottom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "selection.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    areas = {line.split()[0]: float(line.split()[2]) for line in capsys.readouterr().out.splitlines()}
    assert areas["mask"] < areas["effect"]
    assert names["circuit"].n_nodes == 100
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) >= set(SELECTIONS)


def test_the_page_of_dossiers_runs_and_names_every_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "dossiers.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    label = names["feature"].label
    assert f"`{label}`" in text
    assert capsys.readouterr().out.startswith(f"{label}\n[' has', ' is', ' was', ' does'] [' have', ' are', ' do']\n")
    first_cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == {name for schema in (FEATURES, CONTEXTS, TASK) for name in schema.names}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_the_page_of_what_is_supported_is_what_the_tables_say() -> None:
    """Made anew by `python -m experiments.supported > docs/supported.md`."""
    assert (ROOT / "docs" / "supported.md").read_text(encoding="utf-8") == supported.page()


def json_examples() -> list[tuple[str, str]]:
    """(what kind of tokenizer it needs, line) of the page of task files."""
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```json ?(\w*)\n(.*?)```", text, re.DOTALL)
    return [(kind, line) for kind, block in blocks for line in block.splitlines()]


@pytest.mark.parametrize(("kind", "line"), json_examples())
def test_every_line_of_the_page_of_task_files_reads(tmp_path: Path, kind: str, line: str) -> None:
    """And the shipped model does what those in its words ask for."""
    path = tmp_path / "task.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    if kind:
        tokenizer = byte_level()
        tokenizer.chat_template = CHAT
        (example,) = fc.Task.from_jsonl(path, tokenizer).examples
        first = {"messages": "<|user|>", "prepend": "<|endoftext|>"}[kind]
        assert tokenizer.convert_ids_to_tokens(example.clean[0]) == first
    else:
        bare = load_bare(ROOT / "saes" / "grammar-4l" / "model")
        task = fc.Task.from_jsonl(path, bare.tokenizer)
        assert fc.behaviour_of(bare, task).right == (True,)
        assert [role for role, _ in task.examples[0].roles] == list(json.loads(line).get("roles", {}))


def test_the_page_of_task_files_names_every_key_and_metric() -> None:
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    first_cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == {*_PAIRED, *_UNPAIRED, *(key for keys in _OPTIONAL.values() for key in keys), *METRICS}
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    assert (len(names["task"]), names["task"].metric) == (2, "logit_difference")
    assert f"Below {LEAST_RIGHT * 100:.0f} % of right" in text
    assert f"among the {AMONG} likeliest" in text
    assert f"{MOST_ANSWERS:,} answers" in text
    assert f"at most {LONGEST}\nprintable" in text


def test_the_list_of_words_is_the_tokenizers() -> None:
    """Made anew by `python -m experiments.shipped_suite.words > docs/vocabulary.md`."""
    text = (ROOT / "docs" / "vocabulary.md").read_text(encoding="utf-8")
    assert text == words.page()
    listed = re.findall(r"`([^`]+)`", text[text.index("\n## ") :])
    tokenizer = load_tokenizer()
    assert sorted(listed) == sorted(set(tokenizer.get_vocab()) - {"<pad>", "<unk>"})


def command_lines() -> list[str]:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    return [line.split(" #")[0].strip() for text in texts for line in text.splitlines() if line.startswith("    featc")]


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_parse(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command: Any = COMMANDS.commands[name]
    while isinstance(command, click.Group) and arguments:
        name, *arguments = arguments
        command = command.commands[name]
    context = command.make_context(name, arguments)
    assert context.info_name == name


def test_there_are_command_lines_to_parse() -> None:
    assert len(command_lines()) >= 6
    for command in (COMMANDS.commands["trace"], COMMANDS.commands["suites"].commands["check"]):
        with pytest.raises(Exception, match="[Nn]o such option"):
            command.make_context("command", ["--nonsense", "1"])


def test_the_page_of_acting_runs_and_its_interventions_are_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "acting.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    written = re.findall(r"^\| `([^`]+)` \| ", text, re.MULTILINE)
    assert len(written) == 12
    assert [str(fc.Intervention.parse(one)) for one in written] == written
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    assert names["outcome"].n_examples == 40
    assert names["found"].continuations[0].text.split()[0] == "should"
    spliced, test = names["model"], fc.Task.from_jsonl(TEST_PAIRS, names["model"].tokenizer).take(100)
    verbs = {"is", "was", "has", "does"}
    own = [one for one in test.examples if spliced.tokenizer.decode(one.clean_answers).strip() in verbs]
    singular = replace(test, examples=tuple(own))
    said = text[text.index("Exact patching predicts") :][:100]
    figures = map(float, re.findall(r"\d\.\d\d", said))
    for estimator, figure in zip(("exact", "secant", "ig", "relp", "atp"), figures, strict=True):
        outcome = fc.intervene(spliced, singular, "resid_2/303@5=0", estimator=estimator, controls=0)
        assert outcome.whole.predicted.mean == pytest.approx(-figure, abs=0.006)


def test_the_page_of_readouts_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "readouts.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    assert all(cell.F["own"] == names["grid"].F for cell in names["grid"].cells if cell.source == cell.target)
    assert all(len(one.ids) == 1 for one in names["read"])
    assert all(names["found"].loss[a][a] > 0 for a in (0, 1))


def test_the_page_of_comparing_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    nodes = {(pair.first, pair.second): pair.nodes.weighted for pair in names["found"].pairs}
    assert max(nodes, key=nodes.__getitem__) == ("agreement_rc", "agreement_simple")
