"""Sites: the places of a model where a dictionary can be spliced in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering

from featcircuits.errors import InputError

EMBED_LAYER = -1
"""The embedding stands before layer 0."""

KINDS = ("embed", "attn_z", "attn", "mlp_in", "mlp", "resid")
"""In the order of a forward pass. `mlp_in` is only read: what a transcoder at `mlp` encodes."""

STREAM = ("embed", "resid")
"""Kinds whose activation is the residual stream itself."""

_NAME = re.compile(r"(attn_z|attn|mlp_in|mlp|resid)_(0|[1-9]\d*)")


@total_ordering
@dataclass(frozen=True)
class Site:
    """`embed`, or of a layer: `attn_z_3` (heads side by side, before the output projection), the output
    of its attention, MLP or whole block (`attn_3`, `mlp_3`, `resid_3`), or the MLP's input (`mlp_in_3`).

    Sites sort in forward order.
    """

    layer: int
    kind: str

    @classmethod
    def parse(cls, name: str | Site) -> Site:
        """`"mlp_3"` -> `Site(3, "mlp")`; raises `InputError` for any other spelling."""
        if isinstance(name, Site):
            return name
        if name == "embed":
            return cls(EMBED_LAYER, "embed")
        match = _NAME.fullmatch(name)
        if match is None:
            raise InputError(
                f"unknown site {name!r}: a site is 'embed', 'attn_<layer>', 'attn_z_<layer>', 'mlp_<layer>' or "
                "'resid_<layer>'"
            )
        return cls(int(match[2]), match[1])

    @property
    def start(self) -> int:
        """The first layer that has to run again when the activation here changes."""
        return self.layer + 1 if self.kind in STREAM else self.layer

    def __lt__(self, other: Site) -> bool:
        return (self.layer, KINDS.index(self.kind)) < (other.layer, KINDS.index(other.kind))

    def __str__(self) -> str:
        return "embed" if self.kind == "embed" else f"{self.kind}_{self.layer}"


EMBED = Site(EMBED_LAYER, "embed")


def resid(layer: int) -> Site:
    """The residual stream after `layer`; the stream before layer 0 is the embedding."""
    return EMBED if layer == EMBED_LAYER else Site(layer, "resid")


def all_sites(n_layers: int, kinds: Iterable[str] = ("attn", "mlp", "resid")) -> tuple[Site, ...]:
    """The embedding and each layer's sites of these kinds, in forward order."""
    per_layer = (Site(layer, kind) for layer in range(n_layers) for kind in kinds)
    return tuple(sorted((EMBED, *per_layer)))


def parse_all(names: Iterable[str | Site]) -> tuple[Site, ...]:
    """Parse and put in forward order."""
    return tuple(sorted(Site.parse(name) for name in names))
