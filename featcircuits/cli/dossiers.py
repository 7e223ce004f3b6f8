"""`featcircuits features`: dossiers of the features of a run or a suite."""

from __future__ import annotations

import time
from pathlib import Path

from featcircuits.circuit.circuit import Circuit
from featcircuits.cli.commands import since
from featcircuits.cli.config import FeaturesConfig, TraceConfig
from featcircuits.cli.dossier_panel import dossier_panel
from featcircuits.cli.labels import dossiers_for
from featcircuits.cli.output import console, say
from featcircuits.cli.tables import node_table
from featcircuits.cli.tasks import Wanted, load_for, model_and_task, traced_part
from featcircuits.cli.watch import watching
from featcircuits.dossiers.dossiers import FOLDER, Dossiers
from featcircuits.dossiers.features import features
from featcircuits.dossiers.options import Options
from featcircuits.dossiers.text import Text, text_of
from featcircuits.errors import InputError
from featcircuits.files.writing import check_writable
from featcircuits.model.nodes import Node
from featcircuits.runs import folder as runs
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.suites import load_suite
from featcircuits.tasks.task import Task

SAMPLE = "text.txt"
"""The name of the text that may come with a suite."""


def features_run(config: FeaturesConfig, run: Path | None, output: Path | None) -> None:
    """Read the text and write the dossiers, of a run's nodes or of all features of a suite."""
    if (run is None) != bool(config.suite):
        raise InputError("give either a run folder, or --suite with a name or a folder")
    if run is None and output is None:
        raise InputError("give --output with a folder to write the dossiers of a suite into")
    options = Options(**{name: getattr(config, name) for name in Options.__dataclass_fields__})
    place = output or Path(run or "") / FOLDER
    runs.check_free(place)
    check_writable(place)
    began = time.monotonic()
    spliced, task, circuit = _inputs(config, run)
    with watching(console) as progress:
        text = _text(config, spliced, task)
        found = features(spliced, text, place, nodes=circuit, task=task, options=options, progress=progress)
    if circuit is not None:
        console.print(node_table(circuit, labels=found.labels))
    read = found.manifest["text"]
    say(f"dossiers of {len(found)} features on {read['tokens']} tokens of {read['name']} in {place}, {since(began)}")


def _inputs(config: FeaturesConfig, run: Path | None) -> tuple[SplicedModel, Task | None, Circuit | None]:
    """The model, the task whose values are wanted, and the circuit whose nodes are."""
    if run is not None:
        runs.check_run(run)
        traced = TraceConfig.read(run / runs.CONFIG, {})
        spliced, task = model_and_task(traced, config.device, traced_part(traced, traced.limit))
        return spliced, task, Circuit.load(run / runs.CIRCUIT)
    if config.task is None:
        return load_for(config, config.device), None, None
    spliced, task = model_and_task(config, config.device, Wanted(config.task))
    return spliced, task, None


def _text(config: FeaturesConfig, spliced: SplicedModel, task: Task | None) -> Text:
    """The text that was asked for, else the suite's own, else the task's prompts."""
    own = None if spliced.suite is None else spliced.suite.folder / SAMPLE
    if config.text is not None or (own is not None and own.is_file()):
        return text_of(spliced, config.text or own, config.longest, config.column)
    if task is None:
        raise InputError("the suite has no text of its own; give --text with a file or a folder, or --task")
    return text_of(spliced, task, config.longest)


def show_run(config: FeaturesConfig, run: Path | None, output: Path | None, names: str, contexts: int) -> None:
    """Print the dossiers of some features from the existing ones."""
    found = _existing(config, run, output)
    wanted = [Node.parse(name.strip()) for name in names.split(",")]
    # a run's own dossiers come first; they cover only its nodes
    chosen = [next((each for each in found if name in each), found[0])[name] for name in wanted]
    for one in chosen:
        console.print(dossier_panel(one, contexts))


def _existing(config: FeaturesConfig, run: Path | None, output: Path | None) -> list[Dossiers]:
    if output is not None:
        return [Dossiers.open(output)]
    if run is None:
        return [Dossiers.open(load_suite(config.suite or TraceConfig.suite).folder)]
    runs.check_run(run)
    traced = TraceConfig.read(run / runs.CONFIG, {})
    found = dossiers_for(Circuit.load(run / runs.CIRCUIT).manifest, traced.suite, run)
    if not found:
        raise InputError(f"{run} has no dossiers; make them with `featcircuits features {run} --text FILE`")
    return found
