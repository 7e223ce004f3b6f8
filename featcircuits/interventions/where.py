"""Where an intervention acts: tokens of a prompt, and tokens that are generated after it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.errors import InputError, known, shortened
from featcircuits.inputs.names import MOST_POSITIONS, OTHER, check_role
from featcircuits.model.tokens import Tokens
from featcircuits.tasks.examples import Example, Span

ALL, PROMPT, GENERATED, ACTIVE = "all", "prompt", "generated", "active"
WORDS = (ALL, PROMPT, GENERATED, ACTIVE)
"""Every token; those of the prompt; those generated after it; every token at which the feature is active."""

_WHOLE = r"-?(?:0|[1-9][0-9]{0,8})"
_POSITION = re.compile(_WHOLE)
_SLICE = re.compile(rf"({_WHOLE})?:({_WHOLE})?")


class Slice(NamedTuple):
    """The prompt's tokens from `start` to before `stop`, as Python counts them."""

    start: int | None
    stop: int | None

    def __str__(self) -> str:
        return ":".join("" if end is None else str(end) for end in self)


Where = int | Slice | str | None
"""A position (from the prompt's end if negative), a slice, a role, or one of `WORDS`; None if it is not said."""


def parse_where(text: str | int | Slice | slice | None) -> Where:
    """The place that a text means; raises `InputError` for one that means none."""
    if isinstance(text, slice):
        if text.step not in (None, 1):
            raise InputError(f"{text} skips tokens; give one intervention per token")
        return Slice(_checked(text.start), _checked(text.stop))
    if text is None or isinstance(text, Slice) or (type(text) is int and abs(text) < MOST_POSITIONS):
        return text
    if not isinstance(text, str):
        raise InputError(
            f"{shortened(text)} is not a place: give a position, a slice such as 2:5, a role or {', '.join(WORDS)}"
        )
    if _POSITION.fullmatch(text):
        return int(text)
    if found := _SLICE.fullmatch(text):
        return Slice(*(None if end is None else int(end) for end in found.groups()))
    return text if text in (*WORDS, OTHER) else check_role(text)


def _checked(end: object) -> int | None:
    if end is None or (type(end) is int and abs(end) < MOST_POSITIONS):
        return end
    raise InputError(f"{shortened(end)} is not the end of a slice; give a whole number or nothing")


class Frame(NamedTuple):
    """The tokens of one forward pass, and the prompts that they belong to."""

    positions: Tensor
    """The position of each token in its own text [row, slot]."""
    real: Tensor
    """Which slots hold a token and no padding [row, slot]."""
    lengths: Tensor
    """How many tokens each prompt has [row]; later ones were generated."""
    roles: Sequence[Mapping[str, Span]] = ()
    """The roles of each row, if they are known."""

    @classmethod
    def of(cls, tokens: Tokens, examples: Sequence[Example] = ()) -> Frame:
        """The frame of whole prompts."""
        real = tokens.mask > 0
        return cls(tokens.positions, real, real.sum(-1), [dict(example.roles) for example in examples])

    def at(self, where: Where) -> Tensor:
        """Which tokens are at a place [row, slot]."""
        position, length = self.positions, self.lengths[:, None]
        prompt = self.real & (position < length)
        if isinstance(where, int):
            return prompt & (position == (where if where >= 0 else length + where))
        if isinstance(where, Slice):
            start, stop = (_from_end(end, length) for end in where)
            return prompt & (position >= (0 if start is None else start)) & (True if stop is None else position < stop)
        if where in (None, ALL, ACTIVE):
            return self.real
        if where in (PROMPT, GENERATED):
            return prompt if where == PROMPT else self.real & ~prompt
        return prompt & self._role(str(where))

    def _role(self, name: str) -> Tensor:
        found = torch.zeros_like(self.real)
        for row, spans in enumerate(self.roles):
            for role, span in spans.items():
                if role == name or name == OTHER:
                    found[row] |= (self.positions[row] >= span.start) & (self.positions[row] < span.end)
        return ~found if name == OTHER else found


def _from_end(end: int | None, length: Tensor) -> Tensor | int | None:
    return end if end is None or end >= 0 else (length + end).clamp(min=0)


def check_where(where: Where, said: str, examples: Sequence[Example], generates: bool) -> None:
    """Raise `InputError` for a place that a prompt does not have; `said`: the intervention, for the message."""
    if where in (None, ALL, PROMPT, ACTIVE):
        return
    if where == GENERATED:
        if not generates:
            raise InputError(f"{said}: nothing is generated here; use fc.generate (featcircuits generate)")
        return
    if isinstance(where, (int, Slice)):
        for number, example in enumerate(examples, 1):
            _check_positions(where, said, f"prompt {number}", len(example.clean))
    elif where != OTHER:
        roles = dict.fromkeys(role for example in examples for role, _ in example.roles)
        if where not in roles:
            raise InputError(f"{said}: no prompt has a role {where!r}; {known(roles, where)}")


def _check_positions(where: int | Slice, said: str, prompt: str, length: int) -> None:
    if isinstance(where, Slice):
        if not range(length)[slice(*where)]:
            raise InputError(f"{said}: {prompt} has {length} tokens, and none in the slice {where}")
    elif not -length <= where < length:
        raise InputError(f"{said}: {prompt} has {length} tokens, at the positions 0 to {length - 1}")
