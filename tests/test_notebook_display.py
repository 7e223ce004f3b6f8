"""What notebooks show of results: the result's own figures, and texts of strangers as texts."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import unescape

import pytest

import featcircuits as fc
from featcircuits.circuit.circuit import NodeScore
from featcircuits.files.html import html_table
from featcircuits.tracing.trace import Trace
from tests.tiny import random_task, spliced_model, tiny_model

HOSTILE = "</td><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def spliced() -> fc.SplicedModel:
    return spliced_model(tiny_model("gpt2"), sites=["resid_0", "mlp_1"])


@pytest.fixture(scope="module")
def traced(spliced: fc.SplicedModel) -> Trace:
    return fc.trace(spliced, random_task(4, 4), nodes="atp", keep_nodes="top=20", check_fit=False)


def cells(html: str) -> list[str]:
    return [unescape(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", html)]


def test_a_circuit_shows_its_strongest_nodes_and_edges(traced: Trace) -> None:
    circuit = traced.circuit
    shown = cells(circuit._repr_html_())
    strongest = max(circuit.nodes, key=lambda node: abs(circuit.nodes[node].effect))
    at = shown.index("effect ± s.e.") + 1
    score = circuit.nodes[strongest]
    assert shown[at : at + 2] == [str(strongest), f"{score.effect:+.4f} ± {score.standard_error:.4f}"]
    (source, target), weight = max(circuit.edges.items(), key=lambda item: abs(item[1]))
    at = shown.index("to") + 2
    assert shown[at : at + 3] == [str(source), str(target), f"{weight:+.4f}"]
    assert f"circuit of {circuit.n_nodes} nodes and {circuit.n_edges} edges" in circuit._repr_html_()


def test_labels_stay_text_and_small_circuits_have_no_empty_tables() -> None:
    circuit = fc.Circuit({"resid_0/1": NodeScore(-1.0)}, {}, (None,), "sum", labels={"resid_0/1": HOSTILE})
    shown = circuit._repr_html_()
    assert "<img" not in shown
    assert cells(shown)[-3:] == ["resid_0/1", "-1.0000", HOSTILE]
    assert shown.count("<table>") == 1
    assert "<table>" not in fc.Circuit({}, {}, (None,), "sum")._repr_html_()


def test_a_trace_shows_what_its_circuit_left_out(traced: Trace) -> None:
    shown = cells(traced._repr_html_())
    every, chosen, kept = traced.counts[:3]
    assert shown[5:10] == ["nodes", *map(str, (every, chosen, chosen - kept, kept))]
    assert traced.circuit._repr_html_() in traced._repr_html_()


def test_a_report_shows_its_figures_its_notes_and_its_curve(spliced: fc.SplicedModel, traced: Trace) -> None:
    report = fc.evaluate(spliced, traced.circuit, random_task(4, 4), sizes=(5, 20), draws=2, check=False)
    valid = replace(report, invalid=None, notes=(HOSTILE,), task=HOSTILE)
    shown = valid._repr_html_()
    found = dict(zip(cells(shown)[::2], cells(shown)[1::2], strict=True))
    assert found["completeness (of the complement)"] == f"{report.completeness:.3f}"
    assert [found[f"F({name})"] for name in ("model", "circuit", "empty", "complement")] == [
        f"{value:.3f}" for value in (report.F_model, report.F_circuit, report.F_empty, report.F_complement)
    ]
    assert shown.count("<img") == 1  # the curve
    picture = re.search(r"data:image/svg\+xml;base64,([^']+)", shown)
    assert picture is not None
    assert ET.fromstring(base64.b64decode(picture[1])).tag.endswith("svg")
    assert unescape(shown).count(HOSTILE) == 2


def test_an_invalid_report_shows_the_reason_and_no_ratio(spliced: fc.SplicedModel, traced: Trace) -> None:
    report = fc.evaluate(spliced, traced.circuit, random_task(4, 4), sizes=(5, 20), check=False)
    shown = replace(report, invalid="the model does not do it")._repr_html_()
    assert cells(shown)[:2] == ["invalid", "the model does not do it"]
    assert "faithfulness" not in shown


def test_a_table_aligns_numbers_and_is_nothing_without_rows() -> None:
    assert html_table([]) == html_table([], ("a",)) == ""
    aligned = re.findall(r"text-align: (\w+)", html_table([("a", "1")], ("name", "n"), numbers=[1]))
    assert aligned == ["left", "right"] * 2
