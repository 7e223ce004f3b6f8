"""What came of interventions: measured, predicted and controls, as one value for JSON and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from featcircuits.files.plain import plain
from featcircuits.files.writing import write_json

FORMAT, VERSION = "featcircuits-outcome", 1

_COVERED = 0.95


@dataclass(frozen=True)
class Figure:
    """A mean over examples with its 95 % interval (Student's t); the ends are NaN for a single example."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """The figure of one value per example."""
        middle, count = math.fsum(values) / len(values), len(values)
        if count < 2:
            return cls(middle, math.nan, math.nan)
        half = float(stdtrit(count - 1, (1 + _COVERED) / 2)) * float(np.std(values, ddof=1)) / math.sqrt(count)
        return cls(middle, middle - half, middle + half)

    def holds(self, value: float) -> bool | None:
        """Whether a value is in the interval, up to rounding; None without an interval."""
        if math.isnan(self.low):
            return None
        slack = 1e-6 * max(abs(self.mean), abs(value), 1e-9)
        return self.low - slack <= value <= self.high + slack


@dataclass(frozen=True)
class Measured:
    """A change of F beside its prediction. `off`: the prediction is outside the measured change's interval."""

    what: str
    predicted: Figure
    measured: Figure
    off: bool | None

    @classmethod
    def of(cls, what: str, predicted: Sequence[float], measured: Sequence[float]) -> Measured:
        """The comparison of one value per example each."""
        found, expected = Figure.of(measured), Figure.of(predicted)
        inside = found.holds(expected.mean)
        return cls(what, expected, found, None if inside is None else not inside)


@dataclass(frozen=True)
class Likeness:
    """How alike the features of a control are to those that they stand for, at the changed tokens.

    `density`: the share of these tokens at which they are active; `norm`: the mean norm of what they write there;
    `own_density`, `own_norm`: those of the features that the interventions change.
    """

    density: float
    norm: float
    own_density: float
    own_norm: float


@dataclass(frozen=True)
class Control:
    """The same intervention on something else: the mean change of F of each draw, and their mean and spread.

    `at_least`: the share of draws whose mean change is at least as large as the measured one. `likeness`: None for
    directions, which are as long as the moves themselves.
    """

    what: str
    draws: tuple[str, ...]
    changes: tuple[float, ...]
    mean: float
    sd: float
    largest: float
    at_least: float
    likeness: Likeness | None


@dataclass(frozen=True)
class TokenChange:
    """A token's logit and probability at the answer, before and after."""

    token: str
    id: int
    logit_before: float
    logit_after: float
    probability_before: float
    probability_after: float


@dataclass(frozen=True)
class ExampleOutcome:
    """One prompt: F before and after, the predicted change, KL(before || after), and the tokens that change most."""

    before: float
    after: float
    predicted: float
    kl: float
    tokens: tuple[TokenChange, ...]


@dataclass(frozen=True)
class Downstream:
    """The change of a later feature's value, summed over the tokens of its place.

    `predicted`: by the edges from what is changed. `direct`: measured while patterns, norms and all other nodes are
    held; the edges predict this. `measured`: as the run was made, by all ways together.
    """

    node: str
    predicted: Figure
    direct: Figure
    measured: Figure
    off: bool | None


@dataclass(frozen=True)
class Outcome:
    """What interventions did on a task, beside what was predicted and what controls did.

    All changes are of F, the task's metric, as means over the examples with 95 % intervals. `whole`: all
    interventions together. `parts`: each node, site or direction alone, if there are several. `alone`: the sum of
    those changes, and `interaction`: the change of all together minus this sum. `kl`: KL(before || after) of the next
    token, in nats. `tokens`: those whose mean probability changes most.
    """

    task: str
    metric: str
    n_examples: int
    interventions: tuple[str, ...]
    held: str
    estimator: str
    before: Figure
    after: Figure
    whole: Measured
    parts: tuple[Measured, ...]
    alone: Figure
    interaction: Figure
    controls: tuple[Control, ...]
    kl: Figure
    tokens: tuple[TokenChange, ...]
    downstream: tuple[Downstream, ...]
    examples: tuple[ExampleOutcome, ...]
    notes: tuple[str, ...]
    made_on: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain JSON values; NaN, which JSON lacks, becomes null."""
        return plain({"format": FORMAT, "version": VERSION, **asdict(self)})

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the outcome as JSON; raises `InputError` if the file exists, unless `overwrite`."""
        write_json(path, self.to_json(), overwrite=overwrite)
