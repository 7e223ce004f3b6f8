"""The command line: it parses, calls and prints; the package's own functions do everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featcircuits.cli.config import (
    AgreeConfig,
    CompareConfig,
    EdgesConfig,
    EvaluateConfig,
    FeaturesConfig,
    GenerateConfig,
    InterveneConfig,
    TraceConfig,
)
from featcircuits.cli.data import data
from featcircuits.cli.endings import Commands
from featcircuits.cli.labelling import labels
from featcircuits.cli.options import with_settings
from featcircuits.cli.output import survive_encodings
from featcircuits.cli.suites import suites

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Trace sparse feature circuits of language models, and measure how much they explain.

    A first run, on the model and dictionaries that come with the package:

        featcircuits trace -o runs/first

        featcircuits evaluate runs/first --start-layer 1

        featcircuits view runs/first

        featcircuits export runs/first --to gexf,graphml
    """,
)

app.add_typer(suites, name="suites")
app.add_typer(data, name="data")
app.add_typer(labels, name="labels")

RunFolder = Annotated[Path, typer.Argument(help="A run folder written by `featcircuits trace`.")]


def main() -> None:
    """Entry point: bad input ends in one message and exit code 2; a warning is one line too."""
    survive_encodings()
    app()


@app.command()
@with_settings(TraceConfig)
def trace(
    config: TraceConfig,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder to write; it must not exist yet.")] = Path(
        "runs/trace"
    ),
    top: Annotated[int, typer.Option(min=0, help="How many nodes and edges to print.")] = 15,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate time and memory.")] = False,
) -> None:
    """Trace a circuit: which features and error nodes carry a behaviour, and through which edges.

    Without options it uses the shipped model and dictionaries, on agreement across a relative clause.
    It computes the effects of all features and error nodes, keeps the strongest nodes,
    computes the edges among them, and drops nodes without a path to the metric.

    First it checks that the model shows the behaviour. If fewer than 60 % of the pairs are right, the run stops:
    `--only-right` drops the wrong ones, and `--keep-wrong` goes on with all of them.

    Examples:

        featcircuits trace --task ioi --nodes atp --keep-nodes top=60 -o runs/ioi

        featcircuits trace --suite saes/mine --task pairs.jsonl --aggregate role -o runs/mine

        featcircuits trace --config runs/ioi/config.json --nodes ig:steps=20 -o runs/ioi-20
    """
    from featcircuits.cli import commands

    if dry_run:
        commands.dry_run(config)
    else:
        commands.trace_run(config, output, top)


@app.command()
@with_settings(EvaluateConfig)
def evaluate(
    config: EvaluateConfig,
    run: RunFolder,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier report.")] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="All that speaks for and against the circuit: every ablation, controls, tests."),
    ] = False,
) -> None:
    """Measure a circuit's faithfulness and completeness on held-out prompts.

    It ablates everything outside the circuit, then everything inside, for the circuit and for smaller ones of
    every size, and compares them with random circuits. Writes report.json and faithfulness.png into the run folder.

    With --full it does so under every ablation, ablates the outside in part and as does most harm, adds learned
    constants, a nonsense control, the edges, and tests with p-values, and prints a verdict for each claim. It says
    first how long that takes, and the same command resumes it. Writes validation.json and validation.png.

    Examples:

        featcircuits evaluate runs/ioi --ablation resample --start-layer 1

        featcircuits evaluate runs/ioi --full
    """
    if full:
        from featcircuits.cli.validating import validate_run

        validate_run(config, run, overwrite)
        return
    from featcircuits.cli.commands import evaluate_run

    evaluate_run(config, run, overwrite)


@app.command()
@with_settings(EdgesConfig)
def edges(
    config: EdgesConfig,
    run: RunFolder,
    mib: Annotated[Path | None, typer.Option(help="Folder for CPR and CMD in the form of MIB's results.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier edges.json.")] = False,
) -> None:
    """Judge a circuit's edges causally on held-out prompts.

    Every node is computed from its parents along the first k edges alone, and compared with their nodes with every
    connection, with random edges, and with the model without these edges. CPR and CMD are printed over nodes and edges.
    Writes edges.json and edges.png into the run folder.

    Example:

        featcircuits edges runs/first --ablations paired,mean --limit 40
    """
    from featcircuits.cli.edges import edges_run

    edges_run(config, run, mib, overwrite)


