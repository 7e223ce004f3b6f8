"""fc.features: dossiers of a suite's features, or of a circuit's nodes, from a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from featcircuits.circuit.circuit import Circuit
from featcircuits.dossiers.dossiers import FORMAT, MANIFEST, TABLES, Dossiers
from featcircuits.dossiers.options import Options
from featcircuits.dossiers.pieces import pieces_of
from featcircuits.dossiers.reading import read_text
from featcircuits.dossiers.rows import Findings, Group, OnTask, groups
from featcircuits.dossiers.task_values import task_values
from featcircuits.dossiers.text import Text, text_of
from featcircuits.errors import InputError
from featcircuits.files.writing import write_json
from featcircuits.inputs.arguments import expect
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.model.sites import Site
from featcircuits.progress import Progress, silent
from featcircuits.provenance.belonging import check_circuit, check_nodes, check_task, tokenizer_of
from featcircuits.provenance.manifest import origins_of
from featcircuits.runs import folder as runs
from featcircuits.runs.ledger import Ledger
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.task import Task

Nodes = Circuit | Iterable[Node | str]


def features(
    model: SplicedModel,
    text: Any,
    output: str | Path | None = None,
    *,
    nodes: Nodes | None = None,
    task: Task | None = None,
    options: Options | None = None,
    progress: Progress = silent,
) -> Dossiers:
    """What features are: dossiers from one pass over a text, of all sites at once.

    `text`: a Task (its prompts), rows of token ids, a text file with a document per line, or a folder written by
    `datasets` (its column "text"; see `featcircuits.dossiers.text.text_of` for others). `output`: a folder to make;
    it appears whole, and the same call goes on from where a killed one was. Without it dossiers stay in memory.
    `nodes`: only the features of a circuit or of some nodes; default: all. `task`: also their values on a task's
    prompts, by default those of the text where that is a task; a circuit adds the effects of its nodes.
    Raises `InputError` for text without a token, nodes that do not exist, a circuit or task of another model, and an
    output that exists.
    """
    expect("model", model, SplicedModel)
    options = options or Options()
    chosen = chosen_features(model, nodes)
    task = text if task is None and isinstance(text, Task) else task
    if task is not None:
        check_task(model, task)
    read = text_of(model, text, options.longest)
    request = _request(model, read, chosen, task, options)
    with ExitStack() as stack:
        ledger: Ledger | None = None
        if output is not None:
            ledger = stack.enter_context(runs.resumable(Path(output), request))
        reading = read_text(model, read, chosen, options, ledger, progress)
        on_task = None if task is None else _on_task(model, task, chosen, nodes, progress)
        found = Findings(model, read, options, reading, pieces_of(model.tokenizer), on_task)
        sinks = {str(site): tally.n_sinks for site, tally in reading.tallies.items()}
        counts = {"tokens": reading.n_tokens, "sinks": sinks, "coactive_on": reading.sampled}
        manifest = {**request, "text": {**request["text"], **counts}}
        parts = groups(found, progress)
        if output is None:
            return _in_memory(manifest, parts)
        with runs.new_run(Path(output)) as folder:
            write_json(folder / MANIFEST, manifest)
            _write({name: folder / name for name in TABLES}, parts)
    return Dossiers.open(Path(output))


def chosen_features(model: SplicedModel, nodes: Nodes | None) -> dict[Site, Tensor]:
    """The features of each site that dossiers are made of, in order; sites without any are left out."""
    if nodes is None:
        every = {site: torch.arange(d.n_features, device=model.device) for site, d in model.dictionaries.items()}
        return {site: ids for site, ids in every.items() if len(ids)}
    if isinstance(nodes, Circuit):
        check_circuit(model, nodes, check=True, whole=False)
    named = list(nodes.nodes) if isinstance(nodes, Circuit) else nodes_of(nodes)
    check_nodes(model, named)
    found: dict[Site, set[int]] = {}
    for node in named:
        if node.feature is not None:
            found.setdefault(node.site, set()).add(node.feature)
    if not found:
        raise InputError("nodes holds no feature, only error terms, and these have no dossiers; give features")
    return {site: torch.tensor(sorted(ids), device=model.device) for site, ids in sorted(found.items())}


def _request(
    model: SplicedModel, text: Text, chosen: Mapping[Site, Tensor], task: Task | None, options: Options
) -> dict[str, Any]:
    every = {str(site): len(ids) == model.dictionaries[site].n_features for site, ids in chosen.items()}
    return {
        "format": FORMAT,
        **origins_of(model),
        "tokenizer": tokenizer_of(model),
        "text": {"name": text.name, "sha256": text.sha256, "documents": text.n_documents},
        "task": None if task is None else {"name": task.name, "sha256": task.sha256, "aggregate": task.aggregate},
        "settings": asdict(options),
        "features": {str(site): "all" if every[str(site)] else ids.tolist() for site, ids in chosen.items()},
    }


def _on_task(
    model: SplicedModel, task: Task, chosen: Mapping[Site, Tensor], nodes: Nodes | None, progress: Progress
) -> OnTask:
    effects = nodes.nodes if isinstance(nodes, Circuit) else {}
    return OnTask(task.places, task_values(model, task, chosen, progress), effects)


def _in_memory(manifest: Mapping[str, Any], parts: Iterable[Group]) -> Dossiers:
    buffers = {name: pa.BufferOutputStream() for name in TABLES}
    _write(buffers, parts)
    return Dossiers(manifest, tuple(pq.ParquetFile(pa.BufferReader(b.getvalue())) for b in buffers.values()))


def _write(where: Mapping[str, Any], parts: Iterable[Group]) -> None:
    """One row group of each table for each group."""
    with ExitStack() as stack:
        writers = [
            stack.enter_context(pq.ParquetWriter(where[name], schema, compression="zstd", compression_level=12))
            for name, schema in TABLES.items()
        ]
        for group in parts:
            for writer, table in zip(writers, group, strict=True):
                writer.write_table(table, row_group_size=max(1, len(table)))
