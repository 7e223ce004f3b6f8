"""The parts of interventions: one per node, site or direction, checked against the model before any run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import precision
from featcircuits.dictionaries.whole import Whole
from featcircuits.errors import InputError
from featcircuits.interventions.how import CORRUPTED, Add, How, Scale, Set, Take
from featcircuits.interventions.intervention import Intervention
from featcircuits.interventions.named import Named
from featcircuits.interventions.what import DECODER, ENCODER, VECTOR, Direction, Group
from featcircuits.interventions.where import ACTIVE, WORDS, Frame, Where, check_where
from featcircuits.model.nodes import Node
from featcircuits.model.sites import EMBED, KINDS, READ_ONLY, Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.index import check_exists, n_features_of
from featcircuits.tasks.examples import Example


@dataclass(frozen=True, eq=False)
class Part:
    """What is done to one node, site or direction. `number`: the index of its intervention; `said`: its text."""

    number: int
    said: str
    what: Node | Site | Direction
    how: How
    where: Where
    vector: Tensor | None = None
    """The direction [width]; in the units of the dictionary's decoder if `in_units`."""
    in_units: bool = False

    @property
    def site(self) -> Site:
        """The site where it acts."""
        return self.what if isinstance(self.what, Site) else self.what.site

    @property
    def feature(self) -> int | None:
        """The feature; None for errors, sites and directions."""
        return self.what.feature if isinstance(self.what, Node) else None

    def __str__(self) -> str:
        return f"{self.what}{'' if self.where is None else f'@{self.where}'}{self.how}"


def parts_of(spliced: SplicedModel, interventions: Sequence[Intervention], named: Named) -> list[Part]:
    """The parts of all interventions; raises `InputError` for what the model or its dictionaries do not have."""
    parts = [part for number, one in enumerate(interventions) for part in _parts(spliced, one, number, named)]
    for part in parts:
        _check_how(spliced, part, named)
    _check_apart(parts)
    return parts


def with_sites(spliced: SplicedModel, parts: Iterable[Part]) -> SplicedModel:
    """The model with a dictionary at every site of the parts: one without features where there is none."""
    more: dict[Site, Dictionary] = {}
    for site in {part.site for part in parts} - set(spliced.sites):
        width = spliced.architecture.site_width(spliced.model, site)
        more[site] = Whole(width, spliced.device, precision(spliced.model.dtype))
    if not more:
        return spliced
    together = {**spliced.dictionaries, **more}
    return replace(spliced, dictionaries={site: together[site] for site in sorted(together)})


def _parts(spliced: SplicedModel, one: Intervention, number: int, named: Named) -> Iterator[Part]:
    what, where = one.what, one.where
    if isinstance(what, Group):
        nodes = named.group(what.name)
        placed = dict.fromkeys(node if where is None else node._replace(place=where) for node in nodes)
        for node in placed:
            check_exists(node._replace(place=None), n_features_of(spliced))
            yield Part(number, str(one), node._replace(place=None), one.how, node.place)
    elif isinstance(what, Node):
        check_exists(what, n_features_of(spliced))
        yield Part(number, str(one), what, one.how, where)
    elif isinstance(what, Site):
        _check_site(spliced, what)
        yield Part(number, str(one), what, one.how, where)
    else:
        yield _along(spliced, one, what, number, named)


def _check_site(spliced: SplicedModel, site: Site) -> None:
    if site.kind in READ_ONLY or (site != EMBED and site.layer >= spliced.architecture.n_layers):
        layers = spliced.architecture.n_layers
        kinds = ", ".join(kind for kind in KINDS if kind not in READ_ONLY)
        raise InputError(f"there is no site {site} to act on; sites are {kinds}, at the layers 0 to {layers - 1}")


def _along(spliced: SplicedModel, one: Intervention, what: Direction, number: int, named: Named) -> Part:
    """The part of a direction, with its vector."""
    _check_site(spliced, what.site)
    width = spliced.architecture.site_width(spliced.model, what.site)
    own = isinstance(what.of, Node) and what.of.site == what.site
    if isinstance(what.of, str):
        vector = named.vector(what.of)
    else:
        check_exists(what.of, n_features_of(spliced))
        vector = _row(spliced.dictionaries[what.of.site], what, what.of)
    if len(vector) != width:
        raise InputError(f"{one}: the direction has {len(vector)} numbers, and the activation at {what.site} {width}")
    vector = vector.to(spliced.device, precision(spliced.model.dtype))
    return Part(number, str(one), what, one.how, one.where, vector, own and what.kind not in (ENCODER, VECTOR))


