"""A few hundred cases of `make fuzz`, the same at every run."""

from __future__ import annotations

import pytest

from tests.fuzz.cases import run_case
from tests.fuzz.targets import SLOW, TARGETS

CASES, BLOCK = 60, 15


@pytest.mark.parametrize("first", range(0, CASES, BLOCK))
@pytest.mark.parametrize("target", TARGETS)
def test_spoiled_input_ends_in_a_sound_result_or_in_one_message(target: str, first: int) -> None:
    found = [run_case(target, 10**6 + seed) for seed in range(first, first + BLOCK)]
    assert [finding for finding in found if finding is not None] == []


@pytest.mark.slow
@pytest.mark.parametrize("target", SLOW)
def test_spoiled_models_end_in_a_sound_result_or_in_one_message(target: str) -> None:
    found = [run_case(target, 10**6 + seed) for seed in range(5)]
    assert [finding for finding in found if finding is not None] == []
