"""What interventions did, for the page: measured beside predicted, at the nodes that were changed or watched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.errors import InputError, shortened
from featcircuits.files.reading import read_json
from featcircuits.inputs.names import one_line
from featcircuits.interventions.intervention import Intervention
from featcircuits.interventions.outcome import FORMAT, VERSION
from featcircuits.model.nodes import Node


def read_outcome(path: str | Path, circuit: Circuit) -> dict[str, Any]:
    """The outcome in a file that `featcircuits intervene --output` or `Outcome.save` wrote, for this circuit's page.

    Raises `InputError` for a damaged file, and for one without a node of the circuit.
    """
    shown, found = shortened(Path(path), 300), read_json(path, "outcome of interventions")
    if not isinstance(found, Mapping) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise InputError(f"{shown}: not an outcome ({FORMAT!r}, version {VERSION}); `intervene RUN -o FILE` writes one")
    try:
        outcome = outcome_at(found, circuit)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{shown}: {error}") from None
        raise InputError(f"{shown}: a damaged outcome ({type(error).__name__}: {error})") from None
    if not outcome["changed"] and not outcome["watched"]:
        raise InputError(f"{shown}: none of the nodes that it changes is in the circuit; give an outcome of its nodes")
    return outcome


def outcome_at(found: Mapping[str, Any], circuit: Circuit) -> dict[str, Any]:
    """Of an outcome as JSON: the whole, and by node what came of changing it, and how it changed downstream."""
    rows = [_row(one) for one in (*found["parts"], found["whole"])]
    changed: dict[str, list[dict[str, Any]]] = {}
    for row in rows if found["parts"] else rows[-1:]:
        for node in _nodes_of(row["what"], circuit):
            changed.setdefault(node, []).append(row)
    return {
        "task": one_line(str(found["task"])),
        "metric": one_line(str(found["metric"])),
        "held": one_line(str(found["held"])),
        "interventions": [one_line(str(one)) for one in found["interventions"]],
        "n_examples": int(found["n_examples"]),
        **{name: _figure(found[name]) for name in ("before", "after", "kl")},
        "rows": rows,
        "changed": changed,
        "watched": dict(_watched(found["downstream"], circuit)),
    }


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: _figure(found[name]) for name in ("predicted", "measured")}
    return {
        "what": one_line(str(found["what"])),
        **figures,
        "off": None if found["off"] is None else bool(found["off"]),
    }


def _figure(found: Mapping[str, Any]) -> dict[str, float | None]:
    """A mean and the ends of its interval, which a single example does not have."""
    ends = {name: None if found[name] is None else float(found[name]) for name in ("low", "high")}
    return {"mean": float(found["mean"]), **ends}


def _nodes_of(text: str, circuit: Circuit) -> list[str]:
    """The circuit's nodes that an intervention changes; none for sites, directions and texts of other kinds."""
    try:
        one = Intervention.parse(text)
    except InputError:
        return []
    if not isinstance(one.what, Node):
        return []
    everywhere = [node for node in circuit.nodes if node._replace(place=None) == one.what]
    return [str(node) for node in everywhere if one.where is None or str(one.where) in {str(node.place), "all"}]


def _watched(rows: Iterable[Mapping[str, Any]], circuit: Circuit) -> Iterable[tuple[str, dict[str, Any]]]:
    known = {str(node) for node in circuit.nodes}
    for row in rows:
        if row["node"] in known:
            yield row["node"], {name: _figure(row[name]) for name in ("predicted", "direct", "measured")}
