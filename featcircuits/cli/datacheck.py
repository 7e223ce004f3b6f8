"""`featcircuits data check`, after its options are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featcircuits.cli.config import DataConfig
from featcircuits.cli.judgement import RIGHT, behaviour_table, line_table, notes, prompt_lines, unknown_words
from featcircuits.cli.output import console, say
from featcircuits.cli.tasks import Read, read_task
from featcircuits.errors import InputError
from featcircuits.loading.load import load_bare
from featcircuits.runs import folder as runs
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.suites import load_suite
from featcircuits.tasks.behaviour import Behaviour, behaviour_of
from featcircuits.tasks.encoding import Encoder


def check_data(config: DataConfig, task: str, show: int, output: Path | None) -> None:
    """Read the task, run the model on it, print the figures, and write them if asked."""
    if output is not None:
        runs.check_new_file(output)
    if config.split not in ("train", "test"):
        raise InputError(f"split is {config.split!r}; a suite's task has 'train' and 'test'")
    read = read_task(config, task, config.split)
    if config.limit:
        read = Read(read.entries[: config.limit], read.task.take(config.limit), read.tokenizer)
    encoder = Encoder.of(read.tokenizer)
    for entry in read.entries[:show]:
        say("\n".join(prompt_lines(entry, read.tokenizer)))
    found = behaviour_of(_model(config), read.task)
    console.print(line_table(found, read.entries, encoder))
    console.print(behaviour_table(found, read.tokenizer))
    say(RIGHT)
    if output is not None:
        runs.write_new_json(output, _record(found, read, encoder))


def _model(config: DataConfig) -> SplicedModel:
    """The model without dictionaries, which do not change its answers."""
    source = config.model
    if source is None:
        suite = load_suite(config.suite)
        suite.check_sources()
        suite.check_model_files()
        source = suite.model_source
    return load_bare(source, device=config.device, dtype=config.dtype)


def _record(found: Behaviour, read: Read, encoder: Encoder) -> dict[str, Any]:
    lines = [
        {"line": entry.line.number, "case": entry.line.case, "unknown_words": unknown_words(entry, encoder)}
        for entry in read.entries
    ]
    return {**found.to_json(), "notes": notes(found, read.tokenizer), "lines": lines}
