"""Text that a model writes itself: for a small model, a corpus that is always available and always suits it."""

from __future__ import annotations

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.progress import Progress, silent
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.token_rows import Rows

ROWS = 128
"""How many rows are sampled at once."""


@torch.no_grad()
def sample_rows(spliced: SplicedModel, count: int, longest: int, seed: int, progress: Progress = silent) -> Rows:
    """`count` rows of `longest` tokens, sampled from the model at temperature 1; each begins with BOS.

    Raises `InputError` if the model has no BOS token.
    """
    bos = spliced.model.config.bos_token_id
    if bos is None:
        raise InputError("the model has no BOS token to begin its own text with; give a text file instead")
    if count < 1:
        raise InputError(f"{count} rows were asked for; sample at least 1")
    generator = torch.Generator().manual_seed(seed)
    rows: Rows = []
    starts = range(0, count, ROWS)
    for start in progress(starts, "sampling", len(starts)):
        rows += _written(spliced, torch.full((min(ROWS, count - start), 1), bos), longest, generator).tolist()
    return rows


def _written(spliced: SplicedModel, ids: Tensor, longest: int, generator: torch.Generator) -> Tensor:
    cache = None
    for _ in range(longest - 1):
        output = spliced.model(input_ids=ids[:, -1:].to(spliced.device), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        chances = output.logits[:, -1].float().softmax(-1).cpu()
        ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], dim=1)
    return ids
