"""Run folders, what an interrupted run left, and places where nothing can be written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from errno import EACCES, ENOSPC, EROFS
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import featcircuits as fc
from featcircuits.files.locks import claimed
from featcircuits.runs.on_disk import FORMAT
from tests.bad_inputs.case import Case, command
from tests.bad_inputs.shared import run_in, tiny


def of_run(*arguments: object, change: Callable[[Path], object] = lambda run: None) -> None:
    """A command on a run folder, after a change of it."""
    change(run_in("run"))
    name, *options = arguments
    command(name, "run", *options)


def cut(run: Path) -> None:
    path = run / "circuit.safetensors"
    path.write_bytes(path.read_bytes()[:200])


def without(name: str) -> Callable[[Path], object]:
    return lambda run: (run / name).unlink()


def exported(run: Path) -> None:
    (run / "circuit.gexf").write_text("kept", encoding="utf-8")


def reported(run: Path) -> None:
    (run / "report.json").write_text("{}", encoding="utf-8")


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_text(text, encoding="utf-8")


def in_the_way(*arguments: object) -> None:
    Path("a-file").touch()
    command(*arguments)


def filled() -> None:
    Path("out").mkdir()
    Path("out/mine.txt").touch()
    command("trace", "-o", "out")


def failing(code: int, *arguments: object) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with patch("os.fsync", fail):
        command(*arguments)


def failing_save() -> None:
    def fail(*_: object) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    circuit = tiny().circuit
    with patch("os.fsync", fail):
        circuit.save("circuit.safetensors")


def at_work() -> None:
    """Another run with one output; how its process is named differs between machines."""
    with claimed(Path("lock"), Path("out"), {"seed": 0}):
        try:
            with claimed(Path("lock"), Path("out"), {"seed": 1}):
                pass
        except fc.InputError as error:
            start, _, end = str(error).partition("process ")
            raise fc.InputError(f"{start}process ...{end[end.index(' with other') :]}") from None


OTHER = json.dumps({"format": FORMAT, "request": {"seed": 1}})


def partial_of(content: dict[str, str]) -> None:
    """What an interrupted run left, with something else in it."""
    folder = Path(".out.partial")
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text, encoding="utf-8")
    traced(Path("out"))


def traced(output: Path) -> None:
    from featcircuits.runs.folder import resumable

    made = tiny()
    with resumable(output, {"seed": 0}) as ledger:
        fc.trace(made.model, made.task, nodes="atp", edges=None, check_fit=False, ledger=ledger)


RUNS: dict[str, tuple[Any, ...]] = {
    "an unknown ablation": ("evaluate", "--ablation", "median"),
    "an unknown way with error terms": ("evaluate", "--error-nodes", "none"),
    "sizes that are no numbers": ("evaluate", "--sizes", "few"),
    "a billion random circuits": ("evaluate", "--draws", "1000000000"),
    "a layer before the first": ("evaluate", "--start-layer", "-1"),
    "a run compared with nothing": ("compare",),
    "a way to match features that there is not": ("compare", "run", "--match", "label"),
    "a union to export to nowhere": ("compare", "run", "--to", "gexf"),
    "an unknown format to export to": ("export", "--to", "gexf,dot"),
}

CHANGED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a run whose circuit is cut off": ("evaluate", cut),
    "a run without its circuit": ("export", without("circuit.safetensors")),
    "a run without its config": ("evaluate", without("config.json")),
    "a run whose config is cut off": ("evaluate", written("config.json", '{"suite": ')),
    "a run whose config has another setting": ("evaluate", written("config.json", json.dumps({"colour": "red"}))),
    "an export that is there already": ("export", exported),
    "a report that is there already": ("evaluate", reported),
}

OUTPUTS: dict[str, tuple[Any, ...]] = {
    "an output below a file": ("trace", "-o", "a-file/out"),
    "an output that is a file": ("trace", "-o", "a-file"),
    "an output with a name of 300 characters": ("trace", "-o", "n" * 300),
    "a report below a file": ("suites", "check", "-o", "a-file/health.json"),
    "a comparison in place of a file": ("agree", "-o", "a-file"),
    "a suite to train in place of a file": ("suites", "train", "--model", ".", "--sample", "4", "-o", "a-file"),
}

CASES = [
    *(Case(tried, partial(of_run, *given)) for tried, given in RUNS.items()),
    *(Case(tried, partial(of_run, name, change=change)) for tried, (name, change) in CHANGED.items()),
    *(Case(tried, partial(in_the_way, *given)) for tried, given in OUTPUTS.items()),
    Case("a folder that is no run", partial(command, "evaluate", "none")),
    Case("an output that holds something", filled),
    Case("an output on a read-only disk", partial(failing, EROFS, "trace", "-o", "out")),
    Case("an output in a folder that one may not write to", partial(failing, EACCES, "agree", "-o", "out")),
    Case("an output on a full disk", partial(failing, ENOSPC, "trace", "-o", "out")),
    Case("a circuit saved on a full disk", failing_save),
    Case("an export into a folder that there is not", lambda: fc.export.gexf(tiny().circuit, "none/x.gexf")),
    Case("an export in place of a device", lambda: fc.export.json(tiny().circuit, "/dev/null", overwrite=True)),
    Case("another run with the same output", at_work),
    Case("a batch of an interrupted run that is damaged", partial(partial_of, {"nodes-000000.safetensors": "x"})),
    Case("a request of an interrupted run that is damaged", partial(partial_of, {"request.json": "{"})),
    Case("an interrupted run with other settings", partial(partial_of, {"request.json": OTHER})),
    Case("a foreign file in what an interrupted run left", partial(partial_of, {"notes.txt": "mine"})),
]
