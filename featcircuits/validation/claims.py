"""Claims about a circuit, each with its figure, its control, and what the data say of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from featcircuits.files.plain import plain

LEVEL = 0.05
ENOUGH, NOT_ENOUGH, CANNOT_TELL = "enough", "not enough", "cannot tell"


@dataclass(frozen=True)
class Claim:
    """What is claimed, and how it stands.

    `null`: what a small `p` speaks against; None for figures without a test. `figure`: with its 95 % `interval` where
    there is one; `control`: what the same figure is without the circuit's merit. `least`: the smallest p that so few
    data can give. `p` is that of this test alone, `adjusted` the one after Holm's correction over all tests of a run.
    """

    name: str
    figure: float
    interval: tuple[float, float] | None
    control: str
    null: str | None = None
    p: float | None = None
    least: float | None = None
    adjusted: float | None = None
    n: int = 0
    verdict: str = CANNOT_TELL
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return plain(asdict(self))


def judged(claim: Claim) -> Claim:
    """A claim whose null is its opposite, with the verdict that its p-value gives."""
    p = claim.p if claim.adjusted is None else claim.adjusted
    if p is None or math.isnan(p):
        return replace(claim, verdict=CANNOT_TELL, reason=claim.reason or "no test is possible")
    if p <= LEVEL:
        return replace(claim, verdict=ENOUGH)
    if claim.least is not None and claim.least > LEVEL:
        return replace(claim, verdict=CANNOT_TELL, reason="so few draws can give no small p")
    return replace(claim, verdict=NOT_ENOUGH)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values: they control the probability of any false rejection among the tests.

    With p in ascending order, adjusted_i = max over j <= i of min(1, (m - j) p_j), j from 0.
    """
    order = np.argsort(p, kind="stable")
    scaled = [min(1.0, (len(p) - turn) * p[number]) for turn, number in enumerate(order)]
    running = np.maximum.accumulate(scaled) if len(p) else np.array([])
    adjusted = np.empty(len(p))
    adjusted[order] = running
    return adjusted.tolist()


def corrected(claims: Sequence[Claim]) -> list[Claim]:
    """The claims with p-values adjusted over all of them; those that no interval has judged get their verdict."""
    tested = [number for number, claim in enumerate(claims) if claim.p is not None and not math.isnan(claim.p)]
    adjusted = dict(zip(tested, holm([claims[number].p or 0.0 for number in tested]), strict=True))
    found = [replace(claim, adjusted=adjusted.get(number)) for number, claim in enumerate(claims)]
    return [judged(claim) if claim.p is not None and claim.interval is None else claim for claim in found]


def among(value: float, draws: Sequence[float], *, greater: bool = True) -> float:
    """The p-value of a figure among random draws under the null: (1 + draws at least as extreme) / (1 + draws)."""
    extreme = sum(draw >= value if greater else draw <= value for draw in draws)
    return (1 + extreme) / (1 + len(draws))
