"""`featcircuits suites`: the list of suites. Nothing here needs PyTorch, so the list takes no time."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from featcircuits.cli.output import console, printable
from featcircuits.suites import Suite, load_suite, named_suites
from featcircuits.suites.summary import Part, parts_of


def list_suites() -> None:
    """Print every named suite."""
    console.print(suite_table(load_suite(folder) for folder in named_suites().values()))


def suite_table(suites: Iterable[Suite]) -> Table:
    """A table with one row per suite, and one line per kind of its sites."""
    caption = "here: sites with weights on this machine; loading a suite downloads the others"
    table = Table(
        title="Suites", title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE, pad_edge=False,
        collapse_padding=True,
    )  # fmt: skip
    suites = sorted(suites, key=lambda suite: suite.name)
    widest = max((len(suite.name) for suite in suites), default=0)
    table.add_column("suite, model, tasks", overflow="fold", min_width=widest)
    for name in ("sites", "kind", "features", "here", "size"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("features", "here", "size") else "left")
    for suite in suites:
        parts = parts_of(suite)
        about = Text(printable(suite.name), style="bold")
        for line in filter(None, (suite.model["source"], ", ".join(suite.tasks))):
            about.append(f"\n{printable(line)}", "not bold")
        lines = [(p.sites, p.kinds, p.features, f"{p.here}/{p.count}", _size(p)) for p in parts]
        table.add_row(about, *("\n".join(column) for column in zip(*lines, strict=True)))
    return table


def _size(part: Part) -> str:
    if not part.bytes:
        return "-" if part.bytes == 0 else "?"
    return f"{part.bytes / 1e9:.2f} GB" if part.bytes >= 1e8 else f"{part.bytes / 1e6:.1f} MB"
