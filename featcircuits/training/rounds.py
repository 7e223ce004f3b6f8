"""Training at all sites, in rounds: a round's activations are collected once, for all sites, trained on, and removed.

A short text is one round. A longer one is cut into random parts of similar size, so that no more than
`Recipe.store_tokens` tokens are on disk at once. Between two rounds each site's weights and optimizer are on disk, so
memory holds one dictionary at a time. The rounds do not depend on the sites: a dictionary is the same
whichever others are trained with it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.model.sites import Site
from featcircuits.progress import Progress
from featcircuits.runs import folder as runs
from featcircuits.runs.on_disk import OnDisk
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.token_rows import Rows
from featcircuits.training.activations import collect, opened, shape_at, spread, usable_at
from featcircuits.training.recipe import STORES, Recipe
from featcircuits.training.trainer import train

_SINKS = "sinks"
"""The name under which the ledger stores how many tokens were left out as sinks."""
SMALLEST = 1e-5
"""Activations whose mean square is below this squared are too small for float16."""


class Round(NamedTuple):
    """Rows of a text, and the steps that are trained on them."""

    rows: Rows
    steps: range


class Trained(NamedTuple):
    """A site's dictionary, and how many tokens were left out of its training as sinks."""

    sinks: int
    tensors: dict[str, Any]


def rounds_of(rows: Rows, recipe: Recipe) -> list[Round]:
    """The rounds of a training; raises `InputError` if one would have fewer tokens than a batch."""
    count = ceil(sum(map(len, rows)) / recipe.store_tokens)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
    parts = [[rows[i] for i in sorted(order[number::count])] for number in range(count)]
    smallest = min(sum(map(len, part)) for part in parts)
    if smallest < recipe.batch_size:
        raise InputError(
            f"store_tokens is {recipe.store_tokens}: a part of the text has {smallest} tokens, and a batch "
            f"{recipe.batch_size}; store more tokens (--store-tokens)"
        )
    ends = [recipe.steps * number // count for number in range(count + 1)]
    return [Round(part, range(ends[number], ends[number + 1])) for number, part in enumerate(parts)]


def trained(
    bare: SplicedModel, rounds: Sequence[Round], sites: Sequence[Site], recipe: Recipe, work: OnDisk, progress: Progress
) -> dict[Site, Trained]:
    """Every site's dictionary; those that an earlier call finished are read. Each site in a round is one stage."""
    dead: list[Site] = []
    for number in range(len(rounds)):
        dead += _round(bare, rounds, number, sites, recipe, work, progress)
    if dead:
        raise InputError(
            f"every feature died in training at {', '.join(map(str, dead))}; repeat the call without these sites to "
            "keep the others, which are trained, or give more text or steps, or a lower learning rate"
        )
    parts = {site: dict(work.parts(str(site), 1)[0]) for site in sites}
    return {site: Trained(int(tensors.pop(_SINKS)), tensors) for site, tensors in parts.items()}


def _round(
    bare: SplicedModel, rounds: Sequence[Round], number: int, sites: Sequence[Site], recipe: Recipe, work: OnDisk,
    progress: Progress,
) -> list[Site]:  # fmt: skip
    """Train every site that has not been trained in this round yet; returns the sites whose features all died."""
    rows, steps = rounds[number]
    before = len(rounds) - 1
    """How many rounds there are before the last; each leaves a part in the ledger."""
    todo = [site for site in sites if work.todo(str(site), 1)]
    if number < before:
        todo = [site for site in todo if number in work.todo(_stage(site), before)]
    dtype, stored = STORES[recipe.store], work.folder / f"{runs.ACTIVATIONS}{number}"
    if not all(usable_at(stored, site) for site in todo):
        work.begin()
        shutil.rmtree(stored, ignore_errors=True)
        collect(bare, rows, todo, stored, progress, keep_sinks=recipe.keep_sinks, dtype=dtype)
    found = {site: opened(stored, site, shape_at(bare, rows, site)[1], dtype) for site in todo}
    n_tokens = sum(map(len, rows))
    for site, x in found.items():
        _check(site, x, n_tokens, recipe)
    dead = []
    for site, x in found.items():
        checkpoints = work.folder / runs.CHECKPOINTS / str(site)
        name = f"{site}" if before == 0 else f"{site}, part {number + 1} of {before + 1}"
        tensors = train(
            x, recipe, steps=steps, device=bare.device, checkpoints=checkpoints, progress=progress, name=name
        )
        left_out = {_SINKS: torch.tensor(n_tokens - len(x))}
        if tensors is None:
            work.put(_stage(site), number, left_out)
        elif len(tensors["b_enc"]):
            parts = [left_out, *(work.parts(_stage(site), before).values() if before else ())]
            work.put(str(site), 0, {**tensors, _SINKS: torch.stack([part[_SINKS] for part in parts]).sum()})
        else:
            dead.append(site)
        if number == before:
            shutil.rmtree(checkpoints, ignore_errors=True)
        (stored / str(site)).unlink()  # save disk space
    shutil.rmtree(stored, ignore_errors=True)
    return dead


def _stage(site: Site) -> str:
    """The ledger's stage of the rounds before the last."""
    return f"{site}-parts"


def _check(site: Site, x: Tensor, n_tokens: int, recipe: Recipe) -> None:
    """Raise `InputError` for fewer tokens than one batch, and for sizes that the stored precision cannot hold."""
    if len(x) < recipe.batch_size:
        raise InputError(
            f"{site}: only {len(x)} of {n_tokens} tokens are not attention sinks, and a batch has "
            f"{recipe.batch_size}; give more text, a smaller batch, or keep_sinks=True (--keep-sinks)"
        )
    norm = spread(x).norm
    if recipe.store == "float16" and not SMALLEST < norm / x.shape[1] ** 0.5 < torch.inf:
        raise InputError(
            f"{site}: activations of mean norm {norm:.3g} are too {'small' if norm < 1 else 'large'} for float16; "
            'store them with store="float32" (--store float32)'
        )
