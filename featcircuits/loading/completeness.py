"""Whether secants add up: whatever is not linear between two sites must be known to a rule.

Two short forwards of different tokens, and a backward pass by their secants from random metrics. On every
full cut of the model the secants' shares of a metric's change must be the whole change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError
from featcircuits.loading.operations import module_spans, nonlinear_operations
from featcircuits.loading.row_probes import SLOTS, START, Point, Tap, forward, hooked, taps_of, tokens_of
from featcircuits.model.architecture import Architecture
from featcircuits.model.frozen import frozen
from featcircuits.propagation import secants
from featcircuits.propagation.attention_kernels import why_closed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS = 2
"""Pairs of prompts of random tokens, each pair with a random metric."""
_ROUNDINGS = 2.0
"""How much larger than the rounding of the whole computation misses may be, as a root mean square over the rows. The
largest miss seen in any family, kernel and dtype is 0.6."""
_MATMUL_PRECISION = {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-7}


def incomplete(model: PreTrainedModel, architecture: Architecture) -> list[str]:
    """One line per module that is neither linear nor known to a rule, or per pair of cuts between which secants miss.

    If attention cannot be opened, nothing is checked: secants are then refused when they are used.
    """
    if why_closed(model, architecture) is not None:
        return []
    taps = taps_of(model, architecture)
    tokens = tokens_of(model, _ROWS * SLOTS + 1)
    before, after = (some.view(_ROWS, SLOTS) for some in (tokens[:-1], tokens[1:]))  # no token is its neighbour
    metric = Point(architecture.n_layers, "logits")
    try:
        with frozen(model), secants(model, architecture):
            first = _seen(model, taps, before, metric)
            with torch.enable_grad(), module_spans(model) as spans:
                second = _seen(model, taps, after, metric)
            unknown = nonlinear_operations(second[metric], spans)
    except InputError as error:  # for a norm that no rule knows
        return [str(error)]
    if second[metric].grad_fn is None:
        return ["no backward pass leads from the logits to the embedding: something between them keeps gradients out"]
    return list(_named(model, unknown)) or list(_misses(_cuts(architecture, metric), _shares(first, second, metric)))


def _seen(model: PreTrainedModel, taps: Mapping[Point, Tap], ids: Tensor, metric: Point) -> dict[Point, Tensor]:
    """The activations of a run at each point [row, slot, width], its logits last."""
    seen: dict[Point, Tensor] = {}

    def keep(point: Point, x: Tensor, tupled: bool) -> Tensor | None:
        begins = point == START and torch.is_grad_enabled()
        seen[point] = x.detach().requires_grad_() if begins else x
        return seen[point] if begins else None

    with ExitStack() as stack:
        for point, tap in taps.items():
            stack.callback(hooked(model.get_submodule(tap.path), tap.enters, point, keep).remove)
        logits = forward(model, ids)
    return {**seen, metric: logits}


def _named(model: PreTrainedModel, unknown: Mapping[str, str]) -> Iterator[str]:
    """Each operation once, however many layers have it."""
    kinds = {re.sub(r"\d+", "*", path): path for path in sorted(unknown, reverse=True)}
    for path in sorted(kinds.values()):
        name = type(model.get_submodule(path)).__name__
        yield f"{path or 'the model'} ({name}): its {unknown[path]} is not linear, and no rule of the row covers it"


@dataclass(frozen=True, eq=False)
class _Shares:
    """Two runs and the coefficients between them, at points [row, slot, width]."""

    coefficients: Mapping[Point, Tensor]
    before: Mapping[Point, Tensor]
    after: Mapping[Point, Tensor]
    unit: float
    """The relative rounding of the computation."""

    def of(self, cut: _Cut) -> Tensor:
        """The part of each row's change of the metric that the cut carries."""
        return sum(self._part(cut.reader, term) for term in cut.terms)  # type: ignore[return-value]

    def _part(self, reader: Point, term: Point) -> Tensor:
        return (self.coefficients[reader] * (self.after[term] - self.before[term])).sum((1, 2))

    def rounding(self, layer: int, end: Point) -> Tensor:
        """How much rounding in a layer, independent for each number, may change each row's metric."""
        points = [point for point in self.coefficients if point.layer == layer or point == end]
        sizes = {point: self.before[point].abs() + self.after[point].abs() for point in points}
        return self.unit * sum((self.coefficients[at] * sizes[at]).square().sum((1, 2)) for at in points) ** 0.5  # type: ignore[return-value]


def _shares(first: Mapping[Point, Tensor], second: Mapping[Point, Tensor], metric: Point) -> _Shares:
    logits = second[metric]
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)) / logits.shape[-1] ** 0.5
    reached = [point for point, x in second.items() if x.requires_grad]
    with torch.enable_grad():
        value = (wide(logits) * weights.to(logits.device)).sum()
    gradients = torch.autograd.grad(value, [second[point] for point in reached], allow_unused=True)
    found = dict(zip(reached, gradients, strict=True))
    coefficients = {
        point: _on_cpu(torch.zeros_like(x) if (c := found.get(point)) is None else c) for point, x in second.items()
    }
    before, after = ({point: _on_cpu(x) for point, x in run.items()} for run in (first, second))
    return _Shares(coefficients, before, after, _unit(logits))


def _on_cpu(x: Tensor) -> Tensor:
    return wide(x.detach()).cpu()


def _unit(x: Tensor) -> float:
    """The rounding unit: parts of models in float64 compute in float32, and kernels add up in any order."""
    multiplied = _MATMUL_PRECISION[torch.get_float32_matmul_precision()]
    return max(torch.finfo(x.dtype).eps, 8 * torch.finfo(torch.float32).eps, multiplied)


@dataclass(frozen=True)
class _Cut:
    """A full cut: the terms whose sum carries all paths from the embedding to the metric, and the sum's reader."""

    reader: Point
    terms: tuple[Point, ...]


def _cuts(architecture: Architecture, metric: Point) -> list[_Cut]:
    """The cuts: the stream before each layer and, if the MLP reads its attention's output, the stream between them."""
    cuts = [_Cut(START, (START,))]
    for layer in range(architecture.n_layers):
        enter, attn = Point(layer, "enter"), Point(layer, "attn")
        cuts.append(_Cut(enter, (enter,)))
        cuts += [_Cut(attn, (enter, attn))] if architecture.sequential else []
    final = Point(architecture.n_layers, "final")
    return [*cuts, _Cut(final, (final,)), _Cut(metric, (metric,))]


def _misses(cuts: list[_Cut], shares: _Shares) -> Iterator[str]:
    for here, there in pairwise(cuts):
        found, expected = shares.of(here), shares.of(there)
        allowed = _ROUNDINGS * shares.rounding(here.reader.layer, there.reader)
        if not (found - expected).norm() <= allowed.norm():
            row = int((found - expected).abs().argmax())
            yield (
                f"from {here.reader} to {there.reader} secants carry {found[row].item():.3g} of a metric's change "
                f"instead of {expected[row].item():.3g}: something there is neither linear nor known to a rule"
            )
