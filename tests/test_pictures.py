"""Pictures of circuits: the project's one arrangement, texts that do not overlap, files that others can embed."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit, NodeScore
from featcircuits.circuit.layout import drawn
from featcircuits.export import EXPORTERS
from featcircuits.export.boxes import SIZE, width, wrapped
from featcircuits.export.boxes import shown as as_shown
from featcircuits.files.palette import NEGATIVE, NEUTRAL, POSITIVE
from featcircuits.files.pictures import styled
from featcircuits.model.nodes import METRIC, Node, Place, input_node
from tests.test_circuit import A, B, C, circuits, small

PICTURES = ("svg", "pdf", "png", "heatmap.svg", "heatmap.pdf", "heatmap.png")
BEGIN = {".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG"}
few = settings(
    max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip

LABELS = (
    "W" * 100, "open subject is singular: names, 'The prisoner', and what a verb with -s follows; strongest on names",
    "$x^2$ \\frac{1}{2} {} _ ^", "\u4e2d\u6587\u6807\u7b7e " * 8, "<img src=x onerror=alert(1)></script>",
    "\u0645\u0631\u062d\u0628\u0627", "i " * 50, "\U0001f642", "verb",
)  # fmt: skip


def crowd(count: int, aggregate: str = "none", seed: int = 0, labelled: bool = True) -> Circuit:
    """Nodes of many sites and places, with long labels of every kind, effects of every size, and many edges."""
    random = np.random.default_rng(seed)
    sites = ["embed", *(f"{kind}_{layer}" for layer in range(4) for kind in ("attn", "mlp", "resid"))]
    places: tuple[Place, ...] = {"none": (0, 1, 2, 11), "sum": (None,), "role": ("subject", "the_long_role", "v")}[
        aggregate
    ]
    nodes: dict[Node, NodeScore] = {}
    while len(nodes) < count:
        site, place = sites[random.integers(len(sites))], places[random.integers(len(places))]
        feature = "error" if random.random() < 0.2 else random.integers(10 ** random.integers(1, 7))
        node = Node.parse(f"{site}/{feature}" + ("" if place is None else f"@{place}"))
        nodes[node] = NodeScore(random.normal() * 10.0 ** random.integers(-4, 5), random.choice([0.1, 5]))
    edges: dict[Any, float] = {
        (a, b): random.normal() for a in nodes for b in nodes if a.site < b.site and random.random() < 0.2
    }
    edges |= {(node, METRIC): 1.0 for node in nodes if node.site.layer == 3}
    edges |= {(input_node(node.place), node): -1.0 for node in nodes if node.site.kind == "embed"}
    words = {str(place): "<|endoftext|> | supercalifragilistic | \u7684 | ..." for place in places}
    manifest = {"task": {"metric": "logit_difference", "words": words}}
    labels = {node: LABELS[number % len(LABELS)] for number, node in enumerate(nodes)} if labelled else {}
    return Circuit(nodes, edges, places, aggregate, manifest).labelled(labels)


def texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text that is drawn, with the box that the renderer gives it, in pixels."""
    with styled():
        figure.draw_without_rendering()
        renderer = FigureCanvasAgg(figure).get_renderer()
        outside = set(map(id, outside_of_view(figure)))
        found = [text for text in figure.findobj(Text) if isinstance(text, Text) and id(text) not in outside]
        return [(text, text.get_window_extent(renderer)) for text in found if text.get_text() and text.get_visible()]


def outside_of_view(figure: Figure) -> Iterator[Text]:
    """The labels of ticks that are not drawn."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not (axes.axison and low - 1e-9 <= tick.get_loc() <= high + 1e-9):
                    yield from (tick.label1, tick.label2)


def boxes(figure: Figure) -> dict[int, FancyBboxPatch]:
    return {number: patch for number, patch in enumerate(figure.axes[0].patches) if isinstance(patch, FancyBboxPatch)}


def check_texts_apart(figure: Figure) -> None:
    found = texts(figure)
    whole = figure.bbox
    for text, box in found:
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text.get_text()
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text.get_text()
    for (one, first), (other, second) in combinations(found, 2):
        assert not first.padded(-0.5).overlaps(second.padded(-0.5)), (one.get_text(), other.get_text())


@pytest.mark.parametrize("aggregate", ["none", "sum", "role"])
@pytest.mark.parametrize("count", [1, 12, 40])
def test_no_two_texts_overlap_and_all_are_inside(count: int, aggregate: str) -> None:
    check_texts_apart(fc.export.draw_circuit(crowd(count, aggregate, seed=count), top=40))


@few
@given(circuit=circuits())
def test_no_texts_of_any_circuit_overlap(circuit: Circuit) -> None:
    check_texts_apart(fc.export.draw_circuit(circuit))
    if circuit.nodes:
        check_texts_apart(fc.export.draw_heatmap(circuit))


def test_boxes_do_not_overlap_and_hold_their_texts() -> None:
    figure = fc.export.draw_circuit(crowd(40), top=40)
    frames = [patch.get_window_extent() for patch in boxes(figure).values()]
    assert len(frames) >= 40
    for one, other in combinations(frames, 2):
        assert not one.overlaps(other)
    inside = [box for _, box in texts(figure) if any(frame.overlaps(box) for frame in frames)]
    assert len(inside) > 80
    for box in inside:
        assert any(frame.x0 <= box.x0 and box.x1 <= frame.x1 for frame in frames)
        assert any(frame.y0 - 1 <= box.y0 and box.y1 <= frame.y1 + 1 for frame in frames)


def centres(figure: Figure, circuit: Circuit) -> dict[str, tuple[float, float]]:
    """Node -> the middle of its box; boxes are drawn in the order of the graph's nodes."""
    middles = []
    for patch in boxes(figure).values():
        x, y, wide, high = patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()
        middles.append((x + wide / 2, y + high / 2))
    return dict(zip(circuit.to_networkx().nodes, middles, strict=True))


