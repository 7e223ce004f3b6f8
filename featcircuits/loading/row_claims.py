"""The claims of a family's row, judged by two short forward passes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from featcircuits.errors import InputError
from featcircuits.loading.operations import called_modules
from featcircuits.loading.row_probes import EDITED, SLOTS, START, Point, Probe, Run, Tap, edited_layers, short_forward
from featcircuits.model.architecture import Architecture
from featcircuits.model.sites import KINDS, Site
from featcircuits.propagation.norms import form_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ORDER = {
    "embed": 0, "enter": 0, "projections": 1, "attn_z": 2, "attn": 3, "resid_mid": 4, "mlp_in": 5, "branch": 6,
    "gate": 6, "held": 6, "activation": 7, "product": 8, "mlp": 9, "resid": 10,
}  # fmt: skip
"""Points and probes of a block in forward order; points before an edit do not move."""
_MLP = ("mlp_in", "gate", "activation", "branch", "product", "mlp")
_READERS: Mapping[str, tuple[str, ...]] = {
    "attn_z": ("attn",),
    "mlp_in": ("gate", "mlp"),
    "gate": ("activation",),
    "activation": ("mlp",),
    "projections": ("attn_z",),
}
"""Point -> the points that an edit there must reach in its own layer."""


def wrong_claims(
    model: PreTrainedModel,
    architecture: Architecture,
    taps: Mapping[Point, Tap],
    probes: Sequence[Probe],
) -> list[str]:
    """One line per claim that does not hold; later claims are checked only if earlier ones hold.

    Raises `InputError` if the model computes NaN or infinity, where no claim can be judged.
    """
    with called_modules(model) as called:
        clean = short_forward(model, taps, probes)
    _check_finite(taps, clean)
    wrong = [*_not_passed(taps, clean, architecture.family.tuples), *_not_called(model, architecture, called)]
    wrong = wrong or list(_shapes(model, architecture, taps, clean))
    bound = 4 * torch.finfo(model.dtype).eps
    wrong = wrong or [
        *_sums(taps, clean, architecture.n_layers, bound),
        *_products(taps, clean, bound),
        *_norms(model, architecture),
    ]
    if wrong:
        return wrong
    edited = short_forward(model, taps, probes, clean).seen
    moved = {point: _moved(clean.seen[point], x, bound).tolist() for point, x in edited.items()}
    edits = _Edits(architecture, taps, clean.seen, edited, moved, bound)
    return [line for row, probe in enumerate(probes) for line in islice(edits.wrong(row, probe), 1)]


def _check_finite(taps: Mapping[Point, Tap], run: Run) -> None:
    for point, x in run.seen.items():  # in the order of the forward
        if not x.isfinite().all():
            raise InputError(
                f"the model's activation at {point} holds NaN or infinity (module {taps[point].path}); its weights may "
                "be damaged, or its dtype too narrow: load it with dtype='float32' or 'bfloat16'"
            )


def _moved(clean: Tensor, edited: Tensor, bound: float) -> Tensor:
    """Where [...] of [..., width] more than rounding. An edit is as large as what it edits, so that the bound may
    be wide; with most kernels what is not reached is equal to the bit."""
    size = clean.square().mean(-1, keepdim=True).sqrt()
    return ((edited - clean).abs() > bound**0.5 * size).any(-1)


def _not_passed(taps: Mapping[Point, Tap], run: Run, tuples: bool) -> Iterator[str]:
    for point, tap in taps.items():
        if point not in run.seen:
            how = " with a first argument" if tap.enters else ""
            yield f"{_at(taps, point)}: the forward pass does not call the module{how}"
        elif point in run.repeated:
            yield f"{_at(taps, point)}: one forward pass calls the module several times"
        elif point.kind == "resid" and (point in run.tupled) != tuples:
            returned = "a tuple" if point in run.tupled else "a tensor"
            yield f"{_at(taps, point)}: the block returns {returned}, and the row has tuples={tuples}"


def _not_called(model: PreTrainedModel, architecture: Architecture, called: Collection[nn.Module]) -> Iterator[str]:
    """Norms, and the unembedding, that the forward pass does not call; they have hooks too."""
    hooked = [*architecture.norms(model), *architecture.qk_norms(model), architecture.unembedding(model)]
    names = {module: name for name, module in model.named_modules()}
    yield from (
        f"{names[module]}: the forward pass does not call the module" for module in hooked if module not in called
    )


def _shapes(model: PreTrainedModel, architecture: Architecture, taps: Mapping[Point, Tap], run: Run) -> Iterator[str]:
    for point, x in run.seen.items():
        width = architecture.width
        if point.kind in KINDS:
            width = architecture.site_width(model, Site(*point))
        elif point.kind not in ("enter", "final"):
            width = x.shape[-1]
        if x.ndim != 3 or x.shape[1:] != (SLOTS, width):
            yield f"{_at(taps, point)}: the shape is {list(x.shape)} and not [row, slot, width] = [*, {SLOTS}, {width}]"


def _sums(taps: Mapping[Point, Tap], run: Run, n_layers: int, bound: float) -> Iterator[str]:
    """Only attention and MLP write to the stream, which passes unchanged from block to block."""
    for layer in range(n_layers):
        resid, (enter, *written) = run.seen[Point(layer, "resid")], _terms(run.seen, layer)
        between = Point(layer, "resid_mid")
        if between in run.seen and not _near(enter + written[0], run.seen[between], bound, [enter, written[0]]):
            yield f"{_at(taps, between)}: not the sum of the stream before it and {_at(taps, Point(layer, 'attn'))}"
        if not _near(enter + sum(written), resid, bound, [enter, *written]):
            yield (
                f"{_at(taps, Point(layer, 'resid'))}: not the sum of the stream before it, "
                f"{_at(taps, Point(layer, 'attn'))} and {_at(taps, Point(layer, 'mlp'))}"
            )
        after = Point(layer + 1, "enter" if layer + 1 < n_layers else "final")
        rows = min(len(resid), len(run.seen[after]))
        if not torch.equal(resid[:rows], run.seen[after][:rows]):
            yield f"{_at(taps, after)}: does not read {_at(taps, Point(layer, 'resid'))} as it is"


def _terms(seen: Mapping[Point, Tensor], layer: int) -> list[Tensor]:
    return [seen[Point(layer, kind)] for kind in ("enter", "attn", "mlp")]


def _near(found: Tensor, expected: Tensor, bound: float, terms: Sequence[Tensor]) -> bool:
    """Equality up to the rounding of a sum of these terms; below 2**-14 float16 has fewer digits."""
    return bool(((found - expected).abs() <= bound * (2**-14 + sum(term.abs() for term in terms))).all())


def _products(taps: Mapping[Point, Tap], run: Run, bound: float) -> Iterator[str]:
    """A gated MLP multiplies its activation by its branch, and by nothing else."""
    for point in [point for point in run.seen if point.kind == "product"]:
        activation, branch = (Point(point.layer, kind) for kind in ("activation", "branch"))
        found, gate, other = (run.seen[each] for each in (point, activation, branch))
        other = other[..., -found.shape[-1] :]
        fits = found.shape == gate.shape == other.shape
        if not (fits and _near(found, gate * other, bound, [gate * other])):
            yield f"{_at(taps, point)}: not the product of {_at(taps, activation)} and {_at(taps, branch)}"


def _norms(model: PreTrainedModel, architecture: Architecture) -> Iterator[str]:
    """The LN-rule knows the form of every norm; a norm that was removed does not count."""
    family, blocks = architecture.family, architecture.layers(model)
    norms: list[tuple[str, Any]] = [(family.final_norm, model.get_submodule(family.final_norm))]
    for layer in edited_layers(model, architecture):
        names = (*family.norms, *family.qk_norms)
        norms += [(f"{family.layers}.{layer}.{name}", blocks[layer].get_submodule(name)) for name in names]
    for path, norm in norms:
        try:
            _ = isinstance(norm, nn.Identity) or form_of(norm)
        except InputError as error:
            yield f"norm {path}: {error}"


def _at(taps: Mapping[Point, Tap], point: Point) -> str:
    return f"{point} ({'input' if taps[point].enters else 'output'} of {taps[point].path})"


@dataclass(frozen=True, eq=False)
class _Edits:
    """A run without edits, and one with a different edit in each row."""

    architecture: Architecture
    taps: Mapping[Point, Tap]
    clean: Mapping[Point, Tensor]
    edited: Mapping[Point, Tensor]
    moved: Mapping[Point, list[list[bool]]]
    """Whether each point moved, by [row][slot]."""
    bound: float

    def wrong(self, row: int, probe: Probe) -> Iterator[str]:
        """What the row's edit moves but should not, and what it should move but does not."""
        edit = f"an edit of {', '.join(_at(self.taps, point) for point in probe.moves)} at slot {EDITED}"
        if probe.kind == "projections":
            edit = edit.replace(f"slot {EDITED}", "all slots")
        for point, moved in self.moved.items():
            still = self._still(point, probe) if row < len(moved) else ()
            if slots := [slot for slot in still if moved[row][slot]]:
                yield f"{edit} moves {_at(self.taps, point)} at slot {slots[0]}"
        for point in self._readers(probe):
            if self._varies(point) and not self._change(point, row)[EDITED].any():
                yield f"{edit} does not reach {_at(self.taps, point)}"
        if probe.kind == "embed":
            yield from self._embedding(row)
        elif probe.kind != "resid":
            yield from self._stream(row, probe.layer)
        if probe.kind == "gate":
            yield from self._elementwise(row, probe.layer)

    def _change(self, point: Point, row: int) -> Tensor:
        """The change of a point in one row [slot, width]."""
        return self.edited[point][row] - self.clean[point][row]

    def _varies(self, point: Point) -> bool:
        """Whether tokens differ at the point at all: a module whose weights are 0 reads nothing."""
        return bool((self.clean[point][0] != self.clean[point][0, :1]).any())

    def _still(self, point: Point, probe: Probe) -> Sequence[int]:
        """The slots at which the edit must not move the point."""
        if point in probe.moves:
            return ()
        first = 1 if probe.kind == "projections" else EDITED  # the first slot attends only to itself
        if point.layer > probe.layer:
            return range(first)
        earlier = point.layer < probe.layer or _ORDER.get(point.kind, 0) < _ORDER[probe.kind]
        beside = probe.kind in ("attn_z", "attn") and not self.architecture.sequential and point.kind in _MLP
        if earlier or beside or (probe.kind, point.kind) == ("held", "mlp"):
            return range(SLOTS)
        return [slot for slot in range(SLOTS) if slot < first or (slot > first and first == EDITED)]

    def _readers(self, probe: Probe) -> list[Point]:
        """The points that the edit must reach."""
        kinds = {"attn": ("mlp_in",) if self.architecture.sequential else ()}.get(
            probe.kind, _READERS.get(probe.kind, ())
        )
        found = [Point(probe.layer, kind) for kind in kinds]
        after = probe.layer + 1
        if probe.kind == "resid":
            found.append(Point(after, "enter" if after < self.architecture.n_layers else "final"))
        return found

    def _embedding(self, row: int) -> Iterator[str]:
        enter = Point(0, "enter")
        terms = [self.clean[enter][row], self.edited[enter][row]]
        if not _near(self._change(enter, row), self._change(START, row), self.bound, terms):
            yield f"{_at(self.taps, enter)}: an edit of {_at(self.taps, START)} does not move it by as much"

    def _stream(self, row: int, layer: int) -> Iterator[str]:
        resid, terms = self.edited[Point(layer, "resid")][row], [x[row] for x in _terms(self.edited, layer)]
        if not _near(resid, torch.stack(terms).sum(0), self.bound, terms):
            yield f"{_at(self.taps, Point(layer, 'resid'))}: edits of attn_{layer} or mlp_{layer} do not add up there"

    def _elementwise(self, row: int, layer: int) -> Iterator[str]:
        point = Point(layer, "activation")
        clean, edited = self.clean[point][row, EDITED, 1::2], self.edited[point][row, EDITED, 1::2]
        if _moved(clean, edited, self.bound).item():
            yield f"{_at(self.taps, point)}: not elementwise, a moved channel moves others"
