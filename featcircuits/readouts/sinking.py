"""fc.sink_heads: heads whose attention goes to the first token, beside heads whose output is zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError, shortened
from featcircuits.files.plain import plain
from featcircuits.inputs.ranges import Range, check_number
from featcircuits.interventions.outcome import Figure
from featcircuits.interventions.where import Frame, Where, check_where, parse_where
from featcircuits.model.architecture import Architecture
from featcircuits.progress import Progress, silent
from featcircuits.propagation.attention_kernels import around_attention, per_head
from featcircuits.propagation.rules import Handle, applied, entered
from featcircuits.provenance.belonging import check_task
from featcircuits.readouts.answers import answered, check_judged
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import Objective, fitting_batch
from featcircuits.tasks.task import Batch, Task

Head = tuple[int, int]
"""(layer, head)"""

SINK, ZERO = "sink", "zero"


@dataclass(frozen=True)
class Sunk:
    """F of the unedited model, its changes with heads sunk and with their output zeroed, and shares of right answers.

    Figures are means over the examples with 95 % intervals.
    """

    task: str
    metric: str
    heads: tuple[Head, ...]
    before: Figure
    sunk: Figure
    zeroed: Figure
    right_before: float
    right_sunk: float
    right_zeroed: float

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain JSON values."""
        return plain(asdict(self))


def sink_heads(
    spliced: SplicedModel,
    task: Task,
    heads: Iterable[Head],
    where: Where | str = "all",
    *,
    share: float = 1.0,
    batch_size: int | None = None,
    check: bool = True,
    progress: Progress = silent,
) -> Sunk:
    """Move heads' attention at some queries to the first token, and compare with zeroing what they write there.

    With the pattern p of a head and query, p <- (1 - share) p + share e_0; its output becomes (1 - share) o + share
    v_0, with v_0 the value of the prompt's first token, where idle attention goes. Zeroing puts (1 - share) o, which is
    an output that no pattern makes. `heads`: (layer, head) pairs. `where`: the queries' places. `sunk` and `zeroed`
    are changes of F with 95 % intervals. Raises `InputError` for heads and places that do not exist, a share outside
    [0, 1], and attention that cannot be opened.
    """
    check_task(spliced, task, check)
    check_judged(task)
    check_number("share", share, Range(0, 1), float)
    chosen, place = _checked(spliced, heads), parse_where(where)
    check_where(place, f"queries {place}", task.examples, False)
    size = fitting_batch(spliced, task, batch_size, gradients=False)
    batches = list(task.batches(size))
    columns: dict[str, tuple[list[float], list[float]]] = {mode: ([], []) for mode in ("", SINK, ZERO)}
    for batch in progress(batches, "sunk heads", len(batches)):
        batch = batch.to(spliced.device)
        frame = Frame.of(batch.clean, [task.examples[number] for number in batch.index.tolist()])
        plain_logits, _ = spliced.record(batch.clean, [])
        for mode, (F, right) in columns.items():
            logits = plain_logits
            if mode:
                with sinking(spliced, chosen, frame, place, share, mode):
                    logits, _ = spliced.record(batch.clean, [])
            F += _F(task, batch, logits, plain_logits)
            right += answered(logits, batch.answers).double().tolist()
    (before, right), (sunk, right_sunk), (zeroed, right_zeroed) = columns.values()
    return Sunk(
        task.name, str(task.metric), chosen, Figure.of(before), _change(before, sunk), _change(before, zeroed),
        *(sum(one) / len(one) for one in (right, right_sunk, right_zeroed)),
    )  # fmt: skip


def _F(task: Task, batch: Batch, logits: Tensor, unedited: Tensor) -> list[float]:
    return (-Objective.of(task, batch, unedited)(logits)).double().tolist()


def _change(before: Sequence[float], after: Sequence[float]) -> Figure:
    return Figure.of([b - a for a, b in zip(before, after, strict=True)])


def _checked(spliced: SplicedModel, heads: Iterable[Head]) -> tuple[Head, ...]:
    layers = spliced.architecture.n_layers
    count = spliced.model.config.get_text_config().num_attention_heads
    found = []
    for head in heads:
        pair = isinstance(head, (tuple, list)) and len(head) == 2 and all(type(number) is int for number in head)
        if not pair or not (0 <= head[0] < layers and 0 <= head[1] < count):
            raise InputError(
                f"{shortened(head)} is not a head; give (layer, head), from 0 to {layers - 1} and 0 to {count - 1}"
            )
        found.append((head[0], head[1]))
    if not found:
        raise InputError("there are no heads; give at least one, such as [(1, 0)]")
    return tuple(dict.fromkeys(found))


@contextmanager
def sinking(
    spliced: SplicedModel, heads: Sequence[Head], frame: Frame, where: Where, share: float = 1.0, mode: str = SINK
) -> Iterator[None]:
    """A context in which forward passes of the frame's prompts have the heads sunk (or zeroed) at the queries."""
    layer_of = spliced.architecture.layer_of(spliced.model)
    queries, first = frame.at(where), _first(frame)

    def around(
        kernel: Callable[..., tuple[Tensor, Any]],
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *args: Any,
        **settings: Any,
    ) -> tuple[Tensor, Any]:
        output, weights = kernel(module, query, key, value, *args, **settings)
        own = [head for layer, head in heads if layer == layer_of[module]]
        if not own:
            return output, weights
        values = wide(per_head(value, query.shape[1]))[torch.arange(len(first)), :, first.to(value.device)]
        changed = wide(output).clone()
        at = queries.to(output.device)[..., None]
        for head in own:
            to = values[:, head][:, None] if mode == SINK else torch.zeros_like(values[:, head][:, None])
            here = (1 - share) * changed[:, :, head] + share * to
            changed[:, :, head] = torch.where(at, here, changed[:, :, head])
        return changed.to(output.dtype), None

    def rule(model: Any, architecture: Architecture) -> Iterator[Handle]:
        yield entered(around_attention(model, architecture, around))

    with applied(spliced.model, spliced.architecture, [rule]):
        yield


def _first(frame: Frame) -> Tensor:
    """The slot of each prompt's first token [row]."""
    return frame.real.long().argmax(-1)
