"""Where commands print. Text from users is never markup, and neither an encoding nor an escape code gets through."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.text import Text


class PlainConsole(Console):
    """A console on which plain strings stay what they are: colours come from `rich.text.Text` alone."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    def on_broken_pipe(self) -> None:
        """Whoever read the output has left; the command still writes its results."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """The text with what a terminal would obey (escape codes, control characters) written out: `\\x1b[31m`."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


console = PlainConsole()


def say(text: str) -> None:
    """A line without colours for numbers."""
    console.print(text, highlight=False)


def survive_encodings() -> None:
    """A character that the terminal cannot show is written out, in place of an error at the end of a long run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # tests and notebooks put other things there
            stream.reconfigure(errors="backslashreplace")
