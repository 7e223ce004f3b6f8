"""How fast the page of a large circuit is: 2,000 nodes and 20,000 edges in headless Chromium.

python -m experiments.page_speed --out runs/page_speed
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
from pathlib import Path

from playwright.sync_api import sync_playwright

import featcircuits as fc
from featcircuits import page
from featcircuits.circuit.circuit import NodeScore
from featcircuits.model.nodes import METRIC, Node
from featcircuits.model.sites import Site

_MOVE = """async (kind) => {
  const times = [];
  for (let turn = 0; turn < 60; turn++) {
    const before = performance.now();
    if (kind === "pan") d3.select(canvas).call(zoom.translateBy, turn % 20 < 10 ? 12 : -12, 4 * (turn % 2 ? 1 : -1));
    else d3.select(canvas).call(zoom.scaleBy, turn % 20 < 10 ? 1.06 : 1 / 1.06);
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    times.push((performance.now() - before) / 2);
  }
  return times;
}"""


def large(nodes: int, edges: int, layers: int = 12, places: int = 12) -> fc.Circuit:
    """A random circuit of this size in which every node has a path to the metric."""
    draw = random.Random(0)
    sites = [Site(layer, kind) for layer in range(layers) for kind in ("attn", "mlp", "resid")]
    chosen = [Node(draw.choice(sites), number, draw.randrange(places)) for number in range(nodes)]
    last = Node(sites[-1], nodes, places - 1)
    scores = {node: NodeScore(draw.gauss(0, 1), 0.1) for node in [last, *chosen]}
    found = {(last, METRIC): 1.0}
    found |= {(node, last): draw.gauss(0, 1) for node in chosen if node.site < last.site}
    found |= {(node, METRIC): draw.gauss(0, 1) for node in chosen if not node.site < last.site}
    while len(found) < edges:
        a, b = draw.choice(chosen), draw.choice(chosen)
        if a.site < b.site:
            found[a, b] = draw.gauss(0, 1)
    return fc.Circuit(scores, found, tuple(range(places)), "none")  # type: ignore[arg-type]


def main() -> None:
    """Write the page, open it, move it, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/page_speed"))
    parser.add_argument("--nodes", type=int, default=1999)
    parser.add_argument("--edges", type=int, default=20_000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = (options.out / "page.html").resolve()
    page.write(large(options.nodes, options.edges), path, overwrite=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.goto(path.as_uri())
        tab.wait_for_timeout(1000)
        paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        ready = tab.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
        print("| what | |\n|---|---|")
        print(f"| size of the page | {path.stat().st_size / 1e6:.1f} MB |")
        print(f"| first paint, whole page ready | {paint / 1000:.2f} s, {ready / 1000:.2f} s |")
        for kind in ("pan", "zoom"):
            times = tab.evaluate(_MOVE, kind)
            print(f"| {kind}: frames per second, median (longest frame) | {_rates(times)} |")
        browser.close()


def _rates(times: list[float]) -> str:
    return f"{1000 / statistics.median(times):.0f} ({2 * max(times):.0f} ms)"


if __name__ == "__main__":
    main()
