"""`featcircuits labels`: labels of features, made from dossiers, read from other programs and written for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

labels = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Name features: make labels.jsonl, and exchange it with other programs.",
)

Form = Annotated[str, typer.Argument(help="neuronpedia, feature-circuits, delphi or circuit-tracer.")]
Made = Annotated[Path, typer.Option("--output", "-o", help="File of labels: `labels.jsonl` of a run or a suite.")]
Add = Annotated[bool, typer.Option("--add", help="Add to the labels that are already in the file.")]


@labels.command()
def default(
    source: Annotated[Path, typer.Argument(help="A run, a suite's folder or a folder of dossiers.")],
    output: Made = Path("labels.jsonl"),
    command: Annotated[
        str | None,
        typer.Option(help="Run for each feature: reads its dossier as JSON, prints a label."),
    ] = None,
    name: Annotated[str, typer.Option(help="Source of the labels that the command makes.")] = "command",
    add: Add = False,
) -> None:
    """Make labels from dossiers: each feature's default label, or the output of your own command.

    The command runs once per feature, without a shell; only your command contacts any service.
    With `--add`, features that have a label of the same source keep it, so an interrupted command can resume.

    Examples:

        featcircuits labels default saes/grammar-4l -o labels.jsonl

        featcircuits labels default runs/demo --command "python label.py" --name gpt -o runs/demo/labels.jsonl
    """
    from featcircuits.cli.label_files import make_labels

    make_labels(source, output, command, name, add)


@labels.command(name="import")
def bring(
    form: Form,
    source: Annotated[Path, typer.Argument(help="The other program's file or folder.")],
    output: Made = Path("labels.jsonl"),
    at: Annotated[
        str | None,
        typer.Option(help="Site of a layer's dictionaries: resid_{layer}, or a hook: blocks.{layer}.hook_resid_pre."),
    ] = None,
    add: Add = False,
) -> None:
    """Read another program's labels into labels.jsonl.

    Examples:

        featcircuits labels import neuronpedia explanations/ --at "resid_{layer}" -o saes/mine/labels.jsonl

        featcircuits labels import feature-circuits annotations.jsonl -o runs/demo/labels.jsonl --add
    """
    from featcircuits.cli.label_files import bring_labels

    bring_labels(form, source, output, at, add)


@labels.command()
def export(
    form: Form,
    source: Annotated[Path, typer.Argument(help="A file of labels.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; for delphi a folder.")],
    into: Annotated[
        str | None,
        typer.Option(help="neuronpedia: model and source set, MODEL/{layer}-SET; circuit-tracer: the graph to label."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
) -> None:
    """Write labels in another program's form.

    Examples:

        featcircuits labels export neuronpedia labels.jsonl --into "my-model/{layer}-res-mine" -o batch-0.jsonl.gz

        featcircuits labels export delphi labels.jsonl -o explanations
    """
    from featcircuits.cli.label_files import write_labels

    write_labels(form, source, output, into, overwrite)
