"""Activations of a model at its sites, real tokens only, in files that are mapped into memory.

One forward a batch fills the files of all sites. What does not fit into memory stays on disk; the
system reads the rows of a batch where they are touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from featcircuits.checksums import intact, seal
from featcircuits.progress import Progress
from featcircuits.sites import Site
from featcircuits.splice import SplicedModel, check_finite
from featcircuits.text import Rows, token_batches
from featcircuits.writing import check_space, whole_folder

ROWS = 256
"""Rows of a forward, at most."""


def collect(spliced: SplicedModel, rows: Rows, sites: Sequence[Site], folder: Path, progress: Progress) -> None:
    """Writes `folder`, a file of float32 numbers [token, width] a site; it appears whole or not at all.

    Raises `InputError` where the disk has no room for it, and for NaN or infinity.
    """
    shapes = {site: shape_at(spliced, rows, site) for site in sites}
    needed = 4 * sum(map(prod, shapes.values()))
    check_space(folder.parent, needed, "the activations of all sites", "give less text, fewer sites")
    with whole_folder(folder) as draft:
        _fill(spliced, rows, {site: _new(draft / str(site), shape) for site, shape in shapes.items()}, progress)
        seal(draft)


def _fill(spliced: SplicedModel, rows: Rows, files: Mapping[Site, Tensor], progress: Progress) -> None:
    """One forward per batch, for all sites."""
    batches = token_batches(rows, spliced.rows_at_once(max(map(len, rows)), most=ROWS))
    done = 0
    for tokens in progress(batches, "activations", len(batches)):
        logits, seen = spliced.record(tokens, list(files))
        check_finite(logits, seen)
        real = tokens.mask > 0
        count = int(real.sum())
        for site, file in files.items():
            file[done : done + count] = seen[site][real.to(seen[site].device)].float().cpu()
        done += count


def shape_at(spliced: SplicedModel, rows: Rows, site: Site) -> tuple[int, int]:
    """(tokens, width)"""
    return sum(map(len, rows)), spliced.architecture.site_width(spliced.model, site)


def usable_at(folder: Path, site: Site, shape: tuple[int, int]) -> bool:
    """Whether the activations at a site are there, whole and undamaged."""
    path = folder / str(site)
    return path.is_file() and path.stat().st_size == 4 * prod(shape) and intact(folder, path.name)


def opened(folder: Path, site: Site, shape: tuple[int, int]) -> Tensor:
    """The activations at a site [token, width]; nothing is read before it is touched."""
    return _mapped(folder / str(site), shape, shared=False)


def _new(path: Path, shape: tuple[int, int]) -> Tensor:
    """A file of its full size: a disk that is full must say so now, not while the mapped file is filled."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, 4 * prod(shape))
    return _mapped(path, shape, shared=True)


def _mapped(path: Path, shape: tuple[int, int], shared: bool) -> Tensor:
    return torch.from_file(str(path), shared=shared, size=prod(shape), dtype=torch.float32).view(shape)


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
