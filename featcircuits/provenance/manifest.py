"""Manifests: the hashes and versions with which a result can be repeated and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from featcircuits.model.sites import Site
from featcircuits.provenance.belonging import Identity, identity_of
from featcircuits.provenance.prompts import prompts_of
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.suites.places import elsewhere
from featcircuits.tasks.task import Task

_LIBRARIES = ("torch", "transformers", "safetensors", "numpy", "networkx")


def manifest_of(
    spliced: SplicedModel, task: Task, settings: Mapping[str, Any], identity: Identity | None = None
) -> dict[str, Any]:
    """The record of everything that went into a result: model, dictionaries, data, settings and versions.

    `identity`: the model's, if it was just taken.
    """
    return {
        **origins_of(spliced, identity),
        "task": {
            "name": task.name,
            "n_examples": len(task),
            "metric": str(task.metric),
            "aggregate": task.aggregate,
            "sha256": task.sha256,
            "prompts": prompts_of(task),
            "tokenizer": task.tokenizer,
            "words": words_at(task, spliced.tokenizer),
        },
        "settings": dict(settings),
    }


def origins_of(spliced: SplicedModel, identity: Identity | None = None) -> dict[str, Any]:
    """The part of the record that does not depend on a task: versions, model and dictionaries."""
    model, suite, identity = spliced.model, spliced.suite, identity or identity_of(spliced)
    source = model.config._name_or_path or type(model).__name__
    return {
        "featcircuits": _version("featcircuits"),
        "versions": {name: _version(name) for name in _LIBRARIES},
        "model": {
            "source": source,
            "architecture": spliced.architecture.model_type,
            "dtype": str(model.dtype).removeprefix("torch."),
            **({"weights": "dequantised from GGUF"} if source.lower().endswith(".gguf") else {}),
            "fingerprint": identity.weights,
        },
        "suite": {
            "name": None if suite is None else suite.name,
            "sites": dictionaries_of(spliced, identity),
        },
    }


def made_on(spliced: SplicedModel, task: Task) -> dict[str, Any]:
    """What tells a report from one of another model, suite or task: a manifest without settings and prompts."""
    whole = manifest_of(spliced, task, {})
    task_record = {key: value for key, value in whole["task"].items() if key not in ("prompts", "words")}
    return {key: value for key, value in {**whole, "task": task_record}.items() if key != "settings"}


def dictionaries_of(spliced: SplicedModel, identity: Identity | None = None) -> dict[str, dict[str, Any]]:
    """The record of each site's dictionary: kind, size, fingerprint, and its file's hash or its origin on the hub."""
    marks = (identity or identity_of(spliced)).dictionaries
    files = {} if spliced.suite is None else spliced.suite.hashes()
    origins = {} if spliced.suite is None else spliced.suite.origins()
    return {
        str(site): {
            "kind": d.kind,
            "n_features": d.n_features,
            "fingerprint": marks[str(site)],
            **({"reads": d.reads} if d.transcodes else {}),
            "sha256": files.get(str(site)),
            **origins.get(str(site), {}),
            **_stated_place(spliced, site),
        }
        for site, d in spliced.dictionaries.items()
    }


_SHOWN = 3
"""How many words of a place are recorded."""


def words_at(task: Task, tokenizer: Any) -> dict[str, str]:
    """Place -> the words there in clean prompts, the most frequent first: "boy | girl | editor | ...".

    Empty if the task sums positions, or without a tokenizer.
    """
    if tokenizer is None or task.aggregate == "sum":
        return {}
    found: dict[Any, Counter[tuple[int, ...]]] = {place: Counter() for place in task.places}
    for example in task.examples:
        spans = dict(example.roles) if task.aggregate == "role" else {}
        for role, span in spans.items():
            found[role][example.clean[span.start : span.end]] += 1
        for position, token in enumerate(example.clean if task.aggregate == "none" else ()):
            found[position][token,] += 1
    return {str(place): _listed(counts, tokenizer) for place, counts in found.items() if counts}


def _listed(counts: Counter[tuple[int, ...]], tokenizer: Any) -> str:
    words = [_shown(tokenizer.decode(list(ids))) for ids, _ in counts.most_common(_SHOWN)]
    return " | ".join([*words, *(["..."] if len(counts) > _SHOWN else [])])


def _shown(text: str, most: int = 24) -> str:
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text.strip())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _stated_place(spliced: SplicedModel, site: Site) -> dict[str, str]:
    """The place that a dictionary's files name, if it is not its site and the user accepted it."""
    said = elsewhere(site, spliced.dictionaries[site], spliced.model, spliced.architecture)
    return {} if said is None else {"files_say": said}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
