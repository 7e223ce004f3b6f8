"""English text from three documentation packages of Debian: quotations, a handbook, and explanations of words.

    apt-get install fortunes debian-handbook wordnet-base

Their licences (of each file see /usr/share/doc/PACKAGE/copyright): fortunes BSD, with quotations of many authors;
debian-handbook GPL-2+ or CC BY-SA 3.0; wordnet-base WordNet 3.0, free for any purpose.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

FORTUNES, HANDBOOK, WORDNET = "games/fortunes", "doc/debian-handbook/html/en-US", "wordnet"
FEWEST = 60
"""Shorter texts, in characters, are left out."""
GLOSSES = 6
"""One in so many explanations of words is taken, since they are three times as much text as all the rest."""


def english(root: Path = Path("/usr/share"), seed: int = 0) -> list[str]:
    """The texts in random order. Raises SystemExit if a package is missing."""
    if missing := [name for name in (FORTUNES, HANDBOOK, WORDNET) if not (root / name).is_dir()]:
        raise SystemExit(
            f"no folder {root / missing[0]}; run apt-get install fortunes debian-handbook wordnet-base, or give "
            "--text with a file of English text, one document a line"
        )
    texts = [*_fortunes(root / FORTUNES), *_handbook(root / HANDBOOK), *list(_glosses(root / WORDNET))[::GLOSSES]]
    texts = [text for text in texts if len(text) >= FEWEST]
    random.Random(seed).shuffle(texts)
    return texts


def _fortunes(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if not path.suffix and path.is_file() and path.name not in ("ascii-art", "perl", "translate-me"):
            for quotation in re.split(
                r"^%\s*$", path.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE
            ):
                yield " ".join(quotation.split())


class _Paragraphs(HTMLParser):
    """The text of <div class="para"> elements; one inside another begins a text of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[bool] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "div":
            self.open.append(("class", "para") in attrs)
            if self.open[-1]:
                self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self.open:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1]:
            self.found[-1] += data


def _handbook(folder: Path) -> Iterator[str]:
    seen = set()
    for path in sorted(folder.glob("*.html")):
        reader = _Paragraphs()
        reader.feed(path.read_text(encoding="utf-8"))
        for paragraph in (" ".join(text.split()) for text in reader.found):
            if paragraph not in seen:
                seen.add(paragraph)
                yield paragraph


def _glosses(folder: Path) -> Iterator[str]:
    """A word and its explanation, with the examples of its use."""
    for path in sorted(folder.glob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry, _, gloss = line.partition(" | ")
            if gloss and not line.startswith("  "):
                word = entry.split()[4].partition("(")[0].replace("_", " ")
                yield f"{word}: {gloss.strip()}"
