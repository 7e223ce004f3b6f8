"""fc.steered: interventions on the Hugging Face model itself, whoever runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from featcircuits.errors import InputError
from featcircuits.inputs.arguments import expect
from featcircuits.interventions.edited import edit_of
from featcircuits.interventions.following import following
from featcircuits.interventions.how import Ablate, Take
from featcircuits.interventions.intervention import NOTHING, Intervention, interventions_of
from featcircuits.interventions.moves import Given
from featcircuits.interventions.named import Named, named
from featcircuits.interventions.parts import Part, check_overlap, check_places, parts_of, with_sites
from featcircuits.interventions.sources import Prompts, check_sources, given_values
from featcircuits.interventions.where import ACTIVE, ALL, GENERATED, Frame
from featcircuits.model.forwards import check_unchanged
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.splicing.hooks import editing
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.baselines import patched_by_zero
from featcircuits.tasks.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Watch = Callable[[Site, Tensor, Tensor, Frame], None]
"""(site, what arrives there, what its dictionary reads, frame): called at each watched site of each forward pass."""


@dataclass(frozen=True, eq=False)
class Steering:
    """Interventions that are ready to be made. `spliced` has a dictionary at each site where something is done."""

    spliced: SplicedModel
    parts: tuple[Part, ...]
    given: Given
    frame: Frame | None
    """The prompts, if they are known."""

    @contextmanager
    def on(self, watch: Watch | None = None, watched: Iterable[Site] = ()) -> Iterator[None]:
        """A context with the hooks on the model; nothing stays behind."""
        spliced = self.spliced
        check_unchanged(spliced.modules)
        sites = spliced.with_reads({*(part.site for part in self.parts), *watched})
        noted = set(watched)
        with ExitStack() as hooks:
            frame = hooks.enter_context(following(spliced.model, self.frame))

            def edit(site: Site, x: Tensor, read: Tensor) -> Tensor:
                if watch is not None and site in noted:
                    watch(site, x, read, frame())
                return edit_of(spliced, self.parts, frame(), self.given)(site, x, read)

            told = spliced.reading(edit)
            hooks.enter_context(editing(spliced.architecture, spliced.model, spliced.device, sites, told))
            yield


def steering(
    spliced: SplicedModel,
    interventions: Iterable[Intervention | str] | Intervention | str,
    names: Named,
    examples: Sequence[Example] = (),
    tokens: Tokens | None = None,
    corrupted: Tokens | None = None,
) -> Steering:
    """The interventions, ready to be made; `examples` and their `tokens`: the prompts, if they are known.

    Runs the prompts that values are taken from, unedited. Raises `InputError`, before any run, for what does not
    exist, and for what cannot be done while tokens are generated.
    """
    expect("model", spliced, SplicedModel)
    given = interventions_of(interventions) if interventions else ()
    if given and given[0].held != NOTHING:
        raise InputError(
            f"{given[0]}: nothing can be held at its unedited value here, since the text that is generated would be "
            "another one; use fc.intervene"
        )
    parts = tuple(parts_of(spliced, given, names))
    for part in parts:
        _check_goes_on(part)
    check_places(parts, examples, generates=True, known=tokens is not None)
    check_sources(parts, names, examples, unedited=tokens is not None)
    frame = None if tokens is None else Frame.of(tokens, examples)
    if frame is not None:
        check_overlap(parts, frame)
    spliced = with_sites(spliced, parts)
    prompts = None if tokens is None or frame is None else Prompts(tokens, frame)
    zero = {"zero": lambda site: patched_by_zero(spliced, site)}
    return Steering(spliced, parts, given_values(spliced, parts, prompts, names, corrupted, zero), frame)


def _check_goes_on(part: Part) -> None:
    """Raise `InputError` for values that tokens which are generated do not have."""
    if isinstance(part.how, Ablate) and part.how.to != "zero":
        raise InputError(f"{part.said}: no {part.how.to} is known here; ablate to zero, or set a value")
    goes_on = part.where in (None, ALL, GENERATED, ACTIVE)
    if isinstance(part.how, Take) and goes_on and not isinstance(part.how.place, int):
        raise InputError(
            f"{part.said}: it goes on into the text that is generated, which has no counterpart; say which token's "
            "value to take (as in <...@-1), or act on the prompt alone (@prompt)"
        )


@contextmanager
def steered(
    spliced: SplicedModel,
    interventions: Iterable[Intervention | str] | Intervention | str,
    *,
    groups: Mapping[str, Iterable[Node | str]] | None = None,
    vectors: Mapping[str, Any] | None = None,
    runs: Mapping[str, str | Sequence[int]] | None = None,
) -> Iterator[PreTrainedModel]:
    """A context in which the Hugging Face model itself is edited, for other programs: pipelines, harnesses, trainers.

    It yields the transformers model, `spliced.model`. In each forward pass without a cache all tokens are a prompt;
    those after a filled cache are generated. So positions and slices are edited when a prompt is read, "generated" in
    each later step, and "all" always. `groups`, `vectors`, `runs`: as in `fc.intervene`. Gradients pass the edits.
    Nothing stays behind, even after an exception. Raises `InputError` for what `fc.intervene` refuses, and for roles,
    held values and values of the prompts themselves, since the prompts are not known.
    """
    ready = steering(spliced, interventions_of(interventions), named(spliced, groups, vectors, runs))
    with ready.on():
        yield spliced.model
