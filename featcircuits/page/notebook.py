"""The page inside a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.inputs.ranges import MOST, Range, check_number
from featcircuits.page.write import html

HEIGHT = 720


@dataclass(frozen=True)
class Shown:
    """A page that a notebook shows when it is a cell's last value; `html` is the page's text."""

    html: str
    height: int

    def _repr_html_(self) -> str:
        # the frame has its own origin and may run scripts, download files and no more
        rights = "sandbox='allow-scripts allow-downloads' allow='clipboard-write'"
        style = f"style='width: 100%; height: {self.height}px; border: 0'"
        return f'<iframe {rights} {style} srcdoc="{escape(self.html)}"></iframe>'

    def __repr__(self) -> str:
        return f"<page of {len(self.html):,} characters, which notebooks show>"


def show(circuit: Circuit, height: int = HEIGHT, **parts: Any) -> Shown:
    """The page of a circuit in a frame of this height in pixels; `parts` as for `html`."""
    check_number("height", height, Range(100, MOST))
    return Shown(html(circuit, **parts), height)
