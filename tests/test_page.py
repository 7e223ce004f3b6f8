"""The HTML page of a circuit, in a real browser without a network: its figures are the files', its controls work."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

import featcircuits as fc
from featcircuits import page
from featcircuits.cli import app
from featcircuits.dossiers.dossiers import Dossiers
from featcircuits.errors import InputError
from featcircuits.model.nodes import METRIC
from featcircuits.page.data import digest, page_data
from featcircuits.page.outcomes import read_outcome
from featcircuits.page.state import read_state

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package chromium)")
GO_TO = """(name) => {
  const item = scene.view.nodes.find((one) => one.name === name);
  d3.select(canvas).call(zoom.scaleTo, 1.2);
  d3.select(canvas).call(zoom.translateTo, item.x, -item.y);
  draw();
}"""
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A traced and evaluated run of the shipped suite."""
    from typer.testing import CliRunner

    folder = tmp_path_factory.mktemp("page") / "run"
    commands = (
        ["trace", "--limit", "16", "--keep-nodes", "top=40", "--keep-edges", "top=200", "--output", str(folder)],
        ["evaluate", str(folder), "--limit", "16", "--start-layer", "1", "--sizes", "5,10,20,40"],
        ["view", str(folder)],
    )
    for command in commands:
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def circuit(run: Path) -> fc.Circuit:
    return fc.Circuit.load(run / "circuit.safetensors")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, run: Path) -> Iterator[Any]:
    """The run's page, whose end fails on any error or request."""
    context, tab, heard = opened_page(browser, run / "circuit.html")
    yield tab
    context.close()
    assert heard == []


def opened_page(browser: Any, path: Path, fragment: str = "", **options: Any) -> tuple[Any, Any, list[str]]:
    context = browser.new_context(
        offline=True, accept_downloads=True, **{"viewport": {"width": 1280, "height": 800}, **options}
    )
    tab, heard = context.new_page(), []
    tab.on("pageerror", lambda error: heard.append(f"error {error}"))
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("dialog", lambda dialog: (heard.append(f"dialog {dialog.message}"), dialog.dismiss()))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "blob:")) else heard.append(request.url))
    tab.goto(f"{path.as_uri()}{fragment}")
    tab.wait_for_function("scene.width > 0 && scene.tree !== null")
    return context, tab, heard


def slide(tab: Any, name: str, value: int) -> None:
    tab.evaluate(
        "([id, value]) => { byId(id).value = value; byId(id).dispatchEvent(new Event('input')); }", [name, value]
    )


def open_tables(tab: Any) -> None:
    tab.click("#tables summary")
    tab.wait_for_selector("#node-table tbody tr", state="attached")


def shown_names(tab: Any) -> set[str]:
    return set(tab.evaluate("scene.view.nodes.flatMap((item) => item.members).map((index) => data.nodes[index].name)"))


def click(tab: Any, name: str, **options: Any) -> None:
    """A click on the canvas where the node is drawn."""
    tab.evaluate(
        GO_TO,
        name,
    )
    x, y = tab.evaluate("(name) => screen(scene.view.nodes.find((one) => one.name === name))", name)
    tab.locator("#graph").click(position={"x": x, "y": y}, **options)


def figures(tab: Any, selector: str) -> list[float]:
    return [float(value) for value in tab.eval_on_selector_all(selector, "all => all.map((one) => one.dataset.value)")]


def expected_nodes(circuit: fc.Circuit, nodes: int, edges: int) -> set[str]:
    """An own computation of what stays: the first nodes, the strongest edges among all, what reaches the metric."""
    graph = circuit.to_networkx()
    kept = {str(node) for node in list(circuit.nodes)[:nodes]} | {
        name for name in graph if name.startswith(("input", METRIC))
    }
    strongest = sorted(graph.edges(data="weight"), key=lambda edge: (-abs(edge[2]), edge[0], edge[1]))[:edges]
    part = nx.DiGraph([(a, b) for a, b, _ in strongest if a in kept and b in kept])
    part.add_node(METRIC)
    return nx.ancestors(part, METRIC) | {METRIC}


