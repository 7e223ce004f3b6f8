"""Short forward passes that record every point of interest, with a different edit in each row of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from featcircuits.dictionaries.decomposition import precision
from featcircuits.model.architecture import INPUTS, Architecture, Fused
from featcircuits.model.placement import device_of
from featcircuits.model.sites import EMBED, Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SLOTS, EDITED = 4, 2
"""The number of tokens in a row, and the slot that an edit moves."""


class Point(NamedTuple):
    """A place in a layer: a kind of site, or `enter` (the stream that enters the block), `gate` and `activation`
    (before and after the nonlinearity), `branch` (the activation's other factor), `product`, `projection<n>` (queries,
    keys); `final` is the last norm's input.
    """

    layer: int
    kind: str

    def __str__(self) -> str:
        return self.kind if self.kind in ("embed", "final") else f"{self.kind}_{self.layer}"


class Tap(NamedTuple):
    """How a point is read: as the input or the output of a module."""

    path: str
    enters: bool = False


class Run(NamedTuple):
    """The points that a forward pass went through."""

    seen: dict[Point, Tensor]
    """The activations [row, slot, width], on the CPU in float32 or wider; one row in layers without edits."""
    tupled: set[Point]
    """Points whose activation was the first element of a tuple."""
    repeated: set[Point]
    """Points that were passed more than once."""


Move = Callable[[Tensor, Callable[[Point], Tensor]], Tensor]
"""(activation of one row, the clean activation at any point [slot, width]) -> the edited activation"""


class Probe(NamedTuple):
    """The edits of one row, and what they test."""

    layer: int
    kind: str
    moves: Mapping[Point, Move]


START = Point(EMBED.layer, "embed")


def taps_of(model: PreTrainedModel, architecture: Architecture) -> dict[Point, Tap]:
    """Every point of every layer, in forward order."""
    family = architecture.family
    names = {id(module): name for name, module in model.named_modules()}
    taps = {START: Tap(names[id(model.get_input_embeddings())])}
    for layer in range(architecture.n_layers):
        block = f"{family.layers}.{layer}"
        inner = {"enter": Tap(block, True)}
        for number, name in enumerate(query_key_modules(architecture)):
            inner[f"projection{number}"] = Tap(f"{block}.{name}")
        for kind in architecture.kinds:
            module = architecture.module(model, Site(layer, kind))
            inner[kind] = Tap(names[id(module)], kind in INPUTS)
        inner["gate"], inner["activation"] = (Tap(f"{block}.{family.activation}", enters) for enters in (True, False))
        if family.product:
            inner["branch"] = Tap(f"{block}.{family.branch}")
            inner["product"] = Tap(f"{block}.{family.product}", True)
        taps |= {Point(layer, kind): tap for kind, tap in inner.items()}
    return {**taps, Point(architecture.n_layers, "final"): Tap(family.final_norm, True)}


def query_key_modules(architecture: Architecture) -> tuple[str, ...]:
    """The paths of the modules that project queries and keys."""
    where = architecture.family.queries_keys
    return (where.module,) if isinstance(where, Fused) else where


def missing_modules(model: PreTrainedModel, architecture: Architecture) -> list[str]:
    """One line per module that the row names and the model does not have."""
    family = architecture.family
    inner = {
        "attn": family.attn, "mlp": family.mlp, "projection": family.projection, "mlp_module": family.mlp_module,
        "activation": family.activation, "product": family.product or "",
        "branch": family.branch or "",
        **{f"norms[{n}]": name for n, name in enumerate(family.norms)},
        **{f"qk_norms[{n}]": name for n, name in enumerate(family.qk_norms)},
        **{f"queries_keys[{n}]": name for n, name in enumerate(query_key_modules(architecture))},
    }  # fmt: skip
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    blocks = [f"{family.layers}.{layer}" for layer in range(architecture.n_layers)]
    wanted = [("final_norm", family.final_norm)]
    wanted += [(key, f"{block}.{name}") for block in blocks for key, name in inner.items() if name]
    return [f"there is no module {path!r} ({key})" for key, path in wanted if path not in known]


def edited_layers(model: PreTrainedModel, architecture: Architecture) -> list[int]:
    """The first layer, the last layer, and the first layer of each type."""
    config, layers = model.config.get_text_config(), architecture.layers(model)
    types = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or [""] * len(layers)
    first: dict[object, int] = {}
    for number, layer in enumerate(layers):
        first.setdefault((types[number], *(type(module) for module in layer.modules())), number)
    return sorted({0, len(layers) - 1, *first.values()})


def probes_of(model: PreTrainedModel, architecture: Architecture) -> list[Probe]:
    """The probes, one per row: sites moved, half an activation doubled, half its input moved, two with parts held."""
    family, config = architecture.family, model.config.get_text_config()
    where = family.queries_keys
    columns = ~where.values(config) if isinstance(where, Fused) else None
    probes = [Probe(START.layer, "embed", {START: _pushed(START)})]
    for layer in edited_layers(model, architecture):

        def at(kind: str, layer: int = layer) -> Point:
            return Point(layer, kind)

        enter, passed = at("enter"), at("product" if family.product else "activation")
        projections = [at(f"projection{number}") for number, _ in enumerate(query_key_modules(architecture))]
        moves = {
            "attn_z": {at("attn_z"): _pushed(at("attn_z"))},
            "attn": {at("attn"): _pushed(enter)},
            "mlp_in": {at("mlp_in"): _pushed(at("mlp_in"))},
            "mlp": {at("mlp"): _pushed(enter)},
            "resid": {at("resid"): _pushed(at("resid"))},
            "gate": {at("gate"): _half_moved},
            "activation": {at("activation"): _doubled},
            "held": {at("mlp_in"): _pushed(at("mlp_in")), passed: _clean(passed)},
            "projections": {point: _scrambled(columns) for point in projections},
        }
        probes += [Probe(layer, kind, edits) for kind, edits in moves.items()]
    return probes


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _pushed(reference: Point) -> Move:
    """The edited slot moved by the norm of the clean run's reference there."""

    def move(x: Tensor, clean: Callable[[Point], Tensor]) -> Tensor:
        direction, moved = _noise(x.shape[-1]), x.clone()
        size = clean(reference)[EDITED].norm().item() or 1.0
        moved[EDITED] += (direction * (size / direction.norm())).to(x)
        return moved

    return move


