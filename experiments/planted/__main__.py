"""Which method misses what: every estimator x selection rule on planted circuits, the figures of docs/planted.md.

    python -m experiments.planted --out runs/planted

Writes planted.json (a row for each shape, motif, direction, estimator and rule) and tables.md, puts the tables between
the marks of the page, and the pictures and all.csv in a folder beside it. `--results FILE` takes the rows of an
earlier run. It takes about two minutes on one core.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.frontier.page import fill, write_results
from experiments.planted.measure import RULES, measured
from experiments.planted.motifs import MOTIFS
from experiments.planted.pictures import draw
from experiments.planted.tables import MAIN, OTHER, TABLES, csv
from featcircuits.estimators import ESTIMATORS
from featcircuits.runs.folder import check_free
from featcircuits.selection import DEFAULT_SELECTION

MEASURED = (*ESTIMATORS, "ig:steps=1:quadrature=taylor")
"""AtP's correction of the second order beside all estimators with their own options."""
SHAPES = {MAIN: RULES, OTHER: (DEFAULT_SELECTION,)}
"""What is measured on models of each shape."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Precision and recall on planted circuits.")
    parser.add_argument("--motifs", default=",".join(MOTIFS), help="comma-separated")
    parser.add_argument("--estimators", default=",".join(MEASURED), help="comma-separated")
    parser.add_argument("--results", type=Path, help="planted.json of an earlier run")
    parser.add_argument("--page", type=Path, default=Path("docs/planted.md"), help="page with marks for tables")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    options = parser.parse_args()
    if unknown := [name for name in options.motifs.split(",") if name not in MOTIFS]:
        parser.error(f"unknown motif {unknown[0]!r}; known: {', '.join(MOTIFS)}")
    return options


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, or those of an earlier run."""
    if options.results:
        return json.loads(options.results.read_text(encoding="utf-8"))
    rows = []
    for name in options.motifs.split(","):
        for shape, rules in SHAPES.items():
            rows += measured(replace(MOTIFS[name], shape=shape), options.estimators.split(","), rules)
        print(name, flush=True)
    return rows


def main() -> None:
    """Measures, writes, fills in the page."""
    options = arguments()
    check_free(options.out)
    torch.set_num_threads(1)
    rows = measure(options)
    tables = {name: make(rows) for name, make in TABLES.items()}
    write_results(options.out, "planted.json", rows, {name: f"{name}\n\n{table}" for name, table in tables.items()})
    if options.page.exists():
        folder = options.page.with_suffix("")
        draw(rows, folder)
        (folder / "all.csv").write_text(csv(rows), encoding="utf-8")
        options.page.write_text(fill(options.page.read_text(encoding="utf-8"), tables, TABLES), encoding="utf-8")


if __name__ == "__main__":
    main()
