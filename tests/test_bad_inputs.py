"""Every input of docs/bad-inputs.md ends in one line, and the page says which."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import featcircuits as fc
from tests.bad_inputs.case import Case, Ended, command, said
from tests.bad_inputs.page import ALL, escaped, page, shown

PAGE = Path(__file__).parents[1] / "docs" / "bad-inputs.md"


def cells() -> dict[str, str]:
    """What the page says about each case."""
    return dict(re.findall(r"^\| (.+) \| (`.*`) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("case", ALL, ids=lambda case: ascii(case.tried))
def test_a_bad_input_ends_in_the_line_that_the_page_shows(case: Case) -> None:
    """Made anew by `python -m tests.bad_inputs > docs/bad-inputs.md`."""
    assert shown(said(case)) == cells()[escaped(case.tried)]


def test_the_page_has_all_cases_and_nothing_else() -> None:
    assert len({case.tried for case in ALL}) == len(ALL) >= 150
    found = cells()
    assert page(lambda case: found[escaped(case.tried)]) == PAGE.read_text(encoding="utf-8")


def silent() -> None:
    pass


def unreadable() -> None:
    raise fc.InputError("two\nlines")


def several() -> None:
    warnings.warn("one", stacklevel=1)
    warnings.warn("two", stacklevel=1)


def listed() -> None:
    command("suites")


@pytest.mark.parametrize("action", [silent, unreadable, several, listed])
def test_a_case_that_ends_otherwise_is_found(action: Callable[[], None]) -> None:
    with pytest.raises(Ended):
        said(Case("tried", action))


def test_a_case_that_ends_in_a_traceback_is_found() -> None:
    with pytest.raises(ZeroDivisionError):
        said(Case("tried", lambda: 1 / 0))