def sign(value: float) -> int:
    return 0 if abs(value) < 1e-6 else 1 if value > 0 else -1


@few
@given(circuit=circuits())
def test_a_picture_arranges_nodes_as_every_other_format(circuit: Circuit) -> None:
    """The distances are those of boxes with texts; what is above, below, left or right of what is the same."""
    found = centres(fc.export.draw_circuit(circuit), circuit)
    viewer = {name: (data["x"], data["y"]) for name, data in drawn(circuit).nodes(data=True)}
    for one, other in combinations([name for name in found if name != METRIC], 2):
        for axis in (0, 1):
            assert sign(found[one][axis] - found[other][axis]) == sign(viewer[one][axis] - viewer[other][axis])
    if METRIC in found:
        assert found[METRIC][1] == max(y for _, y in found.values())


def test_boxes_say_sign_strength_error_and_uncertainty() -> None:
    nodes = {A: NodeScore(4.0, 0.1), B: NodeScore(-0.5), C: NodeScore(1.0, 2.0)}
    figure = fc.export.draw_circuit(Circuit(nodes, {}, (0, 1), "none"))
    strong, error, unsure = boxes(figure).values()
    assert [to_hex(patch.get_edgecolor()) for patch in (strong, error, unsure)] == [POSITIVE, NEGATIVE, POSITIVE]
    assert to_hex(error.get_facecolor()) == "#ffffff"
    assert sum(strong.get_facecolor()[:3]) < sum(unsure.get_facecolor()[:3]) < 3
    assert [patch.get_linestyle() == "solid" for patch in (strong, error, unsure)] == [True, True, False]
    shown = [text.get_text() for text, _ in texts(figure)]
    assert {
        "3",
        "error",
        "7",
        "+4.00",
        "\u22120.500",
        "+1.00",
        "sign uncertain (95 %)",
        "3 of 3 nodes, 0 of 0 edges",
    } <= {*shown}


def test_edges_have_the_width_of_their_weight_and_the_colour_of_its_sign() -> None:
    figure = fc.export.draw_circuit(small())
    curves = [patch for patch in figure.axes[0].patches if type(patch) is PathPatch]
    by_weight = sorted(small().edges.values(), key=abs)
    assert [to_hex(curve.get_edgecolor()) for curve in curves] == [
        POSITIVE if weight > 0 else NEGATIVE if weight < 0 else NEUTRAL for weight in by_weight
    ]
    shares = [curve.get_linewidth() / curves[-1].get_linewidth() for curve in curves]
    assert shares == pytest.approx([abs(weight) / abs(by_weight[-1]) for weight in by_weight])


def test_only_the_strongest_nodes_are_shown() -> None:
    circuit = crowd(40)
    figure = fc.export.draw_circuit(circuit, top=7)
    note = next(text.get_text() for text, _ in texts(figure) if "of 40 nodes" in text.get_text())
    assert note.startswith("7 of 40 nodes, ")
    effects = sorted(circuit.nodes.values(), key=lambda score: -abs(score.effect))
    shown = {text.get_text() for text, _ in texts(figure)}
    assert {as_shown(score.effect) for score in effects[:7]} <= shown
    assert as_shown(effects[7].effect) not in shown
    with pytest.raises(fc.InputError, match="top"):
        fc.export.draw_circuit(circuit, top=0)


def test_a_group_is_one_box_with_its_name_and_the_sum_of_its_effects() -> None:
    circuit = small().with_groups({"the subject": [A, B]})
    figure = fc.export.draw_circuit(circuit.grouped())
    shown = {text.get_text() for text, _ in texts(figure)}
    assert {"2 nodes", "+1.00", "the subject", "2 of 2 nodes, 3 of 3 edges"} <= shown
    check_texts_apart(figure)


@pytest.mark.parametrize("name", PICTURES)
def test_files_have_their_format_and_the_same_bytes_each_time(name: str, tmp_path: Path) -> None:
    exporter, circuit = EXPORTERS[name], crowd(12)
    path, other = tmp_path / exporter.file, tmp_path / f"again{exporter.suffix}"
    exporter.write(circuit, path)
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "black", "lines.linewidth": 9, "svg.fonttype": "none"}):
        exporter.write(circuit, other)
    assert path.read_bytes() == other.read_bytes(), "the user's own style does not matter"
    assert path.read_bytes().startswith(BEGIN[exporter.suffix])
    with pytest.raises(fc.InputError, match="exists; choose another name"):
        exporter.write(circuit, path)
    with pytest.raises(fc.InputError, match="the folder .* does not exist"):
        exporter.write(circuit, tmp_path / "nowhere" / exporter.file)


