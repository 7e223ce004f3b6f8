"""CPU seconds of node effects by relevance patching over those by attribution patching.

    python -m experiments.benchmarks.relp_cost

Two shapes with random weights and dictionaries, one thread, the two estimators in turns; prints the
median of the ratios of neighbouring runs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
import transformers

import featcircuits as fc
from featcircuits.model.sites import all_sites
from featcircuits.splicing.spliced import SplicedModel

SHAPES: Mapping[str, Any] = {
    "pythia-70m": lambda: transformers.GPTNeoXConfig(
        vocab_size=50304, hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048,
        max_position_embeddings=2048, use_parallel_residual=True,
    ),
    "llama, gated": lambda: transformers.LlamaConfig(
        vocab_size=32000, hidden_size=512, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4,
        intermediate_size=1408, max_position_embeddings=2048,
    ),
}  # fmt: skip


def random_model(shape: str, n_features: int) -> SplicedModel:
    """A TopK dictionary with 32 active features at every site."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(SHAPES[shape]()).eval()
    width, n_layers = model.config.hidden_size, model.config.num_hidden_layers
    W = torch.randn(n_features, width) / width**0.5
    # one set of weights serves all sites: the time does not depend on the numbers
    dictionary = fc.dictionaries.topk(W.T.contiguous(), torch.zeros(n_features), W, torch.zeros(width), k=32)
    return fc.load(model, {str(site): dictionary for site in all_sites(n_layers)})


def cpu_seconds(spliced: SplicedModel, task: fc.Task, estimator: str) -> float:
    began = time.process_time()
    fc.node_effects(spliced, task, estimator, keep_examples=False)
    return time.process_time() - began


def main() -> None:
    """Both shapes."""
    parser = argparse.ArgumentParser(description="RelP's cost over AtP's.")
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for shape in SHAPES:
        spliced = random_model(shape, options.features)
        ids = torch.randint(1, 30000, (2, options.examples, options.tokens))
        answers = torch.arange(1, options.examples + 1)
        task = fc.Task.from_tokens(ids[0], ids[1], answers, answers + 100)
        times: dict[str, list[float]] = {"atp": [], "relp": []}
        for _ in range(options.rounds + 1):
            for estimator, found in times.items():
                found.append(cpu_seconds(spliced, task, estimator))
        ratios = [relp / atp for atp, relp in zip(times["atp"][1:], times["relp"][1:], strict=True)]
        row = {estimator: round(statistics.median(found[1:]), 3) for estimator, found in times.items()}
        print(shape, json.dumps({**row, "ratio": round(statistics.median(ratios), 3)}))


if __name__ == "__main__":
    main()
