"""`featcircuits suites`: list suites, check one, train one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featcircuits.cli.config import CheckConfig, TrainConfig
from featcircuits.cli.options import with_settings

suites = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="markdown",
    help="List the available suites of dictionaries with their tasks; check one, or train one.",
)


@suites.callback()
def listed(context: typer.Context) -> None:
    """List the suites, unless a subcommand is given."""
    if context.invoked_subcommand is None:
        from featcircuits.cli.listing import list_suites

        list_suites()


@suites.command()
@with_settings(CheckConfig)
def check(
    config: CheckConfig,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the figures.")] = None,
) -> None:
    """Measure a suite on your own text or task: does every dictionary fit its site, and how good is it?

    It tries each dictionary at every site of the model that has its width, and refuses one that belongs to another
    site. Then it prints L0, variance unexplained, the loss recovered with each dictionary
    spliced in alone and with all of them, and dead features, next to the figures in the suite's record.

    Examples:

        featcircuits suites check --task ioi

        featcircuits suites check --suite saes/mine --text sentences.txt -o health.json
    """
    from featcircuits.cli.dictionaries import check_run

    check_run(config, output)


@suites.command()
@with_settings(TrainConfig)
def train(
    config: TrainConfig,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the suite; it must not exist yet.")],
) -> None:
    """Train a dictionary at every site of a model, and write them as a suite.

    It reads or samples the text, runs it through the model once, trains one dictionary per site, and
    measures them on a held-out tenth. If the command is interrupted, run it again; it resumes. Needs the extra
    `train` of the package.

    Examples:

        featcircuits suites train --model FOLDER --text sentences.txt -o saes/mine

        featcircuits suites train --model FOLDER --sample 4000 --sites resid -o saes/mine
    """
    from featcircuits.cli.dictionaries import train_run

    train_run(config, output)
