"""The measurements behind the page on the frontier, on a tiny model; the page's tables and marks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import featcircuits as fc
from experiments.frontier import circuits as of_circuits
from experiments.frontier import models, page, pictures, prompts, tables
from experiments.frontier.accuracy import accuracy
from experiments.frontier.models import Case
from experiments.frontier.tables import SUITE, figure
from featcircuits.agreement.agree import parse_compared
from tests.tiny import random_task, spliced_model, tiny_model

ROOT = Path(__file__).parents[1]
ESTIMATORS = ("atp", "relp", "blend:error_effects=exact")


@pytest.fixture(scope="module")
def case() -> Case:
    spliced = spliced_model(tiny_model("gpt2"), sites=["attn_1", "resid_1"])
    return Case(SUITE, "pairs", spliced, random_task(48, 4), random_task(48, 4, seed=1), sizes=(4, 8))


@pytest.fixture(scope="module")
def results(case: Case) -> dict[str, list[dict[str, Any]]]:
    """All rows, as read from the file that they are written to."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (of_circuits, "ESTIMATORS", ESTIMATORS),
            (of_circuits, "CANDIDATES", ESTIMATORS),
            (prompts, "ESTIMATORS", ESTIMATORS[:2]),
            (prompts, "TOP", 8),
            (prompts, "COUNTS", (4, 24)),
            (prompts, "TEST_COUNTS", (12, 24)),
        ):
            patch.setattr(module, name, value)
        patch.setattr("experiments.frontier.accuracy.ESTIMATORS", ESTIMATORS)
        rows = accuracy(case, 4, edge_nodes=10) | of_circuits.circuits(case, 20, 40)
        rows |= {"overlap": prompts.overlap(case), "spread": prompts.spread(case, 20)}
    return json.loads(json.dumps(rows))


def test_the_truth_agrees_with_itself_and_has_a_cost(results: dict[str, list[dict[str, Any]]]) -> None:
    exact = tables.chosen(results["scores"], what="error", estimator="blend:error_effects=exact")
    assert [row["pearson"] for row in exact] == pytest.approx([1.0] * len(exact))
    forwards, backwards, _ = tables.cost(results, SUITE, "atp")
    assert forwards == pytest.approx(3)
    assert 0 < backwards < 1  # both sites are in later layers


def test_areas_are_those_of_an_evaluation(case: Case, results: dict[str, list[dict[str, Any]]]) -> None:
    assert case.test is not None
    train, test = case.train.take(20), case.test.take(40)
    effects = fc.node_effects(case.spliced, train, "atp", keep_examples=False)
    order = fc.select(case.spliced, train, effects)
    circuit = fc.trace(case.spliced, train, nodes="atp", edges=None, keep_nodes="top=8", check_fit=False).circuit
    for ablation in ("mean", "paired"):
        report = fc.evaluate(case.spliced, circuit, test, ablation=ablation, ranking=order, sizes=(4, 8), draws=1)
        (row,) = tables.chosen(results["circuits"], estimator="atp", ablation=ablation)
        assert report.curve is not None
        assert row["area_from_one"] == pytest.approx(report.curve.area_from_one)
        assert tables.chosen(results["features_alone"], ablation=ablation)[0]["faithfulness"] == pytest.approx(
            report.features_alone
        )


def test_the_second_draw_is_of_other_pairs(results: dict[str, list[dict[str, Any]]]) -> None:
    first, again = (tables.chosen(results[key], estimator="relp", ablation="mean")[0] for key in ("circuits", "again"))
    assert first["train"] == again["train"] == 20
    assert first["faithfulness"] != again["faithfulness"]


def test_an_overlap_is_that_of_the_last_half_with_parts_of_the_first(
    case: Case, results: dict[str, list[dict[str, Any]]]
) -> None:
    def top(begin: int, end: int) -> set[fc.Node]:
        part = case.train.with_options(examples=case.train.examples[begin:end])
        nodes = sorted(fc.node_effects(case.spliced, part, "relp").nodes(), key=lambda row: -abs(row[1]))
        return {node for node, _, _ in nodes[:8]}

    few, many = tables.chosen(results["overlap"], estimator="relp")
    reference = top(24, 48)
    assert many["overlap"] == len(top(0, 24) & reference) / 8
    shares = [len(top(start, start + 4) & reference) / 8 for start in (0, 4, 8, 12, 16)]
    assert (few["overlap"], few["worst"]) == (pytest.approx(sum(shares) / 5), min(shares))


def test_sets_of_held_out_pairs_are_disjoint(results: dict[str, list[dict[str, Any]]]) -> None:
    assert [row["sets"] for row in tables.chosen(results["spread"], ablation="mean")] == [4, 2]
    assert all(row["deviation"] > 0 for row in results["spread"])


def test_a_set_has_the_faithfulness_of_an_evaluation(case: Case) -> None:
    task = case.train.take(12)
    circuit = fc.trace(case.spliced, task, nodes="atp", edges=None, keep_nodes="top=8", check_fit=False).circuit
    for setting in of_circuits.SETTINGS:
        report = fc.evaluate(case.spliced, circuit, task, ablation=setting.ablation, sizes=())
        own = prompts.nodes_faithfulness(case, task, list(circuit.nodes), setting, 0)
        assert own == pytest.approx(report.faithfulness)


