"""fc.vector_effect: a steering vector as a node: its effect, its edges, what it says to the logits by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from featcircuits.dictionaries.decomposition import precision, wide
from featcircuits.dossiers.writes import Norms, logit_effects
from featcircuits.errors import InputError
from featcircuits.estimators.estimator import Estimator
from featcircuits.files.plain import plain
from featcircuits.interventions.how import Add
from featcircuits.interventions.intervene import CONTROLS, intervene
from featcircuits.interventions.intervention import ATTENTION, NOTHING, Intervention
from featcircuits.interventions.outcome import Outcome
from featcircuits.interventions.prompts import task_of
from featcircuits.interventions.what import VECTOR, Direction
from featcircuits.interventions.where import Where
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.states.states import fitting_batch
from featcircuits.tasks.task import Task

NAME = "steering"


class Lens(NamedTuple):
    """A token, and what the vector adds to its logit by itself, less the mean over all tokens."""

    token: str
    id: int
    logit: float


@dataclass(frozen=True)
class VectorEffect:
    """A constant vector, added at a site, as a node.

    `free`: what adding it does, its edges to later features, and random vectors of its norm beside it. `held`: the
    same with attention patterns held at those of the unedited run. `promoted`, `suppressed`: tokens, by its way
    straight to the logits, the final norm's scale held.
    """

    site: str
    norm: float
    free: Outcome
    held: Outcome
    promoted: tuple[Lens, ...]
    suppressed: tuple[Lens, ...]

    @property
    def share_without_attention(self) -> float:
        """The effect with patterns held over the effect; near 1: it acts by MLPs and unembedding, not by attention."""
        whole = self.free.whole.measured.mean
        return self.held.whole.measured.mean / whole if whole else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return plain({**asdict(self), "share_without_attention": self.share_without_attention})


def vector_effect(
    spliced: SplicedModel,
    prompts: Task | str | Iterable[str | Sequence[int]],
    site: Site | str,
    vector: Any,
    *,
    where: Where = "all",
    strength: float = 1.0,
    downstream: Iterable[Node | str] = (),
    estimator: str | Estimator | None = None,
    controls: int = CONTROLS,
    tokens: int = 5,
    seed: int = 0,
    batch_size: int | None = None,
) -> VectorEffect:
    """Add `strength` times a vector [width] to the activation at a site, and take it as a node like any other.

    `prompts`, `downstream`, `estimator`, `controls`, `tokens`, `seed`: as in `fc.intervene`. Its effect is the change
    of F (predicted and measured), its edges those to the `downstream` features, and `controls` random vectors have
    the same norm. Raises `InputError` for what `fc.intervene` refuses, and for a site whose activation is not added
    to the residual stream.
    """
    site = Site.parse(site)
    if site.kind == "attn_z":
        raise InputError(f"{site}: a vector there passes the output projection first; give {Site(site.layer, 'attn')}")
    direction = Direction(site, VECTOR, NAME)
    free, held = (
        intervene(
            spliced, prompts, Intervention(direction, Add(strength), where, held), vectors={NAME: vector},
            downstream=downstream, estimator=estimator if held != ATTENTION else None, controls=controls,
            tokens=tokens, seed=seed, batch_size=batch_size,
        )
        for held in (NOTHING, ATTENTION)
    )  # fmt: skip
    row = strength * torch.as_tensor(vector).detach().to(spliced.device, precision(spliced.model.dtype))
    up, down = _lens(spliced, prompts, row[None], tokens, batch_size)
    return VectorEffect(str(site), float(row.norm()), free, held, up, down)


def _lens(
    spliced: SplicedModel, prompts: Any, rows: torch.Tensor, count: int, batch_size: int | None
) -> tuple[tuple[Lens, ...], tuple[Lens, ...]]:
    """The tokens that a row of the stream raises and lowers most."""
    task = prompts if isinstance(prompts, Task) else task_of(spliced, prompts)
    norms = Norms.of(spliced, [])
    for batch in task.batches(fitting_batch(spliced, task, batch_size)):
        tokens = batch.clean.to(spliced.device)
        _, seen = spliced.record(tokens, [norms.last])
        norms.add_final(wide(seen[norms.last])[torch.arange(len(tokens.last)), tokens.last])
    found = logit_effects(spliced, norms, rows, count)
    return tuple(
        tuple(Lens(_text(spliced, id), id, logit) for id, logit in zip(ids[0].tolist(), by[0].tolist(), strict=True))
        for ids, by in ((found.promoted, found.promoted_by), (found.suppressed, found.suppressed_by))
    )  # type: ignore[return-value]


def _text(spliced: SplicedModel, id: int) -> str:
    return str(id) if spliced.tokenizer is None else spliced.tokenizer.decode([id])
