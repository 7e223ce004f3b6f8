"""Ledgers: interruptions and several processes change not a bit of a result."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit
from featcircuits.runs import folder as runs
from featcircuits.runs.ledger import InMemory
from featcircuits.runs.on_disk import OnDisk
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import random_task, spliced_model, tiny_model, traced

ROOT = Path(__file__).parents[1]
OPTIONS: dict[str, Any] = {"nodes": "relp", "keep_nodes": "top=30", "keep_edges": "top=200", "batch_size": 2}


class Stop(Exception):
    pass


def stopping(after: int) -> Any:
    """A `progress` that breaks off after so many batches in all."""
    left = [after]

    def watch(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        for item in items:
            if left[0] == 0:
                raise Stop
            left[0] -= 1
            yield item

    return watch


def counting(counts: dict[str, int]) -> Any:
    def watch(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
        counts[description.split(" (")[0]] = total
        return items

    return watch


@pytest.fixture
def work() -> tuple[SplicedModel, fc.Task]:
    return spliced_model(tiny_model("llama")), random_task(7, 4)


@pytest.mark.parametrize("after", [0, 1, 3, 4, 6, 7])
def test_an_interrupted_trace_goes_on_from_its_finished_batches(
    work: tuple[SplicedModel, fc.Task], tmp_path: Path, after: int
) -> None:
    """Four batches of nodes and four of edges: wherever it stops, the rest is done and the circuit is the same."""
    whole = traced(*work, **OPTIONS)
    folder = tmp_path / "partial"
    with pytest.raises(Stop):
        traced(*work, ledger=OnDisk(folder, {}), progress=stopping(after), **OPTIONS)
    counts: dict[str, int] = {}
    again = traced(*work, ledger=OnDisk(folder, {}), progress=counting(counts), **OPTIONS)
    assert counts == {"node effects": max(0, 4 - after), "edge effects": min(4, 8 - after)}
    assert again.nodes == whole.nodes
    assert again.edges == whole.edges


def test_single_effects_survive_an_interruption(work: tuple[SplicedModel, fc.Task], tmp_path: Path) -> None:
    whole = fc.node_effects(*work, "atp", batch_size=3)
    with pytest.raises(Stop):
        fc.node_effects(*work, "atp", batch_size=3, ledger=OnDisk(tmp_path / "p", {}), progress=stopping(2))
    again = fc.node_effects(*work, "atp", batch_size=3, ledger=OnDisk(tmp_path / "p", {}))
    assert torch.equal(again.total_effect, whole.total_effect)
    for site in whole.sites:
        assert torch.equal(again.features(site), whole.features(site))
        assert torch.equal(again.error(site), whole.error(site))


def test_batches_put_in_any_order_come_back_in_theirs() -> None:
    ledger = InMemory()
    for number in (2, 0, 1):
        assert number in ledger.todo("nodes", 3)
        ledger.put("nodes", number, {"x": torch.tensor([number])})
    assert list(ledger.parts("nodes", 3)) == [0, 1, 2]
    assert ledger.todo("nodes", 5) == [3, 4]
    assert ledger.kept("edges", 3) == {}
    with pytest.raises(fc.InputError, match="batch 3 of nodes was finished, and is missing"):
        ledger.parts("nodes", 5)


def test_batches_of_another_run_are_refused(tmp_path: Path) -> None:
    OnDisk(tmp_path / "p", {"task": "a"}).put("nodes", 0, {"x": torch.ones(1)})
    assert OnDisk(tmp_path / "p", {"task": "a"}).todo("nodes", 2) == [1]
    with pytest.raises(fc.InputError, match="interrupted run with other settings, data or versions"):
        OnDisk(tmp_path / "p", {"task": "b"})


def interrupted(work: tuple[SplicedModel, fc.Task], folder: Path, request: Any = None, after: int = 3) -> Path:
    """The folder of a trace that was stopped after some of its 4 + 4 batches."""
    with pytest.raises(Stop):
        traced(*work, ledger=OnDisk(folder, request or {"run": 1}), progress=stopping(after), **OPTIONS)
    return folder


def flipped(path: Path, where: float) -> None:
    """One bit is another."""
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def batch(folder: Path, number: int, stage: str = "nodes") -> Path:
    return folder / f"{stage}-{number:06d}.safetensors"


def with_another_header(path: Path, **changes: str) -> None:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = {**file.metadata(), **changes}
    save_file(tensors, path, header)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "emptied": lambda folder: batch(folder, 1).write_bytes(b""),
    "cut": lambda folder: os.truncate(batch(folder, 1), 100),
    "cut by a byte": lambda folder: os.truncate(batch(folder, 1), batch(folder, 1).stat().st_size - 1),
    "filled with zeros": lambda folder: batch(folder, 1).write_bytes(bytes(batch(folder, 1).stat().st_size)),
    "a bit of the numbers": lambda folder: flipped(batch(folder, 1), 1.0),
    "a bit in the middle": lambda folder: flipped(batch(folder, 1), 0.6),
    "a bit of the header": lambda folder: flipped(batch(folder, 1), 0.0),
    "another batch's": lambda folder: shutil.copy(batch(folder, 0), batch(folder, 1)),
    "of no run": lambda folder: save_file({"clean": torch.ones(2)}, batch(folder, 1)),
    "of another request": lambda folder: with_another_header(batch(folder, 1), request="0" * 64),
    "of another stage": lambda folder: with_another_header(batch(folder, 1), stage="edges"),
    "of another format": lambda folder: with_another_header(batch(folder, 1), format="2"),
    "a folder": lambda folder: (batch(folder, 1).unlink(), batch(folder, 1).mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_batch_that_is_damaged_or_foreign_is_named_set_aside_and_computed_again(
    work: tuple[SplicedModel, fc.Task], tmp_path: Path, damage: str
) -> None:
    whole = traced(*work, **OPTIONS)
    folder = interrupted(work, tmp_path / "p")
    DAMAGE[damage](folder)
    counts: dict[str, int] = {}
    with pytest.warns(UserWarning, match=r"nodes-000001.safetensors: it .* is now nodes-000001\.\S*\.damaged"):
        again = traced(*work, ledger=OnDisk(folder, {"run": 1}), progress=counting(counts), **OPTIONS)
    assert counts == {"node effects": 2, "edge effects": 4}
    assert again.nodes == whole.nodes
    assert again.edges == whole.edges
    assert batch(folder, 1).with_name("nodes-000001.safetensors.damaged").exists()


STRANGERS: dict[str, Callable[[Path], object]] = {
    "a copied batch": lambda folder: shutil.copy(batch(folder, 0), batch(folder, 99)),
    "a copied batch after the last": lambda folder: shutil.copy(batch(folder, 0), batch(folder, 4)),
    "another stage": lambda folder: shutil.copy(batch(folder, 0), batch(folder, 0, "others")),
    "a foreign name": lambda folder: (folder / "notes.txt").write_text("mine"),
    "a foreign tensor file": lambda folder: save_file({"x": torch.ones(1)}, folder / "nodes-old.safetensors"),
    "a folder": lambda folder: (folder / "mine").mkdir(),
    "a draft": lambda folder: (folder / ".featcircuits-0123abcd.draft").write_bytes(b"half"),
    "a damaged request": lambda folder: (folder / "request.json").write_text("{"),
    "an empty request": lambda folder: (folder / "request.json").write_bytes(b""),
    "a request of another type": lambda folder: (folder / "request.json").write_text("[1]"),
    "no request": lambda folder: (folder / "request.json").unlink(),
}


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.filterwarnings("ignore:.*request.json. it is damaged and is written again")
def test_what_does_not_belong_there_is_not_added(
    work: tuple[SplicedModel, fc.Task], tmp_path: Path, stranger: str
) -> None:
    whole = traced(*work, **OPTIONS)
    folder = interrupted(work, tmp_path / "p", after=5)
    STRANGERS[stranger](folder)
    counts: dict[str, int] = {}
    again = traced(*work, ledger=OnDisk(folder, {"run": 1}), progress=counting(counts), **OPTIONS)
    assert counts == {"node effects": 0, "edge effects": 3}
    assert again.nodes == whole.nodes
    assert again.edges == whole.edges


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: None, r"with other settings, data or versions \(run is 1 there and 2 here\)"),
        (
            lambda folder: (folder / "request.json").unlink(),
            "finished batches of another run .*request.json is missing",
        ),
        (lambda folder: (folder / "request.json").write_text("{"), "finished batches of another run"),
        (
            lambda folder: (folder / "request.json").write_text('{"format": 2, "request": {"run": 2}}'),
            "batches in format 2, and this version of featcircuits reads format 1",
        ),
    ],
)
def test_a_folder_of_another_run_is_refused_whatever_was_done_to_it(
    work: tuple[SplicedModel, fc.Task], tmp_path: Path, harm: Callable[[Path], object], message: str
) -> None:
    folder = interrupted(work, tmp_path / "p")
    harm(folder)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(fc.InputError, match=message):
        OnDisk(folder, {"run": 2})
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(("after", "stage"), [(2, "node"), (4, "node"), (5, "edge")])
def test_batches_of_another_size_are_not_added(
    work: tuple[SplicedModel, fc.Task], tmp_path: Path, after: int, stage: str
) -> None:
    """7 examples by 2 are 4 batches, by 3 they are 3; the request says nothing of it."""
    folder = interrupted(work, tmp_path / "p", after=after)
    if stage == "edge":
        for path in folder.glob("nodes-*"):
            path.unlink()
    with pytest.raises(
        fc.InputError, match="cut with another batch size|holds batch 0 of .* of another model, task or settings"
    ):
        traced(*work, ledger=OnDisk(folder, {"run": 1}), **{**OPTIONS, "batch_size": 3})


def test_a_slower_process_compares_its_request_too(tmp_path: Path) -> None:
    """Both began when there was no folder."""
    quick, slow = OnDisk(tmp_path / "p", {"run": 1}), OnDisk(tmp_path / "p", {"run": 2})
    quick.put("nodes", 0, {"x": torch.ones(1)})
    with pytest.raises(fc.InputError, match="run is 1 there and 2 here"):
        slow.begin()
    slow.put("nodes", 1, {"x": torch.ones(1)})
    with pytest.warns(UserWarning, match="another batch or belongs to another run"):
        assert quick.todo("nodes", 2) == [1]


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"x": torch.tensor(1.5)},
        {"x": torch.zeros(0, 3)},
        {"x": torch.tensor([float("nan"), float("inf")])},
        {"x": torch.ones(3, dtype=torch.bfloat16), "y": torch.tensor([True]), "z": torch.arange(6).view(2, 3).T},
    ],
)
def test_every_part_comes_back_as_it_was(tmp_path: Path, part: dict[str, torch.Tensor]) -> None:
    ledger = OnDisk(tmp_path / "p", {})
    ledger.put("nodes", 0, part)
    found = ledger.parts("nodes", 1)[0]
    assert found.keys() == part.keys()
    for name, tensor in part.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].nan_to_num(), tensor.nan_to_num())


def test_the_disk_is_asked_whether_the_rest_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 0, 50_000))
    ledger = OnDisk(tmp_path / "p", {})
    ledger.todo("nodes", 10)
    with pytest.raises(fc.InputError, match=r"the 10 batches of nodes that are left take about 0.[12] MB, and"):
        ledger.put("nodes", 0, {"x": torch.ones(3000)})
    ledger.todo("nodes", 3)
    ledger.put("nodes", 0, {"x": torch.ones(3000)})
    assert ledger.todo("nodes", 3) == [1, 2]


def test_what_featcircuits_did_not_write_stays_and_is_named(tmp_path: Path) -> None:
    def run() -> None:
        with runs.resumable(tmp_path / "R", {}) as ledger:
            ledger.put("nodes", 0, {"x": torch.ones(1)})
            (ledger.folder / "notes.txt").write_text("mine")

    with pytest.warns(UserWarning, match="holds files that featcircuits did not write: notes.txt"):
        run()
    assert [path.name for path in (tmp_path / ".R.partial").iterdir()] == ["notes.txt"]


def test_what_is_left_of_a_run(tmp_path: Path) -> None:
    """Nothing after success, and after bad input before any batch; else the batches that are finished."""

    def run(name: str, error: BaseException | None, *, finished: bool = True) -> list[int]:
        with runs.resumable(tmp_path / name, {}) as ledger:
            todo = list(ledger.todo("nodes", 2))
            if finished:
                ledger.put("nodes", 0, {"x": torch.ones(1)})
            else:
                ledger.begin()
            if error is not None:
                raise error
        return todo

    assert run("good", None) == [0, 1]
    with pytest.raises(fc.InputError, match="bad"):
        run("bad", fc.InputError("bad"), finished=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(fc.InputError, match="bad"):
        run("late", fc.InputError("bad"))
    assert [path.name for path in tmp_path.iterdir()] == [".late.partial"]
    assert run("late", None) == [1]
    with pytest.raises(fc.InputError, match="run the same command again to resume from the batches in"):
        run("stopped", KeyboardInterrupt())
    with pytest.raises(RuntimeError):
        run("stopped", RuntimeError("crash"))
    assert [path.name for path in tmp_path.iterdir()] == [".stopped.partial"]
    assert run("stopped", None) == [1]
    assert list(tmp_path.iterdir()) == []


def test_two_processes_trace_the_same_circuit(tmp_path: Path) -> None:
    trace = ("-m", "featcircuits", "trace", "--limit", "6", "--batch-size", "2", "--keep-nodes", "top=40", "-o")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for launcher, name in (
        ([sys.executable], "one"),
        ([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], "two"),
    ):
        command = [*launcher, *trace, str(tmp_path / name)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("circuit of") == 1
    one, two = (Circuit.load(tmp_path / name / "circuit.safetensors") for name in ("one", "two"))
    assert one.nodes == two.nodes
    assert one.edges == two.edges
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
