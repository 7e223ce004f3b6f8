"""Runs that are killed, disturbed by others, or find the disk full: each ends right, or is refused in one line."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked import Ended, Forker, job
from tests.test_cli import call

TRACE = ("trace", "--nodes", "atp", "--limit", "4", "--batch-size", "2", "--keep-nodes", "top=20", "--edges", "none")
EVALUATE = ("--limit", "2", "--sizes", "3", "--draws", "2", "--overwrite")
THOROUGH = "FEATCIRCUITS_THOROUGH" in os.environ
"""Kills at every point of writing take many minutes: `make fuzz` asks for them."""
thorough = pytest.mark.skipif(not THOROUGH, reason="many minutes of kills; `make fuzz` runs them")
EVERY = [pytest.param(13, id="some points"), pytest.param(1, id="every point", marks=thorough)]


@pytest.fixture(scope="module")
def forked() -> Iterator[Forker]:
    forker = Forker()
    yield forker
    forker.close()


@pytest.fixture(scope="module")
def run(forked: Forker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "R"
    assert forked(*TRACE, "-o", folder).code == 0
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def says(ended: Ended) -> str:
    """The one message of a command that was refused."""
    lines = [line for line in ended.err.splitlines() if line and "Loading weights" not in line]
    errors = [line for line in lines if line.startswith("Error: ")]
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err
    assert len(errors) == 1, ended.err
    return errors[0]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("step", EVERY)
@pytest.mark.parametrize("full", [False, True], ids=["killed", "disk full"])
def test_a_trace_stopped_anywhere_is_finished_by_the_next(
    forked: Forker, run: Path, tmp_path: Path, step: int, full: bool
) -> None:
    """The run folder is there whole, byte for byte the undisturbed one, or not at all."""
    calls = forked(*TRACE, "-o", tmp_path / "whole").calls
    assert calls > 30
    for at in range(1 + calls % step, calls + 1, step):
        place = tmp_path / str(at)
        stopped = forked(*TRACE, "-o", place / "R", at=at, full=full)
        if not full:
            assert stopped.code == -9
        elif stopped.code:
            assert "No space left" in says(stopped) or "the disk is full" in says(stopped)
        if (place / "R").exists():
            assert files(place / "R") == files(run)
            assert "exists and is not empty" in says(forked(*TRACE, "-o", place / "R"))
            continue
        assert forked(*TRACE, "-o", place / "R").code == 0
        assert files(place / "R") == files(run)
        assert names(place) == ["R"]


@pytest.mark.parametrize("step", EVERY)
@pytest.mark.parametrize("full", [False, True], ids=["killed", "disk full"])
@pytest.mark.parametrize(
    ("command", "arguments"), [("evaluate", EVALUATE), ("export", ("--to", "gexf,graphml,json", "--overwrite"))]
)
def test_an_evaluation_or_export_stopped_anywhere_has_written_all_its_files_or_none(
    forked: Forker, run: Path, tmp_path: Path, step: int, full: bool, command: str, arguments: tuple[str, ...]
) -> None:
    """After the next command the files are all the old ones or all the new ones."""
    old = shutil.copytree(run, tmp_path / "old")
    for name in ("report.json", "evaluation.json", "faithfulness.png", "circuit.gexf", "circuit.graphml"):
        (old / name).write_text("old")
    shutil.copytree(old, tmp_path / "new")
    calls = forked(command, tmp_path / "new", *arguments).calls
    new = files(tmp_path / "new")
    assert set(new) >= set(files(old))
    assert calls > 20
    for at in range(1 + calls % step, calls + 1, step):
        place = shutil.copytree(old, tmp_path / str(at))
        stopped = forked(command, place, *arguments, at=at, full=full)
        if not full:
            assert stopped.code == -9
        elif stopped.code:
            assert "No space left" in says(stopped) or "the disk is full" in says(stopped)
        says(forked("export", place, "--to", "nothing"))  # any command finishes what was ready, and takes away drafts
        assert files(place) in (files(old), new)
        assert forked(command, place, *arguments).code == 0
        assert files(place) == new


@pytest.mark.slow
def test_a_training_killed_anywhere_ends_with_the_same_bytes(tmp_path: Path) -> None:
    forked = Forker("sae_lens", "tests.test_training")
    calls = forked("train", tmp_path / "whole" / "mine").calls
    assert calls > 100
    for at in range(1, calls + 1, 5 if THOROUGH else 40):
        out = tmp_path / str(at) / "mine"
        assert forked("train", out, at=at).code == -9
        if not out.exists():
            again = forked("train", out)
            assert again.code == 0, again.err
            assert names(out.parent) == ["mine"]
        assert files(out) == files(tmp_path / "whole" / "mine")
    forked.close()


@pytest.mark.parametrize("times", [2, pytest.param(40, marks=thorough)])
@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (("--seed", "1"), "seed is 0 there and 1 here"),
        (("--nodes", "ig:steps=1"), "nodes is 'atp' there and 'ig:steps=1'"),
    ],
)
def test_of_two_runs_with_one_output_one_ends_right_and_the_other_is_refused(
    forked: Forker, tmp_path: Path, times: int, other: tuple[str, ...], difference: str
) -> None:
    alone = [(*TRACE,), (*TRACE, *other)]
    expected = []
    for number, command in enumerate(alone):
        assert forked(*command, "-o", tmp_path / f"alone{number}").code == 0
        expected.append(files(tmp_path / f"alone{number}"))
    for time in range(times):
        out = tmp_path / "both" / str(time)
        ended = forked.together([job(*command, "-o", out) for command in alone])
        (won,) = [number for number, each in enumerate(ended) if each.code == 0]
        message = says(ended[1 - won])
        if "exists and is not empty" not in message:  # the second may come when the first is done
            assert "process " in message
            assert ", started " in message
            assert "is writing" in message
            assert won == 1 or difference in message
        assert files(out) == expected[won]
        assert names(out.parent) == sorted(str(n) for n in range(time + 1))


@pytest.mark.parametrize("place", ["a-file/R", "n" * 300, "a-file"])
@pytest.mark.parametrize(
    "command",
    [
        ("trace", "-o"),
        ("agree", "-o"),
        ("suites", "check", "-o"),
        ("data", "check", "agreement_rc", "-o"),
        ("suites", "train", "--model", ".", "--sample", "4", "-o"),
    ],
    ids=lambda command: command[-2],
)
def test_every_command_tries_its_output_before_it_loads_a_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
    place: str,
) -> None:
    (tmp_path / "a-file").write_text("")
    assert refused(monkeypatch, capsys, *command, tmp_path / place).startswith(f"Error: {tmp_path}/")
    assert names(tmp_path) == ["a-file"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "you may not write there"),
        (errno.ENOSPC, "is full"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("trace", "-o"),
        ("agree", "-o"),
        ("suites", "check", "-o"),
        ("data", "check", "ioi", "-o"),
        ("evaluate",),
        ("export", "--overwrite"),
    ],
    ids=lambda command: command[0],
)
def test_a_place_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...], code: int, reason: str,
) -> None:  # fmt: skip
    place = tmp_path / "R"
    if command[-1] != "-o":
        shutil.copytree(run, place)
    before = files(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(code, "")

    monkeypatch.setattr("os.fsync", fail)
    message = refused(monkeypatch, capsys, *command, place)
    assert str(tmp_path / "R") in message
    assert reason in message
    assert files(tmp_path) == before


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that must not load a model."""

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    for name in ("tasks.load", "tasks.load_tokenizer", "dictionaries.load_bare", "datacheck.load_bare"):
        monkeypatch.setattr(f"featcircuits.cli.{name}", load)
    assert call(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_of_two_evaluations_of_one_run_one_is_refused(forked: Forker, run: Path, tmp_path: Path) -> None:
    place = shutil.copytree(run, tmp_path / "R")
    both = [job("evaluate", place, *EVALUATE), job("evaluate", place, *EVALUATE, "--ablation", "zero")]
    ended = forked.together(both)
    assert sorted(each.code for each in ended) in ([0, 0], [0, 2])  # one after the other is right too
    assert [name for name in names(place) if name.startswith(".")] == []


def ranks(*commands: tuple[object, ...]) -> list[dict[str, object]]:
    """Processes of one run, started by hand."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        job(*command, RANK=str(rank), WORLD_SIZE=str(len(commands)), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        for rank, command in enumerate(commands)
    ]


def test_several_processes_leave_the_run_of_one(forked: Forker, run: Path, tmp_path: Path) -> None:
    command = (*TRACE, "-o", tmp_path / "R")
    ended = forked.together(ranks(command, command, command))
    assert [each.code for each in ended] == [0, 0, 0], ended
    assert files(tmp_path / "R") == files(run)
    assert names(tmp_path) == ["R"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("--dtype", "float64"), "config.dtype is not given in process 0 and 'float64' in process 1"),
        (("--nodes", "ig:steps=1"), "config.nodes is 'atp' in process 0 and 'ig:steps=1' in process 1"),
        (("--limit", "6"), "config.limit is 4 in process 0 and 6 in process 1"),
        (("--batch-size", "1"), "config.batch_size is 2 in process 0 and 1 in process 1"),
        (("--sites", "resid"), "config.sites is '' in process 0 and 'resid' in process 1"),
        (("--nodes", "nonsense"), "unknown estimator 'nonsense'"),
        (("--task", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_processes_that_were_asked_for_different_things_all_end_with_one_message(
    forked: Forker, tmp_path: Path, other: tuple[str, ...], message: str
) -> None:
    command = (*TRACE, "-o", tmp_path / "R")
    for each in forked.together(ranks(command, (*command, *other))):
        assert message in says(each)
    assert names(tmp_path) == []


def test_a_process_that_is_killed_ends_the_others(forked: Forker, run: Path, tmp_path: Path) -> None:
    command = (*TRACE, "-o", tmp_path / "R")
    jobs = ranks(command, command)
    jobs[1]["at"] = 3
    first, second = forked.together(jobs)
    assert second.code == -9
    assert "another process of this run ended before it was done" in says(first)
    assert forked(*command).code == 0
    assert files(tmp_path / "R") == files(run)