def test_another_suffix_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    for write in (fc.export.picture, fc.export.heatmap):
        with pytest.raises(fc.InputError, match="pictures cannot be written as 'jpg'; known: png, pdf, svg"):
            write(small(), tmp_path / "circuit.jpg")
    assert list(tmp_path.iterdir()) == []


def test_a_pdf_embeds_its_letters_and_an_svg_needs_none(tmp_path: Path) -> None:
    fc.export.picture(crowd(12), tmp_path / "one.pdf")
    content = (tmp_path / "one.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    fc.export.picture(crowd(12), tmp_path / "one.svg")
    root = ET.parse(tmp_path / "one.svg").getroot()
    tags = {element.tag.split("}")[1] for element in root.iter()}
    assert not tags & {"text", "image", "script", "a", "foreignObject"}
    links = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
    assert all(link.startswith("#") for link in links)
    assert "onerror" not in re.sub(r"<!--.*?-->", "", (tmp_path / "one.svg").read_text(), flags=re.DOTALL)


@given(text=st.text(st.characters(codec="utf-8"), max_size=80), room=st.floats(20, 120), lines=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_wrapped_text_fits_and_loses_nothing_unless_it_says_so(text: str, room: float, lines: int) -> None:
    with styled():
        from featcircuits.files.pictures import drawable

        text = drawable(text)
        found = wrapped(text, room, lines)
        assert len(found) <= lines
        assert all(width(line) <= room or len(line) == 1 for line in found)
    kept = "".join(found).replace(" ", "")
    whole = "".join(text.split())
    assert kept == whole or (kept.endswith("\u2026") and whole.startswith(kept[:-1]))


def test_labels_are_written_as_they_are() -> None:
    circuit = Circuit({C: NodeScore(1.0)}, {}, (1,), "none").labelled({C: "$x$ & <b>"})
    assert "$x$ & <b>" in [text.get_text() for text, _ in texts(fc.export.draw_circuit(circuit))]
    assert SIZE >= 6


def shown_sums(figure: Figure) -> dict[str, np.ndarray]:
    """Title -> the drawn sums, in the unit that the colour bar names."""
    *maps, bar = figure.axes
    named = re.search(r"effects / (.+) \(", bar.get_ylabel())
    unit = float(named[1]) if named else 1.0
    arrays = {axes.get_title(): np.ma.asarray(axes.images[0].get_array()).astype(float) for axes in maps}
    return {title: unit * np.ma.filled(array, math.nan) for title, array in arrays.items()}


@few
@given(circuit=circuits())
def test_a_heat_map_sums_the_effects_of_each_site_and_place(circuit: Circuit) -> None:
    assume(circuit.nodes)
    found = shown_sums(fc.export.draw_heatmap(circuit))
    sites = sorted({node.site for node in circuit.nodes})
    for title, table in found.items():
        for row, site in enumerate(sites):
            for column, place in enumerate(circuit.places):
                cell = [
                    score.effect
                    for node, score in circuit.nodes.items()
                    if (node.site, node.place, node.is_error) == (site, place, title == "errors")
                ]
                expected = sum(cell) if cell else math.nan
                assert table[row, column] == pytest.approx(expected, nan_ok=True, rel=1e-9, abs=1e-300)
    kinds = {"errors" if node.is_error else "features" for node in circuit.nodes}
    assert set(found) == kinds


@pytest.mark.parametrize("aggregate", ["none", "sum", "role"])
def test_a_heat_map_names_its_axes_and_its_unit(aggregate: str) -> None:
    figure = fc.export.draw_heatmap(crowd(40, aggregate))
    check_texts_apart(figure)
    first, *_, bar = figure.axes
    kind = {"none": "position", "sum": "positions", "role": "role"}[aggregate]
    assert f"{kind}, with its first word" in [text.get_text() for text in figure.texts]
    assert first.get_ylabel() == "site (forward order)"
    assert bar.get_ylabel() == "sum of effects / 1e+04 (logit difference)"


def test_there_is_no_heat_map_of_nothing() -> None:
    with pytest.raises(fc.InputError, match="the circuit has no nodes"):
        fc.export.draw_heatmap(Circuit({}, {}, (None,), "sum"))


def test_a_heat_map_of_a_long_prompt_and_many_layers_stays_on_a_page() -> None:
    nodes = {
        Node.parse(f"{kind}_{layer}/1@{place}"): NodeScore(float(layer + place))
        for kind in ("attn", "mlp", "resid")
        for layer in range(26)
        for place in range(60)
    }
    figure = fc.export.draw_heatmap(Circuit(nodes, {}, tuple(range(60)), "none"))
    wide, high = figure.get_size_inches()
    assert wide < 12
    assert high < 12
    check_texts_apart(figure)
