"""Activations of a model at its sites, in memory-mapped files, without padding and sinks.

One forward pass per batch fills the files of all sites, and ends at the last of them. What does not fit into memory
stays on disk, and the system reads only the rows that a batch uses.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.files.checksums import intact, seal
from featcircuits.files.writing import check_space, whole_folder
from featcircuits.model.sites import Site
from featcircuits.progress import Progress
from featcircuits.splicing.finite import check_activations
from featcircuits.splicing.memory import rows_at_once
from featcircuits.splicing.sinks import bos_ids, limit_of, norms, usual_anywhere
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.token_rows import Rows, token_batches

ROWS = 256
"""The most rows of a forward pass."""


MOVED = 8192
"""How many rows of a file are moved at once."""


def collect(
    spliced: SplicedModel,
    rows: Rows,
    sites: Sequence[Site],
    folder: Path,
    progress: Progress,
    *,
    keep_sinks: bool = False,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `folder` with one file of numbers [token, width] per site; it appears whole or not at all.

    A site's file holds all tokens except its sinks (`featcircuits.splicing.sinks`); with `keep_sinks` it holds all.
    Raises `InputError` if the disk has too little space, and for NaN or infinity.
    """
    shapes = {site: shape_at(spliced, rows, site) for site in sites}
    needed = dtype.itemsize * sum(map(prod, shapes.values()))
    less = "store fewer tokens at once (--store-tokens), train fewer sites"
    check_space(folder.parent, needed, "the activations of all sites", less)
    with whole_folder(folder) as draft:
        files = {site: _new(draft / str(site), shape, dtype) for site, shape in shapes.items()}
        bos = frozenset() if keep_sinks else bos_ids(spliced)
        done = _fill(spliced, rows, files, bos, progress)
        for site, file in files.items() if not keep_sinks else ():
            _drop_sinks(draft / str(site), file[:done])
        seal(draft)


def _fill(
    spliced: SplicedModel, rows: Rows, files: Mapping[Site, Tensor], bos: Iterable[int], progress: Progress
) -> int:
    """Fill all files, one forward pass per batch; returns the number of tokens written, BOS left out."""
    batches = token_batches(rows, rows_at_once(spliced, max(map(len, rows)), most=ROWS))
    done = 0
    for tokens in progress(batches, "activations", len(batches)):
        seen = spliced.activations(tokens, files)
        check_activations(seen)
        usual = usual_anywhere(tokens, bos)
        count = int(usual.sum())
        for site, file in files.items():
            file[done : done + count] = seen[site][usual.to(seen[site].device)].to(file.dtype).cpu()
        done += count
    return done


def _drop_sinks(path: Path, x: Tensor) -> None:
    """Move the rows of a file's x [token, width] that are no sinks to the front, and cut off the rest of the file."""
    sizes = torch.cat([norms(some) for some in x.split(MOVED)])
    usual, done = sizes <= limit_of(sizes), 0
    for end in range(MOVED, len(x) + MOVED, MOVED):
        kept = x[end - MOVED : end][usual[end - MOVED : end]]
        if done + len(kept) < min(end, len(x)):
            x[done : done + len(kept)] = kept
        done += len(kept)
    os.truncate(path, done * x.shape[1] * x.itemsize)


def shape_at(spliced: SplicedModel, rows: Rows, site: Site) -> tuple[int, int]:
    """(number of tokens with sinks, width) of a site's activations."""
    return sum(map(len, rows)), spliced.architecture.site_width(spliced.model, site)


def usable_at(folder: Path, site: Site) -> bool:
    """Whether the file of a site's activations exists and is undamaged."""
    return (folder / str(site)).is_file() and intact(folder, str(site))


def opened(folder: Path, site: Site, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The activations at a site [token, width], memory-mapped: the system reads them only when they are used."""
    path = folder / str(site)
    return _mapped(path, (path.stat().st_size // (width * dtype.itemsize), width), dtype, shared=False)


def _new(path: Path, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A file of its full size, so that a full disk is noticed now, not while the mapped file is filled."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, dtype.itemsize * prod(shape))
    return _mapped(path, shape, dtype, shared=True)


def _mapped(path: Path, shape: tuple[int, int], dtype: torch.dtype, shared: bool) -> Tensor:
    return torch.from_file(str(path), shared=shared, size=prod(shape), dtype=dtype).view(shape)


class Spread(NamedTuple):
    """Where the activations of a site are, and how large."""

    mean: Tensor
    """[width]"""
    norm: float
    """The mean norm of a token's activation."""


def spread(x: Tensor) -> Spread:
    """The spread of x [token, width], which may be larger than memory."""
    total, sizes = torch.zeros(x.shape[1], dtype=torch.float64), 0.0
    for some in x.split(MOVED):
        total += some.double().sum(0)
        sizes += norms(some).double().sum().item()
    return Spread((total / len(x)).float(), sizes / len(x))


def shuffled(activations: Tensor, batch_size: int, seed: int, skip: int = 0) -> Iterator[Tensor]:
    """Endless random batches [batch_size, width] of float32 numbers, one permutation after another.

    Skips the first `skip` batches.
    """
    generator = torch.Generator().manual_seed(seed)
    number = 0
    while True:
        order = torch.randperm(len(activations), generator=generator)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            if number >= skip:
                yield activations[order[start : start + batch_size]].float()
            number += 1
