"""Prompts in place of a task: the metric is about the token that the unedited model finds likeliest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from featcircuits.errors import InputError, shortened
from featcircuits.interventions.named import prompt_ids
from featcircuits.model.fingerprints import tokenizer_fingerprint
from featcircuits.model.tokens import Tokens
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.examples import Example
from featcircuits.tasks.task import Task


def pad_id_of(spliced: SplicedModel) -> int:
    """The id that pads prompts; any will do, since padding is masked."""
    ids = (getattr(spliced.tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return next((id for id in ids if isinstance(id, int)), 0)


def ids_of(spliced: SplicedModel, prompts: str | Iterable[str | Sequence[int]]) -> list[tuple[int, ...]]:
    """The token ids of each prompt, given as texts or ids; raises `InputError` for anything else, and for none."""
    given: list[Any] = [prompts] if isinstance(prompts, str) else list(prompts) if _listed(prompts) else []
    found = [prompt_ids(spliced, prompt) for prompt in given]
    if not found or not all(found):
        raise InputError(f"prompts is {shortened(prompts)}; give a Task, or at least one text or row of token ids")
    return found


def _listed(prompts: Any) -> bool:
    return isinstance(prompts, Iterable)


def task_of(spliced: SplicedModel, prompts: str | Iterable[str | Sequence[int]]) -> Task:
    """A task of prompts whose answer is the model's own next token, and whose metric is its log probability."""
    ids, pad = ids_of(spliced, prompts), pad_id_of(spliced)
    answers = [_likeliest(spliced, prompt) for prompt in ids]
    examples = tuple(Example(prompt, None, (answer,)) for prompt, answer in zip(ids, answers, strict=True))
    tokenizer = None if spliced.tokenizer is None else tokenizer_fingerprint(spliced.tokenizer)
    return Task(examples, metric="log_probability", aggregate="sum", pad_id=pad, name="prompts", tokenizer=tokenizer)


def _likeliest(spliced: SplicedModel, prompt: tuple[int, ...]) -> int:
    logits, _ = spliced.record(Tokens.pad([prompt], 0), [])
    check_finite(logits, {})
    return int(logits[0].argmax())
