"""Whether the model shows a task's behaviour: a circuit of a missing behaviour means nothing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.memory import rows_at_once
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.encoding import unknown_id
from featcircuits.tasks.metrics import Answers
from featcircuits.tasks.task import Batch, Task

LEAST_RIGHT = 0.6
"""The share of examples that the model must answer right; if half of them are wrong, effects cancel."""

AMONG = 10
"""Without wrong answers, an answer is right if it is among this many likeliest tokens."""


@dataclass(frozen=True)
class Behaviour:
    """The model's results on a task; each field has one number per example.

    `F_clean`, `F_corrupted`: the metric on each prompt. `right_clean`: whether the best clean answer's logit
    is above every corrupted answer's on the clean prompt (without corrupted answers: whether a clean answer is
    among the `AMONG` likeliest tokens). `right_corrupted`: the reverse on the corrupted prompt (without
    corrupted answers: whether F is lower there). `unknown`: how many tokens of both prompts are words outside
    the vocabulary. `first_difference`: the position where the prompts first differ. The fields of the corrupted
    prompt are empty for single prompts.
    """

    task: str
    metric: str
    F_clean: tuple[float, ...]
    F_corrupted: tuple[float, ...]
    right_clean: tuple[bool, ...]
    right_corrupted: tuple[bool, ...]
    unknown: tuple[int, ...]
    first_difference: tuple[int, ...]
    judged: bool = True
    """Whether examples can be right or wrong: a metric such as KL reads no answers."""

    def __len__(self) -> int:
        return len(self.F_clean)

    @property
    def paired(self) -> bool:
        """Whether the examples are pairs."""
        return bool(self.F_corrupted)

    @property
    def right(self) -> tuple[bool, ...]:
        """Whether each example is right on the clean prompt and, for pairs, on the corrupted one."""
        if not self.paired:
            return self.right_clean
        return tuple(map(all, zip(self.right_clean, self.right_corrupted, strict=True)))

    @property
    def share_right(self) -> float:
        """The share of examples that are right."""
        return sum(self.right) / len(self)

    def check(self) -> None:
        """Raise `InputError`, with remedies, if the model answers too few examples right."""
        if self.judged and self.share_right < LEAST_RIGHT:
            where = "pairs right on both sides" if self.paired else "prompts right"
            drop = "only_right (--only-right) drops those that it gets wrong, " if any(self.right) else ""
            raise InputError(
                f"{self.task}: the model answers {sum(self.right)} of {len(self)} {where}, and a circuit needs "
                f"{LEAST_RIGHT:.0%}. {self.swapped()}{drop}keep_wrong (--keep-wrong) goes on with all"
            )

    def swapped(self) -> str:
        """A question about swapped answers, if most pairs are answered the other way round; else an empty text."""
        reversed_ = [not (a or b) for a, b in zip(self.right_clean, self.right_corrupted, strict=False)]
        return "Are the answers swapped? " if reversed_ and sum(reversed_) > 0.5 * len(self) else ""

    def to_json(self) -> dict[str, Any]:
        """The figures as plain data, with their shares and means."""
        summary = {
            "n_examples": len(self),
            "share_right": self.share_right,
            "mean_F_clean": mean(self.F_clean),
            "mean_F_corrupted": mean(self.F_corrupted) if self.paired else None,
            "n_unknown": sum(self.unknown),
        }
        return {**summary, **asdict(self), "right": self.right}


def mean(values: tuple[float, ...]) -> float:
    """The mean of the values."""
    return math.fsum(values) / len(values)


def standard_deviation(values: tuple[float, ...]) -> float:
    """The standard deviation of the values (not an estimate from a sample); 0 for a single value."""
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))


def behaviour_of(spliced: SplicedModel, task: Task, batch_size: int | None = None) -> Behaviour:
    """The model's results on every example, from one forward pass of the clean and one of the corrupted prompts.

    Raises `InputError` only for NaN and infinity; `Behaviour.check` judges the results.
    """
    size = batch_size or rows_at_once(spliced, task.longest, most=64)
    columns: list[tuple[Tensor, ...]] = [_judged(spliced, task, batch) for batch in task.batches(size)]
    joined = [torch.cat(parts).tolist() for parts in zip(*columns, strict=True)]
    F_clean, right_clean, *corrupted = map(tuple, joined)
    F_corrupted, right_corrupted = corrupted or ((), ())
    unknown = None if spliced.tokenizer is None else unknown_id(spliced.tokenizer)
    pairs = [(example.clean, example.corrupted or ()) for example in task.examples]
    return Behaviour(
        task=task.name,
        metric=str(task.metric),
        F_clean=F_clean,
        F_corrupted=F_corrupted,
        right_clean=right_clean,
        right_corrupted=right_corrupted,
        unknown=tuple(sum(token == unknown for token in (*clean, *other)) for clean, other in pairs),
        first_difference=tuple(_first_difference(*pair) for pair in pairs) if F_corrupted else (),
        judged=task.F.judges_answers,
    )


def require_behaviour(spliced: SplicedModel, task: Task) -> None:
    """Raise `InputError` for a task that the model answers wrongly, unless the task has `keep_wrong`."""
    if not task.keep_wrong:
        behaviour_of(spliced, task).check()


def only_right(task: Task, found: Behaviour) -> Task:
    """The examples that the model answers right; raises `InputError` if there are none."""
    kept = [number for number, right in enumerate(found.right) if right]
    if not kept:
        raise InputError(
            f"{task.name}: the model answers none of {len(task)} examples right, and only_right leaves nothing. "
            f"{found.swapped()}keep_wrong (--keep-wrong) goes on with all"
        )
    return task.only(kept)


def _judged(spliced: SplicedModel, task: Task, batch: Batch) -> tuple[Tensor, ...]:
    """F and right of the clean prompts, and of the corrupted ones if there are any; each [example]."""
    batch = batch.to(spliced.device).narrowed(task.F)
    metric, own = task.F, batch.answers
    logits = _logits(spliced, batch.clean)
    answers = Answers(own.clean, own.corrupted, logits)
    F_clean = metric(logits, answers)
    clean = F_clean.double().cpu(), right_answers(logits, own.clean, own.corrupted).cpu()
    if batch.corrupted is None:
        return clean
    logits = _logits(spliced, batch.corrupted)
    F = metric(logits, answers)
    named = (own.corrupted >= 0).any(-1) if own.corrupted.shape[1] else torch.zeros(len(F), dtype=torch.bool)
    right = F_clean > F
    if named.any():
        right = torch.where(named.to(right.device), right_answers(logits, own.corrupted, own.clean), right)
    return *clean, F.double().cpu(), right.cpu()


def _logits(spliced: SplicedModel, tokens: Any) -> Tensor:
    logits, _ = spliced.record(tokens, [])
    check_finite(logits, {})
    return wide(logits)


def right_answers(logits: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Whether the best right answer's logit is above every wrong one's, or among the likeliest tokens [example]."""
    best = _best(logits, right)
    likeliest = logits.topk(min(AMONG, logits.shape[-1])).values[:, -1]
    rival = _best(logits, wrong)
    return torch.where(rival > -torch.inf, best > rival, best >= likeliest)


def _best(logits: Tensor, ids: Tensor) -> Tensor:
    """The largest logit of each row's ids, which are padded with -1; -infinity for rows without ids."""
    picked = logits.gather(-1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)
    return torch.cat([picked, torch.full_like(logits[:, :1], -torch.inf)], dim=-1).amax(-1)


def _first_difference(clean: tuple[int, ...], corrupted: tuple[int, ...]) -> int:
    return next(number for number, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b)
