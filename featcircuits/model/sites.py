"""Sites: the places of a model where a dictionary can be spliced in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import total_ordering

from featcircuits.errors import InputError, known, shortened

EMBED_LAYER = -1
"""The layer of the embedding, which comes before layer 0."""

KINDS = ("embed", "attn_z", "attn", "resid_mid", "mlp_in", "mlp", "resid")
"""The kinds of sites in the order of a forward pass."""

MLP_IN, RESID_MID = "mlp_in", "resid_mid"

READ_ONLY: Mapping[str, str] = {
    RESID_MID: "the stream between attention and MLP, before the MLP's norm",
    MLP_IN: "the MLP's input, after the norm",
}
"""The kinds that no dictionary explains, and that transcoders at `mlp` of their layer may read."""

STREAM = ("embed", "resid")
"""The kinds whose activation is the residual stream itself."""

_LAYER = "0|[1-9][0-9]{0,4}"
_NAME = re.compile(rf"(attn_z|attn|resid_mid|mlp_in|mlp|resid)_({_LAYER})")
_LAYERS = re.compile(rf"({_LAYER})-({_LAYER})")


@total_ordering
@dataclass(frozen=True)
class Site:
    """A place in a model: `embed`, or for a layer `attn_z_3` (heads side by side, before the output projection),
    the output of its attention, MLP or whole block (`attn_3`, `mlp_3`, `resid_3`), the MLP's input (`mlp_in_3`), or
    the stream between attention and MLP, before the MLP's norm (`resid_mid_3`).

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
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise InputError(
                f"unknown site {shortened(name)}: a site is 'embed', 'attn_<layer>', 'attn_z_<layer>', 'mlp_<layer>' "
                "or 'resid_<layer>'"
            )
        return cls(int(match[2]), match[1])

    @property
    def start(self) -> int:
        """The first layer that must run again if the activation here changes."""
        return self.layer + 1 if self.kind in STREAM else self.layer

    def __lt__(self, other: Site) -> bool:
        return (self.layer, KINDS.index(self.kind)) < (other.layer, KINDS.index(other.kind))

    def __str__(self) -> str:
        return "embed" if self.kind == "embed" else f"{self.kind}_{self.layer}"


def check_reads(reads: object) -> None:
    """Raise `InputError` for anything but a kind of place that transcoders read."""
    if not isinstance(reads, str) or reads not in READ_ONLY:
        raise InputError(f"a transcoder reads {shortened(reads)}; {known(READ_ONLY, str(reads))}")


EMBED = Site(EMBED_LAYER, "embed")


def resid(layer: int) -> Site:
    """The residual stream after `layer`; the stream before layer 0 is the embedding."""
    return EMBED if layer == EMBED_LAYER else Site(layer, "resid")


def all_sites(n_layers: int, kinds: Iterable[str] = ("attn", "mlp", "resid")) -> tuple[Site, ...]:
    """The embedding and each layer's sites of these kinds, in forward order."""
    per_layer = (Site(layer, kind) for layer in range(n_layers) for kind in kinds)
    return tuple(sorted((EMBED, *per_layer)))


def parse_all(names: Iterable[str | Site]) -> tuple[Site, ...]:
    """The sites of these names, in forward order."""
    return tuple(sorted(Site.parse(name) for name in names))


def chosen(names: Iterable[str], patterns: str | Iterable[str]) -> list[str]:
    """The names of sites that match a pattern: `mlp_3`, `resid_*`, layers `resid_3-7`, a whole kind `resid`.

    A text is split at commas. Raises `InputError` for a pattern that matches none.
    """
    names = list(names)
    patterns = [part.strip() for part in patterns.split(",")] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not any(_fits(Site.parse(name), pattern) for name in names):
            raise InputError(
                f"no site fits {shortened(pattern)}; give names, kinds or patterns such as mlp_3, resid, resid_*, "
                f"*_3-7. Sites: {in_ranges(names)}"
            )
    return [name for name in names if any(_fits(Site.parse(name), pattern) for pattern in patterns)]


def _fits(site: Site, pattern: str) -> bool:
    if pattern in (site.kind, "*"):
        return True
    kind, _, layers = pattern.rpartition("_")
    if run := _LAYERS.fullmatch(layers):
        return fnmatchcase(site.kind, kind) and int(run[1]) <= site.layer <= int(run[2])
    return fnmatchcase(site.kind, kind) and fnmatchcase(str(site.layer), layers)


def in_ranges(names: Iterable[str | Site]) -> str:
    """The sites by kind, with ranges of layers: `embed, attn 0-5, mlp 0-3 5`."""
    layers: dict[str, list[int]] = {}
    for site in parse_all(names):
        layers.setdefault(site.kind, []).append(site.layer)
    kinds = sorted(layers, key=KINDS.index)
    return ", ".join("embed" if kind == "embed" else f"{kind} {_runs(layers[kind])}" for kind in kinds)


def _runs(numbers: list[int]) -> str:
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
