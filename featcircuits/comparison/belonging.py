"""Whether circuits can be compared, and what a reader of the comparison needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.comparison.places import KEEP, PLACES
from featcircuits.errors import InputError, known, shortened
from featcircuits.inputs.arguments import expect
from featcircuits.inputs.names import check_name
from featcircuits.provenance.belonging import identity_in


def check_comparable(circuits: Mapping[str, Circuit], places: str, check: bool) -> None:
    """Raise `InputError` for what is no mapping of two or more circuits whose nodes mean the same."""
    if not isinstance(circuits, Mapping):
        raise InputError("circuits is a mapping from names to circuits, such as {'ioi': ..., 'gender': ...}")
    for name, circuit in circuits.items():
        check_name(name, "name of a circuit")
        expect(f"circuit {name}", circuit, Circuit)
    if len(circuits) < 2:
        raise InputError("one circuit cannot be compared; give at least two, each with a name of its own")
    if places not in PLACES:
        raise InputError(f"unknown way with places {shortened(places)}; {known(PLACES, places)}")
    for first, second in combinations(circuits, 2):
        _check_places(first, circuits[first], second, circuits[second], places)
        if check:
            _check_dictionaries(first, circuits[first], second, circuits[second])


def _check_places(first: str, a: Circuit, second: str, b: Circuit, places: str) -> None:
    if places == KEEP and a.aggregate != b.aggregate:
        raise InputError(
            f"{first} has nodes with aggregate={a.aggregate!r} and {second} with aggregate={b.aggregate!r}, which have "
            "no node in common; compare features wherever they are by places='sum' (--places sum)"
        )


def _check_dictionaries(first: str, a: Circuit, second: str, b: Circuit) -> None:
    marks, others = (identity_in(circuit.manifest).dictionaries for circuit in (a, b))
    if wrong := [site for site, mark in marks.items() if others.get(site, mark) != mark]:
        more = f" and {len(wrong) - 1} more sites" if len(wrong) > 1 else ""
        raise InputError(
            f"{first} and {second} have different dictionaries at {wrong[0]}{more}, so the same number means another "
            "feature; match features first (docs/comparing.md), or pass check=False"
        )


def notes_on(circuits: Mapping[str, Circuit], places: str) -> tuple[str, ...]:
    """What differs between the circuits beyond their nodes and edges, one sentence each."""
    found = []
    metrics = _told(circuits, "task", "metric")
    if len(set(metrics.values())) > 1:
        found.append(f"Effects are in different units ({_listed(metrics)}): read weighted_shares in place of weighted.")
    names = _told(circuits, "task", "name")
    if places == KEEP and len(set(names.values())) > 1 and any(one.aggregate == "none" for one in circuits.values()):
        found.append(
            f"Nodes are at token positions of different tasks ({_listed(names)}), where other words may be; "
            "places='sum' compares features wherever they are."
        )
    if len(set(_told(circuits, "model", "fingerprint").values())) > 1:
        found.append(
            "The circuits are of models with different weights: a dictionary that fits one of them worse changes "
            "a circuit too."
        )
    return tuple(found)


def _told(circuits: Mapping[str, Circuit], part: str, key: str) -> dict[str, Any]:
    """What the manifests say about something, of circuits that say it."""
    parts = {name: circuit.manifest.get(part) for name, circuit in circuits.items()}
    told = {name: found[key] for name, found in parts.items() if isinstance(found, Mapping) and key in found}
    return {name: value for name, value in told.items() if isinstance(value, str)}


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(dict.fromkeys(values.values()))
