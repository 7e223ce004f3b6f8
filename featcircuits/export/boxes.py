"""The boxes of a picture: what stands in each, on how many lines, and how large a box must be for that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from featcircuits.files.pictures import drawable

SIZE, LEADING = 6.5, 8.0
"""Points: of the letters, and from one line of text to the next."""
INSIDE = 3.0
"""Points between a box's edge and its text."""
_NARROW, _WIDE = 46.0, 84.0
"""Points: the width of a box with a name alone, and of one with a label."""
_LINES = 3
"""The most lines of a label."""


class Box(NamedTuple):
    """The texts in a box: its name, its effect opposite on the same line, and the lines of its label."""

    name: str
    effect: str
    label: tuple[str, ...]
    height: float


def boxes_of(nodes: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Box], float]:
    """The box of each node, and the width of all, in points; those of a site are equally high."""
    heads = {name: _head(name, data) for name, data in nodes.items()}
    labels = {name: _label(name, data) if data["site"] else "" for name, data in nodes.items()}
    least = max((width(name, bold=True) + width(effect) for name, effect in heads.values()), default=0.0)
    wide = max(_WIDE if any(labels.values()) else _NARROW, least + 3 * INSIDE)
    lines = {name: tuple(wrapped(label, wide - 2 * INSIDE, _LINES)) for name, label in labels.items()}
    most: dict[str, int] = {}
    for name, data in nodes.items():
        most[data["site"]] = max(len(lines[name]), most.get(data["site"], 0))
    high = {site: (1 + count) * LEADING + 2 * INSIDE for site, count in most.items()}
    return {name: Box(*heads[name], lines[name], high[nodes[name]["site"]]) for name in nodes}, wide


def _head(name: str, data: Mapping[str, Any]) -> tuple[str, str]:
    """A node's name where site and place are known from where it stands, and its effect."""
    if not data["site"]:
        return wrapped(_label(name, data) or data["kind"], _WIDE, 1)[0], ""
    if data["kind"] == "group":
        return f"{data['members'].count(chr(10)) + 1} nodes", shown(data["effect"])
    return str(data["feature"]) if data["kind"] == "feature" else data["kind"], shown(data["effect"])


def shown(effect: float) -> str:
    """An effect with its sign, to three figures."""
    return f"{effect:+#.3g}".rstrip(".").replace("-", "\u2212")


def _label(name: str, data: Mapping[str, Any]) -> str:
    """A node's own label, or a group's name; an input's words stand below its place."""
    label = drawable(data["label"])
    if data["kind"] == "group":
        return label
    return "" if data["label"] == name or (data["kind"] == "input" and label.startswith(name)) else label


def wrapped(text: str, most: float, lines: int) -> list[str]:
    """The text on at most this many lines of at most `most` points; what does not fit is cut, and ends in "…"."""
    found = list(_broken(text, most))
    if len(found) > lines:
        last = found[lines - 1]
        while last and width(f"{last}…") > most:
            last = last[:-1]
        found[lines - 1 :] = [f"{last.rstrip(' ,;|/')}…"]
    return found


def _broken(text: str, most: float) -> Iterator[str]:
    line = ""
    for word in _pieces(text.split(), most):
        longer = f"{line} {word}" if line else word
        if line and width(longer) > most:
            yield line
            longer = word
        line = longer
    if line:
        yield line


def _pieces(words: Iterable[str], most: float) -> Iterator[str]:
    """The words, those that are wider than a line in pieces that are not."""
    for word in words:
        while width(word) > most:
            end = next(end for end in range(len(word) - 1, 0, -1) if end == 1 or width(word[:end]) <= most)
            yield word[:end]
            word = word[end:]
        yield word


def width(text: str, size: float = SIZE, bold: bool = False) -> float:
    """How wide a text is, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
