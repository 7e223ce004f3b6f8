"""Tasks on the command line: read first, judged first, held out, checked alone."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import featcircuits as fc
from featcircuits import cli
from featcircuits.circuit.circuit import Circuit
from featcircuits.cli.config import AgreeConfig
from featcircuits.cli.tasks import Wanted, model_and_task
from featcircuits.states.baselines import check_baseline

ROOT = Path(__file__).parents[1]
TASKS = ROOT / "saes" / "grammar-4l" / "tasks"
SMALL = ("--nodes", "atp", "--sites", "resid_2,resid_3", "--keep-nodes", "top=20", "--edges", "none")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["featcircuits", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        return code, *capsys.readouterr()

    return run


def agreement(count: int, swapped: int = 0) -> list[dict[str, Any]]:
    """The first pairs of a shipped file, some with their answers swapped."""
    rows = [json.loads(line) for line in (TASKS / "agreement_rc_train.jsonl").read_text().splitlines()[:count]]
    for row in rows[:swapped]:
        row["clean_answer"], row["patch_answer"] = row["patch_answer"], row["clean_answer"]
    return rows


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table_rows(text: str, side: str) -> list[str]:
    """The cells of a table's row."""
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [side]]
    return line.split()[1:]


@pytest.mark.parametrize("name", ["trace", "agree"])
def test_what_the_model_does_comes_first(command: Command, tmp_path: Path, name: str) -> None:
    task = written(tmp_path / "pairs.jsonl", agreement(4, swapped=1))
    few = ("--estimators", "atp", "--bases", "whole", "--edge-nodes", 0, "--limit", 0) if name == "agree" else SMALL
    code, out, err = command(name, *few, "--task", task, "-o", tmp_path / "out")
    assert code == 0, err
    assert out.startswith("What the model does on pairs, 4 pairs, F = logit_difference\n")
    for side in ("clean", "corrupted"):
        mean, _, sd, *count = table_rows(out, side)
        assert re.fullmatch(r"[+-]\d+\.\d{3}", mean)
        assert re.fullmatch(r"\d+\.\d{3}", sd)
        assert count == ["3", "of", "4", "(75%)"]
    assert table_rows(out, "both") == ["3", "of", "4", "(75%)"]


def test_too_little_stops_a_run_and_each_remedy_goes_on(command: Command, tmp_path: Path) -> None:
    task = written(tmp_path / "pairs.jsonl", agreement(8, swapped=4))
    run = tmp_path / "runs" / "run"
    trace = ("trace", *SMALL, "--task", task, "-o", run)
    code, out, err = command(*trace)
    assert code == 2
    assert "What the model does on pairs" in out
    assert "pairs: the model answers 4 of 8 pairs right on both sides, and a circuit needs 60%" in err
    assert not run.exists()
    code, _, err = command(*trace, "--keep-wrong", "--only-right")
    assert (code, "give either keep_wrong or only_right, not both" in err) == (2, True)
    code, out, err = command(*trace, "--only-right")
    assert code == 0, err
    assert "4 dropped, which the model gets wrong (only_right); 4 are left" in out
    assert Circuit.load(run / "circuit.safetensors").manifest["task"]["n_examples"] == 4
    code, out, err = command("trace", *SMALL, "--task", task, "--keep-wrong", "-o", tmp_path / "runs" / "all")
    assert code == 0, err
    assert Circuit.load(tmp_path / "runs" / "all" / "circuit.safetensors").manifest["task"]["n_examples"] == 8
    code, out, err = command("evaluate", run, "--draws", 0, "--sizes", "5", "--task", task)
    assert (code, "the model answers 4 of 8 pairs right on both sides" in err) == (2, True)
    code, out, err = command("evaluate", run, "--draws", 0, "--sizes", "5", "--task", task, "--only-right")
    assert code == 0, err
    assert json.loads((run / "report.json").read_text())["n_examples"] == 4


