"""How each selection rule's advantage fares under controls that a faithfulness figure alone cannot fool.

    python -m experiments.selection.controls --out runs/controls

Effects (RelP) and orders from 40 training pairs, judged on held-out pairs. For every rule and behaviour: the area of f
under the ablation that the searching rules ran (mean) and under one they did not see (paired, and the reverse); f
under stochastic and adversarial ablation at three sizes; and the nonsense control: the whole pipeline again on the same
prompts with the answers exchanged in half of them, in units of the real gap F(model) - F(empty), and the circuits
chosen on nonsense judged on the real answers. Writes controls.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import featcircuits as fc
from experiments.selection.cells import SEARCHING, Ordered, Setting, ablated_model, cell, difference, verdict
from experiments.selection.pairs import tasks
from featcircuits.evaluation.ablated import Subgraph, metric_model, ranks_of
from featcircuits.evaluation.curves import shuffled
from featcircuits.evaluation.faithfulness import Reference, area, faithfulness
from featcircuits.evaluation.intervals import interval
from featcircuits.model.nodes import Node
from featcircuits.runs.folder import check_free
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.validation.outside import LOW, Cube, drawn_scores, extremes, worst_of

RULES = ("effect", "helpful", "ratio", "ranks", "iterated", "mask", "greedy")
BEHAVIOURS = (
    "agreement_simple", "agreement_nounpp", "agreement_rc", "agreement_within_rc", "ioi", "gender", "greater_than",
)  # fmt: skip
SIZES = (10, 20, 40, 80, 120, 180, 270)
PROBED = (40, 80, 180)
MEAN, PAIRED = (Setting(ablation, "as-circuit") for ablation in ("mean", "paired"))
Orders = Mapping[tuple[str, Setting], list[Node]]


def orders(spliced: SplicedModel, task: fc.Task, settings: Sequence[Setting], seed: int = 0) -> dict[Any, list[Node]]:
    """Every rule's order, searching rules under each setting; `random` is |effect|'s, shuffled at every site."""
    effects = fc.node_effects(spliced, task, "relp", keep_examples=False)
    found: dict[Any, list[Node]] = {}
    for rule in RULES:
        for setting in settings:
            searching = rule in SEARCHING
            if not searching and setting != settings[0]:
                found[rule, setting] = found[rule, settings[0]]
                continue
            text = f"{rule}:ablation={setting.ablation}" if searching else rule
            found[rule, setting] = fc.select(spliced, task, effects, text, seed=seed)
    for setting in settings:
        found["random", setting] = shuffled(found["effect", settings[0]], seed)
    return found


def means(spliced: SplicedModel, task: fc.Task, setting: Setting, found: Sequence[list[Node]]) -> np.ndarray:
    """Mean F [order, size], the empty circuit first."""
    subgraphs = [Subgraph(ranks, size) for order in found for ranks in [ranks_of(spliced, task.places, order)]
                 for size in (0, *SIZES)]  # fmt: skip
    metric = ablated_model(spliced, task, setting, 0).metric(task, subgraphs)
    return metric.mean(1).reshape(len(found), -1).numpy()


def areas(spliced: SplicedModel, task: fc.Task, setting: Setting, found: Mapping[str, list[Node]]) -> dict[str, Any]:
    """Both areas of every rule's curve, also on five disjoint parts, and the difference of |1 - f| from |effect|'s."""
    scores = cell(spliced, task, {rule: Ordered(order, 0, 0, 0) for rule, order in found.items()}, setting, SIZES)
    record = {}
    for rule, own in scores.items():
        center, between = difference(own, scores["effect"])
        record[rule] = {
            "area": own.area, "from_one": own.area_from_one, "curve": own.faithfulness, "folds": own.folds,
            "difference": center, "interval": between, "verdict": verdict(between),
        }  # fmt: skip
    return record


def probes(
    spliced: SplicedModel, task: fc.Task, found: Mapping[str, list[Node]], options: argparse.Namespace
) -> dict[str, Any]:
    """f of every rule under mean ablation: plain, at random and at its worst, at `PROBED` sizes."""
    ablated = ablated_model(spliced, task, MEAN, 0)
    cube, result = Cube.of(ablated, task, Subgraph(ranks_of(spliced, task.places, []), 0)), {}
    reference = Reference(float(metric_model(spliced, task, 50).mean()), float(cube.metric(cube.inside).mean()))
    for rule, order in found.items():
        ranks, rows = ranks_of(spliced, task.places, order), []
        for size in PROBED:
            own = cube.around(Subgraph(ranks, size))
            drawn = drawn_scores(own, reference, options.draws)
            lowest, highest, _ = extremes(own, reference, options.steps, 2)
            few, more, _ = extremes(own, reference, options.steps, 2, budget=10)
            rows.append({
                "size": size, "plain": faithfulness(float(own.metric(own.inside).mean()), reference),
                "stochastic": float(np.mean(drawn)), "stochastic_low": float(np.quantile(drawn, LOW)),
                "worst": worst_of(lowest, highest), "lowest": lowest.faithfulness, "highest": highest.faithfulness,
                "worst_of_10": worst_of(few, more),
            })  # fmt: skip
        result[rule] = rows
    return result


def nonsense(
    spliced: SplicedModel, train: fc.Task, test: fc.Task, gap: float, draws: int
) -> dict[str, dict[str, list[float]]]:
    """By rule, each draw's area of the gain on nonsense, where chosen and held out, in real gaps; and of the real f."""
    result: dict[str, dict[str, list[float]]] = {}
    for draw in range(draws):
        chosen_on, judged_on = fc.nonsense_task(train, draw), fc.nonsense_task(test, draw + 100)
        found = {rule: order for (rule, _), order in orders(spliced, chosen_on, [MEAN], draw).items()}
        judged = {"chosen_on": chosen_on, "held_out": judged_on}
        for name, task in judged.items():
            values = means(spliced, task, MEAN, [*found.values()])
            for rule, row in zip(found, values, strict=True):
                gained = area(SIZES, ((row[1:] - row[0]) / gap).tolist())
                result.setdefault(rule, {}).setdefault(name, []).append(gained)
        for rule, scores in areas(spliced, test, MEAN, found).items():
            result[rule].setdefault("on_real", []).append(scores["area"])
    return result


