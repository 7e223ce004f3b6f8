"""Rebuilds `saes/grammar-4l` from nothing.

    python -m experiments.shipped_suite

`--only tasks`, `model`, `saes`, `dossiers` or `card` repeats one step on what is there; `--only figures` measures the
dictionaries again, as training does at its end.
"""

import argparse
import shutil
import time
import tomllib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from experiments.shipped_suite import model as language_model
from experiments.shipped_suite.accuracy import Accuracy, accuracy
from experiments.shipped_suite.card import card
from experiments.shipped_suite.grammar import corpus
from experiments.shipped_suite.pairs import BEHAVIOURS, write_tasks
from featcircuits.dossiers.dossiers import FOLDER
from featcircuits.dossiers.features import features
from featcircuits.dossiers.options import Options
from featcircuits.health.figures import mean_loss, measure
from featcircuits.loading.load import load, load_bare
from featcircuits.model.sites import Site
from featcircuits.sources import sha256
from featcircuits.splicing.sinks import usual_tokens
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Task
from featcircuits.tasks.token_rows import Rows, token_batches
from featcircuits.training import Recipe, train_suite
from featcircuits.training.suite_record import toml_text

NAME = "grammar-4l"
DESCRIPTION = (
    "A small GPT-NeoX language model of a hand-written English-like grammar, with sparse "
    "autoencoders at the embedding and at every attention, MLP and residual output."
)
COMMAND = "python -m experiments.shipped_suite"
SEED = 0
LAYERS, WIDTH, HEADS = 4, 128, 4
SENTENCES, SENTENCES_SAES, SENTENCES_HELD_OUT = 460_800, 40_000, 4_000
PAIRS = 400
MODEL_TRAINING = {"batch_size": 128, "learning_rate": 2e-3, "weight_decay": 0.1}
SAES = Recipe(features=512, k=10, steps=2000, seed=SEED, held_out=1 << 20)
SENTENCES_DOSSIERS = 12_000
DOSSIERS = Options(contexts=8, samples=4, before=14, after=6, tokens=8, logits=8, coactive=6)
STEPS = ("tasks", "model", "saes", "dossiers", "card")


def build_model(folder: Path) -> None:
    """Trains the language model and saves it with its tokenizer."""
    torch.manual_seed(SEED)
    sentences = list(corpus(SEED, SENTENCES))
    tokenizer = language_model.build_tokenizer(sentences)
    model = language_model.build_model(len(tokenizer), LAYERS, WIDTH, HEADS)
    rows = tokenizer(sentences)["input_ids"]
    language_model.train(model, rows, seed=SEED, **MODEL_TRAINING)
    language_model.save(model, tokenizer, folder)


def build_saes(folder: Path) -> None:
    """Trains the dictionaries on sentences that the model has not seen."""
    began = time.monotonic()
    bare = load_bare(folder / "model")
    rows = bare.tokenizer(list(corpus(SEED + 1, SENTENCES_SAES)))["input_ids"]
    trained = folder / "trained"
    suite = train_suite(
        bare, rows, trained, SAES,
        name=NAME, description=DESCRIPTION, licence="MIT", text=f"{SENTENCES_SAES} sentences of the grammar",
    )  # fmt: skip
    files = sorted(path for path in (folder / "model").iterdir() if path.is_file())
    suite["model"] |= {"source": "model", "files": {path.name: sha256(path) for path in files}}
    suite["recipe"]["minutes"] = round((time.monotonic() - began) / 60, 1)
    shutil.rmtree(folder / "sites", ignore_errors=True)
    (trained / "sites").rename(folder / "sites")
    for site, record in suite["sites"].items():
        path = folder / record["source"]
        save_file(load_file(path), path)  # without metadata, as these files have been from the beginning
        suite["sites"][site]["sha256"] = sha256(path)
    shutil.rmtree(trained)
    (folder / "suite.toml").write_text(toml_text(suite), encoding="utf-8")


def build_dossiers(folder: Path) -> None:
    """Writes sentences that neither the model nor the dictionaries were trained on, and what features are on them."""
    text = folder / "text.txt"
    text.write_text("\n".join(corpus(SEED + 3, SENTENCES_DOSSIERS)) + "\n", encoding="utf-8")
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    features(load(suite=folder), text, folder / FOLDER, options=DOSSIERS)


