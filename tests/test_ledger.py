"""Ledgers: interruptions and several processes change not a bit of a result."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import featcircuits as fc
from featcircuits import runs
from featcircuits.circuit import Circuit
from featcircuits.ledger import InMemory, OnDisk
from featcircuits.splice import SplicedModel
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
    with pytest.raises(fc.InputError, match="the same command goes on from the batches in"):
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
