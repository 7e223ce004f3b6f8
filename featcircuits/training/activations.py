"""Activations of a model at its sites, real tokens only, in files that are mapped into memory.

One forward a batch fills the files of all sites. What does not fit into memory stays on disk; the
system reads the rows of a batch where they are touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.progress import Progress
from featcircuits.sites import Site
from featcircuits.splice import SplicedModel, check_finite
from featcircuits.text import Rows, token_batches

ROWS = 256
"""Rows of a forward, at most."""


def collect(spliced: SplicedModel, rows: Rows, sites: Sequence[Site], folder: Path, progress: Progress) -> None:
    """Writes `folder`, a file of float32 numbers [token, width] a site; it appears whole or not at all.

    Raises `InputError` where the disk has no room for it, and for NaN or infinity.
    """
    shapes = {site: shape_at(spliced, rows, site) for site in sites}
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    _check_room(draft, 4 * sum(map(prod, shapes.values())))
    files = {site: _mapped(draft / str(site), shape, new=True) for site, shape in shapes.items()}
    batches = token_batches(rows, spliced.rows_at_once(max(map(len, rows)), most=ROWS))
    done = 0
    for tokens in progress(batches, "activations", len(batches)):
        logits, seen = spliced.record(tokens, sites)
        check_finite(logits, seen)
        real = tokens.mask > 0
        count = int(real.sum())
        for site, file in files.items():
            file[done : done + count] = seen[site][real.to(seen[site].device)].float().cpu()
        done += count
    draft.rename(folder)


def shape_at(spliced: SplicedModel, rows: Rows, site: Site) -> tuple[int, int]:
    """(tokens, width)"""
    return sum(map(len, rows)), spliced.architecture.site_width(spliced.model, site)


def opened(folder: Path, site: Site, shape: tuple[int, int]) -> Tensor:
    """The activations at a site [token, width]; nothing is read before it is touched."""
    return _mapped(folder / str(site), shape, new=False)


def _mapped(path: Path, shape: tuple[int, int], new: bool) -> Tensor:
    return torch.from_file(str(path), shared=new, size=prod(shape), dtype=torch.float32).view(shape)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        shutil.rmtree(folder)
        raise InputError(
            f"the activations of all sites take {needed / 1e9:.1f} GB, and {folder.parent} has {free / 1e9:.1f} GB "
            "free; give less text, fewer sites, or an output folder on a larger disk"
        )


def shuffled(activations: Tensor, batch_size: int, seed: int, skip: int = 0) -> Iterator[Tensor]:
    """Endless random batches, one permutation after another; the first `skip` are not read."""
    generator = torch.Generator().manual_seed(seed)
    number = 0
    while True:
        order = torch.randperm(len(activations), generator=generator)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            if number >= skip:
                yield activations[order[start : start + batch_size]]
            number += 1
