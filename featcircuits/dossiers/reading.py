"""One pass over a text for all sites at once: every batch's activations are encoded as they come by, and let go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcircuits.dictionaries.decomposition import precision
from featcircuits.dossiers.checkpoint import Checkpoint
from featcircuits.dossiers.options import Options
from featcircuits.dossiers.tally import Block, Tally, block_of
from featcircuits.dossiers.text import Text, sorted_batches
from featcircuits.dossiers.writes import Norms
from featcircuits.model.sites import READ_ONLY, Site
from featcircuits.model.tokens import Tokens
from featcircuits.progress import Progress, silent
from featcircuits.runs.ledger import Ledger
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.memory import rows_at_once
from featcircuits.splicing.sinks import UsualTokens, usual_tokens
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.token_rows import token_batches

ROWS = 256
"""Rows of a forward, at most."""
NUMBERS = 1 << 21
"""Dense features of one site that exist at once, at least those of one row."""
SINK_SAMPLE = 512
"""Documents that tell how long the median token of a site is."""
TOGETHER = 16384
"""Tokens, about, that co-activation is measured on."""


@dataclass
class Reading:
    """What has been read so far."""

    tallies: Mapping[Site, Tally]
    norms: Norms
    token_counts: NDArray[np.int64]
    """[token id]: how often each is in the text."""
    every: int = 1
    """One of so many documents is among those that co-activation is measured on."""
    n_tokens: int = 0
    sampled: int = 0
    """Tokens that co-activation is measured on."""
    limits: Mapping[Site, float] = field(default_factory=dict)

    def tensors(self) -> Mapping[str, NDArray]:
        """What a checkpoint keeps."""
        sites = {f"{site}/{k}": v for site, tally in self.tallies.items() for k, v in tally.tensors().items()}
        counts = {"counts": np.array([self.n_tokens, self.sampled]), "token_counts": self.token_counts}
        return {**counts, **self.norms.tensors(), **sites}

    def restore(self, tensors: Mapping[str, NDArray]) -> None:
        """Go on from a checkpoint."""
        self.n_tokens, self.sampled = map(int, tensors["counts"])
        self.token_counts = tensors["token_counts"]
        self.norms.restore(tensors)
        for site, tally in self.tallies.items():
            tally.restore({k.removeprefix(f"{site}/"): v for k, v in tensors.items() if k.startswith(f"{site}/")})


@torch.no_grad()
def read_text(
    spliced: SplicedModel,
    text: Text,
    chosen: Mapping[Site, Tensor],
    options: Options,
    ledger: Ledger | None = None,
    progress: Progress = silent,
) -> Reading:
    """Tallies of the chosen features [n] of each site, over the whole text.

    Sinks (`featcircuits.splicing.sinks`) are counted and not read; the median norms that tell them are those of a
    sample of the text. A checkpoint in the ledger is gone on from, and written as the text is read.
    """
    sample = text.sample(SINK_SAMPLE)
    norms = Norms.of(spliced, chosen)
    usual = usual_tokens(spliced, token_batches(sample, ROWS), {*chosen, norms.last})
    embeddings: Any = spliced.model.get_input_embeddings()
    vocabulary: int = embeddings.num_embeddings
    reading = Reading(
        {site: Tally(ids, vocabulary, options) for site, ids in chosen.items()},
        norms,
        np.zeros(vocabulary, np.int64),
        every=max(1, round(text.n_documents * np.mean([len(row) for row in sample]) / TOGETHER)),
        limits=usual.limits,
    )
    chunks = text.chunks()
    checkpoint = None if ledger is None else Checkpoint(ledger, len(chunks))
    begin = 0 if checkpoint is None else checkpoint.restore(reading)
    for number in progress(range(begin, len(chunks)), "text", len(chunks) - begin):
        for tokens, block in batches_of(spliced, text.rows(chunks[number]), reading.every):
            _read_batch(spliced, tokens, block, usual, reading)
        if checkpoint is not None:
            checkpoint.save(reading, number + 1)
    for tally in reading.tallies.values():
        tally.settle()
    return reading


def batches_of(spliced: SplicedModel, rows: Mapping[int, Sequence[int]], every: int) -> Iterator[tuple[Tokens, Block]]:
    """Forwards of some documents, those of like length together, and what is known of their tokens."""
    for numbers in sorted_batches(rows, rows_of_forward(spliced, rows)):
        tokens = Tokens.pad([rows[n] for n in numbers], 0)
        yield tokens, block_of(tokens.ids.numpy(), numbers, every)


def rows_of_forward(spliced: SplicedModel, rows: Mapping[int, Sequence[int]]) -> int:
    """How many documents a forward takes."""
    return rows_at_once(spliced, max(map(len, rows.values()), default=1) or 1, most=ROWS)


def _read_batch(spliced: SplicedModel, tokens: Tokens, block: Block, usual: UsualTokens, reading: Reading) -> None:
    """One forward; each site's tally grows when its activation comes by."""
    tokens = tokens.to(spliced.device)
    real = tokens.mask > 0
    reading.n_tokens += int(real.sum())
    here = real.flatten().cpu().numpy()
    reading.sampled += int(block.sampled[here].sum())
    reading.token_counts += np.bincount(block.ids[here], minlength=len(reading.token_counts))
    reads: dict[Site, Tensor] = {}

    def see(site: Site, x: Tensor) -> Tensor:
        if not x.sum().isfinite():  # far quicker than a look at each number
            check_finite(x[:0], {site: x})
        if site == reading.norms.last:
            reading.norms.add_final(x[usual.at(site, x, tokens)])
        if site.kind in READ_ONLY:
            reads[site] = x
        elif site in reading.tallies:
            counted = usual.at(site, x, tokens)
            read = reads.pop(spliced.read_site(site)) if spliced.dictionaries[site].transcodes else x
            _read_site(spliced, site, read, counted, block, reading)
            reading.tallies[site].n_sinks += int((real & ~counted).sum())
        return x

    sites = sorted({*spliced.with_reads(reading.tallies), reading.norms.last})
    check_finite(spliced.run(tokens, see, sites=sites, answers_only=True), {})


def _read_site(
    spliced: SplicedModel, site: Site, read: Tensor, counted: Tensor, block: Block, reading: Reading
) -> None:
    """Some rows at a time: dense features exist for so many tokens."""
    dictionary, tally = spliced.dictionaries[site], reading.tallies[site]
    whole = len(tally.ids) == dictionary.n_features
    size = max(1, NUMBERS // max(1, block.slots * dictionary.n_features))
    for start in range(0, len(read), size):
        some = read[start : start + size].flatten(0, 1).to(precision(read.dtype))
        count = counted[start : start + size].flatten()
        features = dictionary.encode(some)
        active = dictionary.is_active(features)
        if not whole:
            features, active = features[:, tally.ids], active[:, tally.ids]
        active.index_fill_(0, (~count).nonzero()[:, 0], False)
        tally.n_tokens += int(count.sum())
        if (statistics := dictionary.statistics(some)) is not None:
            tally.scale += float(statistics.scale[count].double().sum())
        reading.norms.add_write(site, some, count)
        tally.add(features, active, count, block.rows(start, start + size))