@app.command()
def export(
    run: RunFolder,
    to: Annotated[
        str,
        typer.Option(
            help="Formats, comma-separated: gexf, graphml, json, neuronpedia, svg, pdf, png, heatmap.svg (.pdf, .png)."
        ),
    ] = "gexf",
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Only the N strongest nodes and the edges among them. Default for pictures: 30."),
    ] = None,
    grouped: Annotated[bool, typer.Option("--grouped", help="Each group as one node, whose edges are sums.")] = False,
    state: Annotated[Path | None, typer.Option(help="Labels and groups of a view that the page saved.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier exports.")] = False,
) -> None:
    """Write a run's circuit for other programs and for papers.

    GEXF is for Gephi, GraphML and JSON for other programs. SVG, PDF and PNG are pictures of the strongest nodes with
    their labels; heatmap.svg, .pdf and .png show the effects of all nodes by site and place.

    `neuronpedia` is for circuits of one prompt, traced with `--limit 1`: a folder that Neuronpedia and circuit-tracer's
    page read, with the dashboards of features that have a dossier.

    Examples:

        featcircuits export runs/ioi --to gexf,graphml,json

        featcircuits export runs/ioi --to svg,pdf,heatmap.pdf --top 25
    """
    from featcircuits.cli.exports import export_run

    export_run(run, to, top, overwrite, grouped, state)


@app.command()
def groups(
    run: RunFolder,
    add: Annotated[
        list[str] | None,
        typer.Option(help="NAME: nodes, by names or by conditions, such as 'subject: site=resid_*, place=1, sign=+'."),
    ] = None,
    take: Annotated[Path | None, typer.Option("--from", help="A file of groups, or a view from the page.")] = None,
    propose: Annotated[bool, typer.Option("--propose", help="Propose groups by clustering, in place of all.")] = False,
    count: Annotated[int | None, typer.Option(min=2, help="How many clusters. Default: by the silhouette.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Name of a group to dissolve.")] = None,
) -> None:
    """Group a run's nodes: the groups stand in groups.json, and exports, pictures and the page have them.

    Without options it prints the groups that there are. Nodes that are added to a group leave their earlier one.

    Examples:

        featcircuits groups runs/ioi --add "subject: site=resid_*, place=1, sign=+"

        featcircuits groups runs/ioi --propose
    """
    from featcircuits.cli.groups import groups_run

    groups_run(run, add or [], take, propose, count, remove or [])


@app.command()
def view(
    run: RunFolder,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Page to write. Default: circuit.html in the run folder.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="A view that the page saved: its groups, labels, pins and sliders.")
    ] = None,
    interventions: Annotated[
        Path | None,
        typer.Option(help="An outcome that `intervene -o FILE` wrote: measured beside predicted, at its nodes."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier page.")] = False,
) -> None:
    """Write one HTML page that shows the circuit: nodes with their dossiers, edges, sliders, search and groups.

    The page opens from disk in any browser and asks nothing of the network. It has the report, the dossiers and the
    labels that the run or its suite has.

    Example:

        featcircuits view runs/ioi
    """
    from featcircuits.cli.view import view_run

    view_run(run, output, state, interventions, overwrite)


@app.command()
@with_settings(FeaturesConfig)
def features(
    config: FeaturesConfig,
    run: Annotated[
        Path | None, typer.Argument(help="A run folder, for dossiers of its nodes; or give --suite.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the dossiers. Default: `dossiers` in the run folder."),
    ] = None,
    show: Annotated[
        str | None, typer.Option(help="Print the dossiers of these features, comma-separated: resid_2/303.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many contexts to print.")] = 10,
) -> None:
    """Find out what features mean: on which tokens and contexts each is active, and what it does to the logits.

    One pass over a text reads all sites at once and writes dossiers as Parquet: figures, strongest and random
    contexts, tokens, direct effects, neighbours, values on the task, and a default label. The text is a
    file with one document per line or a folder written by `datasets`. If the command is interrupted, run it again;
    it resumes. `--show` prints existing dossiers, including those that come with a suite.

    Examples:

        featcircuits features --suite grammar-4l --show resid_2/303

        featcircuits features runs/demo --text sentences.txt

        featcircuits features --suite saes/mine --text sentences.txt -o saes/mine/dossiers
    """
    from featcircuits.cli.dossiers import features_run, show_run

    if show is None:
        features_run(config, run, output)
    else:
        show_run(config, run, output, show, top)


@app.command()
@with_settings(InterveneConfig)
def intervene(
    config: InterveneConfig,
    run: RunFolder,
    do: Annotated[list[str] | None, typer.Option("--do", help="An intervention: 'resid_2/303@5=0'. Repeat it.")] = None,
    file: Annotated[Path | None, typer.Option(help="A JSON file of interventions, besides those of --do.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt, in place of a task. Repeat it for more.")] = None,
    groups: Annotated[Path | None, typer.Option(help="A file of groups. Default: groups.json of the run.")] = None,
    vectors: Annotated[Path | None, typer.Option(help="A safetensors file of vectors, by name.")] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="A prompt to take values from: 'paris=The capital of'.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for the outcome.")] = None,
) -> None:
    """Change features, groups or directions, and see whether the change was predicted and what controls do.

    An intervention sets (=0), adds to (+4) or scales (*2) a node, ablates it (=mean), or takes its value from elsewhere
    (<corrupted, <resid_15@-1), at a position (@5, @-1, @2:5), a role (@subject), or wherever it is active (@active).
    Printed are F before and after, the predicted and the measured change, the same change made to features that are
    as strong and as frequent there and along random directions, and the tokens whose probability changes most.

    Examples:

        featcircuits intervene runs/first --do "resid_2/303@5=0"

        featcircuits intervene runs/first --do "resid_2/303@5=0:held=direct" --downstream circuit

        featcircuits intervene runs/first --do "resid_2/303@-1*2" --prompt "The author that the guides avoid"
    """
    from featcircuits.cli.intervening import Done, intervene_run

    intervene_run(config, run, Done(do or [], file, groups, vectors, source or []), prompt or [], output)


