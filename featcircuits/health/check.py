"""A suite's health on a text: the fit and figures of every site, and the loss with all dictionaries spliced in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import precision
from featcircuits.errors import InputError
from featcircuits.files.plain import plain
from featcircuits.health.figures import Figures, Losses, measure
from featcircuits.health.fit import REMEDY, Fit, fault_at, fit_at
from featcircuits.inputs.arguments import expect
from featcircuits.model.sites import Site, all_sites
from featcircuits.model.tokens import Tokens
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_task, checked_rows
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.sinks import bos_ids, usual_anywhere
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Task
from featcircuits.tasks.token_rows import Rows, rows_of

SAMPLE_ROWS, SAMPLE_TOKENS = 16, 256
"""How many rows and tokens each dictionary is tried on, at every site that it could be meant for."""


@dataclass(frozen=True)
class Health:
    """The result of `check_suite`. `fits` are measured on a sample of the text; `figures` and `together` on all of it.

    `keep_sinks`: whether `figures` and `together` treat sink tokens like all others.
    """

    text: str
    n_rows: int
    n_tokens: int
    fits: Mapping[Site, Fit]
    figures: Mapping[Site, Figures]
    together: Losses
    """The losses with the activations of all sites at once replaced by reconstructions, zeros or means."""
    recorded: Mapping[Site, Mapping[str, Any]]
    """The figures in the suite's record."""
    keep_sinks: bool = False

    def to_json(self) -> dict[str, Any]:
        """The figures as plain numbers, None where a figure is undefined."""
        figures = {
            "text": self.text,
            "n_rows": self.n_rows,
            "n_tokens": self.n_tokens,
            "keep_sinks": self.keep_sinks,
            "sites": {str(site): self._site_json(site) for site in self.figures},
            "together": {
                "loss_recovered": self.together.recovered,
                "loss_recovered_mean": self.together.recovered_mean,
                **{f"loss_{name}": value for name, value in asdict(self.together).items()},
            },
        }
        return plain(figures)

    def _site_json(self, site: Site) -> dict[str, Any]:
        fit = self.fits.get(site, Fit(math.nan))  # a whole output is its error by design
        return {
            **asdict(self.figures[site]),
            "variance_unexplained_here": fit.unexplained,
            "best_other_site": None if fit.other is None else str(fit.other),
            "variance_unexplained_there": fit.unexplained_there,
            "fault": fit.fault or None,
            "recorded": dict(self.recorded.get(site, {})),
        }


def check_suite(
    spliced: SplicedModel,
    text: Task | Rows,
    *,
    name: str | None = None,
    check_fit: bool = True,
    keep_sinks: bool = False,
    progress: Progress = silent,
) -> Health:
    """Measure every dictionary of a suite on prompts or rows of token ids.

    First each dictionary is tried, on a sample, at every site of the model that has its width. One
    that leaves more variance unexplained than the mean would, or much less at another site than at its
    own, raises an `InputError`, unless `check_fit=False`. Then L0, variance unexplained, loss recovered
    and dead features are measured on all of the text. `name`: the text's name in messages.
    Sink tokens (`featcircuits.splicing.sinks`) are left out of all these figures, and keep their activation where
    dictionaries are spliced in for the loss. With `keep_sinks` only the first trial leaves them out.
    """
    expect("model", spliced, SplicedModel)
    if isinstance(text, Task):
        check_task(spliced, text)
    rows = rows_of(text) if isinstance(text, Task) else checked_rows(spliced, text)
    if not any(len(row) > 1 for row in rows):
        raise InputError("the text has no row of two tokens or more, so there is no next token to predict; give more")
    name = name or (text.name if isinstance(text, Task) else "the text")
    fits = site_fits(spliced, rows)
    faults = [fault_at(site, fit, name) for site, fit in fits.items() if fit.fault]
    if faults and check_fit:
        others = f" ({len(faults) - 1} other dictionaries do not fit either)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0]}{others}; {REMEDY}")
    figures, together = measure(spliced, rows, progress, keep_sinks=keep_sinks)
    sites = {} if spliced.suite is None else spliced.suite.sites
    known = set(Figures.__dataclass_fields__)
    recorded = {Site.parse(site): {k: v for k, v in record.items() if k in known} for site, record in sites.items()}
    return Health(name, len(rows), sum(map(len, rows)), fits, figures, together, recorded, keep_sinks)


@torch.no_grad()
def site_fits(spliced: SplicedModel, rows: Rows) -> dict[Site, Fit]:
    """The fit of every dictionary with features at its own site and at the others, on a sample of the rows."""
    sample = Tokens.pad(rows[:: max(1, len(rows) // SAMPLE_ROWS)][:SAMPLE_ROWS], 0).to(spliced.device)
    logits, seen = spliced.record(sample, all_sites(spliced.architecture.n_layers, spliced.architecture.kinds))
    check_finite(logits, seen)
    usual = usual_anywhere(sample, bos_ids(spliced)).flatten()
    kept = usual.nonzero()[:: max(1, int(usual.sum()) // SAMPLE_TOKENS), 0]
    flat = {site: _rows_at(x, kept) for site, x in seen.items()}
    return {site: fit_at(spliced, site, flat) for site, d in spliced.dictionaries.items() if d.n_features}


def _rows_at(x: Tensor, kept: Tensor) -> Tensor:
    return x.flatten(0, 1)[kept].to(precision(x.dtype))
