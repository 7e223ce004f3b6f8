"""Interventions of other programs: circuit-tracer's tuples and Neuronpedia's steering requests, in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featcircuits.errors import InputError, shortened
from featcircuits.inputs.ranges import MOST
from featcircuits.interventions.how import Ablate, Add, Set, Take
from featcircuits.interventions.intervention import ATTENTION, DIRECT, NOTHING, Intervention, interventions_of
from featcircuits.interventions.where import ALL, GENERATED, PROMPT, Slice, Where, parse_where
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site

_MODES = {(False, False): NOTHING, (True, False): ATTENTION, (False, True): DIRECT, (True, True): DIRECT}
"""(freeze_attention, whether every layer is constrained) of circuit-tracer -> held."""

Tuple = tuple[int, int | slice, int, float]
"""circuit-tracer's (layer, position or slice, feature, value)."""


def from_circuit_tracer(
    tuples: Iterable[Sequence[Any]], *, kind: str = "mlp", freeze_attention: bool = True, constrained: bool = False
) -> tuple[Intervention, ...]:
    """Interventions from tuples (layer, position or slice, feature, value); features belong to sites of `kind`.

    circuit-tracer holds attention patterns unless `freeze_attention` is false, and with `constrained` (its
    `constrained_layers` of every layer) also the norms' scales and all other features and errors. A slice without an
    end goes on into what is generated, so it becomes two interventions. Raises `InputError` for anything else.
    """
    held, found = _MODES[bool(freeze_attention), bool(constrained)], []
    for entry in tuples:
        if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 4:
            raise InputError(f"{shortened(entry)} is not circuit-tracer's (layer, position, feature, value)")
        layer, position, feature, value = entry
        node = _node(kind, layer, feature)
        found += [Intervention(node, Set(_number("value", value)), where, held) for where in _places(position)]
    return interventions_of(found)


def _places(position: Any) -> list[Where]:
    if isinstance(position, slice) and position.stop is None and position.step in (None, 1):
        return [ALL] if position.start in (None, 0) else [parse_where(position), GENERATED]
    if not isinstance(position, slice):
        position = _integer("position", position)
    return [parse_where(position)]


def to_circuit_tracer(interventions: Iterable[Intervention | str]) -> list[Tuple]:
    """The tuples of interventions that set features at positions, and `freeze_attention` and the rest by `held`.

    Raises `InputError` for what circuit-tracer cannot do: other changes than to a number, other places, errors,
    groups and directions.
    """
    return [_tuple(one) for one in _joined(interventions_of(interventions))]


def _joined(interventions: Sequence[Intervention]) -> Iterable[Intervention]:
    """Without "generated" where it follows the same intervention of an open slice, which includes it."""
    before: Intervention | None = None
    for one in interventions:
        open_ended = before is not None and isinstance(before.where, Slice) and before.where.stop is None
        if not (open_ended and one.where == GENERATED and before and (before.what, before.how) == (one.what, one.how)):
            yield one
        before = one


def _tuple(one: Intervention) -> Tuple:
    value = 0.0 if isinstance(one.how, Ablate) and one.how.to == "zero" else getattr(one.how, "value", None)
    if not isinstance(one.what, Node) or one.what.feature is None or not isinstance(one.how, (Set, Ablate)):
        raise InputError(f"{one}: circuit-tracer sets features to numbers, and nothing else")
    if isinstance(one.where, int) and value is not None:
        return one.what.site.layer, one.where, one.what.feature, float(value)
    if (one.where in (None, ALL, PROMPT) or isinstance(one.where, Slice)) and value is not None:
        ends = one.where if isinstance(one.where, Slice) else (None, None)
        return one.what.site.layer, slice(*ends), one.what.feature, float(value)
    raise InputError(f"{one}: circuit-tracer knows positions and slices, and values that are numbers")