def test_tables_and_pictures_of_all_figures(results: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    written = page.write_tables(results)
    assert {
        "summary",
        "counts",
        "features",
        "edges",
        "areas",
        "areas-again",
        "behaviours-mean",
        "overlap",
    } <= written.keys()
    assert "features-stories" not in written
    for text in written.values():
        assert len({line.replace("\\|", "").count("|") for line in text.splitlines()}) == 1
    pictures.draw(results, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"accuracy.png", "areas.png", "pairs.png"}


def test_a_pooled_difference_is_the_mean_of_differences() -> None:
    own, plain = (
        [{"area": 0.5, "area_from_one": one, "folds": [[0.5, one + step] for step in (-0.2, -0.1, 0.0, 0.1, 0.2)]}]
        for one in (0.3, 0.4)
    )
    center, between = tables.difference(own + plain, plain + plain)
    assert center == pytest.approx(-0.05)
    assert between == pytest.approx((-0.05, -0.05))


def test_a_page_keeps_its_prose_and_the_tables_that_were_not_made() -> None:
    text = "One.\n<!-- table: areas -->\nold\n<!-- end -->\nTwo.\n<!-- table: overlap -->\nold\n<!-- end -->\n"
    filled = page.fill(text, {"areas": "| new |"})
    assert filled.split() == text.replace("old", "| new |", 1).split()
    assert page.fill(filled, {"areas": "| new |"}) == filled
    with pytest.raises(fc.InputError, match="a table 'sizes'"):
        page.fill("<!-- table: sizes -->\n<!-- end -->", {})


def test_figures_are_written_short() -> None:
    assert [figure(0.984), figure(-0.5), figure(1.0), figure(None), figure(0.02, 3, sign=True)] == [
        ".98", "-.50", "1.00", "–", "+.020",
    ]  # fmt: skip


def test_every_method_of_the_page_is_known() -> None:
    for text in (*models.ESTIMATORS, *of_circuits.CANDIDATES, *prompts.ESTIMATORS):
        assert str(parse_compared(text)) == text


# --- the pages themselves

FIGURE = re.compile(r"(?<!\d)\d?\.\d{2,3}(?!\d)")
KINDS = {"embedding": "embed", "attention": "attn", "residual": "resid", "MLP": "mlp"}


def table(name: str) -> dict[tuple[str, str], str]:
    """(estimator, column) -> cell of a table of the page."""
    text = (ROOT / "docs" / "frontier.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- table: {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert found is not None
    rows = [cells(line) for line in found[1].splitlines() if line]
    return {(row[0].strip("`"), column): cell for row in rows[2:] for column, cell in zip(rows[0], row, strict=True)}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("\\|", "").removeprefix("|").removesuffix("|").split("|")]


def test_every_figure_of_the_prose_is_in_a_table() -> None:
    text = (ROOT / "docs" / "frontier.md").read_text(encoding="utf-8")
    marked = r"<!-- table: .*?<!-- end -->"
    figures = set(FIGURE.findall("\n".join(re.findall(marked, text, re.DOTALL))))
    figures |= set(FIGURE.findall((ROOT / "docs" / "selection.md").read_text(encoding="utf-8")))
    assert set(FIGURE.findall(re.sub(marked, "", text, flags=re.DOTALL))) <= figures


def test_every_table_of_the_page_is_there() -> None:
    text = (ROOT / "docs" / "frontier.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- table: ([\w-]+) -->\n\n\|", text)) == set(tables.TABLES)


@pytest.mark.parametrize("section", ["Nodes", "Edges"])
def test_the_page_on_choosing_has_the_same_correlations(section: str) -> None:
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8").partition(f"## {section}\n")[2]
    header, _, *lines = [cells(line) for line in text.strip().split("\n\n")[0].splitlines()]
    checked, kind = 0, ""
    for first, model, *figures in lines:
        kind = first or kind
        what, _, site = kind.partition(", ") if section == "Nodes" else ("edge", "", kind)
        if site not in KINDS:
            continue
        found = table({"whole output": "whole"}.get(what, what) + ("s-stories" if model == "stories" else "s"))
        for estimator, own in zip(header[2:], figures, strict=True):
            assert found[estimator.strip("`"), KINDS[site]].split()[0] == own, (kind, model, estimator)
            checked += 1
    assert checked == {"Nodes": 84, "Edges": 24}[section]


def test_the_page_on_choosing_has_the_same_areas() -> None:
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    lines = [cells(line) for line in text.splitlines() if re.match(r"\| (grammar-4l|stories), \w+ ablation", line)]
    estimators = ("exact", "atp", "relp", "secant", "blend", "ig", "ig-inputs")
    for where, *figures in lines:
        found = areas_of("areas-stories" if where.startswith("stories") else "areas")
        assert figures == [found[estimator, int("paired" in where)].split()[0] for estimator in estimators], where
    assert len(lines) == 4


def areas_of(name: str) -> dict[tuple[str, int], str]:
    """(estimator, 0 for mean or 1 for paired ablation) -> area of |1 - faithfulness|: both columns have one name."""
    text = (ROOT / "docs" / "frontier.md").read_text(encoding="utf-8").partition(f"<!-- table: {name} -->")[2]
    rows = [cells(line) for line in text.partition("<!-- end -->")[0].splitlines() if line.startswith("| `")]
    return {(row[0].strip("`"), number): row[2 + 4 * number] for row in rows for number in (0, 1)}
