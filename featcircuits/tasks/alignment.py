"""Places that prompts have in common, at which their means are taken, whatever places the circuit has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.model.tokens import Tokens
from featcircuits.tasks.examples import Example

POSITION, ROLE, FROM_THE_END, ANYWHERE = "position", "role", "from the end", "anywhere"

FEWEST = 2
"""The fewest prompts that must share a role or distance from the end: the mean of one prompt is the prompt itself."""


def finest_common(examples: Sequence[Example]) -> str:
    """The finest kind of places that prompts have in common.

    "position" if all lengths agree; else "role" if every prompt has a role that another one has too;
    else the distance "from the end"; "anywhere" if more than half of the tokens that differ are at a
    distance that no other prompt has.
    """
    if len({len(example.clean) for example in examples}) == 1:
        return POSITION
    roles = set(shared_roles(examples))
    if all(any(role in roles for role, _ in example.roles) for example in examples):
        return ROLE
    begin, depth = shared_beginning(examples), shared_depth(examples)
    lengths = [len(example.clean) - begin for example in examples]
    return FROM_THE_END if 2 * sum(min(depth, length) for length in lengths) >= sum(lengths) else ANYWHERE


def shared_roles(examples: Sequence[Example]) -> tuple[str, ...]:
    """The roles that at least `FEWEST` prompts have (or all, if there are fewer prompts)."""
    counts = Counter(role for example in examples for role, _ in example.roles)
    return tuple(role for role, count in counts.items() if count >= min(FEWEST, len(examples)))


def shared_beginning(examples: Sequence[Example]) -> int:
    """How many tokens all prompts, clean and corrupted, begin with: a BOS, an instruction."""
    prompts = [prompt for example in examples for prompt in (example.clean, example.corrupted) if prompt is not None]
    count = 0
    for tokens in zip(*prompts, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count


def shared_depth(examples: Sequence[Example]) -> int:
    """How many tokens after the shared beginning, counted from the end, at least `FEWEST` prompts have.

    If there are fewer prompts, all of them.
    """
    begin = shared_beginning(examples)
    lengths = sorted((len(example.clean) - begin for example in examples), reverse=True)
    return lengths[min(FEWEST, len(lengths)) - 1]


def by_role(examples: Sequence[Example], tokens: Tokens, roles: Sequence[str]) -> Tensor:
    """The index of each token's role [row, slot]; `len(roles)` for tokens with none of these roles."""
    numbers = {role: number for number, role in enumerate(roles)}
    places = torch.full_like(tokens.ids, len(roles))
    positions = tokens.positions
    for row, example in enumerate(examples):
        for role, span in example.roles:
            if role in numbers:
                places[row, (positions[row] >= span.start) & (positions[row] < span.end)] = numbers[role]
    return places


class Alignment(NamedTuple):
    """Numbered places that the prompts of a task have in common.

    `kind`: "position", "role", "from the end" or "anywhere". Tokens whose role no other prompt has count as
    tokens without a role; tokens further from the end than any other prompt reaches have the last place.
    The first `beginning` positions, at which all prompts hold the same tokens, have places of their own in every
    kind, so that a BOS, whose activations differ from those of all words, is not averaged with words.
    """

    kind: str
    n_places: int
    beginning: int = 0
    roles: tuple[str, ...] = ()

    @classmethod
    def of(cls, examples: Sequence[Example], kind: str) -> Alignment:
        """The places of this kind that the examples have in common."""
        if kind == POSITION:
            return cls(kind, max(len(example.clean) for example in examples))
        begin, roles = shared_beginning(examples), shared_roles(examples) if kind == ROLE else ()
        others = {ROLE: len(roles) + 1, FROM_THE_END: max(1, shared_depth(examples)), ANYWHERE: 1}[kind]
        return cls(kind, begin + others, begin, roles)

    def places(self, examples: Sequence[Example], tokens: Tokens) -> Tensor:
        """The index of each token's place [row, slot], 0 at padding. `examples`: the examples of the rows."""
        if self.kind == POSITION:
            places = self._positions(tokens)
        else:
            later = self.beginning + self._later(examples, tokens)
            places = torch.where(tokens.positions < self.beginning, tokens.positions, later)
        return places.masked_fill(tokens.mask == 0, 0)

    def _positions(self, tokens: Tokens) -> Tensor:
        longest = int(tokens.mask.sum(-1).max())
        if longest > self.n_places:
            raise InputError(
                f"means were taken at {self.n_places} positions, and a prompt has {longest} tokens; "
                "take them over prompts of the same length"
            )
        return tokens.positions

    def _later(self, examples: Sequence[Example], tokens: Tokens) -> Tensor:
        """The indices of the places after the shared beginning."""
        if self.kind == ROLE:
            return by_role(examples, tokens, self.roles)
        if self.kind == ANYWHERE:
            return torch.zeros_like(tokens.ids)
        distance = tokens.mask.sum(-1, keepdim=True) - 1 - tokens.positions
        return distance.clamp(max=self.n_places - self.beginning - 1)
