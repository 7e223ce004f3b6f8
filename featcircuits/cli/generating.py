"""`featcircuits generate`: continuations of prompts, unedited and edited."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from featcircuits.cli.commands import since
from featcircuits.cli.config import GenerateConfig
from featcircuits.cli.intervening import Done, asked_for
from featcircuits.cli.output import console, printable, say
from featcircuits.cli.tasks import load_for
from featcircuits.errors import InputError
from featcircuits.interventions.continuation import Continuation, Generated
from featcircuits.interventions.generation import generate
from featcircuits.interventions.steps import check_watched
from featcircuits.loading.load import load_tokenizer
from featcircuits.model.nodes import nodes_of
from featcircuits.runs import folder as runs
from featcircuits.splicing.spliced import SplicedModel


def generate_run(config: GenerateConfig, run: Path, done: Done, prompts: Sequence[str], output: Path | None) -> None:
    """Print the continuations and the values that are watched and, if it is wanted, write them."""
    given, names, traced = asked_for(run, done)
    watch = nodes_of([name.strip() for name in config.watch.split(",") if name.strip()])
    check_watched(watch)
    if not prompts:
        raise InputError("give --prompt with a text to continue")
    if output is not None:
        runs.check_new_file(output)
    began = time.monotonic()
    spliced = load_for(traced, config.device, load_tokenizer(traced.model, traced.suite))
    settings: dict[str, Any] = {
        "max_new_tokens": config.max_new_tokens, "temperature": config.temperature, "seed": config.seed, "watch": watch,
    }  # fmt: skip
    edited = _streamed(spliced, prompts, given, **names, **settings)
    unedited = generate(spliced, prompts, **settings)
    for before, after in zip(unedited.continuations, edited.continuations, strict=True):
        say(f"prompt:   {before.prompt}")
        say(f"unedited: {before.text}")
        say(f"edited:   {after.text}")
        if watch:
            console.print(_values(before, after))
    if output is not None:
        runs.write_new_json(output, {"edited": edited.to_json(), "unedited": unedited.to_json()})
    say(f"{f'texts in {output}, ' if output else ''}{since(began)}")


def _streamed(spliced: SplicedModel, prompts: Sequence[str], *given: Any, **settings: Any) -> Generated:
    """The continuations; that of a single prompt is printed as it grows, if somebody watches."""
    if len(prompts) > 1 or not console.is_terminal:
        return generate(spliced, prompts, *given, **settings)

    def show(pieces: tuple[str, ...]) -> None:
        sys.stdout.write(printable(pieces[0]))
        sys.stdout.flush()

    found = generate(spliced, prompts, *given, stream=show, **settings)
    sys.stdout.write("\n")
    return found


def _values(before: Continuation, after: Continuation) -> Table:
    """One row per step: the tokens, how likely they were, and what each feature was worth before them."""
    table = Table(box=box.SIMPLE)
    for name in ("unedited", "edited", "probability", *after.values):
        table.add_column(name, justify="left" if name == "unedited" else "right", no_wrap=True)
    for step, token in enumerate(after.tokens):
        first = before.tokens[step] if step < len(before.tokens) else ""
        values = [f"{row[step]:.2f}" for row in after.values.values()]
        table.add_row(printable(repr(first)), printable(repr(token)), f"{after.probabilities[step]:.1%}", *values)
    return table
