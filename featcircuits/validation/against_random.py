"""Is the circuit better than random ones, and is each of its nodes?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featcircuits.evaluation.faithfulness import faithfulness
from featcircuits.model.nodes import Node
from featcircuits.validation.bench import Bench
from featcircuits.validation.claims import CANNOT_TELL, ENOUGH, LEVEL, NOT_ENOUGH, Claim, among, holm


def sufficiency(bench: Bench, draws: int) -> Claim:
    """The circuit is more faithful than random circuits with as many nodes at each site (Shi et al. 2024)."""
    figure = faithfulness(float(bench.ends[0].mean()), bench.reference)
    random = [faithfulness(float(F), bench.reference) for F in bench.F(bench.random_circuits(draws)).mean(1)]
    return Claim(
        "sufficiency: better than random circuits of its size", figure, None,
        f"random {np.mean(random):.2f}, 95 % below {np.quantile(random, 0.95):.2f}",
        "the circuit is a random one", among(figure, random), 1 / (1 + draws), n=draws,
    )  # fmt: skip


def necessity(bench: Bench, draws: int) -> Claim:
    """The model without the circuit does worse than without random circuits of its size (Shi et al. 2024)."""
    figure = faithfulness(float(bench.ends[1].mean()), bench.reference)
    without = [replace(circuit, complement=True) for circuit in bench.random_circuits(draws)]
    random = [faithfulness(float(F), bench.reference) for F in bench.F(without).mean(1)]
    return Claim(
        "partial necessity: the model does worse without it", figure, None,
        f"without random ones {np.mean(random):.2f}, 5 % below {np.quantile(random, 0.05):.2f}",
        "the circuit is a random one", among(figure, random, greater=False), 1 / (1 + draws), n=draws,
    )  # fmt: skip


@dataclass(frozen=True)
class Minimality:
    """Which nodes of a circuit matter more in it than random nodes would.

    `drops`: by node, the fall of faithfulness when it alone leaves; `inflation`: the same of random nodes that were put
    in; `p`: adjusted by Holm over the nodes. `superfluous`: the nodes that do not beat them.
    """

    claim: Claim
    drops: dict[Node, float]
    p: dict[Node, float]
    inflation: tuple[float, ...]
    superfluous: tuple[Node, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        nodes = {str(node): {"drop": drop, "p": self.p[node]} for node, drop in self.drops.items()}
        return {"nodes": nodes, "inflation": list(self.inflation), "superfluous": [*map(str, self.superfluous)]}


def _used(p: list[float], least: float, count: int) -> tuple[list[float], str]:
    """Adjusted p-values where there are enough draws to pass the correction, and else why not."""
    if least > LEVEL:
        return p, f"{round(1 / least) - 1} random nodes give no p below {LEVEL}: those that do not beat each of them"
    if least * count > LEVEL:
        return p, f"{round(1 / least) - 1} draws are too few to correct for {count} nodes"
    return holm(p), ""


def minimality(bench: Bench, draws: int) -> Minimality:
    """No node of the circuit could leave (Shi et al. 2024).

    The null of a node: its removal changes F no more than the removal of a random node with an effect that was put into
    the circuit first (inflation). Changes count by size, since a node may also work against the answer.
    """
    own, count = bench.circuit, len(bench.nodes)
    generator = np.random.default_rng(bench.seed)
    drawn = generator.permutation(len(bench.others))[:draws]
    toggles = [*range(count), *(count + int(n) for n in drawn)]
    F = bench.F([own, *(replace(own, toggled=rank) for rank in toggles)]).mean(1)
    # a node leaves the circuit, or a random one leaves the circuit that it was put into
    drops = (F[0] - F[1 : 1 + count]) / bench.gap
    inflation = (F[1 + count :] - F[0]) / bench.gap
    p = [among(abs(float(drop)), np.abs(inflation).tolist()) for drop in drops]
    least = 1 / (1 + len(inflation))
    used, reason = _used(p, least, count)
    largest = float(np.abs(inflation).max())
    beaten = [
        value <= LEVEL if least <= LEVEL else abs(drop) > largest for value, drop in zip(used, drops, strict=True)
    ]
    superfluous = tuple(node for node, beats in zip(bench.nodes, beaten, strict=True) if not beats)
    claim = Claim(
        "minimality: no node could leave", 1 - len(superfluous) / count, None,
        f"random nodes put in change f by {np.mean(np.abs(inflation)):.3f}, at most {largest:.3f}",
        n=len(inflation), reason=reason, verdict=CANNOT_TELL if reason and not superfluous else
        NOT_ENOUGH if superfluous else ENOUGH,
    )  # fmt: skip
    by_node = dict(zip(bench.nodes, map(float, drops), strict=True))
    return Minimality(
        claim, by_node, dict(zip(bench.nodes, used, strict=True)), tuple(map(float, inflation)), superfluous
    )
