"""The steps of a generation: the logits of each, what features were worth, and the text as it grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError
from featcircuits.interventions.where import Frame
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.metrics import Answers
from featcircuits.tasks.task import Task

Stream = Callable[[tuple[str, ...]], object]
"""Called after each step with what it adds to the text of each prompt."""

_UNFINISHED = "\ufffd"
"""What decoders write for a character of which some bytes are still missing."""


def check_watched(nodes: Sequence[Node]) -> None:
    """Raise `InputError` for nodes whose value is no number of the running token: errors, and nodes with a place."""
    for node in nodes:
        if node.is_error or node.place is not None:
            raise InputError(f"{node} cannot be watched; give features without a place, such as resid_2/303")


class Steps:
    """Collects one row per step; transformers calls `put` and `end` as it does for any streamer."""

    def __init__(self, spliced: SplicedModel, task: Task | None, nodes: Sequence[Node], stream: Stream | None) -> None:
        self.spliced, self.nodes, self.stream = spliced, nodes, stream
        self.metric = task.F if task is not None and task.F.judges_answers else None
        self.answers = None if task is None else task.batch(range(len(task))).answers
        self.values: dict[Node, list[Tensor]] = {node: [] for node in nodes}
        self.F: list[Tensor] = []
        self.probabilities: list[Tensor] = []
        self.ids: list[Tensor] = []
        self._logits: Tensor | None = None
        self._shown: list[str] = []
        self._prompts_seen = False

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of the watched features."""
        return tuple(dict.fromkeys(node.site for node in self.nodes))

    def watch(self, site: Site, x: Tensor, read: Tensor, frame: Frame) -> None:
        """Record the watched features at the last token of a forward pass."""
        features = self.spliced.dictionaries[site].encode(wide(read[:, -1]))
        for node, rows in self.values.items():
            if node.site == site:
                rows.append(features[:, node.feature].double().cpu())

    @contextmanager
    def reading_logits(self, model: nn.Module) -> Iterator[None]:
        """A context in which the last token's logits of each forward pass are taken."""

        def after(module: nn.Module, args: Any, output: Any) -> None:
            self._logits = wide(output.logits[:, -1].detach())
            check_finite(self._logits, {})
            if self.metric is not None and self.answers is not None:
                answers = Answers(
                    *(ids.to(self._logits.device) for ids in (self.answers.clean, self.answers.corrupted))
                )
                self.F.append(self.metric(self._logits, answers).double().cpu())

        handle = model.register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()

    def put(self, value: Tensor) -> None:
        """The prompts, and then the next token of each row."""
        if not self._prompts_seen:
            self._prompts_seen = True
            return
        assert self._logits is not None
        ids = value.flatten().cpu()
        chances = self._logits.softmax(-1).cpu()
        self.probabilities.append(chances[torch.arange(len(ids)), ids].double())
        self.ids.append(ids)
        if self.stream is not None:
            self.stream(self._pieces())

    def end(self) -> None:
        """Nothing is left to be done."""

    def _pieces(self) -> tuple[str, ...]:
        """What the last step adds to each row's text."""
        tokenizer, rows = self.spliced.tokenizer, torch.stack(self.ids, dim=1).tolist()
        if tokenizer is None:
            return tuple(f" {row[-1]}" for row in rows)
        shown = self._shown or [""] * len(rows)
        texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
        grown = [before if text.endswith(_UNFINISHED) else text for before, text in zip(shown, texts, strict=True)]
        self._shown = grown
        return tuple(text[len(before) :] for before, text in zip(shown, grown, strict=True))
