"""A padded batch of prompts, in the form that the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids and mask [prompt, slot]; padding may be on either side of a prompt."""

    ids: Tensor
    mask: Tensor
    first: Tensor | None = None
    """The position of each prompt's first token [prompt], if it is not 0."""
    vocabulary: Tensor | None = None
    """The token ids whose logits the metric reads [n]; None for all."""

    @classmethod
    def pad(cls, prompts: Sequence[Sequence[int]], pad_id: int, side: str = "right", width: int = 0) -> Tokens:
        """Pad prompts to the longest one, or to `width` slots if that is more."""
        width = max(width, *(len(prompt) for prompt in prompts))
        ids = torch.full((len(prompts), width), pad_id)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            start = 0 if side == "right" else width - len(prompt)
            ids[row, start : start + len(prompt)] = torch.tensor(prompt)
            mask[row, start : start + len(prompt)] = 1
        return cls(ids, mask)

    @property
    def positions(self) -> Tensor:
        """The position of each token in its own prompt, without padding [prompt, slot]."""
        counted = (self.mask.cumsum(-1) - 1).clamp(min=0)
        return counted if self.first is None else counted + self.first[:, None]

    @property
    def last(self) -> Tensor:
        """The slot of each prompt's last token, where the answer is predicted [prompt]."""
        slots = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (self.mask * slots).argmax(-1)

    def select(self, rows: Tensor) -> Tokens:
        """The prompts of these rows."""
        first = None if self.first is None else self.first[rows]
        return replace(self, ids=self.ids[rows], mask=self.mask[rows], first=first)

    def to(self, device: torch.device | str) -> Tokens:
        """The same batch on another device."""
        first, vocabulary = (None if part is None else part.to(device) for part in (self.first, self.vocabulary))
        return Tokens(self.ids.to(device), self.mask.to(device), first, vocabulary)

    def __len__(self) -> int:
        return self.ids.shape[0]
