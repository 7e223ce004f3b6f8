"""Selection rules: the order in which a circuit takes its nodes. One file per rule, a base class, a table of names.

Nothing here needs PyTorch until a rule is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcircuits.selection.table import SELECTIONS

if TYPE_CHECKING:
    from featcircuits.selection.rule import SelectionRule

__all__ = ["DEFAULT_SELECTION", "SELECTIONS", "parse_selection"]

DEFAULT_SELECTION = "effect"


def parse_selection(text: str | SelectionRule) -> SelectionRule:
    """The rule that a text describes: `ratio`, or `ratio:positive=0.8`; a rule is returned unchanged.

    Raises `InputError` for an unknown name or option, and for a value that the option cannot have.
    """
    return SELECTIONS.parse(text)
