"""Quadrature rules for integrals over a straight path from the clean state (0) to the patched one (1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from featcircuits.errors import InputError, known, shortened
from featcircuits.inputs.ranges import Range, check_number

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


def taylor(steps: int) -> Points:
    """Second order at the start of each step: g + H D / (2n), by a product of the Hessian with the whole change D.

    At one step this is AtP's correction by a Hessian-vector product (Zhang and Wang 2026), at more steps one for each.
    The product is a central difference of two gradients, a 64th of a step to either side; it is exact where the
    gradient is linear or quadratic along the path. Three gradients a step.
    """
    aside = 1 / (_ASIDE * steps)
    weight = 1 / (4 * steps**2 * aside)  # of g(alpha + aside) - g(alpha - aside) = 2 aside H D
    starts = [k / steps for k in range(steps)]
    return [
        point for alpha in starts for point in ((alpha, 1 / steps), (alpha + aside, weight), (alpha - aside, -weight))
    ]


_ASIDE = 64
QUADRATURES: Mapping[str, Callable[[int], Points]] = {
    "left": left, "midpoint": midpoint, "gauss": gauss, "taylor": taylor,
}  # fmt: skip


MOST_STEPS = 1000
"""The most steps: Gauss-Legendre solves an eigenproblem of this size, and each point is a backward pass."""


def check_quadrature(quadrature: str, steps: int) -> None:
    """Raise `InputError` for an unknown quadrature or a number of steps out of range."""
    if quadrature not in QUADRATURES:
        raise InputError(f"unknown quadrature {shortened(quadrature)}; {known(QUADRATURES, quadrature)}")
    check_number("steps", steps, Range(1, MOST_STEPS))


def points(quadrature: str, steps: int) -> Points:
    """The points of a quadrature; raises `InputError` for an unknown quadrature or number of steps."""
    check_quadrature(quadrature, steps)
    return QUADRATURES[quadrature](steps)
