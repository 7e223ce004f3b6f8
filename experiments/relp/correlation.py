"""How far attribution and relevance patching are from exact patching on indirect object identification.

    python -m experiments.relp.correlation
    python -m experiments.relp.correlation --model FOLDER --task pairs.jsonl

The published models run where their weights are at hand, others are named and left out; the shipped
model always runs, on its own task. Whole outputs of attention, MLP and residual sites are patched at
each layer and position (denoising: the corrupted run takes a clean value, coefficients come from the
corrupted run); Pearson's correlation is over (layer, position) cells of a kind of site, effects averaged
over prompts: over the cells that move in some prompt, and in brackets over all cells, as published.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

import featcircuits as fc
from experiments.relp.prompts import ioi_tasks
from featcircuits.agreement.bases import in_basis
from featcircuits.agreement.moving import moving
from featcircuits.agreement.scores import compare
from featcircuits.checks.patching import swapped
from featcircuits.loading.load import load_bare
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel

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
ESTIMATORS = {
    "atp": "atp",
    "relp": "relp",
    "ig-inputs": "ig-inputs:steps=5",
    "ig": "ig:steps=5:quadrature=gauss",
    "atp-hop1": "atp-hop1",
}
"""Name in tables -> estimator"""
KINDS = ("resid", "attn", "mlp")
BATCH = 16


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


def cells(outputs: SplicedModel, task: fc.Task, estimator: str) -> dict[str, np.ndarray]:
    """Mean effects of all (layer, position) cells of each kind of site."""
    effects = fc.node_effects(outputs, task, estimator, batch_size=BATCH)
    return by_kind({site: effects.error(site).mean(0).double().numpy() for site in effects.sites})


def moving_cells(outputs: SplicedModel, task: fc.Task) -> dict[str, np.ndarray]:
    """Which of them move in some prompt."""
    return by_kind({site: np.asarray(errors.any(0)) for site, (_, errors) in moving(outputs, task, BATCH).items()})


def by_kind(found: Mapping[Site, np.ndarray]) -> dict[str, np.ndarray]:
    """All sites of a kind together."""
    return {kind: np.concatenate([row for site, row in found.items() if site.kind == kind]) for kind in KINDS}


def correlations(bare: SplicedModel, tasks: Iterable[fc.Task]) -> dict[str, dict[str, dict[str, float]]]:
    """estimator -> kind of site -> Pearson over the cells that move ("moving") and over "all", of all tasks."""
    outputs = in_basis(bare, "whole")
    found: dict[str, list[dict[str, np.ndarray]]] = {estimator: [] for estimator in ("moves", "exact", *ESTIMATORS)}
    for task in map(swapped, tasks):
        found["moves"].append(moving_cells(outputs, task))
        found["exact"].append(cells(outputs, task, "exact"))
        for name, estimator in ESTIMATORS.items():
            found[name].append(cells(outputs, task, estimator))
    joined = {
        name: {kind: np.concatenate([part[kind] for part in parts]) for kind in KINDS} for name, parts in found.items()
    }

    def pearson(estimator: str, kind: str, moves: np.ndarray | None) -> float:
        return compare(joined[estimator][kind], joined["exact"][kind], 10, moves).pearson

    return {
        estimator: {
            kind: {"moving": pearson(estimator, kind, joined["moves"][kind]), "all": pearson(estimator, kind, None)}
            for kind in KINDS
        }
        for estimator in ESTIMATORS
    }


def shown(name: str, rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """A table of one model: cells that move, in brackets all cells, and what was published of these."""
    print(f"\n{name}\n{'':10}" + "".join(f"{kind:>24}" for kind in KINDS))
    for estimator, row in rows.items():
        texts = []
        for kind in KINDS:
            published = PUBLISHED.get((name, estimator, kind))
            every = f"all {row[kind]['all']:.3f}" + ("" if published is None else f", {published:.3f}")
            texts.append(f"{row[kind]['moving']:.3f} [{every}]")
        print(f"{estimator:10}" + "".join(f"{text:>24}" for text in texts))


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
