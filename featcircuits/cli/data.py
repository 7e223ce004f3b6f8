"""`featcircuits data`: checks of a task file, and of what the model does on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featcircuits.cli.config import DataConfig
from featcircuits.cli.options import with_settings

data = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Check task files.")


@data.callback()
def group() -> None:
    """Make a group of a single command."""


@data.command()
@with_settings(DataConfig)
def check(
    config: DataConfig,
    task: Annotated[str, typer.Argument(help="A task of the suite, or a JSONL file (docs/tasks.md).")],
    show: Annotated[int, typer.Option(min=0, help="Print the first N prompts as the model takes them.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the figures.")] = None,
) -> None:
    """Check a task: is every line usable, and does the model show the behaviour?

    Prints F and how many answers are right on both prompts, words outside the vocabulary, and one row per
    line. A file that cannot be used ends with exit code 2; wrong answers of the model do not.

    Examples:

        featcircuits data check ioi --limit 10

        featcircuits data check pairs.jsonl --show 2 -o check.json
    """
    from featcircuits.cli.datacheck import check_data

    check_data(config, task, show, output)
