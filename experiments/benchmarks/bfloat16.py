"""How far effects in bfloat16 are from those in float32, on the shipped suite or any other.

    python -m experiments.benchmarks.bfloat16 --limit 40

For each task and kind of site the Pearson correlation of single effects (features, errors) that are not 0
in both, and how many of the 100 nodes of largest mean |effect| are the same.
"""

import argparse
import json

import torch

import featcircuits as fc
from featcircuits.effects.results import NodeEffects
from featcircuits.suites import SHIPPED, load_suite


def strongest(effects: NodeEffects, count: int = 100) -> set[fc.Node]:
    rows = sorted(effects.nodes(), key=lambda row: -abs(row[1]))
    return {node for node, _, _ in rows[:count]}


def compared(one: NodeEffects, other: NodeEffects) -> dict[str, float]:
    """Pearson of features and of errors by kind of site, and the overlap of the strongest nodes."""
    found: dict[str, float] = {}
    for kind in dict.fromkeys(site.kind for site in one.sites):
        sites = [site for site in one.sites if site.kind == kind]
        for what, read in (("feature", NodeEffects.features), ("error", NodeEffects.error)):
            pair = torch.stack(
                [torch.cat([read(effects, site).flatten().double() for site in sites]) for effects in (one, other)]
            )
            moved = (pair != 0).any(0)  # most features do not move, and 0 beside 0 is no agreement
            found[f"{what} {kind}"] = round(float(torch.corrcoef(pair[:, moved])[0, 1]), 4)
    found["top 100"] = len(strongest(one) & strongest(other)) / 100
    return found


def main() -> None:
    """A line of JSON a task and estimator."""
    parser = argparse.ArgumentParser(description="bfloat16 beside float32.")
    parser.add_argument("--suite", default=SHIPPED)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--estimators", nargs="*", default=["atp", "relp", "ig"])
    options = parser.parse_args()
    suite = load_suite(options.suite)
    models = [fc.load(suite=options.suite, dtype=dtype) for dtype in ("float32", "bfloat16")]
    for name in suite.tasks:
        for estimator in options.estimators:
            both = []
            for model in models:
                path = suite.task_file(name, "train")
                task = fc.Task.from_jsonl(path, model.tokenizer, aggregate="role").take(options.limit)
                both.append(fc.node_effects(model, task, estimator))
            print(json.dumps({"task": name, "estimator": estimator, **compared(*both)}), flush=True)


if __name__ == "__main__":
    main()
