"""A padded batch of prompts as the model takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids and mask [prompt, slot]; padding may stand on either side of a prompt."""

    ids: Tensor
    mask: Tensor
    first: Tensor | None = None
    """[prompt]: the position of each prompt's first token, where that is not 0."""
    vocabulary: Tensor | None = None
    """[n]: the token ids whose logits the answer is judged by; None for all."""

    @classmethod
    def pad(cls, prompts: Sequence[Sequence[int]], pad_id: int, side: str = "right", width: int = 0) -> Tokens:
        """Pad to the longest prompt, or to `width` slots where that is more."""
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
        """[prompt, slot]: a token's place in its own prompt, the padding not counted."""
        counted = (self.mask.cumsum(-1) - 1).clamp(min=0)
        return counted if self.first is None else counted + self.first[:, None]

    @property
    def last(self) -> Tensor:
        """[prompt]: the slot of the last token, where the answer is predicted."""
        slots = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (self.mask * slots).argmax(-1)

    def select(self, rows: Tensor) -> Tokens:
        first = None if self.first is None else self.first[rows]
        return replace(self, ids=self.ids[rows], mask=self.mask[rows], first=first)

    def to(self, device: torch.device | str) -> Tokens:
        first, vocabulary = (None if part is None else part.to(device) for part in (self.first, self.vocabulary))
        return Tokens(self.ids.to(device), self.mask.to(device), first, vocabulary)

    def __len__(self) -> int:
        return self.ids.shape[0]
