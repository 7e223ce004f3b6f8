"""Examples: prompts, their answers, and their roles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from featcircuits.errors import InputError
from featcircuits.inputs.names import check_role


class Span(NamedTuple):
    """The token positions [start, end) of a role."""

    start: int
    end: int


@dataclass(frozen=True)
class Example:
    """One clean prompt, its corrupted twin (None if it is a single prompt), the answers to both, and its roles."""

    clean: tuple[int, ...]
    corrupted: tuple[int, ...] | None
    clean_answers: tuple[int, ...]
    corrupted_answers: tuple[int, ...] = ()
    roles: tuple[tuple[str, Span], ...] = ()
    case: str = field(default="", compare=False)
    """The template that it comes from, if the task file says."""


SAME_TOKENS = (
    "the clean and the corrupted prompt have the same tokens; such a pair shows nothing: give different prompts"
)


def check_example(example: Example) -> None:
    """Raise `InputError` for an example that no metric or aggregate can use."""
    if not example.clean:
        raise InputError("the clean prompt has no tokens")
    if not example.clean_answers:
        raise InputError("no clean answer")
    ids = (*example.clean, *(example.corrupted or ()), *example.clean_answers, *example.corrupted_answers)
    if min(ids) < 0:
        raise InputError(f"{min(ids)} is not a token id; ids start at 0")
    check_roles(example)
    if shared := set(example.clean_answers) & set(example.corrupted_answers):
        raise InputError(f"token {min(shared)} is both a clean and a corrupted answer; the metric would be void")
    if example.corrupted == example.clean:
        raise InputError(SAME_TOKENS)
    if example.corrupted is not None and len(example.corrupted) != len(example.clean):
        raise InputError(
            f"the clean prompt has {len(example.clean)} tokens, the corrupted one {len(example.corrupted)}; "
            "patching needs pairs that align token by token"
        )


def check_roles(example: Example) -> None:
    """Raise `InputError` for roles with invalid names, outside the prompt, given twice, or overlapping."""
    covered: set[int] = set()
    names = [check_role(role) for role, _ in example.roles]
    for name, span in example.roles:
        if names.count(name) > 1:
            raise InputError(f"role {name!r} is given twice; join its tokens into one span")
        if not 0 <= span.start < span.end <= len(example.clean):
            raise InputError(
                f"role {name!r} covers tokens {span.start} to {span.end}; the prompt has {len(example.clean)}"
            )
        if covered & set(range(*span)):
            raise InputError(f"role {name!r} overlaps another role; each token has at most one role")
        covered |= set(range(*span))
