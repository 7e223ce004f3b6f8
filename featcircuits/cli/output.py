"""The output of commands. Text from users is never markup, and encodings and escape codes can do no harm."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.text import Text


class PlainConsole(Console):
    """A console that prints plain strings unchanged; colours come only from `rich.text.Text`."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text with control characters written out, and never as markup."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    def on_broken_pipe(self) -> None:
        """Nothing reads the output any more, but the command still writes its results."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """The text with escape codes and control characters, which a terminal would obey, written out: `\\x1b[31m`."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


console = PlainConsole()


def say(text: str) -> None:
    """Print a line without colours for numbers."""
    console.print(text, highlight=False)


def survive_encodings() -> None:
    """Write out characters that the terminal cannot show, instead of failing at the end of a long run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # tests and notebooks replace these streams
            stream.reconfigure(errors="backslashreplace")