def _half_moved(x: Tensor, clean: Callable[[Point], Tensor]) -> Tensor:
    """Every other channel of the edited slot moved."""
    moved = x.clone()
    moved[EDITED, ::2] += (1 + moved[EDITED, ::2].abs()) * _noise(x.shape[-1])[::2].to(x)
    return moved


def _doubled(x: Tensor, clean: Callable[[Point], Tensor]) -> Tensor:
    """Every other channel of the edited slot doubled; a norm after the MLP would undo a doubling of all."""
    doubled = x.clone()
    doubled[EDITED, ::2] *= 2
    return doubled


def _clean(point: Point) -> Move:
    return lambda x, clean: clean(point).to(x)


def _scrambled(columns: Tensor | None) -> Move:
    """All slots moved, in the columns of queries and keys."""

    def move(x: Tensor, clean: Callable[[Point], Tensor]) -> Tensor:
        noise = (_noise(*x.shape)).to(x) * (1 + x.square().mean().sqrt())
        return x + (noise if columns is None else noise * columns.to(x))

    return move


@torch.no_grad()
def short_forward(
    model: PreTrainedModel,
    taps: Mapping[Point, Tap],
    probes: Sequence[Probe],
    clean: Run | None = None,
) -> Run:
    """The activations at every point that the forward pass goes through.

    It runs the same tokens in as many rows as there are probes; given the clean run, each row has its
    probe's edits. Both runs have the same shape, so whatever an edit does not reach is equal to the bit.
    """
    run = Run({}, set(), set())
    touched = {point for probe in probes for point in probe.moves}
    whole = {max(taps).layer, *(probe.layer + step for probe in probes for step in (0, 1))}

    def at(point: Point, x: Tensor, tupled: bool) -> Tensor | None:
        # copy even without an edit: kernels round alike only if both runs have the same layout
        edited = x.clone() if point in touched else None
        if edited is not None and clean is not None:
            before = clean.seen
            for row, probe in enumerate(probes):
                if point in probe.moves:
                    edited[row] = probe.moves[point](x[row], lambda of, row=row: before[of][row])
        kept = x if edited is None else edited
        kept = kept if point.layer in whole else kept[:1]
        (run.tupled if tupled else set()).add(point)
        (run.repeated if point in run.seen else set()).add(point)
        run.seen[point] = kept.detach().to("cpu", precision(x.dtype), copy=True)
        return edited

    with ExitStack() as stack:
        for point, tap in taps.items():
            stack.callback(hooked(model.get_submodule(tap.path), tap.enters, point, at).remove)
        # nothing reads the logits, and of many rows and a large vocabulary they would cost most
        if (head := model.get_output_embeddings()) is not None:
            stack.callback(head.register_forward_pre_hook(_last_slot).remove)
        forward(model, tokens_of(model).expand(len(probes), -1))
    return run


def _last_slot(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0][:, -1:], *args[1:])


def forward(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """The logits [row, slot, vocabulary] of ids [row, slot]."""
    ids = ids.to(device_of(model.get_input_embeddings()))
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    call: Any = model
    return call(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False).logits


def tokens_of(model: PreTrainedModel, count: int = SLOTS) -> Tensor:
    """Different token ids as long as there are enough, without the padding id."""
    config = model.config.get_text_config()
    order = torch.randperm(config.vocab_size, generator=torch.Generator().manual_seed(0))
    order = order[order != (-1 if config.pad_token_id is None else config.pad_token_id)]
    return order.repeat(1 + count // len(order))[:count]


def hooked(module: nn.Module, enters: bool, point: Point, at: Callable[..., Tensor | None]) -> RemovableHandle:
    """A hook that passes a point's activation to a function and replaces it by the result."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            edited = at(point, args[0], False)
            return None if edited is None else ((edited, *args[1:]), kwargs)
        if point.kind == "enter":  # this point is only read; all others are edited as the first argument
            at(point, kwargs["hidden_states"], False)
        return None

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        tupled = isinstance(output, tuple)
        edited = at(point, output[0] if tupled else output, tupled)
        if edited is None:
            return None
        return (edited, *output[1:]) if tupled else edited

    return module.register_forward_pre_hook(before, with_kwargs=True) if enters else module.register_forward_hook(after)
