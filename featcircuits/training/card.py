"""A suite's card: README.md, written from the figures in suite.toml."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from featcircuits.health import Losses

CARD = """# {name}

{description}

`sites/` holds one dictionary per site; `suite.toml` has the content of this card for programs, with a hash
of each file.

## Model

`{source}`: {architecture}, {layers} layers, width {width}. A model whose embedding differs from the one
that the dictionaries were trained on is refused.

## Dictionaries

JumpReLU, `f = z where z > threshold else 0`, `z = x @ W_enc + b_enc`, `x_hat = f @ W_dec + b_dec`,
decoder rows of unit norm; trained as {trained_as} by sae_lens. Figures on {held_out} held-out tokens{sinks}.

{sites}

With the activations of all sites replaced by their reconstructions at once, {together} of the loss is recovered
against zero-ablation of all sites, and {together_mean} against mean-ablation.

{legend}

## How it was made

{recipe}
"""

LEGEND = """* L0: mean number of active features per token.
* Variance unexplained: squared error over squared distance from the mean.
* Loss recovered: the site's activation is replaced by its reconstruction (without the error, all other
  sites untouched); 1 is the bare model's loss, 0 the loss with the site set to zero (first figure)
  or to its mean over tokens (second figure).
* Dead: features that no held-out token activates. Features that fewer than one training token in
  10,000 activated were left out of the files.
* Sinks: held-out tokens that do not count for the site's figures and keep their activation when the loss is
  measured, and in brackets tokens that were left out of its training: the BOS token at the start of a
  text, and tokens whose activation at the site is over 10 times the median norm."""


def card(suite: Mapping[str, Any], together: Losses) -> str:
    """The card as Markdown, from a suite's record and the losses with all its dictionaries spliced in."""
    recipe, model = suite["recipe"], suite["model"]
    return CARD.format(
        name=suite["name"],
        description=suite["description"],
        source=_shown(model["source"]),
        architecture=model["architecture"],
        layers=model["num_hidden_layers"],
        width=model["hidden_size"],
        trained_as=recipe["architecture"],
        held_out=f"{recipe['tokens_held_out']:,}",
        sinks=", attention sinks among them" if recipe["keep_sinks"] else "",
        sites=site_table(suite["sites"]),
        together=percentage(together.recovered),
        together_mean=percentage(together.recovered_mean),
        legend=LEGEND,
        recipe=table(("setting", "value"), ((f"`{k}`", f"{v}") for k, v in recipe.items())),
    )


def _shown(source: str) -> str:
    """A model's source as others may read it: a path of this machine means nothing to them, but its name does."""
    return Path(source).name if Path(source).is_absolute() else source


def site_table(sites: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of the figures, one row per site."""
    head = ("site", "features", "L0", "variance unexplained", "loss recovered", "dead", "sinks")
    rows = (
        (
            f"`{site}`",
            f"{row['n_features']}",
            f"{row['l0']:.1f}",
            percentage(row.get("variance_unexplained", math.nan)),
            " / ".join(percentage(row.get(name, math.nan)) for name in ("loss_recovered", "loss_recovered_mean")),
            f"{row['dead_features']}",
            f"{row['sink_tokens']} ({row['sink_tokens_training']})",
        )
        for site, row in sites.items()
    )
    return table(head, rows)


def percentage(value: float) -> str:
    """A share as a percentage, or a dash if it is undefined because ablation does not raise the loss."""
    return f"{value:.2%}" if math.isfinite(value) else "-"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
