"""Does the circuit do what the model does, and is nothing left outside?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featcircuits.model.nodes import Node
from featcircuits.validation.bench import Bench
from featcircuits.validation.claims import CANNOT_TELL, ENOUGH, NOT_ENOUGH, Claim

_FLIPS = 9999


def equivalence(bench: Bench, tolerance: float = 0.1) -> Claim:
    """F(circuit) and F(model) differ by less than `tolerance` of F(model) - F(empty), in the mean over examples.

    Two one-sided t-tests on F(circuit) - F(model) per example; the larger p is that of the claim (Shi et al. 2024 ask
    for equivalence by a sign test, which a circuit that is nearly right on all examples fails).
    """

    difference = (bench.ends[0] - bench.model) / bench.gap
    mean, half = float(difference.mean()), half_interval(difference)
    p = _two_one_sided(difference, tolerance)
    claim = Claim(
        "equivalence: the circuit does what the model does", 1 + mean, (1 + mean - half, 1 + mean + half),
        f"within {tolerance:g} of 1", f"|f - 1| is at least {tolerance:g}", p, n=len(difference),
    )  # fmt: skip
    return _by_interval(claim, 1 - tolerance, 1 + tolerance)


def _two_one_sided(values: np.ndarray, tolerance: float) -> float:
    """The p-value against a mean at or beyond the tolerance; NaN for one value."""
    from scipy import stats

    if len(values) < 2:
        return math.nan
    if not values.std():  # no spread at all
        return 0.0 if abs(values.mean()) < tolerance else 1.0
    error, degrees = values.std(ddof=1) / math.sqrt(len(values)), len(values) - 1
    above, below = ((values.mean() + tolerance) / error, (values.mean() - tolerance) / error)
    return float(max(stats.t.sf(above, degrees), stats.t.cdf(below, degrees)))


def independence(bench: Bench, tolerance: float = 0.1) -> Claim:
    """With the circuit ablated, F does not depend on whether the outside comes from the prompt or is ablated too.

    F(complement) - F(empty) as a share of F(model) - F(empty); with paired ablation the outside is then that of the
    clean or of the corrupted prompt, while the circuit is that of the corrupted one. A test by random signs (Shi
    et al. 2024 take a kernel test). The null is the claim itself, so that only an interval inside `tolerance` is
    "enough".
    """
    share = (bench.ends[1] - bench.ends[2]) / bench.gap
    mean, half = float(share.mean()), half_interval(share)
    signs = np.random.default_rng(bench.seed).choice([-1.0, 1.0], size=(_FLIPS, len(share)))
    # without the differences of rounding that equal sums in another order have
    extreme = int((np.abs((signs * share).mean(1)) >= abs(share.mean()) - 1e-12).sum())
    claim = Claim(
        "independence: nothing of it is left outside", mean, (mean - half, mean + half), f"within {tolerance:g} of 0",
        "F(complement) is F(empty)", (1 + extreme) / (1 + _FLIPS), 2.0 ** (1 - len(share)), n=len(share),
    )  # fmt: skip
    return _by_interval(claim, -tolerance, tolerance)


def knock_outs(bench: Bench, draws: int, tolerance: float = 0.2) -> Claim:
    """For random parts K of the circuit, F(circuit without K) is near F(model without K) (Wang et al. 2023).

    The figure is the mean of |difference| as a share of F(model) - F(empty); its reason names the worst draw, and the
    worst part that a greedy search of single nodes finds.
    """
    generator = np.random.default_rng(bench.seed)
    parts = []
    for _ in range(draws):
        count = int(generator.integers(1, len(bench.nodes) + 1))
        parts.append([bench.nodes[n] for n in generator.permutation(len(bench.nodes))[:count]])
    shares = _difference(bench, parts)
    worst, size = _greedy(bench)
    mean, half = float(shares.mean()), half_interval(shares)
    verdict = ENOUGH if mean + half < tolerance else NOT_ENOUGH if mean - half > tolerance else CANNOT_TELL
    return Claim(
        "completeness: knocked out alike, circuit and model stay alike", mean, (mean - half, mean + half),
        f"below {tolerance:g}; worst draw {shares.max():.2f}, worst by greedy search {worst:.2f} ({size} nodes)",
        n=draws, verdict=verdict, reason="" if verdict != CANNOT_TELL else "the interval holds the bound",
    )  # fmt: skip


def _difference(bench: Bench, parts: Sequence[Sequence[Node]]) -> np.ndarray:
    """|F(C without K) - F(M without K)| / gap of each part K."""
    inside = [bench.keeping([node for node in bench.nodes if node not in set(part)]) for part in parts]
    outside = [bench.keeping(part, complement=True) for part in parts]
    F = bench.F([*inside, *outside]).mean(1)
    return np.abs(F[: len(parts)] - F[len(parts) :]) / abs(bench.gap)


def _greedy(bench: Bench, steps: int = 3, width: int = 30) -> tuple[float, int]:
    """The largest difference when one node after another is added to K, each time the worst of the strongest nodes."""
    part: list[Node] = []
    worst = 0.0
    for _ in range(min(steps, len(bench.nodes))):
        candidates = [node for node in bench.nodes if node not in part][:width]
        shares = _difference(bench, [[*part, node] for node in candidates])
        if shares.max() <= worst:
            break
        worst = float(shares.max())
        part.append(candidates[int(shares.argmax())])
    return worst, len(part)


def _by_interval(claim: Claim, low: float, high: float) -> Claim:
    """ "enough" if the whole interval is within the bounds, "not enough" if none of it is."""
    assert claim.interval is not None
    first, last = claim.interval
    if low < first and last < high:
        return replace(claim, verdict=ENOUGH)
    if last < low or first > high:
        return replace(claim, verdict=NOT_ENOUGH)
    return replace(claim, verdict=CANNOT_TELL, reason="the interval holds a bound: too few examples, or too near")


def half_interval(values: np.ndarray) -> float:
    """Half of the 95 % interval of a mean; infinite for one value."""
    from scipy import stats

    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
