"""How far attribution and relevance patching are from exact patching on indirect object identification.

    python -m experiments.relp.correlation
    python -m experiments.relp.correlation --model FOLDER --task pairs.jsonl

The published models run where their weights are at hand, others are named and left out; the shipped
model always runs, on its own task. Whole outputs of attention, MLP and residual sites are patched at
each layer and position (denoising: the corrupted run takes a clean value, coefficients come from the
corrupted run); Pearson's correlation is over all (layer, position) cells of a kind of site, effects
averaged over prompts.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import featcircuits as fc
from experiments.relp.prompts import ioi_tasks
from featcircuits.agreement.bases import in_basis
from featcircuits.agreement.scores import compare
from featcircuits.evaluation.patching import swapped
from featcircuits.loading import load_bare
from featcircuits.splice import SplicedModel

SHIPPED = Path("saes/grammar-4l")
MODELS = (
    "gpt2", "gpt2-medium", "gpt2-large", "EleutherAI/pythia-70m", "EleutherAI/pythia-410m",
    "Qwen/Qwen2-0.5B", "Qwen/Qwen2-7B", "google/gemma-2-2b",
)  # fmt: skip
PUBLISHED: Mapping[tuple[str, str, str], float] = {
    ("gpt2", "atp", "resid"): 0.753,
    ("gpt2", "relp", "resid"): 0.968,
    ("gpt2", "atp", "attn"): 0.979,
    ("gpt2", "relp", "attn"): 0.962,
    ("gpt2", "atp", "mlp"): 0.195,
    ("gpt2", "relp", "mlp"): 0.992,
    ("gpt2-medium", "atp", "resid"): 0.671,
    ("gpt2-large", "atp", "mlp"): 0.006,
    ("gpt2-large", "relp", "mlp"): 0.956,
}
METHODS: Mapping[str, dict[str, Any]] = {
    "atp": {},
    "relp": {},
    "ig-inputs": {"steps": 5},
    "ig": {"steps": 5, "rule": "gauss"},
    "atp-hop1": {},
}
KINDS = ("resid", "attn", "mlp")


def weights_at_hand(source: str) -> bool:
    """A folder, or a repository whose snapshot is in the local cache."""
    if Path(source).is_dir():
        return True
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(source, local_files_only=True, allow_patterns=["*.safetensors", "*.json"])
    except (LocalEntryNotFoundError, HfHubHTTPError):
        return False
    return True


def cells(outputs: SplicedModel, task: fc.Task, method: str, **options: Any) -> dict[str, np.ndarray]:
    """Mean effects of all (layer, position) cells of each kind of site."""
    effects = fc.node_effects(outputs, task, method, **options)
    return {
        kind: np.concatenate(
            [effects.error(site).mean(0).double().numpy() for site in effects.sites if site.kind == kind]
        )
        for kind in KINDS
    }


def correlations(bare: SplicedModel, tasks: Iterable[fc.Task]) -> dict[str, dict[str, float]]:
    """method -> kind of site -> Pearson, the cells of all tasks together."""
    outputs = in_basis(bare, "whole")
    found: dict[str, list[dict[str, np.ndarray]]] = {method: [] for method in ("exact", *METHODS)}
    for task in tasks:
        found["exact"].append(cells(outputs, swapped(task), "exact"))
        for method, options in METHODS.items():
            found[method].append(cells(outputs, swapped(task), method, **options))
    joined = {
        method: {kind: np.concatenate([part[kind] for part in parts]) for kind in KINDS}
        for method, parts in found.items()
    }
    return {
        method: {kind: compare(joined[method][kind], joined["exact"][kind], 10).pearson for kind in KINDS}
        for method in METHODS
    }


def shown(name: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """A table of one model, published figures in brackets."""
    print(f"\n{name}\n{'':10}" + "".join(f"{kind:>16}" for kind in KINDS))
    for method, row in rows.items():
        marks = [PUBLISHED.get((name, method, kind)) for kind in KINDS]
        texts = [f"{row[k]:.3f}" + (f" [{m:.3f}]" if m else "") for k, m in zip(KINDS, marks, strict=True)]
        print(f"{method:10}" + "".join(f"{text:>16}" for text in texts))


def main() -> None:
    """Every model that is at hand."""
    parser = argparse.ArgumentParser(description="Pearson correlation with exact patching on IOI.")
    parser.add_argument("--model", action="append", help="folder or repository (default: the published ones)")
    parser.add_argument("--task", type=Path, help="JSONL pairs in place of the made prompts")
    parser.add_argument("--pairs", type=int, default=8, help="pairs a template")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    results = {}
    for source in options.model or [str(SHIPPED / "model"), *MODELS]:
        if not weights_at_hand(source):
            print(f"\n{source}: weights not at hand, left out")
            continue
        bare = load_bare(source)
        own = SHIPPED / "tasks/ioi_test.jsonl" if Path(source) == SHIPPED / "model" else None
        file = options.task or own
        whole_file = [] if file is None else [fc.Task.from_jsonl(file, bare.tokenizer).take(4 * options.pairs)]
        results[source] = correlations(bare, whole_file or ioi_tasks(bare.tokenizer, options.pairs))
        shown(source, results[source])
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
