"""Trains a sparse autoencoder at every site of a local model and writes them as a suite.

    python -m experiments.train_saes --model FOLDER --text FILE --out DIR
    python -m experiments.train_saes --model FOLDER --sample 4000 --out DIR

A site is the token embedding, or the output of a layer's attention, MLP or whole block. The last
tenth of the text is held out and gives the figures in suite.toml.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.sae_training import measure, record, text, train
from experiments.sae_training.activations import collect
from featcircuits.dictionaries import jumprelu
from featcircuits.models import architecture_of
from featcircuits.sites import Site, all_sites
from featcircuits.sources import sha256
from featcircuits.splice import SplicedModel
from featcircuits.suites import fingerprint


def load_bare(folder: str) -> SplicedModel:
    """A model and its tokenizer with nothing spliced in."""
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return SplicedModel(model, architecture_of(model), {}, tokenizer)


def train_suite(
    model: str, rows: text.Rows, out: Path, recipe: train.Recipe, name: str, description: str
) -> dict[str, Any]:
    """Trains and measures an autoencoder a site; returns what it writes into suite.toml."""
    began = time.monotonic()
    bare = load_bare(model)
    n_held_out = max(1, len(rows) // 10)
    sites = list(all_sites(bare.architecture.n_layers))
    activations = collect(bare, rows[:-n_held_out], sites)
    (out / "sites").mkdir(parents=True, exist_ok=True)
    dictionaries = {}
    for site in sites:
        print(f"{site}: {len(activations[site])} tokens", flush=True)
        tensors: dict[str, Any] = train.train(activations.pop(site), recipe)
        save_file(tensors, out / "sites" / f"{site}.safetensors")
        dictionaries[site] = jumprelu(**tensors)
    figures = measure.measure(bare, dictionaries, rows[-n_held_out:])
    suite = {
        "format": 1,
        "name": name,
        "description": description,
        "licence": "MIT",
        "model": model_record(bare, model, out),
        "recipe": {
            **asdict(recipe),
            "tokens": sum(map(len, rows[:-n_held_out])),
            "tokens_held_out": sum(map(len, rows[-n_held_out:])),
            **record.versions(),
            "minutes": round((time.monotonic() - began) / 60, 1),
        },
        "sites": {str(site): site_record(out, site, figures[site]) for site in sites},
    }
    (out / "suite.toml").write_text(record.toml_text(suite), encoding="utf-8")
    return suite


def model_record(bare: SplicedModel, source: str, out: Path) -> dict[str, Any]:
    """Which model the suite belongs to; a model folder inside the suite is named relative to it."""
    folder, home = Path(source).resolve(), out.resolve()
    local = str(folder.relative_to(home) if folder.is_relative_to(home) else folder)
    found = {
        "source": local if folder.is_dir() else source,
        "fingerprint": fingerprint(bare.model),
        "architecture": bare.architecture.model_type,
        "hidden_size": bare.architecture.width,
        "num_hidden_layers": bare.architecture.n_layers,
    }
    return {**found, "files": record.hashes(folder)} if folder.is_dir() else found


def site_record(out: Path, site: Site, figures: measure.Figures) -> dict[str, Any]:
    """One site's table in suite.toml."""
    source = f"sites/{site}.safetensors"
    return {
        "source": source,
        "sha256": sha256(out / source),
        "kind": "jumprelu",
        **figures.record(),
    }


def arguments() -> argparse.Namespace:
    """The command line; defaults of the training come from `Recipe`."""
    default = train.Recipe()
    parser = argparse.ArgumentParser(description="Trains a sparse autoencoder at every site.")
    parser.add_argument("--model", required=True, help="folder or hub id of a causal model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, help="a text file, one prompt or sentence a line")
    source.add_argument("--sample", type=int, help="so many rows sampled from the model itself")
    parser.add_argument("--out", type=Path, required=True, help="folder of the suite")
    parser.add_argument("--name", help="the suite's name (default: the folder's)")
    parser.add_argument("--longest", type=int, default=128, help="tokens a row at most")
    parser.add_argument("--features", type=int, default=default.features)
    parser.add_argument("--k", type=float, default=default.k, help="mean active features a token")
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--seed", type=int, default=default.seed)
    return parser.parse_args()


def main() -> None:
    """Reads or samples the text, then trains."""
    options = arguments()
    bare = load_bare(options.model)
    if options.text is not None:
        rows = text.read_rows(options.text, bare.tokenizer, options.longest)
        origin = options.text.name
    else:
        rows = text.sample_rows(bare.model, options.sample, options.longest, options.seed)
        origin = f"{options.sample} texts of {options.longest} tokens sampled from the model"
    recipe = train.Recipe(
        options.features,
        options.k,
        options.steps,
        options.batch_size,
        options.learning_rate,
        options.seed,
    )
    name = options.name or options.out.resolve().name
    suite = train_suite(options.model, rows, options.out, recipe, name, f"trained on {origin}")
    for site, row in suite["sites"].items():
        print(site, {key: row[key] for key in ("l0", "variance_unexplained", "loss_recovered")})


if __name__ == "__main__":
    main()
