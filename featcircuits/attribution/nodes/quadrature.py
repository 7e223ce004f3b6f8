"""Quadrature rules for integrals over a straight path from the clean state (0) to the patched one (1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from featcircuits.errors import InputError

Points = list[tuple[float, float]]
"""(alpha, weight) pairs; the weights add up to 1."""


def left(steps: int) -> Points:
    """alpha = 0, 1/n, ..., (n-1)/n: the Riemann sum that Marks et al. published."""
    return [(k / steps, 1 / steps) for k in range(steps)]


def midpoint(steps: int) -> Points:
    """alpha = (k + 1/2) / n: its error falls with the square of n."""
    return [((k + 0.5) / steps, 1 / steps) for k in range(steps)]


def gauss(steps: int) -> Points:
    """Gauss-Legendre: exact for polynomials up to degree 2n - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return [((1 + float(node)) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)]


QUADRATURES: Mapping[str, Callable[[int], Points]] = {"left": left, "midpoint": midpoint, "gauss": gauss}


def points(rule: str, steps: int) -> Points:
    """The rule's points; an unknown rule or fewer than one step is an `InputError`."""
    if rule not in QUADRATURES:
        raise InputError(f"unknown quadrature {rule!r}; known: {', '.join(QUADRATURES)}")
    if steps < 1:
        raise InputError(f"steps is {steps}; integrated gradients need at least 1")
    return QUADRATURES[rule](steps)
