"""Tasks on the command line: read before the model is loaded, and tried on the model before anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from featcircuits.cli.config import (
    AgreeConfig,
    CheckConfig,
    DataConfig,
    EdgesConfig,
    EvaluateConfig,
    FeaturesConfig,
    TraceConfig,
)
from featcircuits.cli.judgement import behaviour_table
from featcircuits.errors import InputError
from featcircuits.loading.load import load, load_tokenizer
from featcircuits.probes.target import toward
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.suites import load_suite
from featcircuits.tasks.behaviour import behaviour_of, only_right
from featcircuits.tasks.encoding import Encoder, Entry, entries_of
from featcircuits.tasks.jsonl import read_lines
from featcircuits.tasks.task import Task

Settings = TraceConfig | AgreeConfig | CheckConfig | FeaturesConfig
"""Settings that name the model and the suite, and say how to read a task."""

Judged = TraceConfig | EvaluateConfig | EdgesConfig | AgreeConfig
"""Settings that say what to do with examples that the model gets wrong."""


class Wanted(NamedTuple):
    """A task of the suite by name, or a file. `part`: all of it, or one side of the split by `hold_out`.

    `limit`: use the first so many examples, 0 for all; a task with fewer is refused, unless `up_to` is set.
    """

    task: str
    split: str = "train"
    limit: int = 0
    part: Literal["all", "rest", "held out"] = "all"
    up_to: bool = False

    def within(self, limit: int | None, default: int) -> Wanted:
        """The first `limit` examples; without a limit, at most the default number."""
        return self._replace(limit=default if limit is None else limit, up_to=limit is None)


class Read(NamedTuple):
    """The tokenised lines of a task file, and their task."""

    entries: Sequence[Entry]
    task: Task
    tokenizer: Any


def traced_part(config: TraceConfig, limit: int) -> Wanted:
    """The part that is traced: everything except what is held out."""
    return Wanted(config.task, "train", limit, "rest" if config.hold_out else "all")


def evaluated_part(config: EvaluateConfig | EdgesConfig, traced: TraceConfig) -> Wanted:
    """The part that is evaluated: the given task, else what the trace held out, else the test file."""
    if config.task is None and traced.hold_out:
        return Wanted(traced.task, "train", config.limit, "held out")
    return Wanted(config.task or traced.task, "test", config.limit)


def start_of(config: EvaluateConfig | EdgesConfig, traced: TraceConfig) -> int:
    """The start layer that is asked for, else that of the trace."""
    return traced.start_layer if config.start_layer is None else config.start_layer


def traced_on(spliced: SplicedModel, traced: TraceConfig) -> Task:
    """The prompts that a run was traced on."""
    if traced.target is not None:
        raise InputError(
            f"the run explains {traced.target}, and nonsense answers and the other controls are made for answers; "
            "evaluate it without --full and --controls"
        )
    task, _ = wanted_task(traced, traced_part(traced, traced.limit))
    if traced.only_right:
        task = only_right(task, behaviour_of(spliced, task))
    return task.with_options(keep_wrong=True)


def model_and_task(
    config: Settings, device: str | None, wanted: Wanted, check: Callable[[Task], object] | None = None
) -> tuple[SplicedModel, Task]:
    """Model and task; the task comes first, so its errors and those of `check` come before the model is loaded."""
    task, tokenizer = wanted_task(config, wanted)
    if check is not None:
        check(task)
    return aimed(config, load_for(config, device, tokenizer), task)


def aimed(config: Settings, spliced: SplicedModel, task: Task) -> tuple[SplicedModel, Task]:
    """Model and task, aimed at the target that a trace has, if it has one."""
    target = config.target if isinstance(config, TraceConfig) else None
    return (spliced, task) if target is None else toward(spliced, task, [part.strip() for part in target.split("+")])


def wanted_task(config: Settings, wanted: Wanted) -> tuple[Task, Any]:
    """The wanted part of a task, and its tokenizer."""
    read = read_task(config, wanted.task, wanted.split)
    task = read.task
    if wanted.part != "all":
        assert isinstance(config, TraceConfig)
        rest, held = task.split(config.hold_out, config.seed)
        task = rest if wanted.part == "rest" else held
    limit = min(wanted.limit, len(task)) if wanted.up_to else wanted.limit
    return task.take(limit) if limit else task, read.tokenizer


def load_for(config: Settings, device: str | None, tokenizer: Any = None) -> SplicedModel:
    """The model with its suite."""
    offload = None if isinstance(config, AgreeConfig) else config.offload
    return load(
        config.model, config.suite,
        sites=config.sites or None, device=device, dtype=config.dtype, offload=offload, tokenizer=tokenizer,
        check_place=config.check_place,
    )  # fmt: skip


def read_task(config: Settings | DataConfig, task: str, split: str) -> Read:
    """Read a task of the suite by name, or a file; checks that need no tokenizer come before one is loaded."""
    settings = {name: getattr(config, name, None) for name in ("aggregate", "metric")}
    options = {name: value for name, value in settings.items() if value}
    path = Path(task)
    if _is_name(task):
        suite = load_suite(config.suite)
        path = suite.task_file(task, split)
        options.setdefault("metric", suite.tasks[task].get("metric", "logit_difference"))
    lines = read_lines(path)
    tokenizer = load_tokenizer(config.model, config.suite)
    entries = entries_of(path, lines, Encoder.of(tokenizer), config.prepend)
    return Read(entries, Task.from_entries(path, entries, tokenizer, **options), tokenizer)


def _is_name(task: str) -> bool:
    """Whether a text is the name of a task rather than a file."""
    return Path(task).suffix == "" and not Path(task).exists()


def judged(spliced: SplicedModel, task: Task, config: Judged, show: Callable[[Any], None]) -> Task:
    """The task to continue with, after printing what the model does on it; raises `InputError` if too few are right."""
    if spliced.readout is not None:
        show(f"{len(task)} prompts in which the target is active")
        return task.with_options(keep_wrong=True)
    found = behaviour_of(spliced, task)
    kept = only_right(task, found) if config.only_right else task
    show(behaviour_table(found, spliced.tokenizer, dropped=len(task) - len(kept)))
    if not (config.keep_wrong or config.only_right):
        found.check()
    return kept.with_options(keep_wrong=True)


def check_choice(config: Judged) -> None:
    """Raise `InputError` if wrong examples are to be both kept and dropped."""
    if config.keep_wrong and config.only_right:
        raise InputError("give either keep_wrong or only_right, not both")
