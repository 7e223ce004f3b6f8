"""A saved view: groups, labels, pins and sliders, as the page's "Save state" writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featcircuits.circuit.circuit import Circuit
from featcircuits.errors import InputError, shortened
from featcircuits.files.reading import read_json
from featcircuits.inputs.names import one_line
from featcircuits.page.data import digest

FORMAT, VERSION = "featcircuits-view", 1


def read_state(path: str | Path, circuit: Circuit) -> dict[str, Any]:
    """The view in a file; raises `InputError` for a damaged file, and for the view of another circuit."""
    shown, found = shortened(Path(path), 300), read_json(path, "saved view")
    if not isinstance(found, Mapping) or found.get("format") != FORMAT:
        raise InputError(f"{shown}: not a saved view; the page's button 'Save state' writes one")
    if found.get("version") != VERSION:
        raise InputError(f"{shown}: a view in version {shortened(found.get('version'))}; {VERSION} can be read")
    if found.get("circuit") != digest(circuit):
        raise InputError(f"{shown}: the view belongs to another circuit; save one from this circuit's page")
    try:
        return _checked(found, circuit)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f"{shown}: a damaged view ({type(error).__name__}: {error})") from None


def _checked(found: Mapping[str, Any], circuit: Circuit) -> dict[str, Any]:
    known = {str(node) for node in circuit.nodes} | {
        end for edge in circuit.edges for end in edge if isinstance(end, str)
    }
    taken: set[str] = set()
    groups = []
    for group in found["groups"]:
        name, nodes = one_line(str(group["name"])), [str(node) for node in group["nodes"]]
        if missing := [node for node in nodes if node not in known]:
            raise InputError(f"group {name!r} has {shortened(missing[0])}, which the circuit does not")
        if twice := taken.intersection(nodes):
            raise InputError(f"node {min(twice)} is in two groups; groups do not overlap")
        taken.update(nodes)
        groups.append({"name": name, "nodes": nodes, "collapsed": bool(group.get("collapsed"))})
    view = found["view"]
    return {
        "groups": groups,
        "labels": {str(name): one_line(str(label)) for name, label in found["labels"].items() if name in known},
        "pins": [str(name) for name in found["pins"] if name in known],
        "nodes": int(found["nodes"]),
        "edges": int(found["edges"]),
        "stable": int(found.get("stable", 0)),
        "selected": found["selected"] if found["selected"] in known else None,
        "view": {axis: float(view[axis]) for axis in ("x", "y", "k")},
    }