def _row(dictionary: Dictionary, what: Direction, node: Node) -> Tensor:
    assert node.feature is not None
    number = torch.tensor([node.feature], device=dictionary.decode_nothing().device)
    if what.kind == ENCODER:
        if dictionary.transcodes:
            raise InputError(f"{what}: a transcoder's encoder rows are directions before the MLP, not of its output")
        return dictionary.encoder_rows(number)[0]
    row = dictionary.decoder_rows(number)[0]
    return row if what.kind == DECODER else random_like(row, what.seed)


def random_like(vector: Tensor, seed: int) -> Tensor:
    """A random direction with the vector's norm; the same on every device."""
    drawn = torch.randn(len(vector), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn / drawn.norm()).to(vector) * vector.norm()


def _check_how(spliced: SplicedModel, part: Part, named: Named) -> None:
    how, what = part.how, part.what
    if part.feature is not None:
        _check_sign(spliced.dictionaries[part.site], part)
    elif part.where == ACTIVE:
        raise InputError(f"{part.said}: 'active' is about features; {part.what} is always there")
    elif isinstance(what, (Node, Site)) and (isinstance(how, Add) or (isinstance(how, Set) and how.value != 0)):
        raise InputError(
            f"{part.said}: {what} is a vector, and cannot be a number other than 0; scale it, take it from "
            "elsewhere, or add to a direction, as in resid_2/decoder:303+4"
        )
    if isinstance(how, Take):
        _check_source(spliced, part, how, named)


def _check_sign(dictionary: Dictionary, part: Part) -> None:
    how = part.how
    wrong = how.value if isinstance(how, Set) else how.factor if isinstance(how, Scale) else 0.0
    if wrong < 0 and dictionary.rectified:
        raise InputError(
            f"{part.said}: features of {part.site} are never negative; give 0 or more, or add a negative amount to "
            f"push against its decoder row ({part.what}+-4)"
        )


def _check_source(spliced: SplicedModel, part: Part, how: Take, named: Named) -> None:
    if how.run not in ("", CORRUPTED):
        named.run(how.run)
    if how.plus and part.feature is None and not isinstance(part.what, Direction):
        raise InputError(f"{part.said}: {part.what} is a vector, and no number can be added to it")
    if how.site is None or how.site == part.site:
        return
    if not isinstance(part.what, Site):
        raise InputError(
            f"{part.said}: {how.site} has no {part.what}; only a whole activation can be taken from another site"
        )
    _check_site(spliced, how.site)
    widths = [spliced.architecture.site_width(spliced.model, site) for site in (part.site, how.site)]
    if widths[0] != widths[1]:
        raise InputError(f"{part.said}: the activation at {how.site} has {widths[1]} numbers, that here {widths[0]}")


def _check_apart(parts: Sequence[Part]) -> None:
    """Raise `InputError` for a node that is changed twice at the same written place, or within a changed site."""
    seen: dict[tuple[Node | Site | Direction, Where], Part] = {}
    for part in parts:
        other = seen.setdefault((part.what, part.where), part)
        if other is not part:
            raise InputError(_twice(other, part))


def _twice(one: Part, other: Part) -> str:
    at = "" if one.where is None else f"@{one.where}"
    return f"{one.what}{at} is changed twice at one token, by {one.said} and by {other.said}; say it once"


def check_places(
    parts: Sequence[Part], examples: Sequence[Example], generates: bool = False, known: bool = True
) -> None:
    """Raise `InputError` for places that the prompts do not have; `known`: whether there are examples of them yet."""
    for part in parts:
        if not known and isinstance(part.where, str) and part.where not in WORDS:
            raise InputError(f"{part.said}: the roles of the prompts are not known here; give positions")
        check_where(part.where, part.said, examples, generates)


def check_overlap(parts: Sequence[Part], frame: Frame) -> None:
    """Raise `InputError` for two changes of the same node, or of a whole site and anything in it, at one token."""
    at = [frame.at(part.where) for part in parts]
    for (one, here), (other, there) in combinations(zip(parts, at, strict=True), 2):
        whole = one.site == other.site and isinstance(one.what, Site) != isinstance(other.what, Site)
        if (whole or one.what == other.what) and bool((here & there).any()):
            raise InputError(_twice(one, other))
