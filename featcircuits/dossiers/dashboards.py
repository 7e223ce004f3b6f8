"""Dossiers as the dashboards that viewers of attribution graphs show, in both layouts that they read.

`{number}.json` per feature, for a base address; and `index.json.gz` with one binary file per row, in which each record
is the length of its zlib-compressed JSON as 4 bytes, little endian, and then that JSON.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcircuits.dossiers.dossiers import Dossiers
from featcircuits.dossiers.records import Context, Dossier
from featcircuits.files.writing import whole_folder
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site


def write_dashboards(
    folder: Path,
    nodes: Iterable[Node],
    known: Sequence[Dossiers],
    rows: Mapping[Site, int],
    number: Callable[[int, int], int],
) -> int:
    """Write both layouts into a new folder; returns how many features have a dossier.

    `rows`: site -> row of the graph. `number`: (row, feature) -> the number by which the graph names a feature.
    Raises `InputError` if the folder is not empty.
    """
    wanted = sorted({(rows[node.site], node.feature, node.site) for node in nodes if node.feature is not None})
    found = [
        (row, feature, dossier)
        for row, feature, site in wanted
        if (dossier := next((one[f"{site}/{feature}"] for one in known if f"{site}/{feature}" in one), None))
    ]
    if found:
        with whole_folder(folder) as draft:
            _write(draft, found, number)
    return len(found)


def _write(draft: Path, found: Sequence[tuple[int, int, Dossier]], number: Callable[[int, int], int]) -> None:
    index: dict[str, dict[str, Any]] = {}
    binaries: dict[int, bytes] = {}
    for row, feature, dossier in found:
        page = dashboard(dossier, number(row, feature))
        text = json.dumps(page, allow_nan=False)
        (draft / f"{number(row, feature)}.json").write_text(text, encoding="utf-8")
        packed = zlib.compress(text.encode())
        own = index.setdefault(str(row), {"filename": f"layer_{row}.bin", "offsets": {}})
        own["offsets"][str(feature)] = len(binaries.get(row, b""))
        binaries[row] = binaries.get(row, b"") + struct.pack("<I", len(packed)) + packed
    for row, content in binaries.items():
        (draft / f"layer_{row}.bin").write_bytes(content)
        own = index[str(row)]
        # the viewers look an offset up by the feature's number, so features without a record have none
        own["offsets"] = [own["offsets"].get(str(at)) for at in range(max(map(int, own["offsets"])) + 1)]
    packed = gzip.compress(json.dumps(index).encode(), mtime=0)
    (draft / "index.json.gz").write_bytes(packed)


def dashboard(dossier: Dossier, index: int) -> dict[str, Any]:
    """One feature's dashboard."""
    return {
        "index": index,
        "examples_quantiles": [
            {"quantile_name": "Top activations", "examples": [_example(row) for row in dossier.contexts]},
            {"quantile_name": "At random", "examples": [_example(row) for row in dossier.samples]},
        ],
        "top_logits": [row.token for row in dossier.promoted],
        "bottom_logits": [row.token for row in dossier.suppressed],
        "act_min": 0.0,
        "act_max": dossier.max or 0.0,
        "quantile_values": [value for value in dossier.quantiles.values() if value is not None],
        "histogram": list(dossier.histogram.values()),
        "activation_frequency": dossier.density,
        "label": dossier.label,
    }


def _example(row: Context) -> dict[str, Any]:
    return {
        "tokens": list(row.tokens),
        "tokens_acts_list": [value or 0.0 for value in row.activations],
        "train_token_ind": row.at,
        "is_repeated_datapoint": False,
    }