def measure_saes(folder: Path) -> None:
    """The dictionaries' figures on the tenth of the sentences that they were not trained on, into suite.toml."""
    path = folder / "suite.toml"
    suite = tomllib.loads(path.read_text(encoding="utf-8"))
    spliced = load(suite=folder)
    rows = spliced.tokenizer(list(corpus(SEED + 1, SENTENCES_SAES)))["input_ids"]
    n_held_out = len(rows) // 10
    figures, together = measure(spliced, rows[-n_held_out:])
    left_out = sinks(spliced, rows[:-n_held_out])
    for site, found in figures.items():
        suite["sites"][str(site)] |= {**found.record(), "sink_tokens_training": left_out[site]}
    path.write_text(toml_text(suite), encoding="utf-8")
    print(f"all at once: {together.recovered:.2%} / {together.recovered_mean:.2%}")


def sinks(spliced: SplicedModel, rows: Rows) -> dict[Site, int]:
    """How many tokens are sinks at each site."""
    batches = token_batches(rows, 256)
    usual = usual_tokens(spliced, batches, spliced.sites)
    found = dict.fromkeys(spliced.sites, 0)
    for tokens in batches:
        _, seen = spliced.record(tokens)
        for site, x in seen.items():
            found[site] += int(tokens.mask.sum() - usual.at(site, x, tokens).sum())
    return found


def write_card(folder: Path, minutes: float | None) -> None:
    """Measures the model on its tasks, completes suite.toml, and writes the card."""
    path = folder / "suite.toml"
    suite = tomllib.loads(path.read_text(encoding="utf-8"))
    bare = load_bare(folder / "model")
    sentences = list(corpus(SEED + 2, SENTENCES_HELD_OUT))
    rows = bare.tokenizer(sentences)["input_ids"]
    suite["recipe"] |= {
        "command": COMMAND,
        "pairs": PAIRS,
        "model_sentences": SENTENCES,
        **{f"model_{name}": value for name, value in MODEL_TRAINING.items()},
        "model_heads": HEADS,
        "model_vocabulary": len(bare.tokenizer),
        "model_loss_held_out": round(mean_loss(bare, rows), 4),
    }
    if minutes is not None:
        suite["recipe"] |= {"minutes_in_all": round(minutes, 1), "threads": torch.get_num_threads()}
    suite["tasks"] = {}
    for name, (_, description) in BEHAVIOURS.items():
        task = Task.from_jsonl(folder / f"tasks/{name}_test.jsonl", bare.tokenizer)
        suite["tasks"][name] = task_record(name, description, accuracy(bare, task))
    suite["sites"] = suite.pop("sites")
    path.write_text(toml_text(suite), encoding="utf-8")
    (folder / "README.md").write_text(card(suite, max(map(len, rows))), encoding="utf-8")


def task_record(name: str, description: str, found: Accuracy) -> dict[str, Any]:
    """One behaviour's table in suite.toml."""
    return {
        "train": f"tasks/{name}_train.jsonl",
        "test": f"tasks/{name}_test.jsonl",
        "description": description,
        "metric": "logit_difference",
        "accuracy_test": round(found.both, 4),
        "accuracy_test_clean": round(found.clean, 4),
        "accuracy_test_corrupted": round(found.corrupted, 4),
        "metric_test_clean": round(found.metric_clean, 3),
        "metric_test_corrupted": round(found.metric_corrupted, 3),
    }


def main() -> None:
    """Runs the steps in turn."""
    parser = argparse.ArgumentParser(description="Rebuilds the shipped suite from nothing.")
    parser.add_argument("--out", type=Path, default=Path("saes") / NAME)
    parser.add_argument("--only", choices=(*STEPS, "figures"), action="append", help="repeat one step")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps, began = options.only or STEPS, time.monotonic()
    if "tasks" in steps:
        write_tasks(options.out / "tasks", PAIRS, SEED)
    if "model" in steps:
        build_model(options.out / "model")
    if "saes" in steps:
        build_saes(options.out)
    if "dossiers" in steps:
        build_dossiers(options.out)
    if "figures" in steps:
        measure_saes(options.out)
    if "card" in steps:
        minutes = None if options.only else (time.monotonic() - began) / 60
        write_card(options.out, minutes)


if __name__ == "__main__":
    main()