@app.command()
@with_settings(GenerateConfig)
def generate(
    config: GenerateConfig,
    run: RunFolder,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt to continue. Repeat it for more.")] = None,
    do: Annotated[list[str] | None, typer.Option("--do", help="An intervention: 'resid_2/303=0'. Repeat it.")] = None,
    file: Annotated[Path | None, typer.Option(help="A JSON file of interventions, besides those of --do.")] = None,
    groups: Annotated[Path | None, typer.Option(help="A file of groups. Default: groups.json of the run.")] = None,
    vectors: Annotated[Path | None, typer.Option(help="A safetensors file of vectors, by name.")] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="A prompt to take values from: 'paris=The capital of'.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file for texts and values.")] = None,
) -> None:
    """Continue prompts with interventions made, beside the unedited model's continuations.

    Positions, slices and roles are places of the prompt, which are edited when it is read; `@generated` acts in each
    later step, and an intervention without a place on every token. `--watch` prints the values of features at the
    token that each new one is predicted from.

    Examples:

        featcircuits generate runs/first --prompt "the editor that the hunters call" --do "resid_2/303=0"

        featcircuits generate runs/first --prompt "the editors" --do "resid_2/303@generated+20" --watch resid_2/303
    """
    from featcircuits.cli.generating import generate_run
    from featcircuits.cli.intervening import Done

    generate_run(config, run, Done(do or [], file, groups, vectors, source or []), prompt or [], output)


@app.command()
@with_settings(CompareConfig)
def compare(
    config: CompareConfig,
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders written by `featcircuits trace`.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for comparison.json and distances.png.")
    ] = None,
    to: Annotated[
        str, typer.Option(help="Formats of the union of all circuits, comma-separated, as for export; needs -o.")
    ] = "",
    top: Annotated[int, typer.Option(min=0, help="How many shared nodes to print.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")] = False,
) -> None:
    """Compare the circuits of several runs: what do they share, in nodes and in edges?

    It prints Jaccard indices, plain and weighted by effects, how many shared nodes and edges have the same sign, and
    the rank correlation of their effects, for every pair; for two runs also by layer and kind of site. The union of all
    circuits says of each node and edge which runs have it, as a colour and an attribute in every format.

    Examples:

        featcircuits compare runs/rc runs/ioi --places sum

        featcircuits compare runs/a runs/b runs/c -o runs/compared --to gexf,svg

        featcircuits compare runs/a runs/other-suite --match decoder
    """
    from featcircuits.cli.comparing import compare_run

    compare_run(config, runs, output, to, top, as_json)


@app.command()
@with_settings(AgreeConfig)
def agree(
    config: AgreeConfig,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; it must not exist yet.")] = Path(
        "runs/agree"
    ),
) -> None:
    """Compare estimators with exact patching on your own model, with the cost of each.

    It patches every node of a few examples, and prints each estimator's Pearson and rank correlation,
    slope and overlap of the strongest nodes for each kind of site. Writes agreement.json
    and the pictures scatter and frontier (--pictures pdf or svg for papers).

    Example:

        featcircuits agree --task ioi --limit 10 --estimators atp,relp,ig:steps=5:quadrature=gauss -o runs/agree-ioi
    """
    from featcircuits.cli.measure import agree_run

    agree_run(config, output)


@app.command()
def audit(
    run: RunFolder,
    limit: Annotated[
        int | None,
        typer.Option(min=0, help="Use only the first N examples of the run's task; 0 for all. Default: 4 at most."),
    ] = None,
) -> None:
    """Check the identities that must hold on your own run: the splice, effects of full cuts, edges, relevance.

    Identities that only rounding may break are marked; a large residual there is a fault. The others show
    how large an estimator's own error is (quadrature, linearisation, biases).

    Example:

        featcircuits audit runs/demo
    """
    from featcircuits.cli.measure import audit_run

    audit_run(run, limit)
