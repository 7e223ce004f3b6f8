"""Selection rules beside plain |effect|, on all behaviours of a suite.

    python -m experiments.selection --out runs/selection

Effects and orders from 40 training pairs, faithfulness on 200 held-out pairs, whose words training does
not have; mean and paired ablation, with error nodes in the circuit and without any. Prints, for every rule
and cell, the area under the curve and the area of |1 - faithfulness| with 95 % intervals, and whether the
latter differs from |effect|'s beyond the interval of the paired difference; writes selection.json.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import featcircuits as fc
from experiments.selection.cells import SETTINGS, Ordered, Scores, Setting, cell, judged, orders
from experiments.selection.pairs import tasks
from featcircuits.runs.folder import check_free
from featcircuits.selection import DEFAULT_SELECTION

RULES = ("effect", "helpful", "ratio", "ranks", "iterated", "mask", "greedy")
SIZES = (10, 20, 40, 80, 120, 180, 270)


def rows_of(
    behaviour: str, setting: Setting, ordered: Mapping[str, Ordered], scores: Mapping[str, Scores]
) -> list[dict[str, Any]]:
    """A row for each rule: where it stands, and what `judged` says of it."""
    plain = scores[DEFAULT_SELECTION]
    return [
        {"behaviour": behaviour, **asdict(setting), "rule": rule, **judged(own, plain, ordered[rule])}
        for rule, own in scores.items()
    ]


def print_cell(rows: list[dict[str, Any]]) -> None:
    """One cell, a line for each rule."""
    first = rows[0]
    print(f"\n{first['behaviour']}, {first['ablation']} ablation, error nodes {first['error_nodes']}")
    for row in rows:
        print(
            f"  {row['rule']:19} area {_number(row, 'area')}  |1 - f| {_number(row, 'area_from_one')}  "
            f"difference {_number(row, 'difference')} {row['verdict']:7} "
            f"{row['forwards']:6.1f} + {row['backwards']:5.1f} passes {row['seconds']:6.1f} s"
        )


def _number(row: Mapping[str, Any], name: str) -> str:
    found = row[f"{name}_interval"]
    return f"{row[name]:6.3f} " + ("[unknown]" if found is None else f"[{found[0]:6.3f}, {found[1]:6.3f}]")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Both areas of every rule and behaviour, means over the settings."""
    rules, behaviours = (list(dict.fromkeys(row[name] for row in rows)) for name in ("rule", "behaviour"))
    print("\nMean over settings: area / |1 - f|")
    print(" " * 21 + "".join(f"{rule:>17}" for rule in rules))
    for behaviour in behaviours:
        cells = []
        for rule in rules:
            own = [row for row in rows if (row["rule"], row["behaviour"]) == (rule, behaviour)]
            area, from_one = (sum(row[name] for row in own) / len(own) for name in ("area", "area_from_one"))
            cells.append(f"{area:8.3f} / {from_one:.3f}")
        print(f"{behaviour:21}" + " ".join(f"{cell:>16}" for cell in cells))


def print_summary(rows: list[dict[str, Any]]) -> None:
    """Over all cells: mean areas, how often a rule is better or worse than |effect|, and on how many behaviours."""
    print("\nAll cells: mean area, mean |1 - f|; better / same / worse than |effect|; better in most settings of")
    for rule in dict.fromkeys(row["rule"] for row in rows):
        own = [row for row in rows if row["rule"] == rule]
        areas = [sum(row[name] for row in own) / len(own) for name in ("area", "area_from_one", "seconds")]
        counts = [sum(row["verdict"] == name for row in own) for name in ("better", "same", "worse")]
        verdicts: dict[str, list[str]] = {}
        for row in own:
            verdicts.setdefault(row["behaviour"], []).append(row["verdict"])
        mostly = sum(2 * found.count("better") > len(found) for found in verdicts.values())
        print(
            f"  {rule:19} {areas[0]:.3f}  {areas[1]:.3f}   {' / '.join(f'{n:2}' for n in counts)}   "
            f"{mostly} of {len(verdicts)} behaviours   {areas[2]:.1f} s"
        )


def main() -> None:
    """All behaviours, settings and rules."""
    parser = argparse.ArgumentParser(description="Selection rules beside plain |effect|.")
    parser.add_argument("--suite", default="grammar-4l")
    parser.add_argument("--behaviours", default="", help="comma-separated; default: all of the suite")
    parser.add_argument("--rules", default=",".join(RULES), help="comma-separated, with options after colons")
    parser.add_argument("--estimator", default="relp", help="estimator of the effects")
    parser.add_argument("--train", type=int, default=40, help="pairs that orders are found on")
    parser.add_argument("--test", type=int, default=200, help="held-out pairs")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    options = parser.parse_args()
    check_free(options.out)
    torch.set_num_threads(1)
    spliced = fc.load(suite=options.suite)
    assert spliced.suite is not None
    rules = tuple(dict.fromkeys([DEFAULT_SELECTION, *options.rules.split(",")]))
    behaviours = [name for name in options.behaviours.split(",") if name] or list(spliced.suite.tasks)
    rows: list[dict[str, Any]] = []
    for behaviour in behaviours:
        train, test = tasks(spliced, behaviour, options.train, options.test)
        effects = fc.node_effects(spliced, train, options.estimator, keep_examples=False)
        found = orders(spliced, train, effects, rules)
        for setting in SETTINGS:
            own = {rule: found[rule, setting] for rule in rules}
            shortest = min(len([n for n in o.order if not n.is_error]) for o in own.values())
            scores = cell(spliced, test, own, setting, [size for size in SIZES if size <= shortest])
            rows += rows_of(behaviour, setting, own, scores)
            print_cell(rows[-len(rules) :])
    print_table(rows)
    print_summary(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    record = {
        "estimator": options.estimator,
        "train": options.train,
        "test": options.test,
        "sizes": SIZES,
        "rows": rows,
    }
    (options.out / "selection.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
