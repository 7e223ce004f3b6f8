"""Results as HTML for notebooks: no script, nothing loaded, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_CELL = "text-align: {}; padding: 0.1em 0.9em 0.1em 0"


def html_table(rows: Iterable[Sequence[str]], header: Sequence[str] = (), numbers: Iterable[int] = ()) -> str:
    """A table of plain texts; the columns with indices `numbers` are aligned to the right. Empty without rows."""
    right = frozenset(numbers)
    lines = [_row(row, "td", right) for row in rows]
    if not lines:
        return ""
    return f"<table>{_row(header, 'th', right) if header else ''}{''.join(lines)}</table>"


def _row(cells: Sequence[str], tag: str, right: frozenset[int]) -> str:
    styles = (_CELL.format("right" if column in right else "left") for column in range(len(cells)))
    filled = (f"<{tag} style='{style}'>{escape(cell)}</{tag}>" for style, cell in zip(styles, cells, strict=True))
    return f"<tr>{''.join(filled)}</tr>"


def html_block(title: str, *parts: str) -> str:
    """A bold title, which is plain text, above parts that are HTML already."""
    return f"<div style='font-family: sans-serif; font-size: 90%'><b>{escape(title)}</b>{''.join(parts)}</div>"


def html_lines(texts: Iterable[str]) -> str:
    """Plain texts in grey, each on a line of its own."""
    return "".join(f"<div style='color: gray'>{escape(text)}</div>" for text in texts)
