"""One behaviour of a local model, traced and evaluated in the neuron basis and in a suite's features.

    python -m experiments.neurons_and_features --model FOLDER --suite FOLDER --train FILE --test FILE

Prompts may differ in length, so positions go by role: the tokens in which the two prompts of a pair
differ, those before and after them, and the last one. Ablated nodes take the corrupted twin's state:
a mean over prompts that do not align would change also what the pairs share. Prints a row for each basis and
treatment of error_nodes (and one under mean ablation), and writes the same as JSON with `--out`.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import featcircuits as fc
from featcircuits.loading.load import load_bare
from featcircuits.model.sites import all_sites
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.examples import Example, Span


def in_neurons(folder: str) -> SplicedModel:
    """Identity dictionaries at every site: each dimension is a feature."""
    bare = load_bare(folder)
    architecture = bare.architecture
    sites = map(str, all_sites(architecture.n_layers))
    neurons = {site: fc.dictionaries.identity(architecture.width) for site in sites}
    return fc.load(bare.model, neurons, tokenizer=bare.tokenizer)


def with_roles(task: fc.Task) -> fc.Task:
    """The same pairs, with roles read off where each pair differs."""
    return replace(task, examples=tuple(map(_spans, task.examples)), aggregate="role")


def _spans(example: Example) -> Example:
    assert example.corrupted is not None
    pairs = zip(example.clean, example.corrupted, strict=True)
    differing = [position for position, (a, b) in enumerate(pairs) if a != b]
    first, end, last = differing[0], differing[-1] + 1, len(example.clean) - 1
    spans = {"before": Span(0, first), "changed": Span(first, end), "after": Span(end, last)}
    roles = tuple((name, span) for name, span in spans.items() if span.start < span.end)
    return replace(example, roles=(*roles, ("last", Span(max(last, end), last + 1))))


def measured(spliced: SplicedModel, basis: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Traces on the training file and evaluates on the test file, error_nodes as nodes and removed."""
    train, test = (with_roles(fc.Task.from_jsonl(path, spliced.tokenizer)) for path in (options.train, options.test))
    traced = fc.trace(spliced, train, nodes=options.estimator, keep_nodes=f"top={options.nodes}")
    first = spliced.architecture.n_layers // 3
    rows = []
    for ablation, error_nodes in (("paired", "as-circuit"), ("paired", "remove"), ("mean", "as-circuit")):
        report = fc.evaluate(
            spliced, traced.circuit, test,
            ablation=ablation, error_nodes=error_nodes, start_layer=first, ranking=traced.ranking,
        ).to_json()  # fmt: skip
        kept = ("faithfulness", "completeness", "F_model", "F_circuit", "F_empty", "n_nodes", "n_edges", "curve")
        rows.append(
            {"basis": basis, "ablation": ablation, "error_nodes": error_nodes, "start_layer": first}
            | {key: report[key] for key in kept}
        )
    return rows


def main() -> None:
    """Both bases, one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--estimator", default="ig")
    parser.add_argument("--nodes", type=int, default=150)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = measured(in_neurons(options.model), "neurons", options)
    rows += measured(fc.load(options.model, options.suite), "features", options)
    for row in rows:
        print(
            f"{row['basis']:9}{row['ablation']:7} error_nodes {row['error_nodes']:10} nodes {row['n_nodes']:4} "
            f"faithfulness {row['faithfulness']:.3f} completeness {row['completeness']:.3f} "
            f"F model {row['F_model']:.2f}, empty {row['F_empty']:.2f}"
        )
        curve = zip(row["curve"]["sizes"], row["curve"]["faithfulness"], strict=True)
        print("          ", " ".join(f"{size}:{score:.2f}" for size, score in curve))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
