"""What a pass for dossiers costs beside the bare forward and the encodings that any such pass needs.

    OMP_NUM_THREADS=1 python -m experiments.dossiers_cost --sentences 90000

All features of the shipped suite, on sentences of its grammar; about 11 tokens each. Both are done in turns, chunk by
chunk, by one thread, in CPU seconds. Peak memory is the process's above what it had with the text in memory; what the
dossiers hold is a part of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch

import featcircuits as fc
from experiments.shipped_suite.grammar import corpus
from featcircuits.dossiers.features import chosen_features
from featcircuits.dossiers.options import Options
from featcircuits.dossiers.reading import NUMBERS, read_text, rows_of_forward
from featcircuits.dossiers.text import Text, sorted_batches, text_of
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.runs.cost import measured
from featcircuits.splicing.spliced import SplicedModel

SEED = 4


class InTurns:
    """Does the bare work on each chunk after the pass has read it, and adds up the seconds of either."""

    def __init__(self, spliced: SplicedModel, text: Text) -> None:
        self.spliced, self.text = spliced, text
        self.passed: list[float] = []
        self.bare: list[float] = []

    def __call__(self, chunks: Iterable[int], what: str, total: int) -> Iterator[int]:
        """As the pass's `progress`."""
        for number in chunks:
            began = time.process_time()
            yield number
            between = time.process_time()
            bare_work(self.spliced, self.text, self.text.chunks()[number])
            self.passed.append(between - began)
            self.bare.append(time.process_time() - between)


@torch.no_grad()
def bare_work(spliced: SplicedModel, text: Text, chunk: range) -> None:
    """Forwards of some documents in the pass's own batches, each site encoded in the pass's own blocks."""

    def encode(site: Site, x: torch.Tensor) -> torch.Tensor:
        dictionary = spliced.dictionaries[site]
        for rows in x.split(max(1, NUMBERS // (x.shape[1] * dictionary.n_features))):
            dictionary.encode(rows.flatten(0, 1))
        return x

    rows = text.rows(chunk)
    for numbers in sorted_batches(rows, rows_of_forward(spliced, rows)):
        spliced.run(Tokens.pad([rows[n] for n in numbers], 0), encode, answers_only=True)


def measure(spliced: SplicedModel, text: Text) -> dict[str, Any]:
    """Tokens, seconds of both, their ratio on all of the text and on its last third, megabytes."""
    turns = InTurns(spliced, text)
    with measured(spliced, 1) as cost:
        reading = read_text(spliced, text, chosen_features(spliced, None), Options(), progress=turns)
    third = len(turns.bare) // 3
    held = sum(array.nbytes for array in reading.tensors().values())
    return {
        "tokens": reading.n_tokens,
        "pass, CPU s": round(sum(turns.passed), 1),
        "forward and encodings, CPU s": round(sum(turns.bare), 1),
        "ratio": round(sum(turns.passed) / sum(turns.bare), 3),
        "ratio on the last third": round(sum(turns.passed[-third:]) / sum(turns.bare[-third:]), 3),
        "peak memory, MB": round(cost.megabytes),
        "held, MB": round(held / 2**20),
    }


def main() -> None:
    """Prints a line for each figure."""
    parser = argparse.ArgumentParser(description="The cost of a pass for dossiers.")
    parser.add_argument("--sentences", type=int, default=90_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    spliced = fc.load(suite="grammar-4l")
    rows = spliced.tokenizer(list(corpus(SEED, options.sentences)))["input_ids"]
    bare_work(spliced, text := text_of(spliced, rows, 128), range(256))
    for name, value in measure(spliced, text).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
