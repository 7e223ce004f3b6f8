"""fc.generate: continuations of prompts by the edited model, token by token with its cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from featcircuits.errors import InputError
from featcircuits.inputs.ranges import SEEDS, Range, check_number
from featcircuits.interventions.continuation import Generated, continuations
from featcircuits.interventions.intervention import Intervention, interventions_of
from featcircuits.interventions.named import named
from featcircuits.interventions.prompts import ids_of, pad_id_of
from featcircuits.interventions.steering import steering
from featcircuits.interventions.steps import Steps, Stream, check_watched
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.model.tokens import Tokens
from featcircuits.provenance.belonging import check_nodes, check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.examples import Example
from featcircuits.tasks.task import Task

MOST_TOKENS = 1 << 16


def generate(
    spliced: SplicedModel,
    prompts: Task | str | Iterable[str | Sequence[int]],
    interventions: Iterable[Intervention | str] | Intervention | str = (),
    *,
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    seed: int = 0,
    watch: Iterable[Node | str] = (),
    stream: Stream | None = None,
    use_cache: bool = True,
    groups: Mapping[str, Iterable[Node | str]] | None = None,
    vectors: Mapping[str, Any] | None = None,
    runs: Mapping[str, str | Sequence[int]] | None = None,
    check: bool = True,
    **settings: Any,
) -> Generated:
    """Continue prompts with interventions made, by transformers' own `generate`.

    `prompts`: texts or rows of token ids, or a task, whose metric is then taken at each step. Places of the prompt are
    edited once, when it is read; "generated" in each later step; "all" always. `temperature`: 0 takes the likeliest
    token; else tokens are drawn by `seed`. `watch`: features whose values are recorded at the token that each new one
    is predicted from, as they arrive there, before they are edited. `stream`: called after each step. `use_cache`:
    False computes the whole text again in each step. `groups`, `vectors`, `runs`: as in `fc.intervene`. Other
    `settings` go to transformers (top_k=50, num_beams=4, ...). Without interventions the text is the bare model's.
    Raises `InputError` for what does not exist or cannot be done while text is generated; hooks are gone when this
    returns or raises, and when it is interrupted.
    """
    task, examples = _asked(spliced, prompts, check)
    check_number("max_new_tokens", max_new_tokens, Range(1, MOST_TOKENS))
    check_number("temperature", temperature, Range(0, 1e3), float)
    check_number("seed", seed, SEEDS)
    nodes = nodes_of(watch)
    check_nodes(spliced, nodes)
    check_watched(nodes)
    _check_length(spliced, examples, max_new_tokens)
    beams = settings.get("num_beams", 1) > 1
    if beams and (nodes or stream):
        raise InputError("beams are reordered as they grow: neither values nor a stream go with num_beams above 1")
    given = interventions_of(interventions) if interventions else ()
    pad = pad_id_of(spliced)
    tokens = _padded([example.clean for example in examples], pad, spliced)
    twins = [example.corrupted for example in examples if example.corrupted is not None]
    corrupted = _padded(twins, pad, spliced) if len(twins) == len(examples) else None
    names = named(spliced, groups, vectors, runs)
    ready = steering(spliced, given, names, examples, tokens, corrupted)
    steps = Steps(ready.spliced, task, nodes, stream)
    chosen: dict[str, Any] = {
        "do_sample": temperature > 0, "max_new_tokens": max_new_tokens, "pad_token_id": pad, "use_cache": use_cache,
        **({"temperature": temperature} if temperature else {"temperature": None, "top_k": None, "top_p": None}),
        **({} if beams else {"streamer": steps}), **settings,
    }  # fmt: skip
    with torch.no_grad(), torch.random.fork_rng(_cuda(spliced)), ready.on(steps.watch, steps.sites):
        torch.manual_seed(seed)
        with steps.reading_logits(spliced.model):
            found = spliced.model.generate(input_ids=tokens.ids, attention_mask=tokens.mask, **chosen)  # type: ignore[operator]
    new = found[:, tokens.ids.shape[1] :].cpu()
    return Generated(tuple(map(str, given)), continuations(spliced, examples, new, None if beams else steps))


def _asked(
    spliced: SplicedModel, prompts: Task | str | Iterable[str | Sequence[int]], check: bool
) -> tuple[Task | None, tuple[Example, ...]]:
    """The task, if one was given, and the prompts as examples."""
    if not isinstance(prompts, Task):
        return None, tuple(Example(ids, None, (0,)) for ids in ids_of(spliced, prompts))
    check_task(spliced, prompts, check)
    return prompts, prompts.examples


def _padded(prompts: Sequence[Sequence[int]], pad: int, spliced: SplicedModel) -> Tokens:
    """The prompts with their ends side by side, where they are continued."""
    return Tokens.pad(prompts, pad, "left").to(spliced.device)


def _check_length(spliced: SplicedModel, examples: Sequence[Example], more: int) -> None:
    most = getattr(spliced.model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(example.clean) for example in examples)
    if isinstance(most, int) and 0 < most < longest + more:
        raise InputError(
            f"the longest prompt has {longest} tokens and {more} more are asked for; the model has {most} positions"
        )


def _cuda(spliced: SplicedModel) -> list[torch.device]:
    """The devices whose random numbers are put back."""
    return [spliced.device] if spliced.device.type == "cuda" else []
