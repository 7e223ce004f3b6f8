"""Sparse feature circuits by relevance patching and by integrated gradients: faithfulness over size.

    python -m experiments.relp.circuits --out runs/relp-circuits

The four agreement structures of a suite; nodes traced on the training file, judged on the test
file: layers below the first third given, mean ablation. Prints areas and writes curves.json and
curves.png (faithfulness and completeness).
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import featcircuits as fc
from featcircuits.files.pictures import save
from featcircuits.runs.folder import check_free
from featcircuits.splicing.spliced import SplicedModel

TASKS = ("agreement_simple", "agreement_nounpp", "agreement_rc", "agreement_within_rc")
ESTIMATORS = ("ig", "relp", "atp")
SIZES = (10, 20, 30, 50, 70, 100, 150)


def measured(spliced: SplicedModel, task: str, estimator: str, limit: int) -> dict[str, Any]:
    """Traces and evaluates; the curve, its areas, and the seconds that tracing took."""
    assert spliced.suite is not None
    train, test = (
        fc.Task.from_jsonl(spliced.suite.task_file(task, split), spliced.tokenizer).take(limit)
        for split in ("train", "test")
    )
    began = time.perf_counter()
    traced = fc.trace(spliced, train, nodes=estimator, edges=None)
    seconds = time.perf_counter() - began
    first = max(1, spliced.architecture.n_layers // 3)
    report = fc.evaluate(
        spliced, traced.circuit, test, start_layer=first, ranking=traced.ranking, sizes=SIZES
    ).to_json()
    return {"task": task, "estimator": estimator, "seconds": seconds, "F_model": report["F_model"], **report["curve"]}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for each task and score."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    panels = figure.subplots(2, len(TASKS), sharex=True, squeeze=False)
    for row in rows:
        column = TASKS.index(row["task"])
        for axes, score in zip(panels[:, column], ("faithfulness", "completeness"), strict=True):
            axes.plot(row["sizes"], row[score], "o-", markersize=3, label=row["estimator"])
            axes.set_title(row["task"] if score == "faithfulness" else "", fontsize=9)
            axes.set_ylabel(score if column == 0 else "", fontsize=9)
            axes.set_xscale("log")
    for row in rows:
        if row["estimator"] == "ig":
            panels[0, TASKS.index(row["task"])].plot(row["sizes"], row["random"], ":", color="grey", label="random")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    figure.supxlabel("nodes kept (features and errors)", fontsize=9)
    save(figure, path)


def main() -> None:
    """All tasks and estimators."""
    parser = argparse.ArgumentParser(description="RelP against IG on sparse feature circuits.")
    parser.add_argument("--suite", default="grammar-4l")
    parser.add_argument("--limit", type=int, default=200, help="examples of each file")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    options = parser.parse_args()
    check_free(options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    spliced = fc.load(suite=options.suite)
    rows = [measured(spliced, task, estimator, options.limit) for task in TASKS for estimator in ESTIMATORS]
    for row in rows:
        curve = " ".join(f"{n}:{s:.2f}" for n, s in zip(row["sizes"], row["faithfulness"], strict=True))
        print(
            f"{row['task']:20} {row['estimator']:5} area {row['area']:.3f}, |1 - f| {row['area_from_one']:.3f}, "
            f"random {row['area_random']:.3f}, {row['seconds']:.1f} s  {curve}"
        )
    (options.out / "curves.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    plot(rows, options.out / "curves.png")


if __name__ == "__main__":
    main()
