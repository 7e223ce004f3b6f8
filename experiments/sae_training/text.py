"""Token rows to train on: lines of a file, or text that the model itself writes."""

from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from featcircuits.tokens import Tokens

Rows = list[list[int]]


def read_rows(path: Path, tokenizer: Any, longest: int) -> Rows:
    """One row of token ids for each line that is not blank, cut to `longest` tokens."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [ids[:longest] for ids in tokenizer(lines)["input_ids"]]


@torch.no_grad()
def sample_rows(model: Any, count: int, longest: int, seed: int, batch_size: int = 128) -> Rows:
    """Rows of `longest` tokens drawn from the model at temperature 1, each begun with its BOS.

    A small model's own text is the one corpus that is always at hand and always fits it.
    """
    bos, generator = model.config.bos_token_id, torch.Generator().manual_seed(seed)
    if bos is None:
        raise SystemExit("the model has no BOS token to begin sampling with; give --text FILE")
    rows: Rows = []
    for start in tqdm(range(0, count, batch_size), desc="sampling", mininterval=5):
        ids = torch.full((min(batch_size, count - start), 1), bos)
        cache = None
        for _ in range(longest - 1):
            output = model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            chances = output.logits[:, -1].float().softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], dim=1)
        rows += ids.tolist()
    return rows


def token_batches(rows: Rows, size: int) -> list[Tokens]:
    """Padded batches; rows of like length stand together, so that little padding is computed."""
    ordered = sorted(rows, key=len)
    return [Tokens.pad(ordered[i : i + size], 0) for i in range(0, len(ordered), size)]
