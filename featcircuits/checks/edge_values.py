"""What nodes add to the ablation's activation: moves, in which every run along edges is written.

With every node at its ablation value a site is at y + bypass(read). A feature of value f adds (f - f') decoder rows,
where f' is its ablation value, and the error node adds what is left of x - y - bypass(read). The moves of all nodes of
a site together are the whole difference, so a site with all of them is at x again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide, written
from featcircuits.evaluation.ablated import Prepared
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Patched
from featcircuits.states.index import NodeIndex

Move = Tensor
"""How many times a feature adds its decoder row [example, slot], or what the error node adds [example, slot, width]."""


@dataclass(frozen=True, eq=False)
class EdgeValues:
    """The ablation values of one batch, and the moves from them."""

    spliced: SplicedModel
    prepared: Prepared
    index: NodeIndex
    ablation: dict[Site, Patched] = field(default_factory=dict)
    """The values of each site, once they were needed."""

    def patched(self, site: Site) -> Patched:
        """The ablation values at a site."""
        if site not in self.ablation:
            self.ablation[site] = self.prepared.values(site)
        return self.ablation[site]

    def base(self, site: Site, read: Tensor) -> Tensor:
        """The site with every node ablated [example, slot, width], where its dictionary reads `read`."""
        dictionary, rows = self.spliced.dictionaries[site], torch.arange(read.shape[:2].numel(), device=read.device)
        flat = wide(read).flatten(0, 1)
        y, past = self.patched(site).x_at(dictionary, rows, flat).to(flat.dtype), dictionary.bypass(flat)
        y = y if past is None else y + past
        return y.expand(len(rows), -1).unflatten(0, read.shape[:2])

    def moves(self, site: Site, nodes: Sequence[Node], x: Tensor, read: Tensor) -> list[Move]:
        """The moves of some of the site's nodes where x [example, slot, width] arrives and `read` is read."""
        dictionary, patched = self.spliced.dictionaries[site], self.patched(site)
        x, read = wide(x).flatten(0, 1), wide(read).flatten(0, 1)
        rows = torch.arange(len(x), device=x.device)
        steps, statistics = dictionary.encode(read) - patched.features_at(dictionary, rows), dictionary.statistics(read)
        if statistics is not None:
            steps = steps * (statistics.scale if patched.scale is None else patched.scale.flatten(0, 1).to(steps.dtype))
        error = None
        if any(node.feature is None for node in nodes):
            y = patched.x_at(dictionary, rows, read).to(x.dtype)
            error = written(dictionary, x, read) - y - dictionary.decode_change(steps)
        places = self.prepared.batch.places
        found = []
        for node in nodes:
            here = places == self.index.place(node)
            if node.feature is None:
                assert error is not None
                found.append(error.unflatten(0, here.shape) * here[..., None])
            else:
                found.append(steps[:, node.feature].unflatten(0, here.shape) * here)
        return found

    def total(self, site: Site, moved: Iterable[tuple[Node, Move]]) -> Tensor | float:
        """The sum of moves [example, slot, width]; 0 without any."""
        pairs = list(moved)
        features = [(node.feature, move) for node, move in pairs if node.feature is not None]
        result: Tensor | float = sum((move for node, move in pairs if node.feature is None), 0.0)
        if features:
            ids, steps = zip(*features, strict=True)
            rows = self.spliced.dictionaries[site].decoder_rows(torch.tensor(ids, device=steps[0].device))
            result = result + torch.stack(steps, dim=-1) @ rows.to(steps[0].dtype)
        return result
