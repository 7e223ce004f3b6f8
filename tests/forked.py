"""Commands in processes of their own that need no start of their own: forked from one that has loaded everything.

`python -m tests.forked` reads a line of JSON for each group of processes that start together, and answers with
one. At its n-th call that changes the disk a process may be killed, or the disk may be full from there on; where
the call writes a file, half of it is written.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
CHANGES = ("fsync", "replace", "rename", "link", "mkdir", "rmdir", "unlink")


class Ended(NamedTuple):
    """`code`: -9 where it was killed; `calls`: how many changed the disk."""

    code: int
    out: str
    err: str
    calls: int


class Forker:
    """The process that all others are forked from."""

    def __init__(self, *also: str) -> None:
        """`also`: modules to load beforehand."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", *also],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", "MPLBACKEND": "agg"}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def together(self, jobs: Sequence[dict[str, Any]]) -> list[Ended]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(jobs)) + "\n")
        self._process.stdin.flush()
        return [Ended(*ended) for ended in json.loads(self._process.stdout.readline())]

    def __call__(self, *arguments: object, at: int | None = None, full: bool = False) -> Ended:
        """One command line."""
        return self.together([job(*arguments, at=at, full=full)])[0]

    def close(self) -> None:
        self._process.communicate(timeout=60)


def job(*arguments: object, at: int | None = None, full: bool = False, **environment: str) -> dict[str, Any]:
    """A command line with these variables in its environment.

    `at` the call of that number it is killed, or finds the disk `full`.
    """
    return {"arguments": list(map(str, arguments)), "at": at, "full": full, "environment": environment}


def _serve() -> None:
    import torch

    from featcircuits.cli import commands, dictionaries, measure, tasks  # noqa: F401
    from featcircuits.cli.config import TraceConfig

    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    tasks.load, tasks.load_tokenizer = functools.lru_cache(tasks.load), functools.lru_cache(tasks.load_tokenizer)
    config = TraceConfig()
    tasks.load_for(config, None, tasks.load_tokenizer(config.model, config.suite))
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        running = [_started(each) for each in json.loads(line)]
        answers.write(json.dumps([_ended(*each) for each in running]) + "\n")
        answers.flush()


def _started(job: dict[str, Any]) -> tuple[int, Path]:
    record = Path(tempfile.mkstemp()[1])
    child = os.fork()
    if child == 0:
        os.environ.update(job["environment"])
        _run(job["arguments"], job["at"], job["full"], record)
    return child, record


def _ended(child: int, record: Path) -> tuple[int, str, str, int]:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = record.read_text()
    record.unlink()
    return (code, *(json.loads(text) if text else ("", "", 0)))


def _run(arguments: list[str], at: int | None, full: bool, record: Path) -> None:
    """A whole command in this process, which ends with it."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    sys.argv = ["featcircuits", *arguments]
    calls = _counted(at, full)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if arguments[0] == "train":
                _train(Path(arguments[1]))
            else:
                from featcircuits.cli import main

                main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        code, _ = 1, err.write(traceback.format_exc())
    count = calls[0]
    with record.open("w") as file:
        json.dump((out.getvalue(), err.getvalue(), count), file)
    os._exit(code)


def _train(out: Path) -> None:
    """A small suite, with a checkpoint at every step."""
    from featcircuits.training import train_suite, trainer
    from tests.test_training import RECIPE, bare_model, random_rows

    trainer.CHECKPOINT_SECONDS = 0.0
    train_suite(bare_model(), random_rows(), out, RECIPE, sites="resid_1", name="mine", text="random.txt")


def _counted(at: int | None, full: bool) -> list[int]:
    """Count the calls that change the disk, and die or fail at one of them."""
    calls = [0]

    def stop() -> None:
        if not full:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def now(name: str) -> bool:
        calls[0] += 1
        return at is not None and (calls[0] == at or (calls[0] > at and full and name not in ("rmdir", "unlink")))

    def counting(name: str, function: Any) -> Any:
        @functools.wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            if now(name):
                stop()
            return function(*arguments, **options)

        return counted

    def write(path: Path, content: bytes) -> int:
        half = now("write")
        with path.open("wb") as file:
            file.write(content[: len(content) // 2] if half else content)
        if half:
            stop()
        return len(content)

    for name in CHANGES:
        setattr(os, name, counting(name, getattr(os, name)))
    Path.write_bytes = write  # type: ignore[method-assign, assignment]
    return calls


if __name__ == "__main__":
    _serve()
