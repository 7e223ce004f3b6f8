"""The commands for dictionaries: check and train."""

from __future__ import annotations

import time
from pathlib import Path

from featcircuits.cli.commands import since
from featcircuits.cli.config import CheckConfig, TrainConfig
from featcircuits.cli.output import console, say
from featcircuits.cli.tables import fit_table, health_table, trained_table
from featcircuits.cli.tasks import Wanted, load_for, model_and_task
from featcircuits.cli.watch import watching
from featcircuits.errors import InputError
from featcircuits.files.writing import check_writable
from featcircuits.health import check_suite
from featcircuits.loading.load import load_bare
from featcircuits.progress import Progress
from featcircuits.runs import folder as runs
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.suites import load_suite
from featcircuits.tasks.token_rows import Rows, read_lines, rows_of, token_rows
from featcircuits.training import Recipe, sample_rows, train_suite
from featcircuits.training.train import sites_named


def check_run(config: CheckConfig, output: Path | None) -> None:
    """Measure a suite, print the table, and write the figures if asked."""
    if output is not None:
        runs.check_new_file(output)
    if config.task and config.text:
        raise InputError("give a task or a text, not both")
    if config.longest is not None and not config.text:
        raise InputError("longest cuts the lines of a text, but the prompts of a task stay whole; leave it out")
    began = time.monotonic()
    spliced, name, rows = _checked_on(config)
    with watching(console) as progress:
        found = check_suite(
            spliced, rows,
            name=name, check_fit=config.check_fit, keep_sinks=config.keep_sinks, progress=progress,
        )  # fmt: skip
    console.print(health_table(found))
    console.print(fit_table(found))
    if output is not None:
        runs.write_new_json(output, found.to_json())
    say(f"{found.n_rows} rows of {name}, {found.n_tokens} tokens, {since(began)}" + (f": {output}" if output else ""))


def _checked_on(config: CheckConfig) -> tuple[SplicedModel, str, Rows]:
    """The model with its suite, the text's name and its rows; the text is read before the model is loaded."""
    if config.text:
        path = Path(config.text)
        lines, spliced = read_lines(path), load_for(config, config.device)
        rows = token_rows(path, lines, spliced.tokenizer, _longest(config.longest or 128, spliced))
        return spliced, path.name, _some(rows, config.limit)
    suite = load_suite(config.suite)
    task = config.task or next(iter(suite.tasks), None)
    if task is None:
        raise InputError(f"suite {suite.name!r} has no tasks; give a --task file or a --text file")
    spliced, found = model_and_task(config, config.device, Wanted(task, "train", config.limit))
    return spliced, found.name, rows_of(found)


def train_run(config: TrainConfig, output: Path) -> None:
    """Read or sample the text, train, and print the figures."""
    runs.check_free(output)
    check_writable(output)
    if config.model is None:
        raise InputError("no model was given; pass --model with a folder, a GGUF file or a hub name")
    if bool(config.text) == bool(config.sample):
        raise InputError("give either --text with a file, or --sample with a number of texts")
    recipe = Recipe(**{name: getattr(config, name) for name in Recipe.__dataclass_fields__})
    recipe.check()
    began = time.monotonic()
    lines = read_lines(Path(config.text)) if config.text else []
    bare = load_bare(config.model, device=config.device, dtype=config.dtype)
    sites_named(bare, config.sites)
    with watching(console) as progress:
        text, rows = _trained_on(config, lines, bare, progress)
        suite = train_suite(
            bare, rows, output, recipe,
            sites=config.sites, name=config.name, licence=config.licence, text=text, progress=progress,
        )  # fmt: skip
    console.print(trained_table(suite))
    say(f"suite of {len(suite['sites'])} sites in {output}, {since(began)}")


def _trained_on(config: TrainConfig, lines: list[str], bare: SplicedModel, progress: Progress) -> tuple[str, Rows]:
    """The text's name and its rows of token ids."""
    longest = _longest(config.longest, bare)
    if config.text:
        path = Path(config.text)
        return path.name, token_rows(path, lines, bare.tokenizer, longest)
    rows = sample_rows(bare, config.sample, longest, config.seed, progress)
    return f"{config.sample} texts of {longest} tokens sampled from the model", rows


def _longest(longest: int, spliced: SplicedModel) -> int:
    most = getattr(spliced.model.config, "max_position_embeddings", None) or longest
    return min(longest, most)


def _some(rows: Rows, limit: int) -> Rows:
    if limit > len(rows):
        raise InputError(f"{limit} lines were asked for; the text has {len(rows)}")
    return rows[:limit] if limit else rows
