"""Tables in a page: what stands between two marks is made anew, the rest is left as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.frontier.tables import TABLES
from featcircuits.errors import InputError

_MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write_tables(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Name -> Markdown, of every table that there are figures for."""
    written = {name: _written(make, rows) for name, make in TABLES.items()}
    return {name: text for name, text in written.items() if text}


def _written(make: Callable[..., tuple[list[str], list[list[str]]]], rows: Mapping[str, Any]) -> str:
    header, lines = make(rows)
    return markdown(header, lines) if lines else ""


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table as Markdown."""
    return "\n".join(map(_line, [header, ["---"] * len(header), *lines]))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def fill(text: str, tables: Mapping[str, str], names: Collection[str] = tuple(TABLES)) -> str:
    """The page with these tables; one that is not among them stays. A mark of none of `names` is an `InputError`."""
    if unknown := [name for _, name, _ in _MARKED.findall(text) if name not in names]:
        raise InputError(f"the page has a mark for a table {unknown[0]!r}; known: {', '.join(names)}")

    def anew(match: re.Match[str]) -> str:
        before, name, after = match.groups()
        return f"{before}\n{tables[name]}\n\n{after}" if name in tables else match[0]

    return _MARKED.sub(anew, text)


def write_results(folder: Path, name: str, rows: Any, tables: Mapping[str, str]) -> None:
    """A new folder with the rows as `name`, and the tables as tables.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(rows) + "\n", encoding="utf-8")
    (folder / "tables.md").write_text("\n\n".join(tables.values()) + "\n", encoding="utf-8")
