"""Places that prompts have in common: where their means are taken, whatever the places of a circuit are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.examples import Example
from featcircuits.tokens import Tokens

POSITION, ROLE, FROM_THE_END, ANYWHERE = "position", "role", "from the end", "anywhere"

FEWEST = 2
"""How many prompts have to have a role or a distance from the end: the mean of one prompt is the prompt itself."""


def finest_common(examples: Sequence[Example]) -> str:
    """The finest kind of places that prompts have in common.

    "position" where all lengths agree; else "role" where every prompt has a role that another one has too;
    else the distance "from the end"; "anywhere" where more than half of the tokens stand at no distance
    that another prompt has.
    """
    if len({len(example.clean) for example in examples}) == 1:
        return POSITION
    roles = set(shared_roles(examples))
    if all(any(role in roles for role, _ in example.roles) for example in examples):
        return ROLE
    depth, lengths = shared_depth(examples), [len(example.clean) for example in examples]
    return FROM_THE_END if 2 * sum(min(depth, length) for length in lengths) >= sum(lengths) else ANYWHERE


def shared_roles(examples: Sequence[Example]) -> tuple[str, ...]:
    """The roles that at least `FEWEST` prompts have (all, where there are fewer prompts)."""
    counts = Counter(role for example in examples for role, _ in example.roles)
    return tuple(role for role, count in counts.items() if count >= min(FEWEST, len(examples)))


def shared_depth(examples: Sequence[Example]) -> int:
    """How many tokens, counted from the end, at least `FEWEST` prompts have (all, where there are fewer)."""
    lengths = sorted((len(example.clean) for example in examples), reverse=True)
    return lengths[min(FEWEST, len(lengths)) - 1]


def by_role(examples: Sequence[Example], tokens: Tokens, roles: Sequence[str]) -> Tensor:
    """[row, slot]: the number of each token's role; `len(roles)` where it has none of them."""
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

    `kind`: "position", "role", "from the end" or "anywhere". Tokens whose role is no other prompt's count among
    those without a role; tokens further from the end than any other prompt reaches have the last place.
    """

    kind: str
    n_places: int
    roles: tuple[str, ...] = ()

    @classmethod
    def of(cls, examples: Sequence[Example], kind: str) -> Alignment:
        if kind == POSITION:
            return cls(kind, max(len(example.clean) for example in examples))
        if kind == ROLE:
            roles = shared_roles(examples)
            return cls(kind, len(roles) + 1, roles)
        return cls(kind, shared_depth(examples) if kind == FROM_THE_END else 1)

    def places(self, examples: Sequence[Example], tokens: Tokens) -> Tensor:
        """[row, slot]: the number of each token's place; 0 at padding. `examples`: those of the rows."""
        if self.kind == ROLE:
            places = by_role(examples, tokens, self.roles)
        elif self.kind == ANYWHERE:
            places = torch.zeros_like(tokens.ids)
        else:
            places = self._positions(tokens)
        return places.masked_fill(tokens.mask == 0, 0)

    def _positions(self, tokens: Tokens) -> Tensor:
        lengths = tokens.mask.sum(-1, keepdim=True)
        if self.kind == FROM_THE_END:
            return (lengths - 1 - tokens.positions).clamp(max=self.n_places - 1)
        if int(lengths.max()) > self.n_places:
            raise InputError(
                f"means were taken at {self.n_places} positions, and a prompt has {int(lengths.max())} tokens; "
                "take them over prompts of the same length"
            )
        return tokens.positions
