"""Annotations as published with sparse feature circuits: Component, Layer, Feature, Name, Annotation, Notes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError
from featcircuits.inputs.names import one_line
from featcircuits.labels.file import json_lines, named, write_lines
from featcircuits.labels.record import LONGEST_LABEL, LONGEST_NOTE, Label
from featcircuits.model.nodes import Node

FORM = "feature-circuits"
_TEXTS = ("Name", "Annotation", "Notes")
_KEPT = ("Component", "Layer", "Feature")


def read(path: Path) -> list[Label]:
    """Records that name no feature (a table's heading among the rows, say) are passed over with a warning."""
    found, strange = [], []
    for where, row in json_lines(path):
        with named(where):
            if label := _label(row):
                found.append(label)
            else:
                strange.append(where)
    if strange:
        warnings.warn(f"{strange[0]}: names no feature; {len(strange)} such records were left out", stacklevel=2)
    return found


def _label(row: Any) -> Label | None:
    if not isinstance(row, Mapping) or not all(isinstance(row.get(name, ""), str) for name in _TEXTS):
        raise InputError("not an annotation; a record has the texts Name (resid_5/3036), Annotation and Notes")
    name, label, note = (str(row.get(name, "")) for name in _TEXTS)
    try:
        node = Node.parse(name)
    except InputError:
        return None
    if node.feature is None or node.place is not None or not one_line(label, LONGEST_LABEL):
        return None
    kept = {key: row[key] for key in _KEPT if key in row} | ({"Notes": ""} if "Notes" in row else {})
    text, note, origin = one_line(label, LONGEST_LABEL), one_line(note, LONGEST_NOTE), {"form": FORM, **kept}
    return Label(node.site, node.feature, text, FORM, note=note, origin=origin)


def write(labels: Sequence[Label], path: Path, *, overwrite: bool = False) -> None:
    write_lines(map(_row, labels), path, overwrite=overwrite)


def _row(label: Label) -> dict[str, Any]:
    """Only the fields that it had, if it came from such a file; all as texts otherwise."""
    kind, layer = label.site.kind, "" if label.site.kind == "embed" else str(label.site.layer)
    made = {"Component": kind, "Layer": layer, "Feature": str(label.feature), "Notes": ""}
    fields = label.of_form(FORM) if label.origin.get("form") == FORM else made
    head = {name: fields[name] for name in _KEPT if name in fields}
    notes = {"Notes": label.note} if "Notes" in fields else {}
    return {**head, "Name": label.name, "Annotation": label.label, **notes}
