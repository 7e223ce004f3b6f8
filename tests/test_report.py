"""Reports as tables and pictures: the same words, every figure with what it stands for."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.cli.tables import curve_table, report_table
from featcircuits.evaluation.plot import draw_curve, plot_curve
from featcircuits.evaluation.report import Curve, Report
from tests.tiny import random_task, spliced_model, tiny_model


def report(draws: int = 2, error_nodes: str = "as-circuit", count: int = 3) -> Report:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0", "mlp_1"]), random_task(count, 4)
    effects = fc.node_effects(spliced, task, "atp", keep_examples=False)
    nodes = {node: NodeScore(effect) for node, effect, _ in effects.nodes()}
    found = fc.evaluate(
        spliced, Circuit(nodes, {}, task.places, "none"), task, sizes=(5, 20), draws=draws, error_nodes=error_nodes
    )
    return replace(found, invalid=None)


def curve_of(found: Report) -> Curve:
    assert found.curve is not None
    return found.curve


def shown(table: Any) -> str:
    stream = StringIO()
    Console(file=stream, width=200).print(table)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("draws", "said"),
    [(0, None), (1, "random (one draw, no spread)"), (2, "random ± s.d. (2 draws)"), (5, "random ± s.d. (5 draws)")],
)
def test_a_table_shows_no_number_that_is_none(draws: int, said: str | None) -> None:
    text = shown(curve_table(curve_of(report(draws))))
    assert "nan" not in text
    assert ("random" in text) == (said is not None)
    assert said is None or said in text


@pytest.mark.parametrize("error_nodes", ["as-circuit", "keep", "remove"])
def test_tables_say_what_is_counted_where_and_over_what(error_nodes: str) -> None:
    found = report(error_nodes=error_nodes)
    table, curve = shown(report_table(found)), shown(curve_table(curve_of(found), found.counted))
    assert "mean ablation by position" in table
    assert f"nodes in scope ({found.counted})" in table
    assert ("F(empty), every error kept" in table) == (error_nodes == "keep")
    assert "faithfulness of all features, errors ablated" in table
    assert "cap" not in table
    assert f"By size ({found.counted})" in curve
    assert "areas over 0 to 20 nodes:" in curve


def test_tables_hold_intervals_where_there_are_any() -> None:
    found = report(count=3)
    assert "95 %" not in shown(curve_table(curve_of(found)))
    curve = replace(curve_of(found), intervals=((0.25, 0.75), None))
    text = shown(curve_table(curve))
    assert "0.250 to 0.750" in text
    assert "95 %" in text


@pytest.mark.parametrize(("suffix", "begin"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_the_suffix_chooses_the_kind_of_picture(tmp_path: Path, suffix: str, begin: bytes) -> None:
    found = report()
    for name in ("a", "b"):
        plot_curve(found, tmp_path / f"{name}{suffix}")
    content, again = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert suffix == ".svg" or content == again  # an SVG's names depend on the file's
    assert content.startswith(begin)


def test_another_kind_of_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(fc.InputError, match="pictures cannot be written as .*tiff.*; known: png, pdf, svg"):
        plot_curve(report(), tmp_path / "curve.tiff")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("draws", [0, 1, 3])
def test_a_picture_names_its_axes_as_the_table_does_and_keeps_its_legend_off_the_data(draws: int) -> None:
    found = replace(report(draws, "keep"), task="costs $5 or $6 [b]", interval=(0.2, 0.9))
    figure = draw_curve(found)
    (axes,) = figure.axes
    assert axes.get_legend() is None
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    curve = curve_of(found)
    assert f"faithfulness (area {curve.area:.3f}, of |1 - f| {curve.area_from_one:.3f})" in labels
    assert "all features, errors ablated" in labels
    assert any("random" in label for label in labels) == (draws > 0)
    assert axes.get_xlabel() == "nodes (features; every error kept); areas are over 0 to 20"
    assert "share of F(model) - F(empty)" in axes.get_ylabel()
    figure.draw_without_rendering()  # a task's name is no formula
    box, inner = legend.get_window_extent(), axes.get_window_extent()
    assert box.y1 <= inner.y0
    bars = [container for container in axes.containers if type(container).__name__ == "ErrorbarContainer"]
    assert len(bars) == 1
    low, high = bars[0].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.2, 0.9))


def test_intervals_are_drawn_as_a_band() -> None:
    found = report(0)
    bare = len(draw_curve(found).axes[0].collections)
    with_band = replace(found, curve=replace(curve_of(found), intervals=((0.1, 0.2), None)))
    assert len(draw_curve(with_band).axes[0].collections) == bare + 1


def test_a_circuit_without_nodes_can_be_drawn() -> None:
    draw_curve(replace(report(), n_nodes=0)).draw_without_rendering()
