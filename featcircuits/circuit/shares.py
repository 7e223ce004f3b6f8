"""How much of the |effect| at each kind of site errors carry: what dictionaries leave unexplained of a behaviour."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from featcircuits.circuit.circuit import Circuit

MOST_BY_ERRORS = 0.5
"""The share of |effect| by errors from which on dictionaries are said not to explain a behaviour."""


def error_shares(ranking: Circuit) -> dict[str, float]:
    """Kind of site -> the share of the sum of |effect| that error nodes carry, of all nodes with an effect.

    Sites whose dictionary has no features (whole outputs) are left out: there the error is all there is.
    """
    sites = (ranking.manifest.get("suite") or {}).get("sites") or {}
    whole = {name for name, own in sites.items() if isinstance(own, Mapping) and own.get("n_features") == 0}
    errors, every = defaultdict[str, float](float), defaultdict[str, float](float)
    for node, score in sorted(ranking.nodes.items(), key=lambda item: item[0].site):  # kinds in forward order
        if str(node.site) not in whole:
            every[node.site.kind] += abs(score.effect)
            errors[node.site.kind] += abs(score.effect) * node.is_error
    return {kind: errors[kind] / size for kind, size in every.items() if size > 0}


def shares_line(shares: Mapping[str, float]) -> str:
    """The shares in words, with what they mean where they are high."""
    told = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
    high = [kind for kind, share in shares.items() if share > MOST_BY_ERRORS]
    line = f"share of |effect| that errors carry: {told}"
    if not high:
        return line
    return (
        f"{line}; at {' and '.join(high)} the dictionaries do not explain this behaviour (more than "
        f"{MOST_BY_ERRORS:.0%}), and circuits there rest on error nodes"
    )
