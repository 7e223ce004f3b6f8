"""fc.match_features: which feature of one dictionary is which feature of another, by decoder or by co-activation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from featcircuits.circuit.circuit import Circuit
from featcircuits.comparison.coactivation import correlations
from featcircuits.errors import InputError, known
from featcircuits.inputs.arguments import expect
from featcircuits.inputs.ranges import Range, check_number
from featcircuits.model.nodes import Endpoint, Node
from featcircuits.model.sites import Site
from featcircuits.provenance.belonging import check_nodes, check_task
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Task

DECODER, ACTIVATION = WAYS = "decoder", "activation"
MOST = 1 << 26
"""The most pairs of features of a site, whose scores are in memory at once."""


class Match(NamedTuple):
    """A feature of the first dictionary, the feature of the second that is matched with it, and their score."""

    feature: int
    other: int
    score: float


@dataclass(frozen=True)
class Matching:
    """Matched features by site; `n_first`: how many features each of the first dictionaries has.

    `by`: "decoder" (scores are cosines) or "activation" (correlations over tokens); no score is below `least`.
    """

    matches: Mapping[Site, tuple[Match, ...]]
    n_first: Mapping[Site, int]
    by: str
    least: float

    def renamed(self, circuit: Circuit) -> Circuit:
        """A circuit of the second dictionaries, its features by the numbers of the first, for `fc.compare`.

        What has no match gets a number that no feature of the first has. Error nodes stay, as do features at sites
        that the first dictionaries lack. The manifest's suite is left out, since the numbers are not its own.
        """
        names = {(site, one.other): one.feature for site, own in self.matches.items() for one in own}

        def named(end: Endpoint) -> Endpoint:
            if not isinstance(end, Node) or end.feature is None or end.site not in self.n_first:
                return end
            own = names.get((end.site, end.feature), self.n_first[end.site] + end.feature)
            return end._replace(feature=own)

        return Circuit(
            {node: score for old, score in circuit.nodes.items() if isinstance(node := named(old), Node)},
            {(named(source), named(target)): weight for (source, target), weight in circuit.edges.items()},
            circuit.places,
            circuit.aggregate,
            {**{k: v for k, v in circuit.manifest.items() if k not in _OF_NODES}, "matching": self.to_json()},
            {named(end): label for end, label in circuit.labels.items()},
            {name: [named(Node.parse(node)) for node in own] for name, own in circuit.groups.items()},  # type: ignore[misc]
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values: site -> rows of [feature, other, score]."""
        rows = {str(site): [[*one] for one in own] for site, own in self.matches.items()}
        return {"by": self.by, "least": self.least, "matches": rows}


_OF_NODES = ("suite", "stability", "prompt", "membership")
"""Parts of a manifest that name features by their old numbers."""


def match_features(
    first: SplicedModel,
    second: SplicedModel,
    circuit: Circuit | None = None,
    *,
    by: str = DECODER,
    task: Task | None = None,
    least: float = 0.7,
    batch_size: int | None = None,
    check: bool = True,
) -> Matching:
    """Match features at each site that both models have, one to one, with the largest sum of scores (Hungarian).

    `circuit`: match only its features, of the first dictionaries, with all of the second. `by`: "decoder", the
    cosine of decoder rows, for dictionaries of one width; "activation", the Pearson correlation of activations over the
    clean tokens of `task`, also of two models with one tokenizer. Pairs below `least` are no match, and do not compete
    with others. Raises `InputError` for an unknown way, a missing task, dictionaries without a common site or of other
    widths, and more than 67 million pairs at a site (give a circuit).
    """
    expect("first", first, SplicedModel)
    expect("second", second, SplicedModel)
    check_number("least", least, Range(0, 1, above=True), float)
    sites = [site for site in first.sites if site in second.dictionaries]
    if not sites:
        raise InputError(
            "the two models have no site in common where both have a dictionary, so nothing can be matched"
        )
    ids = _ids(first, sites, circuit)
    for site in sites:
        _check_size(site, len(ids[site]), second.dictionaries[site].n_features)
    if by == DECODER:
        scores = _cosines(first, second, ids)
    elif by == ACTIVATION:
        if task is None:
            raise InputError("features are matched by activation over the tokens of a task; give task=")
        check_task(first, task, check)
        check_task(second, task, check)
        scores = correlations(first, second, ids, task, batch_size)
    else:
        raise InputError(f"unknown way to match features {by!r}; {known(WAYS, str(by))}")
    found = {site: _assigned(ids[site], table, least) for site, table in scores.items()}
    return Matching(found, {site: first.dictionaries[site].n_features for site in sites}, by, least)


Scores = dict[Site, NDArray[np.float64]]
"""Site -> scores [feature of the first, feature of the second]."""


def _ids(first: SplicedModel, sites: Iterable[Site], circuit: Circuit | None) -> dict[Site, torch.Tensor]:
    """The features of the first to match at each site, in order."""
    if circuit is None:
        return {site: torch.arange(first.dictionaries[site].n_features) for site in sites}
    expect("circuit", circuit, Circuit)
    check_nodes(first, circuit.nodes)
    own: dict[Site, set[int]] = {site: set() for site in sites}
    for node in circuit.nodes:
        if node.feature is not None and node.site in own:
            own[node.site].add(node.feature)
    return {site: torch.tensor(sorted(numbers), dtype=torch.long) for site, numbers in own.items()}


def _check_size(site: Site, rows: int, columns: int) -> None:
    if rows * columns > MOST:
        raise InputError(
            f"{site}: {rows} features beside {columns} are {rows * columns} pairs, more than {MOST}; give a circuit, "
            "whose features alone are matched"
        )


@torch.no_grad()
def _cosines(first: SplicedModel, second: SplicedModel, ids: Mapping[Site, torch.Tensor]) -> Scores:
    found = {}
    for site, own in ids.items():
        one, other = first.dictionaries[site], second.dictionaries[site]
        if one.width != other.width:
            raise InputError(
                f"{site}: decoder rows of {one.width} and {other.width} numbers have no cosine; match by='activation'"
            )
        rows = _directions(one.decoder_rows(own.to(first.device)))
        others = _directions(other.decoder_rows(torch.arange(other.n_features, device=second.device)))
        found[site] = (rows @ others.T).numpy()
    return found


def _directions(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows.cpu().double(), dim=-1)


def _assigned(ids: torch.Tensor, scores: NDArray[np.float64], least: float) -> tuple[Match, ...]:
    from scipy.optimize import linear_sum_assignment

    counted = np.where(scores >= least, scores, 0.0)
    rows, columns = linear_sum_assignment(counted, maximize=True)
    return tuple(
        Match(int(ids[row]), int(column), float(scores[row, column]))
        for row, column in zip(rows, columns, strict=True)
        if counted[row, column] > 0
    )
