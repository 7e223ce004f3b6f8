"""Accuracy against cost, areas of circuits, and pairs that are needed: the figures of docs/frontier.md.

    python -m experiments.frontier --out runs/frontier
    python -m experiments.frontier --out runs/frontier --stories FOLDER --stories-suite FOLDER --stories-task FILE

Measures every estimator on the shipped suite and, where its folders are given, on stories260K (circuits too, with
held-out pairs: `--stories-test FILE`). Writes frontier.json and tables.md, puts the tables between the marks of
the page, and the pictures in a folder beside it. `--results FILE` starts from the figures of an earlier run, and
`--parts` says which are measured anew (none: `--parts ""`).
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.frontier.accuracy import accuracy
from experiments.frontier.circuits import circuits
from experiments.frontier.models import Case, Folders, folder_case, suite_cases
from experiments.frontier.page import fill, write_results, write_tables
from experiments.frontier.pictures import draw
from experiments.frontier.prompts import overlap, spread
from featcircuits.runs.folder import check_free

Rows = dict[str, list[dict[str, Any]]]


def _accuracy(case: Case, options: argparse.Namespace) -> Rows:
    return accuracy(case, options.pairs)


def _circuits(case: Case, options: argparse.Namespace) -> Rows:
    return circuits(case, options.train, options.test) if case.test is not None else {}


def _prompts(case: Case, options: argparse.Namespace) -> Rows:
    return {"overlap": overlap(case), "spread": spread(case, options.train)} if case.test is not None else {}


PARTS: Mapping[str, Callable[[Case, argparse.Namespace], Rows]] = {
    "accuracy": _accuracy,
    "circuits": _circuits,
    "prompts": _prompts,
}


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """The suite's behaviours, then stories260K where its folders are given."""
    yield from suite_cases(options.suite, [name for name in options.behaviours.split(",") if name])
    if options.stories:
        folders = Folders(options.stories, options.stories_suite, options.stories_task, options.stories_test)
        yield folder_case("stories260K", folders)


def measure(options: argparse.Namespace) -> Rows:
    """All rows of the chosen parts; those of an earlier run for the others."""
    chosen = [name for name in options.parts.split(",") if name]
    found: Rows = {}
    for case in cases(options) if chosen else ():
        for part in chosen:
            for name, rows in PARTS[part](case, options).items():
                found.setdefault(name, []).extend(rows)
            print(f"{case.model}, {case.behaviour}: {part}")
    earlier = json.loads(options.results.read_text(encoding="utf-8")) if options.results else {}
    return earlier | found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Accuracy, areas and stability over cost.")
    parser.add_argument("--suite", default="grammar-4l")
    parser.add_argument("--behaviours", default="", help="comma-separated; default: all of the suite")
    parser.add_argument("--stories", type=Path, help="folder of stories260K")
    parser.add_argument("--stories-suite", type=Path, help="folder of a suite of it")
    parser.add_argument("--stories-task", type=Path, help="JSONL of pairs")
    parser.add_argument("--stories-test", type=Path, help="JSONL of held-out pairs, for circuits; without: no circuits")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of a behaviour that are patched exactly")
    parser.add_argument("--train", type=int, default=40, help="pairs that circuits are found on")
    parser.add_argument("--test", type=int, default=200, help="held-out pairs that they are judged on")
    parser.add_argument("--parts", default=",".join(PARTS), help="what is measured, comma-separated")
    parser.add_argument("--results", type=Path, help="frontier.json of an earlier run")
    parser.add_argument("--page", type=Path, default=Path("docs/frontier.md"), help="page with marks for tables")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    options = parser.parse_args()
    if options.stories and not (options.stories_suite and options.stories_task):
        parser.error("--stories needs --stories-suite and --stories-task")
    if unknown := set(filter(None, options.parts.split(","))) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()!r}; known: {', '.join(PARTS)}")
    return options


def main() -> None:
    """Measures, writes, fills in the page."""
    options = arguments()
    check_free(options.out)
    torch.set_num_threads(1)
    rows = measure(options)
    tables = write_tables(rows)
    write_results(options.out, "frontier.json", rows, tables)
    if options.page.exists():
        options.page.write_text(fill(options.page.read_text(encoding="utf-8"), tables), encoding="utf-8")
        draw(rows, options.page.with_suffix(""))


if __name__ == "__main__":
    main()
