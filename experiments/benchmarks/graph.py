"""All edges of an attribution graph on transcoders: by matrix products, and by backward passes, in turns.

python -m experiments.benchmarks.graph --tokens 32 --active 4
python -m experiments.benchmarks.graph --tokens 96 --active 2
python -m experiments.benchmarks.graph --tokens 512 --active 4 --family pythia --layers 6 --features 32768 --rounds 0

A random model with TopK transcoders at every MLP and whole embeddings, one prompt without a partner, RelP with
attention patterns and norms held. Every active feature with an effect is a target, and every error if asked; features,
errors and tokens are sources. Prints one line of JSON: CPU seconds of one thread, edges, peak memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

import torch
import transformers

import featcircuits as fc
from experiments.benchmarks.one import peak_gigabytes, seconds
from experiments.benchmarks.workload import CONFIGS, Shape
from featcircuits.dictionaries import Dictionary
from featcircuits.effects import direct, estimated_edges
from featcircuits.effects.ends import Ends, ends_above
from featcircuits.effects.results import NodeEffects
from featcircuits.splicing.spliced import SplicedModel


def suite(shape: Shape, seed: int = 0) -> SplicedModel:
    """Transcoders with `active` features a token at every MLP."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(_config(shape)).eval()
    dictionaries: dict[str, Dictionary] = {"embed": fc.dictionaries.whole(shape.width)}
    for layer in range(shape.layers):
        W = torch.randn(shape.features, shape.width) / shape.width**0.5
        weights = (W.T.contiguous(), torch.zeros(shape.features), W * 0.2, torch.zeros(shape.width))
        dictionaries[f"mlp_{layer}"] = fc.dictionaries.topk(*weights, k=shape.active, transcodes=True)
    return fc.load(model, dictionaries)


def _config(shape: Shape) -> transformers.PretrainedConfig:
    if shape.family != "llama":
        return CONFIGS[shape.family](shape)
    return transformers.LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, intermediate_size=4 * shape.width, max_position_embeddings=2048,
    )  # fmt: skip


def all_edges(spliced: SplicedModel, task: fc.Task, effects: NodeEffects, errors: bool) -> fc.EdgeEffects:
    """Edges into every feature with an effect, and into every error if asked."""

    def features_alone(*arguments: object) -> Ends:
        ends = ends_above(*arguments)  # type: ignore[arg-type]
        return {site: end._replace(target_errors=torch.zeros_like(end.target_errors)) for site, end in ends.items()}

    with mock.patch.object(estimated_edges, "ends_above", ends_above if errors else features_alone):
        return fc.edge_effects(spliced, task, effects, node_threshold=0.0)


@contextmanager
def backward_passes() -> Iterator[None]:
    """Edges by backward passes alone."""
    with mock.patch.object(direct, "held_ways", return_value=None):
        yield


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    shape = Shape(layers=8, features=4096, active=4, batch=1, tokens=32, vocabulary=1000, family="llama")
    for name in ("layers", "features", "active", "tokens", "family"):
        parser.add_argument(f"--{name}", type=type(getattr(shape, name)), default=getattr(shape, name))
    parser.add_argument("--rounds", type=int, default=3, help="rounds beside backward passes; 0: no such passes")
    options = vars(parser.parse_args())
    rounds = options.pop("rounds")
    torch.set_num_threads(1)
    spliced = suite(Shape(**{**shape.__dict__, **options}))
    ids = torch.randint(1, shape.vocabulary, (1, options["tokens"]), generator=torch.Generator().manual_seed(1))
    task = fc.Task.from_tokens(ids, None, torch.tensor([5]), torch.tensor([7]), keep_wrong=True)
    effects = fc.node_effects(spliced, task, "relp:rules=with_ah", baseline="zero")
    built = peak_gigabytes()
    for errors in (False, True):
        work = partial(all_edges, spliced, task, effects, errors)
        found = work()
        line = {**options, "errors as targets": errors, "edges": sum(1 for _ in found.edges()) if rounds else None}
        ours, theirs = [], []
        for _ in range(max(1, rounds)):
            ours.append(seconds(work, "cpu")[0])
            if rounds:
                with backward_passes():
                    theirs.append(seconds(work, "cpu")[0])
        line |= {"cpu_seconds": statistics.median(ours), "gigabytes_built": built, "gigabytes_peak": peak_gigabytes()}
        if theirs:
            line |= {"backward_passes": statistics.median(theirs)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