def behaviour(spliced: SplicedModel, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one behaviour."""
    train, test = tasks(spliced, name, options.train, options.test)
    found = orders(spliced, train, [MEAN, PAIRED])
    by = {
        setting: {rule: order for (rule, own), order in found.items() if own == setting} for setting in (MEAN, PAIRED)
    }
    record: dict[str, Any] = {
        f"{chosen.ablation} by {judge.ablation}": areas(spliced, test, judge, by[chosen])
        for chosen in (MEAN, PAIRED)
        for judge in (MEAN, PAIRED)
    }
    empty = means(spliced, test, MEAN, [by[MEAN]["effect"]])[0, 0]
    gap = float(metric_model(spliced, test, 50).mean()) - float(empty)
    record["gap"] = gap
    record["nonsense"] = nonsense(spliced, train, test, gap, options.nonsense)
    record["probes"] = probes(spliced, test.take(options.probed), by[MEAN], options)
    return record


def show(name: str, record: Mapping[str, Any]) -> None:
    """A line for each rule."""
    print(
        f"\n{name}: area of f (chosen by judged), nonsense gain (own prompts, held out), its circuits on the real task,"
    )
    print("stochastic mean (5 %), worst and worst of 10 nodes at", *PROBED)
    for rule in (*RULES, "random"):
        found = [record[f"{a} by {b}"][rule]["area"] for a in ("mean", "paired") for b in ("mean", "paired")]
        gains = [np.mean(record["nonsense"][rule][key]) for key in ("chosen_on", "held_out", "on_real")]
        rows = record["probes"][rule]
        columns = [" ".join(f"{row[key]:6.2f}" for row in rows)
                   for key in ("plain", "stochastic", "stochastic_low", "worst", "worst_of_10")]  # fmt: skip
        print(
            f"  {rule:9}", *(f"{v:6.3f}" for v in found), "|", *(f"{v:6.3f}" for v in gains), "|", " | ".join(columns)
        )


def summary(records: Mapping[str, Any]) -> str:
    """A line for each rule, means over behaviours: areas of f / |1 - f| and its difference from |effect|'s with a 95 %
    interval and on how many behaviours it is better, the same and worse; gains on nonsense; and f at 80 nodes."""
    judged = [(chosen, judge) for chosen in ("mean", "paired") for judge in ("mean", "paired")]
    lines = [
        "",
        "Means over behaviours: "
        + ", ".join(f"{a} by {b}" for a, b in judged)
        + "; nonsense: its own prompts, held out, its circuits on the real task; "
        "f / |1 - f| at 80 nodes: plain, stochastic, its 5 %, the lowest found, the worst with ten nodes free",
    ]
    for rule in (*RULES, "random"):
        cells = []
        for chosen, judge in judged:
            found = [record[f"{chosen} by {judge}"][rule] for record in records.values()]
            plain = [record[f"{chosen} by {judge}"]["effect"] for record in records.values()]
            cells.append(
                "{:.3f} / {:.3f} ".format(*(np.mean([one[key] for one in found]) for key in ("area", "from_one")))
                + _difference(found, plain)
            )
        gains = [np.mean([record["nonsense"][rule][key] for record in records.values()])
                 for key in ("chosen_on", "held_out", "on_real")]  # fmt: skip
        rows = [row for record in records.values() for row in record["probes"][rule] if row["size"] == 80]
        probed = [(np.mean([row[key] for row in rows]), np.mean([abs(1 - row[key]) for row in rows]))
                  for key in ("plain", "stochastic", "stochastic_low", "lowest", "worst_of_10")]  # fmt: skip
        cells += [f"{gain:.3f}" for gain in gains] + [f"{f:.2f} / {off:.2f}" for f, off in probed]
        lines.append(f"  {rule:9} " + " | ".join(cells))
    return "\n".join(lines)


def _difference(found: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> str:
    """The mean difference of |1 - f|, its interval from the parts, and the behaviours that are better, same, worse."""
    parts = np.mean(
        [[a[1] - b[1] for a, b in zip(one["folds"], other["folds"], strict=True)]
         for one, other in zip(found, plain, strict=True)],
        axis=0,
    )  # fmt: skip
    center = float(np.mean([one["difference"] for one in found]))
    between = interval(center, parts.tolist())
    spread = "" if between is None else f" ± {between[1] - center:.3f}"
    verdicts = [one["verdict"] for one in found]
    return f"({center:+.3f}{spread}; " + " ".join(str(verdicts.count(w)) for w in ("better", "same", "worse")) + ")"


def main() -> None:
    """All behaviours."""
    parser = argparse.ArgumentParser(description="Selection rules under controls.")
    parser.add_argument("--behaviours", default=",".join(BEHAVIOURS), help="comma-separated")
    parser.add_argument("--train", type=int, default=40, help="pairs that orders are found on")
    parser.add_argument("--test", type=int, default=200, help="held-out pairs")
    parser.add_argument("--probed", type=int, default=50, help="how many of these the outside is probed on")
    parser.add_argument("--nonsense", type=int, default=2, help="draws of the nonsense control")
    parser.add_argument("--draws", type=int, default=10, help="draws of stochastic ablation")
    parser.add_argument("--steps", type=int, default=6, help="steps of the adversary from each start")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    options = parser.parse_args()
    check_free(options.out)
    torch.set_num_threads(1)
    spliced = fc.load(suite="grammar-4l")
    records, began = {}, time.monotonic()
    for name in options.behaviours.split(","):
        records[name] = behaviour(spliced, name, options)
        show(name, records[name])
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
    print(summary(records))
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    record = {"settings": settings, "sizes": SIZES, "probed": PROBED, "behaviours": records}
    (options.out / "controls.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
