"""Whatever stops a command, it ends in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featcircuits.cli.endings import one_line
from featcircuits.errors import InputError

ROOT = Path(__file__).parents[1]


def allocate() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def raises(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("fail", "code", "message"),
    [
        (raises(InputError("steps is 0")), 2, "steps is 0"),
        (raises(KeyboardInterrupt()), 130, "interrupted"),
        (raises(OSError(errno.ENOSPC, "No space left on device")), 2, "the output: No space left on device"),
        (raises(PermissionError(errno.EACCES, "Permission denied", "x.json")), 2, "x.json: Permission denied"),
        (raises(MemoryError()), 2, "out of memory (MemoryError); give a smaller --batch-size"),
        (
            raises(torch.OutOfMemoryError("CUDA out of memory. Tried\nto")),
            2,
            "out of memory (CUDA out of memory. Tried)",
        ),
        (allocate, 2, "give a smaller --batch-size, fewer --sites, or another --device"),
    ],
)
def test_errors_end_in_one_line(
    capsys: pytest.CaptureFixture[str], fail: Callable[[], Any], code: int, message: str
) -> None:
    with pytest.raises(SystemExit) as stop, one_line():
        fail()
    assert stop.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")
    assert message in line


def test_faults_of_the_program_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), one_line():
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with one_line():
        warnings.simplefilter("always")
        warnings.warn("a batch is\ndamaged", stacklevel=1)
    assert capsys.readouterr().err == "Warning: a batch is damaged\n"


def command(then: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`featcircuits suites` in a shell, with its output going elsewhere."""
    line = f"{sys.executable} -m featcircuits {' '.join(arguments)} {then}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_reader_that_leaves_is_no_error() -> None:
    done = command("| head -c 1", "suites")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_cannot_be_printed_is_one_line() -> None:
    done = command("> /dev/full", "suites")
    assert (done.returncode, done.stderr) == (2, "Error: the output: No space left on device\n")
