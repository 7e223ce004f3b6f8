"""How much of a text a dossier keeps."""

from __future__ import annotations

from dataclasses import dataclass, fields

from featcircuits.inputs.ranges import check_number, ranged

SAME_BEFORE = 5
"""Two tokens of the text are one context where they and so many tokens before them are equal."""


@dataclass(frozen=True)
class Options:
    """Counts for each feature. Raises `InputError` for numbers out of range."""

    contexts: int = ranged(20, 1, 1000)
    """Windows around the tokens where it is most active."""
    samples: int = ranged(10, 0, 1000)
    """Windows around tokens drawn at random from all contexts where it is active."""
    before: int = ranged(16, 0, 1024)
    """Tokens of a window before its own."""
    after: int = ranged(8, 0, 1024)
    """Tokens of a window after it."""
    tokens: int = ranged(10, 1, 1000)
    """Tokens that hold the largest shares of its activation."""
    logits: int = ranged(10, 1, 1000)
    """Tokens that it promotes most, and as many that it suppresses most."""
    neighbours: int = ranged(5, 0, 100)
    """Features of the same site, and of the next layer, that write most nearly the same; 0 for none."""
    coactive: int = ranged(10, 0, 100)
    """Features that are most often active with it; 0 for none."""
    longest: int = ranged(128, 2, 1 << 16)
    """Tokens of a document, which is cut there."""

    def __post_init__(self) -> None:
        for option in fields(self):
            check_number(option.name, getattr(self, option.name), option.metadata["range"])

    @property
    def window(self) -> int:
        """Tokens of a whole window."""
        return self.before + 1 + self.after
