"""fc.patchscope: a state or a feature of one prompt put at a placeholder of another, which is then continued."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from featcircuits.dictionaries.decomposition import wide
from featcircuits.errors import InputError
from featcircuits.inputs.ranges import Range, check_number
from featcircuits.interventions.generation import generate
from featcircuits.interventions.how import OWN, Take
from featcircuits.interventions.intervention import Intervention
from featcircuits.interventions.moves import Activation
from featcircuits.interventions.named import Named, prompt_ids
from featcircuits.interventions.parts import Part, parts_of, with_sites
from featcircuits.interventions.steering import Steering
from featcircuits.interventions.where import Frame
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.provenance.belonging import check_nodes
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.spliced import SplicedModel

IDENTITY = "cat -> cat; 1135 -> 1135; hello -> hello; ?"
"""A prompt that repeats words, so that the model says which token a state stands for (Ghandeharioun et al. 2024)."""
DESCRIPTION = "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean company, x"
"""A prompt that describes things, so that the model says what a state knows. Both end with their placeholder."""


@dataclass(frozen=True)
class Scoped:
    """What a state was read as. `value`: the feature's value that was put in; None for a whole state.

    `probabilities`: of each new token when it was chosen.
    """

    of: str
    into: str
    value: float | None
    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The reading as plain JSON values."""
        return asdict(self)


def patchscope(
    spliced: SplicedModel,
    prompt: str | Sequence[int],
    of: Iterable[Site | Node | str],
    into: str | Sequence[int] = IDENTITY,
    *,
    place: int = -1,
    placeholder: int = -1,
    target: Site | str | None = None,
    value: float | None = None,
    max_new_tokens: int = 5,
) -> tuple[Scoped, ...]:
    """Read states of a prompt by another prompt: put each at the placeholder, and let the model go on.

    `of`: sites (`resid_2`: the state h there) or features (`resid_2/303`: f_i d_i, what the feature writes there), at
    the token `place` of `prompt`. `into`: the other prompt as text or token ids; `placeholder`: its token whose
    activation is replaced, at `target` (by default the site that the state is from), in the first pass only.
    `value`: f_i in place of the feature's own. Returns one reading per state, by greedy decoding.
    With a prompt put into itself at its own token nothing changes. Raises `InputError` for sites, features and tokens
    that do not exist, states of another width than the target's, and a feature that is 0 there without a `value`.
    """
    check_number("max_new_tokens", max_new_tokens, Range(1, 1000))
    named = [_parsed(one) for one in ([of] if isinstance(of, (str, Site)) else of)]
    if not named:
        raise InputError("there is no state to read; give sites or features, such as ['resid_2', 'resid_2/303']")
    check_nodes(spliced, [one for one in named if isinstance(one, Node)])
    source, other = (prompt_ids(spliced, text) for text in (prompt, into))
    check_number("placeholder", placeholder, Range(-len(other), len(other) - 1))
    vectors = _vectors(spliced, source, place, named, value)
    found = []
    for one, (vector, strength) in zip(named, vectors, strict=True):
        at = Site.parse(target) if target is not None else one.site if isinstance(one, Node) else one
        steering = _putting(spliced, at, placeholder, vector)
        with steering.on():
            text = generate(spliced, [other], max_new_tokens=max_new_tokens).continuations[0]
        said = f"{one}@{place}"
        found.append(Scoped(said, str(at), strength, text.text, text.ids, text.tokens, text.probabilities))
    return tuple(found)


def _parsed(one: Site | Node | str) -> Site | Node:
    if isinstance(one, (Site, Node)):
        return one
    return Node.parse(one) if isinstance(one, str) and "/" in one else Site.parse(one)


def _vectors(
    spliced: SplicedModel, ids: tuple[int, ...], place: int, named: Sequence[Site | Node], value: float | None
) -> list[tuple[Tensor, float | None]]:
    """Each state [width] and, for features, the value that makes it."""
    check_number("place", place, Range(-len(ids), len(ids) - 1))
    for one in named:
        if isinstance(one, Node) and one.is_error:
            raise InputError(f"{one} is an error, which has no value; give features or sites")
    wholes = with_sites(spliced, [_part(spliced, one, 0) for one in named if isinstance(one, Site)])
    sites = {one.site if isinstance(one, Node) else one for one in named}
    row = torch.tensor([ids])
    logits, seen = wholes.record(Tokens(row, torch.ones_like(row)), wholes.with_reads(sites))
    check_finite(logits, seen)
    found: list[tuple[Tensor, float | None]] = []
    for one in named:
        if isinstance(one, Site):
            found.append((wide(seen[one])[0, place], None))
            continue
        x, read = (wide(seen[site])[0, place][None] for site in (one.site, wholes.read_site(one.site)))
        here = Activation(wholes.dictionaries[one.site], x, read)
        part = _part(spliced, one, 0)
        strength = float(here.value(part)[0]) if value is None else float(value)
        if strength == 0:
            raise InputError(f"{one} is 0 at token {place} of the prompt, and writes nothing; give a value, or a token")
        found.append((strength * here.rows(part)[0], strength))
    return found


def _part(spliced: SplicedModel, what: Site | Node, place: int) -> Part:
    one = Intervention(what, Take(OWN, None, place), place)
    return parts_of(spliced, [one], Named())[0]


def _putting(spliced: SplicedModel, at: Site, placeholder: int, vector: Tensor) -> Steering:
    """The edit that puts a vector at a token of a prompt."""
    part = _part(spliced, at, placeholder)
    width = spliced.architecture.site_width(spliced.model, at)
    if len(vector) != width:
        raise InputError(
            f"the state has {len(vector)} numbers, and the activation at {at} {width}; give another target"
        )

    def given(part: Part, at: Tensor, frame: Frame, local: Activation) -> Tensor:
        return vector[None]

    return Steering(with_sites(spliced, [part]), (part,), given, None)