def test_identical_pairs_are_refused_before_the_model_is_loaded(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_models(monkeypatch)
    rows = agreement(3)
    rows[1]["patch_prefix"] = rows[1]["clean_prefix"]
    task = written(tmp_path / "pairs.jsonl", rows)
    for name in (("trace",), ("agree",), ("suites", "check")):
        code, _, err = command(*name, "--task", task, "-o", tmp_path / "out")
        assert code == 2
        assert "pairs.jsonl, line 2: the clean and the corrupted prompt have the same tokens" in err


def forbid_models(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loaded)


EARLY = {
    "syntax": ('{"prefix": ', "line 2: not valid JSON"),
    "field": ('{"prefix": "The", "answr": " is"}', "line 2: field 'answer' is missing"),
    "answer": ('{"prefix": "The author", "answer": " zebra"}', "line 2: field 'answer': ' zebra' is not in the"),
    "role": ('{"prefix": "The author", "answer": " is", "roles": {"7": "author"}}', "line 2: '7' cannot be a role"),
    "lengths": ('{"prefix": "The", "answer": " author"}', "prompts of 1 to 2 tokens have no common positions"),
}


@pytest.mark.parametrize("case", EARLY)
def test_faults_of_a_task_come_before_the_model_is_loaded(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    forbid_models(monkeypatch)
    line, part = EARLY[case]
    path = tmp_path / "task.jsonl"
    path.write_text(f'{{"prefix": "The author", "answer": " is"}}\n{line}\n')
    code, _, err = command("trace", "--task", path, "--baseline", "zero", "-o", tmp_path / "out" / "run")
    assert code == 2
    assert part in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--limit", "5000"], "5000 examples were asked for; it has 400"),
        (["--hold-out", "1.5"], "hold_out is 1.5; it must be at least 0 and at most 1"),
        (["--hold-out", "1"], "hold_out is 1.0; it must be above 0 and below 1"),
        (["--hold-out", "-0.5"], "hold_out is -0.5"),
        (["--baseline", "noise", "--nodes", "secant", "--metric", "nothing"], "unknown metric 'nothing'"),
        (["--prepend", "<|endoftext|>"], "line 1: prepend: '<|endoftext|>' is not a token of the tokenizer"),
        (["--task", "agreement_simpel"], "has no task 'agreement_simpel'"),
    ],
)
def test_what_does_not_fit_a_task_comes_before_the_model(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    forbid_models(monkeypatch)
    code, _, err = command("trace", *arguments, "-o", tmp_path / "out" / "run")
    assert (code, part in err) == (2, True), err


def test_what_is_held_out_is_what_is_evaluated(command: Command, tmp_path: Path) -> None:
    task = written(tmp_path / "pairs.jsonl", agreement(10))
    run = tmp_path / "run"
    code, out, err = command("trace", *SMALL, "--task", task, "--hold-out", 0.3, "--seed", 4, "-o", run)
    assert code == 0, err
    assert "What the model does on pairs, 7 pairs" in out
    assert json.loads((run / "config.json").read_text())["hold_out"] == 0.3
    code, out, err = command("evaluate", run, "--draws", 0, "--sizes", "5")
    assert code == 0, err
    assert "What the model does on pairs (held out), 3 pairs" in out
    report = json.loads((run / "report.json").read_text())
    assert (report["n_examples"], report["task"]) == (3, "pairs (held out)")
    assert report["held_out"] is True


# data check


@pytest.mark.filterwarnings("always")
def test_a_task_is_checked_line_by_line(command: Command, tmp_path: Path) -> None:
    rows = agreement(3, swapped=1)
    rows[2]["clean_prefix"] = rows[2]["clean_prefix"].replace("The", "Zorp", 1)
    rows[2]["patch_prefix"] = rows[2]["patch_prefix"].replace("The", "Zorp", 1)
    path, record = written(tmp_path / "pairs.jsonl", rows), tmp_path / "out" / "check.json"
    code, out, err = command("data", "check", path, "--show", 1, "-o", record)
    assert code == 0, err
    assert "in 1 of 3 lines, the first of them line 3, are words that the tokenizer does not know ('Zorp')" in err
    assert f"clean: {rows[0]['clean_prefix']!r}" in out
    lines = [line.split() for line in out.splitlines() if re.match(r" +[123]  +6 ", line)]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert [(line[3], line[5], line[6]) for line in lines[:2]] == [("NO", "NO", "1"), ("yes", "yes", "1")]
    assert lines[2][-1] == "Zorp"
    assert "2 words of 1 examples are not in the vocabulary: they became <unk>" in out
    found = json.loads(record.read_text())
    assert found["right"][:2] == [False, True]
    assert found["unknown"] == [0, 0, 2]
    assert [line["unknown_words"] for line in found["lines"]] == [[], [], ["Zorp"]]
    code, _, err = command("data", "check", path, "-o", record)
    assert (code, "check.json exists" in err) == (2, True)


def test_a_check_refuses_only_what_cannot_be_used(command: Command, tmp_path: Path) -> None:
    assert command("data", "check", written(tmp_path / "wrong.jsonl", agreement(2, swapped=2)))[0] == 0
    for name, split, part in (
        ("nothing.jsonl", "train", "nothing.jsonl: no such task file"),
        ("ioi", "dev", "split is 'dev'"),
        ("iou", "train", "has no task 'iou'"),
    ):
        code, _, err = command("data", "check", name, "--split", split)
        assert (code, part in err) == (2, True), err


def test_single_prompts_and_suites_tasks_are_checked(command: Command, tmp_path: Path) -> None:
    single = written(tmp_path / "single.jsonl", [{"prefix": "The author", "answer": " is"}])
    code, out, err = command("data", "check", single)
    assert code == 0, err
    assert "What the model does on single, 1 prompts, F = log_probability" in out
    assert "corrupted" not in out
    code, out, err = command("data", "check", "gender", "--split", "test", "--limit", 2)
    assert code == 0, err
    assert "What the model does on gender_test, 2 pairs" in out
    assert "very first token" not in out  # this model has no token to put in front


def test_pairs_that_differ_at_an_unprotected_first_token_are_told_the_remedy() -> None:
    from types import SimpleNamespace

    from featcircuits.cli.judgement import notes
    from featcircuits.tasks.behaviour import Behaviour

    two = (0.0, 0.0)
    found = Behaviour("task", "logit_difference", two, two, (True, True), (True, True), (0, 0), (0, 1))
    (note,) = notes(found, SimpleNamespace(bos_token=None, eos_token="<|endoftext|>", unk_token=None))
    assert "1 pairs differ at their very first token" in note
    assert '--prepend "<|endoftext|>"' in note
    assert notes(found, SimpleNamespace(bos_token=None, eos_token=None, unk_token=None)) == []


def test_a_default_number_of_examples_is_the_most_and_one_that_is_asked_for_is_all() -> None:
    config = AgreeConfig(sites="embed")
    _, task = model_and_task(config, None, Wanted("agreement_rc").within(None, 5000))
    _, few = model_and_task(config, None, Wanted("agreement_rc").within(None, 3))
    assert (len(task), len(few)) == (400, 3)
    assert Wanted("agreement_rc").within(0, 20).limit == 0
    with pytest.raises(fc.InputError, match="5000 examples were asked for; it has 400"):
        model_and_task(config, None, Wanted("agreement_rc").within(5000, 20))


def test_single_prompts_and_the_paired_baseline_name_the_remedy_in_both_languages() -> None:
    task = fc.Task.from_tokens([[1, 2, 3]], None, [4], metric="probability")
    with pytest.raises(fc.InputError, match=r"needs pairs.* give baseline='zero', 'mean' or 'noise' \(--baseline zero"):
        check_baseline(task, "paired")