def test_the_page_is_one_file_that_names_nothing_outside(run: Path) -> None:
    text = (run / "circuit.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.findall(r"""<[^>]+\b(?:src|href)\s*=""", text.split("<script", 1)[0])
    assert "@import" not in text
    assert "url(" not in text.split("</style>")[0]
    assert "ISC" in text or "Permission to use, copy, modify" in text
    assert len(text) < 5_000_000


def test_the_data_are_the_files(run: Path, circuit: fc.Circuit) -> None:
    report = json.loads((run / "report.json").read_text())
    found = page_data(circuit, report=report)
    for node, score in circuit.nodes.items():
        row = next(row for row in found["nodes"] if row["name"] == str(node))
        assert row["effect"] == score.effect
        assert row["se"] is None if math.isnan(score.standard_error) else row["se"] == score.standard_error
    names = [row["name"] for row in found["nodes"]]
    assert {(names[a], names[b]): w for a, b, w, _ in found["edges"]} == {
        (str(a), str(b)): w for (a, b), w in circuit.edges.items()
    }
    assert found["report"]["curve"] == report["curve"]


@needs_browser
def test_it_opens_without_a_network_and_shows_the_whole_circuit(opened: Any, circuit: fc.Circuit) -> None:
    assert shown_names(opened) >= {str(node) for node in circuit.nodes}
    assert f"{circuit.n_nodes} nodes and {circuit.n_edges} edges shown" in opened.inner_text("#shown")
    drawn = opened.evaluate(
        "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0)"
    )
    assert drawn


@needs_browser
def test_a_click_shows_the_node_with_its_own_figures(opened: Any, circuit: fc.Circuit) -> None:
    for node in list(circuit.nodes)[:3]:
        click(opened, str(node))
        assert opened.get_attribute("#panel-name", "data-name") == str(node)
        assert figures(opened, "#panel dl .number")[0] == circuit.nodes[node].effect
        for direction, own in (("in", 1), ("out", 0)):
            weights = sorted(weight for ends, weight in circuit.edges.items() if ends[own] == node and weight)
            assert sorted(figures(opened, f".edges-{direction} .number[data-value]")) == weights


@needs_browser
def test_a_feature_can_be_taken_as_the_target_of_another_trace(opened: Any, circuit: fc.Circuit) -> None:
    name = next(str(node) for node in circuit.nodes if not node.is_error)
    click(opened, name)
    opened.evaluate("copy = (text) => { window.copied = text; }")
    opened.click("#why")
    assert opened.evaluate("window.copied") == f"--target {name}"


@needs_browser
def test_the_panel_has_the_dossier(opened: Any, circuit: fc.Circuit) -> None:
    known = Dossiers.open(fc.load(suite="grammar-4l").suite.folder)  # type: ignore[union-attr]
    node = next(node for node in circuit.nodes if not node.is_error and str(node.site) == "resid_2")
    click(opened, str(node))
    own = known[node]
    assert opened.inner_text("#panel").count(own.promoted[0].token.strip()) >= 1
    sizes = figures(opened, "#panel .context .size")
    assert sizes[: len(own.contexts)] == pytest.approx([row.activation for row in own.contexts], rel=1e-5)


@needs_browser
def test_sliders_leave_what_reaches_the_metric(opened: Any, circuit: fc.Circuit, run: Path) -> None:
    ranking = [str(node) for node in fc.Circuit.load(run / "nodes.safetensors").nodes]
    curve = json.loads((run / "report.json").read_text())["curve"]
    for nodes, edges in ((40, 200), (25, 200), (12, 60), (3, 10), (1, 0)):
        nodes = min(nodes, circuit.n_nodes)
        slide(opened, "nodes", nodes)
        slide(opened, "edges", edges)
        assert shown_names(opened) == expected_nodes(circuit, nodes, edges), (nodes, edges)
        reached = ranking.index(str(list(circuit.nodes)[nodes - 1])) + 1
        points = {0: 0.0, **dict(zip(curve["sizes"], curve["faithfulness"], strict=True))}
        size = max(size for size in points if size <= reached)
        assert figures(opened, "#curve-value") == [points[size]]
        assert opened.get_attribute("#curve-value", "data-size") == str(size)


@needs_browser
def test_a_slider_hides_what_other_prompts_would_not_choose(browser: Any, circuit: fc.Circuit, tmp_path: Path) -> None:
    shares = {str(node): (number % 11) / 10 for number, node in enumerate(circuit.nodes)}
    edges = [[str(a), str(b), (number % 3) / 2] for number, (a, b) in enumerate(circuit.edges)]
    known = replace(circuit, manifest={**circuit.manifest, "stability": {"nodes": shares, "edges": edges}})
    page.write(known, tmp_path / "page.html")
    context, tab, heard = opened_page(browser, tmp_path / "page.html")
    assert shown_names(tab) == expected_nodes(circuit, circuit.n_nodes, circuit.n_edges)
    slide(tab, "stable", 40)
    part = nx.DiGraph((a, b) for a, b, share in edges if min(share, shares.get(a, 1.0), shares.get(b, 1.0)) >= 0.4)
    part.add_node(METRIC)
    assert shown_names(tab) == nx.ancestors(part, METRIC) | {METRIC}
    fewer = sum(share < 0.4 for share in shares.values())
    assert f"{fewer} are chosen from fewer resamples" in tab.inner_text("#shown")
    open_tables(tab)
    rows = tab.eval_on_selector_all("#node-table tbody tr", "all => all.map((row) => row.cells[7].dataset.value)")
    assert [float(share) for share in rows] == [*shares.values()]
    context.close()
    assert heard == []


@needs_browser
def test_the_tables_have_every_node_and_edge(opened: Any, circuit: fc.Circuit) -> None:
    open_tables(opened)
    rows = opened.eval_on_selector_all(
        "#edge-table tbody tr",
        "all => all.map((row) => [row.cells[0].textContent, row.cells[1].textContent, row.cells[2].dataset.value])",
    )
    assert {(a, b): float(w) for a, b, w in rows} == {(str(a), str(b)): w for (a, b), w in circuit.edges.items()}
    rows = opened.eval_on_selector_all(
        "#node-table tbody tr", "all => all.map((row) => [row.cells[1].textContent, row.cells[4].dataset.value])"
    )
    assert [(name, float(effect)) for name, effect in rows] == [
        (str(n), score.effect) for n, score in circuit.nodes.items()
    ]


@needs_browser
def test_search_finds_names_labels_and_tokens(opened: Any, circuit: fc.Circuit) -> None:
    name = str(list(circuit.nodes)[-1])
    opened.fill("#search", name.upper())
    opened.press("#search", "Enter")
    assert opened.get_attribute("#panel-name", "data-name") == name
    label = opened.evaluate("data.nodes.find((node) => node.label !== node.name && node.order !== null).label")
    opened.fill("#search", label)
    found = opened.eval_on_selector_all("#results button", "all => all.map((one) => one.dataset.name)")
    labels = dict(opened.evaluate("data.nodes.map((node) => [node.name, node.label])"))
    assert found
    assert labels[found[0]] == label
    opened.fill("#search", "no such thing")
    assert opened.locator("#results button").count() == 0


@needs_browser
def test_one_examples_effects_can_be_shown(browser: Any, tmp_path: Path) -> None:
    model = fc.load(suite="grammar-4l")
    task = fc.Task.from_jsonl(model.suite.task_file("agreement_rc", "train"), model.tokenizer).take(3)  # type: ignore[union-attr]
    effects = fc.node_effects(model, task)
    circuit = fc.trace(model, task, keep_nodes="top=20").circuit
    page.write(circuit, tmp_path / "page.html", effects=effects)
    context, tab, heard = opened_page(browser, tmp_path / "page.html")
    node = next(node for node in circuit.nodes if not node.is_error)
    tab.select_option("#examples", "1")
    click(tab, str(node))
    expected = effects.features(node.site)[1, node.place, node.feature].item()  # type: ignore[index]
    assert figures(tab, "#panel dl .number")[0] == pytest.approx(expected, rel=1e-5, abs=1e-9)
    tab.select_option("#examples", "")
    assert figures(tab, "#panel dl .number")[0] == circuit.nodes[node].effect
    context.close()
    assert heard == []


@needs_browser
def test_a_group_is_one_node_whose_edges_are_sums(opened: Any, circuit: fc.Circuit) -> None:
    members = [str(node) for node in circuit.nodes][:3]
    for name in members:
        click(opened, name, modifiers=["Shift"])
    opened.fill("#group-name", HOSTILE)
    opened.click("#group-form button")
    group = opened.evaluate("scene.view.nodes.find((item) => item.kind === 'group')")
    assert (group["name"], len(group["members"])) == (HOSTILE, 3)
    assert group["effect"] == pytest.approx(
        sum(circuit.nodes[fc.Node.parse(name)].effect for name in members), rel=1e-12
    )
    edges = opened.evaluate("scene.view.edges.map((edge) => [String(edge.source), String(edge.target), edge.weight])")
    inside = {fc.Node.parse(name) for name in members}
    into = sum(w for (a, b), w in circuit.edges.items() if b in inside and a not in inside)
    out = sum(w for (a, b), w in circuit.edges.items() if a in inside and b not in inside)
    assert sum(w for _, target, w in edges if target == group["id"]) == pytest.approx(into, rel=1e-12)
    assert sum(w for source, _, w in edges if source == group["id"]) == pytest.approx(out, rel=1e-12)
    opened.click("#groups .toggle")
    assert opened.evaluate("scene.view.nodes.every((item) => item.kind !== 'group')")


@needs_browser
def test_a_saved_view_comes_back(browser: Any, run: Path, circuit: fc.Circuit, tmp_path: Path) -> None:
    context, tab, heard = opened_page(browser, run / "circuit.html")
    names = [str(node) for node in circuit.nodes]
    for name in names[1:3]:
        click(tab, name, modifiers=["Shift"])
    tab.fill("#group-name", "two of them")
    tab.click("#group-form button")
    click(tab, names[0])
    tab.fill("#label", HOSTILE)
    tab.press("#label", "Enter")
    tab.click("#pin")
    slide(tab, "edges", 77)
    with tab.expect_download() as download:
        tab.click("#save")
    download.value.save_as(tmp_path / "view.json")
    context.close()
    state = read_state(tmp_path / "view.json", circuit)
    assert state["groups"] == [{"name": "two of them", "nodes": names[1:3], "collapsed": True}]
    assert (state["pins"], state["edges"], state["labels"]) == ([names[0]], 77, {names[0]: HOSTILE})

    page.write(circuit, tmp_path / "again.html", state=state)
    context, tab, more = opened_page(browser, tmp_path / "again.html")
    assert tab.input_value("#edges") == "77"
    assert tab.input_value("#label") == HOSTILE
    assert [tab.inner_text("#pins li button >> nth=0"), tab.input_value("#groups input")] == [HOSTILE, "two of them"]
    assert tab.evaluate("document.querySelectorAll('img').length") == 0
    context.close()
    assert heard + more == []


@needs_browser
def test_the_address_restores_a_view(browser: Any, run: Path, opened: Any, circuit: fc.Circuit) -> None:
    slide(opened, "nodes", 20)
    click(opened, str(next(iter(circuit.nodes))))
    fragment = opened.evaluate("location.hash")
    context, tab, heard = opened_page(browser, run / "circuit.html", fragment)
    assert tab.input_value("#nodes") == "20"
    assert tab.get_attribute("#panel-name", "data-name") == str(next(iter(circuit.nodes)))
    assert tab.evaluate("scene.at.k") == pytest.approx(opened.evaluate("scene.at.k"), rel=1e-4)
    context.close()
    assert heard == []


@needs_browser
def test_keys_move_pin_and_zoom(opened: Any) -> None:
    opened.focus("#graph")
    opened.keyboard.press("ArrowUp")
    first = opened.get_attribute("#panel-name", "data-name")
    opened.keyboard.press("p")
    assert opened.evaluate("state.pins") == [first]
    opened.keyboard.press("ArrowUp")
    above = opened.get_attribute("#panel-name", "data-name")
    heights = dict(opened.evaluate("data.nodes.map((node) => [node.name, node.y])"))
    assert heights[above] > heights[first]
    assert above in opened.inner_text("#live") or opened.inner_text("#live")
    k = opened.evaluate("scene.at.k")
    opened.keyboard.press("+")
    opened.wait_for_function(f"scene.at.k > {k}")
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "panel"


@needs_browser
def test_labels_from_strangers_stay_text(browser: Any, circuit: fc.Circuit, tmp_path: Path) -> None:
    node = next(iter(circuit.nodes))
    page.write(circuit.labelled({node: HOSTILE}), tmp_path / "page.html", title=HOSTILE)
    context, tab, heard = opened_page(browser, tmp_path / "page.html")
    click(tab, str(node))
    assert tab.input_value("#label") == HOSTILE
    assert tab.inner_text("#title") == HOSTILE
    open_tables(tab)
    assert HOSTILE in tab.inner_text("#node-table")
    assert tab.evaluate("[document.querySelectorAll('img').length, document.scripts.length]") == [0, 7]
    context.close()
    assert heard == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_small_screen_and_one_printed_sheet(browser: Any, run: Path, scheme: str) -> None:
    small = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
    context, tab, heard = opened_page(browser, run / "circuit.html", **small)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")
    assert len(re.findall(rb"/Type\s*/Page\b", tab.pdf())) == 1
    context.close()
    assert heard == []


def test_a_view_of_another_circuit_or_a_damaged_one_is_refused(circuit: fc.Circuit, tmp_path: Path) -> None:
    good = {
        "format": "featcircuits-view",
        "version": 1,
        "circuit": digest(circuit),
        "groups": [],
        "labels": {},
        "pins": [],
        "nodes": 1,
        "edges": 1,
        "selected": None,
        "view": {"x": 0, "y": 0, "k": 1},
    }
    node = str(next(iter(circuit.nodes)))
    for change, said in (
        ({"format": "other"}, "not a saved view"),
        ({"version": 2}, "a view in version 2"),
        ({"circuit": "0" * 64}, "belongs to another circuit"),
        ({"groups": [{"name": "a", "nodes": ["resid_2/99999@1"]}]}, "which the circuit does not"),
        ({"groups": [{"name": "a", "nodes": [node]}, {"name": "b", "nodes": [node]}]}, "is in two groups"),
        ({"view": {"x": 0}}, "a damaged view"),
        ({"nodes": "many"}, "a damaged view"),
    ):
        (tmp_path / "view.json").write_text(json.dumps({**good, **change}))
        with pytest.raises(fc.InputError, match=said):
            read_state(tmp_path / "view.json", circuit)
    (tmp_path / "view.json").write_text(json.dumps(good))
    assert read_state(tmp_path / "view.json", circuit)["nodes"] == 1


def test_a_page_is_never_overwritten_silently(circuit: fc.Circuit, tmp_path: Path) -> None:
    page.write(circuit, tmp_path / "page.html")
    with pytest.raises(fc.InputError, match=r"page\.html"):
        page.write(circuit, tmp_path / "page.html")
    page.write(circuit, tmp_path / "page.html", overwrite=True)


@needs_browser
def test_a_notebook_shows_the_page_in_a_frame_that_can_do_nothing_to_it(
    browser: Any, circuit: fc.Circuit, tmp_path: Path
) -> None:
    shown = page.show(circuit.labelled({next(iter(circuit.nodes)): HOSTILE[:60]}), height=500)
    outer = tmp_path / "notebook.html"
    outer.write_text(f"<!doctype html><body><p id='cell'>cell</p>{shown._repr_html_()}</body>", encoding="utf-8")
    context, tab, heard = browser.new_context(offline=True), None, []
    tab = context.new_page()
    tab.on("pageerror", lambda error: heard.append(f"error {error}"))
    tab.on("dialog", lambda dialog: (heard.append(f"dialog {dialog.message}"), dialog.dismiss()))
    tab.goto(outer.as_uri())
    frame = tab.frames[1]
    frame.wait_for_function("scene.width > 0 && scene.tree !== null")
    assert frame.evaluate("data.nodes.length") >= circuit.n_nodes
    frame.evaluate("byId('nodes').value = 10; byId('nodes').dispatchEvent(new Event('input'))")
    tab.wait_for_timeout(600)  # the address is written a moment after a change
    with pytest.raises(sync_api.Error, match="cross-origin|Blocked a frame"):
        frame.evaluate("parent.document.getElementById('cell').textContent")
    assert tab.locator("iframe").bounding_box()["height"] == 500
    context.close()
    assert heard == []


@pytest.fixture(scope="module")
def outcome(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of setting the strongest node of the run's circuit and one that is not in it, with a later node watched."""
    from typer.testing import CliRunner

    path = tmp_path_factory.mktemp("outcome") / "outcome.json"
    do = ["--do", "resid_2/303@5=0", "--do", "embed/0@0+1", "--downstream", "resid_3/65@5"]
    done = CliRunner().invoke(app, ["intervene", str(run), *do, "--limit", "8", "-o", str(path)])
    assert done.exit_code == 0, done.output
    return path


@needs_browser
def test_interventions_show_measured_beside_predicted_at_their_nodes(
    browser: Any, run: Path, outcome: Path, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    path, found = tmp_path / "acted.html", json.loads(outcome.read_text())
    done = CliRunner().invoke(app, ["view", str(run), "--interventions", str(outcome), "-o", str(path)])
    assert done.exit_code == 0, done.output
    context, tab, heard = opened_page(browser, path)

    def figures(table: str) -> list[list[float]]:
        rows = tab.locator(f"{table} tbody tr").all()
        return [[float(cell.get_attribute("data-value")) for cell in row.locator(".number").all()] for row in rows]

    parts = [[one["predicted"]["mean"], one["measured"]["mean"]] for one in (*found["parts"], found["whole"])]
    assert figures("#interventions") == parts
    tab.evaluate("select(scene.view.nodes.find((one) => one.name === 'resid_2/303@5'))")
    assert figures("#changed") == parts[:1]
    assert tab.evaluate("outcomeLine(currentItem())").startswith("predicted ")
    tab.evaluate("select(scene.view.nodes.find((one) => one.name === 'resid_3/65@5'))")
    assert tab.locator("#changed").count() == 0
    assert "Change of its value downstream" in tab.inner_text("#panel")
    context.close()
    assert heard == []


def test_an_outcome_that_is_damaged_or_of_other_nodes_is_refused(
    circuit: fc.Circuit, outcome: Path, tmp_path: Path
) -> None:
    found, path = json.loads(outcome.read_text()), tmp_path / "outcome.json"
    assert set(read_outcome(outcome, circuit)["changed"]) == {"resid_2/303@5"}
    elsewhere = [{**one, "what": "embed/0@0=0"} for one in found["parts"]]
    for spoiled, message in (
        ([], "not an outcome"),
        ({**found, "version": 9}, "not an outcome"),
        ({**found, "before": None}, "a damaged outcome"),
        ({**found, "kl": {"mean": "x", "low": 0, "high": 0}}, "a damaged outcome"),
        ({**found, "parts": elsewhere, "downstream": []}, "none of the nodes that it changes is in the circuit"),
    ):
        path.write_text(json.dumps(spoiled))
        with pytest.raises(InputError, match=message):
            read_outcome(path, circuit)
