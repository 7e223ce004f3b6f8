"""What the figures of a validation say, as claims without a test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from featcircuits.validation.claims import CANNOT_TELL, ENOUGH, NOT_ENOUGH, Claim

TOLERANCE = 0.2
"""How far from 1 a faithfulness may be, and how much a control may gain."""


def _parts(parts: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {name.partition(" ")[2]: part for name, part in parts.items() if name.partition(" ")[0] == kind}


def _near_one(value: float, interval: tuple[float, float] | None) -> str:
    """By the interval where there is one."""
    low, high = interval or (value, value)
    if low >= 1 - TOLERANCE and high <= 1 + TOLERANCE:
        return ENOUGH
    return NOT_ENOUGH if high < 1 - TOLERANCE or low > 1 + TOLERANCE else CANNOT_TELL


def of_curves(parts: Mapping[str, Any]) -> Iterator[Claim]:
    """The circuit's faithfulness under every ablation, beside the empty circuit and random ones of all sizes."""
    for ablation, report in _parts(parts, "curve").items():
        if report["invalid"]:
            yield Claim(f"faithful, {ablation}", float("nan"), None, "", reason=report["invalid"])
            continue
        curve, interval = report["curve"], report["interval"] and tuple(report["interval"])
        control = "" if curve is None else f"area over sizes {curve['area']:.2f}, random {curve['area_random']:.2f}"
        f = report["faithfulness"]
        yield Claim(
            f"faithful, {ablation}", f, interval, control, n=report["n_examples"], verdict=_near_one(f, interval)
        )


def of_outside(parts: Mapping[str, Any]) -> Iterator[Claim]:
    """The outside at random, and as does most harm."""
    for ablation, found in _parts(parts, "outside").items():
        if found["invalid"]:
            continue
        yield Claim(
            f"faithful with its outside ablated at random in part, {ablation}", found["mean"], None,
            f"5 % below {found['low']:.2f}; all ablated {found['ablated']:.2f}", n=found["draws"],
            verdict=_near_one(found["low"], None),
        )  # fmt: skip
        low, high = found["lowest"]["faithfulness"], found["highest"]["faithfulness"]
        yield Claim(
            f"faithful against an adversary outside, {ablation}", found["worst"], (low, high),
            f"extremes of {found['steps']} steps from {found['starts']} points; the truth may be worse",
            n=found["free"], verdict=_near_one(found["worst"], (low, high)).replace(CANNOT_TELL, NOT_ENOUGH),
        )  # fmt: skip


def of_nonsense(parts: Mapping[str, Any]) -> Iterator[Claim]:
    """The gain of nodes chosen for nonsense."""
    if (found := parts.get("nonsense")) is not None:
        gain = max(map(abs, found["gain"]))
        yield Claim(
            "nonsense gains nothing by the default order", gain, None,
            f"largest |gain| over sizes; area {found['area']:.2f}, random {found['area_random']:.2f}",
            n=len(found["sizes"]), verdict=ENOUGH if gain <= TOLERANCE else NOT_ENOUGH,
        )  # fmt: skip


def of_edges(parts: Mapping[str, Any]) -> Iterator[Claim]:
    """What the circuit's edges alone carry."""
    for ablation, found in _parts(parts, "edges").items():
        if found["invalid"]:
            yield Claim(f"its edges carry it, {ablation}", float("nan"), None, "", reason=found["invalid"])
            continue
        f, nodes = found["faithfulness"][-1], found["nodes"][-1]
        yield Claim(
            f"its edges carry it, {ablation}", f, None, f"their nodes with every connection {nodes:.2f}",
            n=found["n_edges"], verdict=_near_one(f, None),
        )  # fmt: skip