def from_neuronpedia(request: Mapping[str, Any], *, kind: str = "mlp") -> tuple[Intervention, ...]:
    """Interventions from a steering request; features belong to sites of `kind`.

    Neuronpedia sets a feature at `steer_position`, or at all generated tokens, to the value that it has at
    `token_active_position` in the unedited run plus `delta`, or with `ablate` to 0. The prompt and the settings of
    the generation are arguments of `fc.generate`. Raises `InputError` for anything else.
    """
    features = request.get("features") if isinstance(request, Mapping) else None
    if not isinstance(features, list):
        raise InputError(f"{shortened(request)} is not a steering request; it needs a list 'features'")
    freeze = request.get("freezeAttention", request.get("freeze_attention", False))
    held = ATTENTION if freeze else NOTHING
    return interventions_of([_steered(feature, kind, held) for feature in features])


def _steered(feature: Any, kind: str, held: str) -> Intervention:
    if not isinstance(feature, Mapping):
        raise InputError(f"{shortened(feature)} is not a feature of a steering request")
    node = _node(kind, feature.get("layer"), feature.get("index"))
    generated, position = bool(feature.get("steer_generated_tokens")), feature.get("steer_position")
    if generated == (position is not None):
        raise InputError(f"{node}: give either steer_position or steer_generated_tokens")
    where = GENERATED if generated else _integer("steer_position", position)
    delta, ablate = feature.get("delta"), bool(feature.get("ablate"))
    if ablate == (delta is not None):
        raise InputError(f"{node}: give either delta or ablate")
    if ablate:
        return Intervention(node, Set(0.0), where, held)
    active = _integer("token_active_position", feature.get("token_active_position"))
    return Intervention(node, Take(place=active, plus=_number("delta", delta)), where, held)


def to_neuronpedia(interventions: Iterable[Intervention | str], **request: Any) -> dict[str, Any]:
    """A steering request for the interventions; `request`: its other fields, such as modelId, prompt and nTokens.

    Raises `InputError` for what the request cannot say.
    """
    given = interventions_of(interventions)
    return {
        **request,
        "features": [_feature(one) for one in given],
        "freezeAttention": given[0].held == ATTENTION,
    }


def _feature(one: Intervention) -> dict[str, Any]:
    at = one.where
    if not isinstance(one.what, Node) or one.what.feature is None or one.held not in (NOTHING, ATTENTION):
        raise InputError(f"{one}: a steering request changes features, and holds attention patterns or nothing")
    if at != GENERATED and (not isinstance(at, int) or at < 0):
        raise InputError(f"{one}: a steering request knows positions from 0 on, and 'generated'")
    place = at if isinstance(at, int) else 0
    delta: float | None = None
    match one.how:
        case Set(0) | Ablate("zero"):
            pass
        case Add(value) if at != GENERATED:
            delta = value
        case Take(run="", site=None, place=int(active), plus=plus) if active >= 0:
            place, delta = active, plus
        case _:
            raise InputError(f"{one}: a steering request ablates, or adds to the value at a position of the prompt")
    return {
        "layer": one.what.site.layer,
        "index": one.what.feature,
        "token_active_position": place,
        "steer_position": at if isinstance(at, int) else None,
        "steer_generated_tokens": at == GENERATED,
        "delta": delta,
        "ablate": delta is None,
    }


def _node(kind: str, layer: Any, feature: Any) -> Node:
    return Node(Site.parse(f"{kind}_{_integer('layer', layer)}"), _integer("feature", feature))


def _integer(what: str, value: Any) -> int:
    """A whole number, also one of another library's types; raises `InputError` for anything else."""
    try:
        number = value.__index__()
    except (AttributeError, TypeError, ValueError):
        number = None
    if number is None or isinstance(value, bool) or not -MOST <= number <= MOST or (what != "position" and number < 0):
        raise InputError(f"{what} is {shortened(value)}; give a whole number from 0 on")
    return number


def _number(what: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{what} is {shortened(value)}; give a number") from None
