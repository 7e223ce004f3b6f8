"""One bad input, and what is said about it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest.mock import patch

import featcircuits as fc
from tests.test_cli import call

ROOT = Path(__file__).parents[2]


class Case(NamedTuple):
    """What was tried, in words, and the trial itself, which runs in an empty folder."""

    tried: str
    action: Callable[[], object]


class Ended(AssertionError):
    """A case that was taken in silence, or that ended otherwise than in one line."""


def said(case: Case) -> str:
    """The one line that the user sees: of an `InputError` or a warning, and the same on every machine."""
    with TemporaryDirectory() as folder, chdir(folder), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            case.action()
            messages = [str(warning.message) for warning in caught]
        except fc.InputError as error:
            messages = [str(error)]
        message = _one(case, messages)
        return _everywhere(message, folder)


def _one(case: Case, messages: list[str]) -> str:
    if len(messages) != 1:
        raise Ended(f"{case.tried}: {len(messages)} messages: {messages}")
    if not messages[0] or not messages[0].isprintable():
        raise Ended(f"{case.tried}: no readable line: {messages[0]!r}")
    return messages[0]


def _everywhere(message: str, folder: str) -> str:
    """Without what differs between machines: where folders are, libraries' words, and the last digits of measures."""
    for path in (os.path.realpath(folder), folder):
        message = message.replace(path, "FOLDER")
    message = message.replace(str(ROOT), "HERE")
    message = re.sub(r" \((Error while|SafetensorError)[^)]*\)", "", message)
    message = re.sub(r"could not be loaded: .*", "could not be loaded", message)
    message = re.sub(r"(?<=\|effect\| )[\d.]+", "N", message)
    return re.sub(r"(?<=leaves )\d+%|\d+\.\d+ ?%", "N %", message)


def command(*arguments: object) -> None:
    """A command line that must end with exit code 2 and one line, without loading a model."""
    out, err = StringIO(), StringIO()
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        stack.enter_context(patch("transformers.AutoModelForCausalLM.from_pretrained", _loaded))
        code = call(*arguments)
    lines = err.getvalue().splitlines()
    if code != 2 or len(lines) != 1 or not lines[0].startswith("Error: "):
        raise Ended(f"exit code {code}, {lines}, {out.getvalue()!r}")
    raise fc.InputError(lines[0].removeprefix("Error: "))


def _loaded(*_: object, **__: object) -> None:
    raise Ended("a model was loaded first")


def commands(*lines: str) -> list[Case]:
    """Command lines that are refused before a model is loaded, by themselves."""
    return [Case(f"`{line}`", partial(command, *line.split())) for line in lines]
