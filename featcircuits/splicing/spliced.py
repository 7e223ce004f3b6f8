"""Splicing: forward passes of the unmodified model with its sites read and edited by hooks.

One primitive is enough for patching, ablation, interpolation and steering: an **edit**, a pure function
from (site, activation) to activation. Because a dictionary's decoder is affine, changing a feature
by `a` adds `a` times its decoder row and leaves the error unchanged. So an edit works on the activation
itself, and an edit that returns its argument leaves
the model's own tensor in place. The unedited splice is therefore exact to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from featcircuits.errors import InputError, shortened
from featcircuits.inputs.keyed import Keyed
from featcircuits.model.architecture import Architecture
from featcircuits.model.forwards import Module, as_it_is, check_unchanged
from featcircuits.model.placement import device_of
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.splicing.hooks import Edit, Start, editing, reading_answers, starting
from featcircuits.splicing.readout import Readout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from featcircuits.dictionaries import Dictionary
    from featcircuits.suites import Suite

ReadingEdit = Callable[[Site, Tensor, Tensor], Tensor]
"""(site, activation, what its dictionary reads [row, slot, read_width]) -> the activation to continue with."""


def read_by(dictionary: Dictionary, site: Site) -> Site:
    """The site that a dictionary reads if it explains `site`: one before the MLP for a transcoder, else `site`."""
    return Site(site.layer, dictionary.reads) if dictionary.transcodes else site


class Arrival(NamedTuple):
    """The activation that arrives at a site [row, slot, width], and what its dictionary reads (it may be the same)."""

    x: Tensor
    read: Tensor


@dataclass(frozen=True, eq=False)
class SplicedModel:
    """A causal language model with dictionaries at some of its sites, such as `dictionaries["resid_2"]`."""

    model: PreTrainedModel
    architecture: Architecture
    dictionaries: Mapping[Site, Dictionary]
    tokenizer: Any = None
    suite: Suite | None = None
    remembered: WeakKeyDictionary[Any, Any] = field(default_factory=WeakKeyDictionary, repr=False)
    """Fingerprints of model, tokenizer and dictionaries taken so far (`featcircuits.provenance.belonging`)."""
    readout: Readout | None = None
    """What the model gives in place of the logits at the last token; None for the logits."""
    modules: tuple[Module, ...] = field(default=(), repr=False)
    """The model's modules as they were when it was loaded; every forward pass checks that they have not changed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dictionaries", Keyed(Site.parse, "dictionary", self.dictionaries))
        if not self.modules:
            object.__setattr__(self, "modules", as_it_is(self.model))

    @property
    def sites(self) -> tuple[Site, ...]:
        """The spliced sites, in forward order."""
        return tuple(self.dictionaries)

    @property
    def device(self) -> torch.device:
        """The device of the input embedding, where edits compute."""
        return device_of(self.model.get_input_embeddings())

    def read_site(self, site: Site) -> Site:
        """The site that the dictionary at `site` reads: before the MLP for a transcoder, else `site` itself."""
        return read_by(self.dictionaries[site], site)

    def with_reads(self, sites: Iterable[Site]) -> tuple[Site, ...]:
        """The sites, and the sites that their dictionaries read."""
        sites = set(sites)
        return tuple(sorted(sites | {self.read_site(site) for site in sites if site in self.dictionaries}))

    def only(self, sites: Iterable[Site | str]) -> SplicedModel:
        """The same model with only these of its sites spliced."""
        if isinstance(sites, (str, Site)):
            raise InputError(f"sites is {shortened(sites)}; give a list, such as ['resid_2']")
        kept = {Site.parse(site) for site in sites}
        chosen = {site: dictionary for site, dictionary in self.dictionaries.items() if site in kept}
        return replace(self, dictionaries=chosen)

    def run(
        self,
        tokens: Tokens,
        edit: Edit | None = None,
        *,
        sites: Iterable[Site] | None = None,
        start: Start | None = None,
        answers_only: bool = False,
    ) -> Tensor:
        """One forward pass; `edit` is called at each of `sites` (default: the spliced ones).

        Returns the logits [row, slot, vocabulary]. With `answers_only` it returns [row, vocabulary] at each prompt's
        last token, and unembeds no other token (and only into `tokens.vocabulary`, if given); a model with a
        readout returns what that reads, [row, class].
        Hooks are gone when this returns or raises. Raises `InputError` if
        the model was compiled, or a forward or module in it replaced, since it was loaded.
        """
        check_unchanged(self.modules)
        tokens = tokens.to(self.device)
        first = 0 if start is None else start.layer
        edited = [site for site in (self.sites if sites is None else sites) if edit is not None and _runs(site, first)]
        read: list[Tensor] = []
        if answers_only and self.readout is not None:
            edit, edited = _reading_out(self.readout.site, edit, edited, read)
        passed: set[Site] = set()
        with ExitStack() as hooks:
            if start is not None:
                hooks.enter_context(starting(self.architecture, self.model, start))
            if edit is not None:
                hooks.enter_context(editing(self.architecture, self.model, self.device, edited, _noting(passed, edit)))
            if answers_only:
                hooks.enter_context(reading_answers(self.architecture.unembedding(self.model), tokens))
            output = self.model(
                input_ids=tokens.ids,
                attention_mask=tokens.mask,
                position_ids=tokens.positions,
                use_cache=False,
            )
        logits = output.logits.to(self.device)  # a model spread over devices may have its head on another one
        if missed := [str(site) for site in edited if site not in passed]:
            raise InputError(_not_passed(missed[0]))
        if answers_only and self.readout is not None:
            return self.readout(read[-1], tokens)
        if answers_only and logits.shape[1] != 1:
            raise InputError(_not_passed("the unembedding"))
        return logits[:, 0] if answers_only else logits

    def run_reading(
        self, tokens: Tokens, edit: ReadingEdit, *, sites: Iterable[Site] | None = None, **options: Any
    ) -> Tensor:
        """`run`, for edits that also need what each site's dictionary reads in the same run."""
        chosen = self.sites if sites is None else tuple(sites)
        return self.run(tokens, self.reading(edit), sites=self.with_reads(chosen), **options)

    def reading(self, edit: ReadingEdit) -> Edit:
        """The edit for the sites of `with_reads`, which remembers what dictionaries read until their sites come."""
        reads: dict[Site, Tensor] = {}

        def both(site: Site, x: Tensor) -> Tensor:
            if site not in self.dictionaries:
                reads[site] = x
                return x
            return edit(site, x, reads.get(self.read_site(site), x))

        return both

    def run_until(self, tokens: Tokens, site: Site, edit: ReadingEdit, **options: Any) -> tuple[Tensor, Tensor]:
        """The activation that arrives at a site, and what its dictionary reads; the forward pass ends there."""

        def before(at: Site, x: Tensor, read: Tensor) -> Tensor:
            if at == site:
                raise _Arrived(x, read)
            return edit(at, x, read)

        try:
            self.run_reading(tokens, before, **options)
        except _Arrived as arrived:
            return arrived.x, arrived.read
        raise AssertionError(f"the forward pass did not reach {site}")

    def record(self, tokens: Tokens, sites: Iterable[Site] | None = None) -> tuple[Tensor, dict[Site, Tensor]]:
        """An unedited forward pass without gradients: answer logits and the activation at each site."""
        seen: dict[Site, Tensor] = {}

        def keep(site: Site, x: Tensor) -> Tensor:
            seen[site] = x
            return x

        with torch.no_grad():
            logits = self.run(tokens, keep, sites=sites, answers_only=True)
        return logits, seen

    def activations(self, tokens: Tokens, sites: Iterable[Site]) -> dict[Site, Tensor]:
        """The activation at each site of an unedited forward pass without gradients, which ends at the last of them."""
        seen: dict[Site, Tensor] = {}
        sites = tuple(sites)

        def keep(site: Site, x: Tensor) -> Tensor:
            seen[site] = x
            if len(seen) == len(sites):
                raise _Arrived(x, x)
            return x

        with torch.no_grad(), suppress(_Arrived):
            self.run(tokens, keep, sites=sites, answers_only=True)
        return {site: seen[site] for site in sites}


class _Arrived(Exception):
    """Ends a forward pass at the last requested site."""

    def __init__(self, x: Tensor, read: Tensor) -> None:
        super().__init__()
        self.x, self.read = x, read


def _noting(passed: set[Site], edit: Edit) -> Edit:
    """The edit, and the set of sites at which it was called."""

    def noted(site: Site, x: Tensor) -> Tensor:
        passed.add(site)
        return edit(site, x)

    return noted


def _reading_out(site: Site, edit: Edit | None, edited: list[Site], read: list[Tensor]) -> tuple[Edit, list[Site]]:
    """The edit with one more site, whose edited activation is noted, and the sites with it."""
    before = set(edited)

    def noted(at: Site, x: Tensor) -> Tensor:
        x = edit(at, x) if edit is not None and at in before else x
        if at == site:
            read.append(x)
        return x

    return noted, sorted(before | {site})


def _not_passed(where: str) -> str:
    return (
        f"the forward pass did not reach the hook at {where}: something does that module's work without calling it; "
        "load the model without compiled or replaced forwards"
    )


def _runs(site: Site, first_layer: int) -> bool:
    return first_layer == 0 or site.layer >= first_layer
