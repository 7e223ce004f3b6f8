"""What was generated: the new tokens of each prompt, and a table of their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from featcircuits.files.plain import plain
from featcircuits.files.writing import write_json
from featcircuits.interventions.steps import Steps
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.examples import Example

FORMAT, VERSION = "featcircuits-generated", 1


@dataclass(frozen=True)
class Continuation:
    """The new tokens of one prompt; the lists have one entry per new token.

    `probabilities`: of each token when it was chosen, without the temperature. `values`: those of watched features at
    the token before, from which it was predicted. `metric`: the task's F there. All are empty for beams.
    """

    prompt: str
    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]
    values: Mapping[str, tuple[float, ...]]
    metric: tuple[float, ...]


@dataclass(frozen=True)
class Generated:
    """The continuations of all prompts, and the interventions that were made."""

    interventions: tuple[str, ...]
    continuations: tuple[Continuation, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The new text of each prompt."""
        return tuple(one.text for one in self.continuations)

    def to_json(self) -> dict[str, Any]:
        """The continuations as plain JSON values."""
        return plain({"format": FORMAT, "version": VERSION, **asdict(self)})

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write them as JSON; raises `InputError` if the file exists, unless `overwrite`."""
        write_json(path, self.to_json(), overwrite=overwrite)


def continuations(
    spliced: SplicedModel, examples: Sequence[Example], new: Tensor, steps: Steps | None
) -> tuple[Continuation, ...]:
    """One continuation per row of new token ids [row, step], each up to its end."""
    ends = _ends(spliced)
    found = []
    for row, (example, ids) in enumerate(zip(examples, new.tolist(), strict=True)):
        length = next((number + 1 for number, id in enumerate(ids) if id in ends), len(ids))

        def column(rows: Sequence[Tensor], row: int = row, length: int = length) -> tuple[float, ...]:
            return tuple(float(step[row]) for step in rows[:length])

        found.append(
            Continuation(
                prompt=_text(spliced, example.clean),
                text=_text(spliced, ids[:length], skip_special_tokens=True),
                ids=tuple(ids[:length]),
                tokens=tuple(_text(spliced, [id]) for id in ids[:length]),
                probabilities=() if steps is None else column(steps.probabilities),
                values={} if steps is None else {str(node): column(rows) for node, rows in steps.values.items()},
                metric=() if steps is None else column(steps.F),
            )
        )
    return tuple(found)


def _ends(spliced: SplicedModel) -> frozenset[int]:
    """The tokens that end a text, by the model's settings for generation."""
    settings = getattr(spliced.model, "generation_config", None)
    end = getattr(settings, "eos_token_id", None)
    return frozenset([end] if isinstance(end, int) else end or ())


def _text(spliced: SplicedModel, ids: Sequence[int], **options: Any) -> str:
    if spliced.tokenizer is None:
        return " ".join(map(str, ids))
    return spliced.tokenizer.decode(list(ids), **options)
