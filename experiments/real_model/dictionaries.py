"""Dictionaries at twelve sites of the model, trained on plain English, and how good they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import featcircuits as fc
from experiments.real_model.pairs import FRONT
from experiments.real_model.text import english
from featcircuits.runs.cost import measured
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.suites import load_suite
from featcircuits.tasks.token_rows import Rows, read_lines
from featcircuits.training import Recipe, train_suite

SITES = (
    "mlp_0", "resid_3", "mlp_7", "resid_8", "resid_13", "resid_18", "resid_22", "attn_23", "mlp_24", "attn_26",
    "resid_26", "mlp_29",
)  # fmt: skip
"""The stream at six depths, and the attention and MLPs with the largest effects on the behaviours."""
TOKENS = 620_000
LONGEST = 128
SUITE = "suite"


def dictionaries(bare: SplicedModel, folder: Path, text: Path | None, steps: int) -> list[dict[str, Any]]:
    """Train the suite `folder`/suite, unless it is there; a row of figures per site, and what training took."""
    rows = _rows(bare.tokenizer, english() if text is None else read_lines(text))
    recipe = Recipe(architecture="batchtopk", features=3072, k=32, steps=steps, batch_size=1024)
    with measured(bare, sum(map(len, rows))) as cost:
        if not (folder / SUITE).exists():
            train_suite(
                bare, rows, folder / SUITE, recipe,
                sites=SITES, name="smollm2-135m", text="quotations, a handbook and explanations of words",
            )  # fmt: skip
    sites = load_suite(folder / SUITE).sites
    return [{"cpu": cost.cpu_seconds, "rows": len(rows), "tokens": sum(map(len, rows))}] + [
        {"site": str(site), **{key: value for key, value in entry.items() if isinstance(value, (int, float))}}
        for site, entry in sites.items()
    ]


def _rows(tokenizer: Any, texts: list[str]) -> Rows:
    """Rows that begin with the separator of documents, up to `TOKENS` tokens."""
    rows: Rows = []
    total = 0
    for ids in tokenizer([FRONT + text for text in texts], add_special_tokens=False)["input_ids"]:
        if total >= TOKENS:
            break
        rows.append(ids[:LONGEST])
        total += len(rows[-1])
    return rows


@cache
def spliced_model(model: Path, folder: Path) -> SplicedModel:
    """The model with the trained dictionaries."""
    return fc.load(str(model), str(folder / SUITE))
