"""The attribution-graph JSON of Neuronpedia and of circuit-tracer's page, for the circuit of one prompt.

It is a folder, as those programs read it: `<name>.json`, and `graph-metadata.json`, which lists it. Every site is a row
of its own, from 1 upwards in forward order. Node ids are `{row}_{feature}_{position}`, `{row}_-1_{position}` for error
nodes, `E_{token}_{position}` for inputs, and `{rows + 1}_{token}_{position}` for the metric, which is drawn as its
first clean answer.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcircuits.errors import InputError, shortened
from featcircuits.files.writing import whole_folder
from featcircuits.inputs.arguments import expect
from featcircuits.model.nodes import METRIC, Endpoint, Node
from featcircuits.model.sites import Site

if TYPE_CHECKING:
    from featcircuits.circuit.circuit import Circuit

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_LIST = "graph-metadata.json"
_FEATURE, _ERROR = "cross layer transcoder", "mlp reconstruction error"
"""The types that the viewers know: every feature with a dashboard has the first."""


def neuronpedia(circuit: Circuit, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the folder `path`; raises `InputError` if it exists, and for a circuit of several prompts or of roles."""
    from featcircuits.circuit.circuit import Circuit

    expect("circuit", circuit, Circuit)
    folder = Path(path)
    graph = attribution_graph(circuit)
    if folder.is_dir() and any(folder.iterdir()):
        if not (overwrite and (folder / _LIST).is_file()):  # only what looks like an earlier export is replaced
            raise InputError(f"{folder} exists and is not empty; choose another folder, or remove it first")
        shutil.rmtree(folder)
    slug = graph["metadata"]["slug"]
    with whole_folder(folder) as draft:
        for name, value in ((f"{slug}.json", graph), (_LIST, {"graphs": [graph["metadata"]]})):
            (draft / name).write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def attribution_graph(circuit: Circuit) -> dict[str, Any]:
    """The JSON values of the graph, which follow the published schema."""
    prompt = _prompt(circuit)
    rows = rows_of(circuit)
    ids = {end: _id(end, rows, prompt) for end in _ends(circuit)}
    source = str((circuit.manifest.get("model") or {}).get("source") or "model")
    shares = _cumulative(circuit)
    members = ([name, *(ids[Node.parse(node)] for node in own)] for name, own in circuit.groups.items())
    return {
        "metadata": {
            "slug": _safe(str((circuit.manifest.get("task") or {}).get("name") or "circuit")),
            "scan": _safe(Path(source).name),
            "prompt": "".join(prompt["tokens"]),
            "prompt_tokens": prompt["tokens"],
            "transcoder_list": [str(site) for site in rows],
            "schema_version": 1,
            "info": {
                "description": f"{circuit.n_nodes} nodes at {len(rows)} sites; weights are effects on the metric",
                "generator": {"name": "featcircuits", "version": str(circuit.manifest.get("featcircuits") or "")},
            },
        },
        "qParams": {"pinnedIds": [], "supernodes": list(members), "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [{**_node(end, circuit, rows, ids[end], prompt), "influence": shares.get(end)} for end in ids],
        "links": [
            {"source": ids[source], "target": ids[target], "weight": weight}
            for (source, target), weight in circuit.edges.items()
        ],
    }


def rows_of(circuit: Circuit) -> dict[Site, int]:
    """Site -> its row, from 1 upwards in forward order."""
    return {site: row for row, site in enumerate(sorted({node.site for node in circuit.nodes}), 1)}


def _cumulative(circuit: Circuit) -> dict[Endpoint, float]:
    """Node -> the share of all influence that it and more influential ones hold, for the viewers' sliders."""
    from featcircuits.circuit.influence import influence_in  # scipy takes its time

    found = influence_in(circuit)
    values = {end: value for end, value in found.nodes.items() if end != METRIC} if found else {}
    order = sorted(values, key=lambda end: -values[end])
    total = sum(values.values()) or 1.0
    return dict(zip(order, (held / total for held in accumulate(values[end] for end in order)), strict=True))


def cantor(row: int, feature: int) -> int:
    """One number for both, by Cantor's pairing, as the viewers name features."""
    return (row + feature) * (row + feature + 1) // 2 + feature


def _prompt(circuit: Circuit) -> Mapping[str, Any]:
    count = (circuit.manifest.get("task") or {}).get("n_examples")
    if circuit.aggregate != "none":
        raise InputError(
            f"a circuit with aggregate={circuit.aggregate!r} has no token positions, and this format has nothing else; "
            "trace with aggregate='none'"
        )
    if count != 1:
        raise InputError(
            f"a circuit of {shortened(count)} prompts has no place in this format, which shows the tokens of one; "
            "trace a task with one example (--limit 1)"
        )
    prompt = circuit.manifest.get("prompt")
    if not isinstance(prompt, Mapping) or not {"tokens", "ids", "answers", "activations"} <= set(prompt):
        raise InputError("the circuit does not keep its prompt; trace it again with this version")
    return prompt


def _ends(circuit: Circuit) -> Iterator[Endpoint]:
    yield from dict.fromkeys([*circuit.nodes, *(end for edge in circuit.edges for end in edge)])


def _position(end: str) -> int:
    return int(end.partition("@")[2])


def _answer(prompt: Mapping[str, Any]) -> Mapping[str, Any]:
    return prompt["answers"][0] if prompt["answers"] else {"id": 0, "token": "", "probability": 0.0}


def _id(end: Endpoint, rows: Mapping[Site, int], prompt: Mapping[str, Any]) -> str:
    if isinstance(end, Node):
        return f"{rows[end.site]}_{-1 if end.feature is None else end.feature}_{end.place}"
    if end == METRIC:
        return f"{len(rows) + 1}_{_answer(prompt)['id']}_{len(prompt['tokens']) - 1}"
    return f"E_{prompt['ids'][_position(end)]}_{_position(end)}"


def _node(
    end: Endpoint, circuit: Circuit, rows: Mapping[Site, int], node_id: str, prompt: Mapping[str, Any]
) -> dict[str, Any]:
    named = {"node_id": node_id, "jsNodeId": node_id}
    label = circuit.labels.get(end)
    if isinstance(end, Node):
        row, error = rows[end.site], end.feature is None
        return {
            **named,
            "feature": -1 if end.feature is None else cantor(row, end.feature),
            "layer": str(row),
            "ctx_idx": end.place,
            "feature_type": _ERROR if error else _FEATURE,
            "clerp": label or (f"{end.site} error" if error else ""),
            "activation": None if error else prompt["activations"].get(str(end)),
        }
    last = len(prompt["tokens"]) - 1
    if end == METRIC:
        answer = _answer(prompt)
        metric = str((circuit.manifest.get("task") or {}).get("metric") or METRIC)
        text = f"{label or metric}: {json.dumps(answer['token'])} (p={answer['probability']:.3f})"
        more = {"token_prob": answer["probability"], "is_target_logit": True}
        kind: dict[str, Any] = {"feature": answer["id"], "layer": str(len(rows) + 1), "ctx_idx": last}
        return {**named, **kind, "feature_type": "logit", "clerp": text, **more}
    position = _position(end)
    text = label or f"Emb: {json.dumps(prompt['tokens'][position])}"
    return {
        **named, "feature": position, "layer": "E", "ctx_idx": position, "feature_type": "embedding", "clerp": text,
    }  # fmt: skip


def _safe(text: str) -> str:
    """Only characters that an upload accepts."""
    return _UNSAFE.sub("-", text).strip("-") or "circuit"
