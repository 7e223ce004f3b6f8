"""The one definition of what a role, a label or another name from the user may be.

Names are written into files of several formats, into node names (`resid_3/1042@subject`) and onto terminals.
So a name is one line of printable text, which can be written, shown and read back everywhere.
"""

from __future__ import annotations

from typing import Any

from featcircuits.errors import InputError, shortened

LONGEST = 100
"""The most characters of a name."""

OTHER = "other"
"""The place of tokens that no role of their example covers; no role can have this name."""

MOST_POSITIONS = 10**9
"""Token positions are smaller than this."""


def check_name(name: Any, what: str, longest: int = LONGEST) -> str:
    """The name itself; messages say `what` it names.

    Raises `InputError` for a value that is not a text, is empty, is longer than `longest` characters, begins or ends
    with a space, or holds a character that cannot be printed (line breaks, other control and format
    characters, halves of surrogate pairs, spaces of other kinds).
    """
    if not isinstance(name, str):
        raise InputError(f"{what} must be a text, found {type(name).__name__} {shortened(name)}")
    if fault := _fault(name, longest):
        raise InputError(f"{what} {shortened(name)} {fault}")
    return name


def _fault(name: str, longest: int) -> str | None:
    if not name:
        return "is empty; choose a word"
    if len(name) > longest:
        return f"has {len(name)} characters; it may have {longest}"
    if not name.isprintable():
        number = next(number for number, character in enumerate(name) if not character.isprintable())
        return f"holds {name[number]!a} (character {number + 1}), which cannot be printed; leave it out"
    if name != name.strip():
        return "begins or ends with a space; leave it out"
    return None


def made_name(text: str) -> str:
    """The nearest valid name to a file's name, which may hold anything."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable[:LONGEST].strip() or "task"


def one_line(text: str, longest: int = LONGEST) -> str:
    """Text from elsewhere as a name may be: spaces for line breaks, "\ufffd" for what cannot be printed, and cut.

    Empty where nothing is left.
    """
    spaced = "".join(" " if c.isspace() else c if c.isprintable() else "\ufffd" for c in text).strip()
    return spaced if len(spaced) <= longest else f"{spaced[: longest - 3].rstrip()}..."


def check_role(name: Any) -> str:
    """A name that is valid for a role: neither a token position nor `other`."""
    check_name(name, "role")
    if name == OTHER or name.isdigit():
        raise InputError(f"{shortened(name)} cannot be a role's name: it names another place; choose a word")
    return name


def check_place(place: Any) -> None:
    """Raise `InputError` for what is neither a token position, a role, `other`, nor None (positions summed)."""
    if place is None or place == OTHER:
        return
    if isinstance(place, str):
        check_role(place)
    elif type(place) is not int or not 0 <= place < MOST_POSITIONS:
        raise InputError(f"{shortened(place)} is not a place: a place is a token position from 0 on, a role, or None")
