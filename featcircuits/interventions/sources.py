"""Values from elsewhere: of ablations, of other prompts, and of other sites and places of the unedited run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.decomposition import wide, written
from featcircuits.errors import InputError
from featcircuits.interventions.how import CORRUPTED, OWN, Ablate, Take
from featcircuits.interventions.moves import Activation, Given
from featcircuits.interventions.named import Named
from featcircuits.interventions.parts import Part
from featcircuits.interventions.where import Frame, Where, check_where
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.splicing.finite import check_finite
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import Patched
from featcircuits.tasks.examples import Example

AblatedValues = Mapping[str, Callable[[Site], Patched]]
"""Ablation -> site -> its values, at the flat positions of a batch's clean prompts."""


class Prompts(NamedTuple):
    """The prompts of a run, and their frame."""

    tokens: Tokens
    frame: Frame


class _Taken(NamedTuple):
    """The activations that a part takes: [row, token, width], one token per row or as many as it changes there."""

    x: Tensor
    read: Tensor

    def at(self, at: Tensor, frame: Frame, where: Where, dictionary: Dictionary) -> Activation:
        """The activations for some flat positions of a frame."""
        slots = frame.real.shape[1]
        row = at // slots * len(self.x) // len(frame.real)  # a beam search has several rows per prompt
        chosen = frame.at(where)
        rank = (chosen.cumsum(-1) - 1).flatten()[at] if self.x.shape[1] > 1 else torch.zeros_like(at)
        return Activation(dictionary, self.x[row, rank], self.read[row, rank])


def check_sources(parts: Sequence[Part], named: Named, examples: Sequence[Example], unedited: bool = True) -> None:
    """Raise `InputError` for values that are to come from places or prompts that do not exist.

    `unedited`: whether the prompts are known before the edited run, so that they can be run without edits.
    """
    for part in parts:
        how = part.how
        if not isinstance(how, Take):
            continue
        if how.run in (OWN, CORRUPTED) and not unedited:
            raise InputError(f"{part.said}: the prompts are not known here; take the value of a run with a name")
        if how.run == CORRUPTED and any(example.corrupted is None for example in examples):
            raise InputError(f"{part.said}: there are no corrupted prompts to take values from")
        if not unedited and not isinstance(how.place, int):
            raise InputError(f"{part.said}: the prompts are not known here; say which token's value to take (<...@-1)")
        own = how.run in (OWN, CORRUPTED)
        prompts = examples if own else [Example(named.run(how.run), None, (0,))]
        if how.place is not None:
            check_where(how.place, part.said, prompts, False)
        elif not own:
            check_where(part.where, part.said, prompts, False)


def given_values(
    spliced: SplicedModel,
    parts: Sequence[Part],
    prompts: Prompts | None,
    named: Named,
    corrupted: Tokens | None = None,
    ablated: AblatedValues | None = None,
) -> Given:
    """The function that gives parts their values from elsewhere; runs what it needs, unedited.

    `prompts`: None if they are not known; then every part takes the value of one token of a prompt with a name.
    Raises `InputError` if a part changes several tokens and takes another number of tokens.
    """
    taken: dict[Part, _Taken] = {}
    for run, some in _by_run(parts).items():
        source = _prompts_of(run, prompts, named, corrupted, spliced.device)
        logits, seen = spliced.record(source.tokens, spliced.with_reads({_source_site(part) for part in some}))
        check_finite(logits, seen)
        for part in some:
            taken[part] = _taken(spliced, part, source.frame, prompts and prompts.frame, seen)
    values = {part: ablated[part.how.to](part.site) for part in parts if isinstance(part.how, Ablate) and ablated}

    def given(part: Part, at: Tensor, frame: Frame, local: Activation) -> Tensor:
        if part in taken:
            return _elsewhere(part, taken[part].at(at, frame, part.where, local.dictionary), local)
        return _ablated(part, values[part], at, local)

    return given


def _by_run(parts: Sequence[Part]) -> dict[str, list[Part]]:
    found: dict[str, list[Part]] = {}
    for part in parts:
        if isinstance(part.how, Take):
            found.setdefault(part.how.run, []).append(part)
    return found


def _prompts_of(
    run: str, prompts: Prompts | None, named: Named, corrupted: Tokens | None, device: torch.device
) -> Prompts:
    if run in (OWN, CORRUPTED):
        assert prompts is not None  # `check_sources` asks for prompts, and for pairs
        if run == OWN:
            return prompts
        assert corrupted is not None
        return Prompts(corrupted, prompts.frame)
    ids = torch.tensor([named.run(run)])
    tokens = Tokens(ids, torch.ones_like(ids)).to(device)
    return Prompts(tokens, Frame.of(tokens))


def _source_site(part: Part) -> Site:
    assert isinstance(part.how, Take)
    return part.how.site or part.site


def _taken(
    spliced: SplicedModel, part: Part, source: Frame, target: Frame | None, seen: Mapping[Site, Tensor]
) -> _Taken:
    """What a part takes; raises `InputError` if it is neither one token per row nor as many as the part changes."""
    assert isinstance(part.how, Take)
    chosen = source.at(part.where if part.how.place is None else part.how.place)
    counts = chosen.sum(-1)
    wanted = torch.ones_like(counts) if target is None else target.at(part.where).sum(-1)
    if not bool((counts == 1).all()) and not bool((counts == wanted).all()):
        raise InputError(
            f"{part.said}: it changes {wanted.tolist()[0]} tokens and takes {counts.tolist()[0]}; take one, or as many"
        )
    row, slot = chosen.nonzero(as_tuple=True)
    rank = (chosen.cumsum(-1) - 1)[row, slot]
    site = _source_site(part)
    sites = (site, spliced.read_site(site) if site in spliced.dictionaries else site)
    return _Taken(*(_gathered(wide(seen[at]), row, slot, rank, int(counts.max())) for at in sites))


def _gathered(x: Tensor, row: Tensor, slot: Tensor, rank: Tensor, most: int) -> Tensor:
    table = x.new_zeros(len(x), most, x.shape[-1])
    table[row, rank] = x[row, slot]
    return table


def _ablated(part: Part, values: Patched, at: Tensor, local: Activation) -> Tensor:
    """The ablation's value of a part at some flat positions."""
    dictionary, read = local.dictionary, local.read
    features, x = values.features_at(dictionary, at), values.x_at(dictionary, at, read)
    if part.feature is not None:
        return features[:, part.feature]
    if isinstance(part.what, Node):
        return x - dictionary.decode(features.expand(len(at), -1), dictionary.statistics(read))
    past = dictionary.bypass(read)
    return Activation(dictionary, x if past is None else x + past, read).value(part)


def _elsewhere(part: Part, source: Activation, local: Activation) -> Tensor:
    """The part's value in another activation; an error is what the features there leave over in the units used here."""
    if not isinstance(part.what, Node) or part.feature is not None:
        return source.value(part)
    units = source.dictionary.statistics(local.read)
    return written(source.dictionary, source.x, source.read) - source.dictionary.decode(source.features, units)
