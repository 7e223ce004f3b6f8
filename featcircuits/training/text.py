"""Which rows of a text dictionaries are trained on, and which are held out to measure them."""

from __future__ import annotations

from itertools import accumulate

import torch

from featcircuits.errors import InputError
from featcircuits.splicing.sinks import bos_ids
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.token_rows import Rows
from featcircuits.training.recipe import Recipe


def parted(bare: SplicedModel, rows: Rows, recipe: Recipe, text: str) -> tuple[Rows, Rows]:
    """(the rows to train on, the rows to measure on).

    Rows at the end are held out, up to a tenth of all and up to `recipe.held_out` tokens. If the rest has more tokens
    than all steps use, as many rows as they use are drawn from it.
    Raises `InputError` if fewer tokens than one batch are left, or no row of two tokens is held out.
    """
    held_out = _last(rows[-max(1, len(rows) // 10) :], recipe.held_out)
    rest = rows[: -len(held_out)]
    n_tokens = sum(_sizes(bare, rest, recipe))
    if n_tokens < recipe.batch_size or not any(len(row) > 1 for row in held_out):
        raise InputError(
            f"{text}: without the held-out rows at its end, {n_tokens} tokens in {len(rest)} rows are left to train "
            f"on, and a batch has {recipe.batch_size}; give more text, or a smaller batch"
        )
    return _drawn(bare, rest, recipe), held_out


def _last(rows: Rows, most: int) -> Rows:
    """The last rows with at most so many tokens together; at least one."""
    count = sum(total <= most for total in accumulate(len(row) for row in reversed(rows)))
    return rows[-max(1, count) :]


def _drawn(bare: SplicedModel, rows: Rows, recipe: Recipe) -> Rows:
    """All rows, or as many random ones as have the tokens of all steps, in their order."""
    wanted, sizes = recipe.steps * recipe.batch_size, _sizes(bare, rows, recipe)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
    count = sum(total < wanted for total in accumulate(sizes[i] for i in order)) + 1
    return [rows[i] for i in sorted(order[:count])]


def _sizes(bare: SplicedModel, rows: Rows, recipe: Recipe) -> list[int]:
    """The tokens of each row that training uses: a BOS token is a sink at every site."""
    bos = frozenset() if recipe.keep_sinks else bos_ids(bare)
    return [len(row) - len(bos.intersection(row[:1])) for row in rows]
