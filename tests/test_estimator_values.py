"""Estimators as values: their text is read once, checked wherever a value is made, and written back as it is read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import featcircuits as fc
from featcircuits.agreement.agree import every_estimator, parse_compared
from featcircuits.cli import (
    commands,  # noqa: F401 - what is made when modules are imported is of no run
    main,
)
from featcircuits.estimators import ESTIMATORS, parse_estimator
from featcircuits.estimators.blend import Blend
from featcircuits.estimators.estimator import Estimator
from featcircuits.estimators.ig import IntegratedGradients
from featcircuits.estimators.quadrature import QUADRATURES
from featcircuits.estimators.relp import RelevancePatching


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_name_stands_for_an_estimator_with_its_defaults(name: str) -> None:
    estimator = parse_estimator(name)
    assert (estimator.name, str(estimator)) == (name, name)
    assert estimator == ESTIMATORS[name]()
    assert parse_estimator(estimator) is estimator


@given(steps=st.integers(1, 1000), quadrature=st.sampled_from(list(QUADRATURES)))
def test_estimators_are_written_as_they_are_read(steps: int, quadrature: str) -> None:
    estimator = IntegratedGradients(steps=steps, quadrature=quadrature)
    assert parse_estimator(f"ig:steps={steps}:quadrature={quadrature}") == estimator
    assert parse_estimator(str(estimator)) == estimator


def test_a_text_shows_only_the_options_that_differ_from_their_defaults() -> None:
    assert str(parse_estimator("ig:steps=10:quadrature=gauss")) == "ig:quadrature=gauss"
    assert parse_estimator("relp:rules=ln+half") == RelevancePatching("ln+half")
    assert str(RelevancePatching(("ln", "half"))) == "relp:rules=ln+half"  # type: ignore[arg-type]
    assert parse_estimator("blend:near=atp-hop1") == Blend(near="atp-hop1", far="secant")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("igg", "unknown estimator 'igg'; known: exact, atp, .*; did you mean 'ig'"),
        ("ig:steps=3:steps=4", "estimator 'ig:steps=3:steps=4': steps is given twice"),
        ("ig:steps=few", "steps is 'few', but must be of type int"),
        ("ig:max_rows=3", "estimator 'ig' has no option 'max_rows'; its options: steps, quadrature"),
        (5, "estimator is 5, but must be of type str"),
        (fc.dictionaries, "estimator is .*, but must be of type str"),
    ],
)
def test_texts_that_describe_no_estimator_are_refused(text: Any, message: str) -> None:
    with pytest.raises(fc.InputError, match=message):
        parse_estimator(text)


def test_an_estimator_to_compare_may_have_its_error_terms_patched() -> None:
    found = parse_compared("ig:error_effects=exact:steps=3")
    assert (found.estimator, found.error_effects) == (IntegratedGradients(3), "exact")
    assert str(found) == "ig:steps=3:error_effects=exact"
    with pytest.raises(fc.InputError, match="error_effects is 'none'; known: estimated, exact"):
        parse_compared("atp:error_effects=none")


def test_every_estimator_but_exact_patching_is_compared_with_it() -> None:
    assert {one.estimator.name for one in every_estimator()} == set(ESTIMATORS) - {"exact"}


@pytest.mark.parametrize(
    ("options", "built"),
    [
        (("--nodes", "secant"), ["secant"]),
        (("--nodes", "secant", "--edges", "ig:steps=1"), ["secant", "ig:steps=1"]),
        ((), ["secant"]),
    ],
)
def test_a_run_makes_each_estimator_that_it_was_asked_for_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: tuple[str, ...], built: list[str]
) -> None:
    made: list[str] = []
    check = Estimator.__post_init__

    def counted(estimator: Estimator) -> None:
        check(estimator)
        made.append(str(estimator))

    monkeypatch.setattr(Estimator, "__post_init__", counted)
    few = ("--task", "agreement_simple", "--limit", "2", "--sites", "resid_2,resid_3")
    monkeypatch.setattr(sys, "argv", ["featcircuits", "trace", *few, *options, "-o", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert made == built
