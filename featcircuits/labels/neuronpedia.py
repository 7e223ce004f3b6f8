"""Explanations as Neuronpedia exports them: batch-N.jsonl.gz, a feature of a model's source set per line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, shortened
from featcircuits.inputs.names import LONGEST, one_line
from featcircuits.labels.file import json_lines, named, write_lines
from featcircuits.labels.places import site_at
from featcircuits.labels.record import LONGEST_LABEL, Label

FORM = "neuronpedia"
_FIELDS = ("modelId", "layer", "index", "description")
_KEPT = ("modelId", "layer", "index", "typeName", "explanationModelName", "scores")
_BATCH = re.compile(r"batch-(\d{1,9})\.jsonl(\.gz)?")


def read(path: Path, at: str | None) -> list[Label]:
    """Of a file, or of all batches in a folder. `at`: the site of a layer's source, such as "resid_{layer}"."""
    if at is None:
        raise InputError(
            'the export does not say where its dictionaries read; give at (--at), such as "resid_{layer}", '
            '"attn_z_{layer}" or the hook "blocks.{layer}.hook_resid_pre"'
        )
    found = []
    for file in _files(path):
        for where, row in json_lines(file):
            with named(where):
                found.append(_label(row, at))
    return [label for label in found if label is not None]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    batches = {file: match for file in path.iterdir() if (match := _BATCH.fullmatch(file.name))}
    if not batches:
        raise InputError(f"{shortened(path, 300)}: holds no batch-N.jsonl.gz; give such a folder, or a file")
    return sorted(batches, key=lambda file: int(batches[file][1]))


def _label(row: Any, at: str) -> Label | None:
    """None for one without text."""
    if not isinstance(row, Mapping):
        raise InputError(f"{shortened(row)} is no explanation; a line is an object")
    for name in _FIELDS:
        if not isinstance(row.get(name), str) and not (name == "index" and type(row.get(name)) is int):
            raise InputError(f"field {name!r} is {shortened(row.get(name))}; an explanation has {', '.join(_FIELDS)}")
    layer = re.match(r"\d{1,5}(?=-|$)", row["layer"])
    if layer is None or not str(row["index"]).isdecimal() or len(str(row["index"])) > 18:
        raise InputError(f"{shortened(row['layer'])}/{shortened(row['index'])} is no feature of a layer's source")
    if not (text := one_line(row["description"], LONGEST_LABEL)):
        return None
    by = row.get("explanationModelName")
    source = f"{FORM} {row['modelId']}" + (f" by {by}" if isinstance(by, str) and by else "")
    return Label(
        site_at(at, int(layer[0])), int(row["index"]), text, one_line(source, LONGEST),
        score=_score(row.get("scores")), origin={"form": FORM, **{name: row[name] for name in _KEPT if name in row}},
    )  # fmt: skip


def _score(scores: Any) -> float | None:
    """The first that is a number."""
    values = [one.get("value") for one in scores if isinstance(one, Mapping)] if isinstance(scores, list) else []
    return next((float(value) for value in values if isinstance(value, (int, float))), None)


def write(labels: Sequence[Label], path: Path, into: str | None, *, overwrite: bool = False) -> None:
    """`into`: model and source set, such as "gpt2-small/{layer}-res-jb"; imported records keep their own."""
    write_lines([_row(label, into) for label in labels], path, overwrite=overwrite)


def _row(label: Label, into: str | None) -> dict[str, Any]:
    kept = label.of_form(FORM)
    if into is None and not kept:
        raise InputError(
            f"the label of {label.name} names no source set; give into (--into), such as gpt2-small/{{layer}}-res-mine"
        )
    model, found, layer = (into or "").partition("/")
    if into is not None and not (found and "{layer}" in layer):
        raise InputError(f"into is {shortened(into)}; give model and source set, such as gpt2-small/{{layer}}-res-mine")
    own = {"modelId": model, "layer": layer.replace("{layer}", str(label.site.layer))} if into else {}
    made = {"index": str(label.feature), "typeName": "", "explanationModelName": label.source}
    scores = [] if label.score is None else [{"value": label.score}]
    row = {**({} if kept else {**made, "scores": scores}), **kept, **own}
    head = {name: row[name] for name in ("modelId", "layer", "index")}
    return {**head, "description": label.label, **row}
