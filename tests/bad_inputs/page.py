"""The page that lists bad inputs and their messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tests.bad_inputs import (
    arguments,
    circuits,
    dictionaries,
    interventions,
    models,
    runs,
    settings,
    suites,
    tasks,
    training,
)
from tests.bad_inputs.case import Case

GROUPS: Mapping[str, Sequence[Case]] = {
    "Tasks": tasks.CASES,
    "Options and numbers": settings.CASES,
    "Suites": suites.CASES,
    "Dictionaries": dictionaries.CASES,
    "Models, devices and dtypes": models.CASES,
    "Circuits and nodes": circuits.CASES,
    "Interventions": interventions.CASES,
    "Runs and outputs": runs.CASES,
    "Arguments of Python": arguments.CASES,
    "Text, and training on it": training.CASES,
}
ALL = [case for cases in GROUPS.values() for case in cases]
BEGINNING, END = 140, 90
MOST = 240
"""The most characters of a message that the page shows; of a longer one it shows the beginning and the end."""

INTRODUCTION = """# Bad inputs and their messages

The tests try every input on this page, and `python -m tests.bad_inputs > docs/bad-inputs.md` writes the page.
Each input ends in a message of one line: on the command line after `Error: ` and with exit code 2, in Python as a
`featcircuits.InputError`, which is a `ValueError`. No input ends in a traceback, and none is accepted silently. If an
interrupted run resumes without a damaged or foreign file, the message is a warning.

Command lines are refused before a model is loaded. Names of files are those of the tests. `FOLDER` and `HERE` replace
folders whose names differ between machines, `N` a number that is measured, and `...` the middle of a long message.
"""


def page(cell: Callable[[Case], str]) -> str:
    """The whole page, with the message of each case as a table's cell."""
    parts = [INTRODUCTION]
    for group, cases in GROUPS.items():
        rows = [f"| {escaped(case.tried)} | {cell(case)} |" for case in cases]
        parts.append("\n".join([f"## {group}\n", "| input | message |", "| --- | --- |", *rows, ""]))
    return "\n".join(parts)


def shown(message: str) -> str:
    """A message as a table's cell: as code, and without its middle where it is long."""
    short = message if len(message) <= MOST else f"{message[:BEGINNING].rstrip()} ... {message[-END:].lstrip()}"
    mark = "``" if "`" in short else "`"
    return f"{mark}{' ' * (len(mark) - 1)}{escaped(short)}{' ' * (len(mark) - 1)}{mark}"


def escaped(text: str) -> str:
    return text.replace("|", "\\|")
