"""The model's results on a task as tables: a summary, and one row per example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from featcircuits.tasks.behaviour import AMONG, Behaviour, mean, standard_deviation
from featcircuits.tasks.encoding import Encoder, Entry, Prompt

_SHOWN_WORDS = 8


def behaviour_table(found: Behaviour, tokenizer: Any, dropped: int = 0) -> RenderableType:
    """A table with F on both prompts, how many are right, and notes about the prompts."""
    pairs = "pairs" if found.paired else "prompts"
    title = f"What the model does on {found.task}, {len(found)} {pairs}, F = {found.metric}"
    table = Table(box=box.SIMPLE)
    for name in ("prompts", "F (mean ± sd)", "right"):
        table.add_column(name, justify="left" if name == "prompts" else "right")
    table.add_row("clean", _spread(found.F_clean), _count(found.right_clean))
    if found.paired:
        table.add_row("corrupted", _spread(found.F_corrupted), _count(found.right_corrupted))
        table.add_row("both", "", _count(found.right))
    return Group(title, table, *notes(found, tokenizer, dropped))


def notes(found: Behaviour, tokenizer: Any, dropped: int = 0) -> list[str]:
    """The notes below the table, one line each."""
    lines = []
    if dropped:
        lines.append(f"{dropped} dropped, which the model gets wrong (only_right); {len(found) - dropped} are left")
    if words := sum(found.unknown):
        examples = sum(number > 0 for number in found.unknown)
        lines.append(
            f"{words} words of {examples} examples are not in the vocabulary: they became {tokenizer.unk_token}"
        )
    if (first := sum(place == 0 for place in found.first_difference)) and (token := _in_front(tokenizer)):
        lines.append(
            f"{first} pairs differ at their very first token, which may lose its meaning there: no BOS token is in "
            f'front of it. If few are right, try --prepend "{token}"'
        )
    return lines


def _in_front(tokenizer: Any) -> str | None:
    """A token with which texts can begin."""
    return None if tokenizer is None else tokenizer.bos_token or tokenizer.eos_token


def _spread(values: Sequence[float]) -> str:
    return f"{mean(tuple(values)):+.3f} ± {standard_deviation(tuple(values)):.3f}"


def _count(right: Sequence[bool]) -> str:
    return f"{sum(right)} of {len(right)} ({sum(right) / len(right):.0%})"


def line_table(found: Behaviour, entries: Sequence[Entry], encoder: Encoder) -> Table:
    """A table with one row per line of the file."""
    table = Table(box=box.SIMPLE)
    words = [", ".join(unknown_words(entry, encoder)[:_SHOWN_WORDS]) for entry in entries]
    sides = ["F corr.", "right", "differ at"] if found.paired else []
    for name in ("line", "tokens", "F clean", "right", *sides):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("case", *(["unknown words"] if any(words) else [])):
        table.add_column(name, overflow="fold")
    for number, entry in enumerate(entries):
        cells = [str(entry.line.number), str(len(entry.clean.ids)), f"{found.F_clean[number]:+.3f}"]
        cells.append(_yes(found.right_clean[number]))
        if found.paired:
            cells += [f"{found.F_corrupted[number]:+.3f}", _yes(found.right_corrupted[number])]
            cells.append(str(found.first_difference[number]))
        table.add_row(*cells, entry.line.case, *([words[number]] if any(words) else []))
    return table


def _yes(right: bool) -> str:
    return "yes" if right else "NO"


def unknown_words(entry: Entry, encoder: Encoder) -> list[str]:
    """The words of both prompts that became unknown tokens, each once."""
    words = encoder.unknown_words(entry.clean)
    if entry.corrupted is not None:
        words += encoder.unknown_words(entry.corrupted)
    return list(dict.fromkeys(words))


def prompt_lines(entry: Entry, tokenizer: Any) -> list[str]:
    """Both prompts as the model takes them: the rendered text, and the tokens."""
    sides: list[tuple[str, Prompt | None]] = [("clean", entry.clean), ("corrupted", entry.corrupted)]
    lines = [f"line {entry.line.number}"]
    for name, prompt in sides:
        if prompt is not None:
            lines += [f"  {name}: {prompt.text!r}", f"    {tokenizer.convert_ids_to_tokens(list(prompt.ids))}"]
    return lines


RIGHT = (
    f"right: the best answer is likelier than every wrong one (without wrong ones: among the {AMONG} likeliest tokens)"
)
