"""What is fuzzed: each target makes one case in a folder and judges what becomes of it.

A target returns when the result is sound, and lets `InputError` through; anything else is a finding.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit
from featcircuits.circuit.pruning import PRUNING_RULES, parse_pruning
from featcircuits.cli.config import AgreeConfig, CheckConfig, EdgesConfig, EvaluateConfig, TraceConfig, TrainConfig
from featcircuits.estimators import ESTIMATORS, parse_estimator
from featcircuits.export import EXPORTERS, Exporter
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site, chosen
from featcircuits.selection import SELECTIONS, parse_selection
from featcircuits.sources import describe, load_source
from featcircuits.suites import load_suite
from featcircuits.suites.summary import parts_of
from featcircuits.tasks.task import Task
from featcircuits.tasks.token_rows import read_rows
from featcircuits.training.suite_record import toml_text
from tests.fuzz.mutations import json_text, spoiled_bytes, spoiled_text, spoiled_value
from tests.source_files import FAMILIES, config_of, copied, store, stored, weights_of
from tests.test_circuit import same, small

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "saes" / "grammar-4l"


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SUITE / "model")


# circuits


def circuit_file(rng: random.Random, folder: Path) -> None:
    """A circuit's file with its header, its tables or its bytes spoiled."""
    path = folder / "circuit.safetensors"
    small().save(path)
    data = path.read_bytes()
    if rng.random() < 0.3:
        path.write_bytes(spoiled_bytes(rng, data))
    else:
        (size,) = struct.unpack("<Q", data[:8])
        header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
        record = json.loads(header["__metadata__"]["circuit"])
        match rng.randrange(4):
            case 0:  # numbers of the tables
                at = rng.randrange(len(body) // 8) * 8
                numbers = (float("nan"), float("inf"), -1.0, 1e300, 5e-324)
                body[at : at + 8] = struct.pack("<d", rng.choice(numbers)) if rng.random() < 0.6 else rng.randbytes(8)
            case 1:  # the tables' own description
                header = spoiled_value(rng, header)
            case _:
                header["__metadata__"]["circuit"] = json_text(rng, spoiled_value(rng, record))
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))
    _check_circuit(rng, fc.Circuit.load(path), folder)


def _check_circuit(rng: random.Random, circuit: Circuit, folder: Path) -> None:
    """It can be saved, exported and read back, and its numbers are numbers."""
    assert all(np.isfinite(score.effect) for score in circuit.nodes.values())
    assert all(not score.standard_error < 0 for score in circuit.nodes.values())
    assert all(np.isfinite(weight) for weight in circuit.edges.values())
    assert same(Circuit.from_networkx(circuit.to_networkx()), circuit)
    circuit.save(folder / "again.safetensors")
    assert same(Circuit.load(folder / "again.safetensors"), circuit)
    formats: dict[Callable[..., None], list[Exporter]] = {}
    for exporter in EXPORTERS.values():
        if not exporter.folder and (circuit.nodes or not exporter.of_ranking):
            formats.setdefault(exporter.write, []).append(exporter)
    for of_one in formats.values():  # a picture takes longest, and all cases together draw every format
        exporter = rng.choice(of_one)
        exporter.write(circuit, folder / exporter.file)


def graph(rng: random.Random, folder: Path) -> None:
    """A networkx graph of a circuit whose attributes were changed."""
    found = small().to_networkx()
    holders = [found.graph, *(d for _, d in found.nodes(data=True)), *(d for _, _, d in found.edges(data=True))]
    for _ in range(rng.randint(1, 3)):
        holder = rng.choice(holders)
        spoiled = spoiled_value(rng, dict(holder))
        if isinstance(spoiled, dict):
            holder.clear()
            holder.update({str(key): value for key, value in spoiled.items()})
    _check_circuit(rng, Circuit.from_networkx(found), folder)


# tasks


PAIR = {
    "clean_prefix": "The boy that the girls like", "patch_prefix": "The boys that the girls like",
    "clean_answer": " is", "patch_answer": " are", "case": "a case", "roles": {"subject": "boy", "verb": [23, 27]},
}  # fmt: skip
SINGLE = {"prefix": "The boy that the girls like", "answer": [" is", " was"], "wrong_answer": " are"}


def task_file(rng: random.Random, folder: Path) -> None:
    """A task file with a line, or its bytes, spoiled."""
    rows: list[Any] = [dict(rng.choice((PAIR, PAIR, SINGLE))) for _ in range(rng.randint(1, 3))]
    at = rng.randrange(len(rows))
    rows[at] = spoiled_value(rng, rows[at])
    text = "\n".join(json_text(rng, row) for row in rows) + "\n"
    data = text.encode("utf-8", "surrogatepass")
    path = folder / "task.jsonl"
    path.write_bytes(spoiled_bytes(rng, data) if rng.random() < 0.2 else data)
    task = Task.from_jsonl(path, tokenizer(), aggregate=rng.choice(("none", "sum", "role")))
    _check_task(task)


def _check_task(task: Task) -> None:
    """Ids are the tokenizer's, answers are there, places cover every token, batches can be made."""
    for example in task.examples:
        ids = [*example.clean, *(example.corrupted or ()), *example.clean_answers, *example.corrupted_answers]
        assert example.clean_answers
        assert all(0 <= token < len(tokenizer()) for token in ids)
        assert example.corrupted is None or len(example.corrupted) == len(example.clean)
        assert example.corrupted != example.clean
        for role, span in example.roles:
            assert Node.parse(str(Node(Site.parse("resid_0"), 1, role))).place == role
            assert 0 <= span.start < span.end <= len(example.clean)
    task.check_places()
    for batch in task.batches(2):
        assert int(batch.places.max()) < len(task.places)


# suites and settings


def suite_file(rng: random.Random, folder: Path) -> None:
    """A suite.toml with its values or its text spoiled."""
    suite = folder / "suite"
    suite.mkdir()
    text = (SUITE / "suite.toml").read_text(encoding="utf-8")
    if rng.random() < 0.4:
        text = spoiled_text(rng, text)
    else:
        whole = tomllib.loads(text)
        whole["sites"] = {name: whole["sites"][name] for name in ("embed", "resid_1")}
        whole["groups"] = [
            {"sites": "attn_{layer}", "layers": [0, 1], "source": "sites/attn_{layer}.safetensors", "n_features": 64}
        ]
        spoiled = spoiled_value(rng, whole)
        text = toml_text(_toml_values(spoiled)) if isinstance(spoiled, dict) else str(spoiled)
    (suite / "suite.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    found = load_suite(suite)
    assert all(str(Site.parse(name)) == name for name in found.sites)
    assert sum(part.count for part in parts_of(found)) == len(found.sites)
    for task in found.tasks:
        found.task_file(task, "train").resolve().relative_to(suite.resolve())


def _toml_values(value: Any) -> Any:
    """What TOML has no word for becomes a text."""
    if isinstance(value, dict):
        return {str(key): _toml_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_toml_values(item) for item in value if not isinstance(item, dict)]
    return "" if value is None else value


CONFIGS = (TraceConfig, EvaluateConfig, EdgesConfig, AgreeConfig, CheckConfig, TrainConfig)


def config_file(rng: random.Random, folder: Path) -> None:
    """A file of settings with values spoiled; what is taken has the declared types and can be written again."""
    kind: Any = rng.choice(CONFIGS)
    path = folder / "config.json"
    path.write_bytes(json_text(rng, spoiled_value(rng, asdict(kind()))).encode("utf-8", "surrogatepass"))
    found = kind.read(path, {})
    hints = get_type_hints(kind)
    for setting in fields(found):
        value, allowed = getattr(found, setting.name), get_args(hints[setting.name]) or (hints[setting.name],)
        assert type(value) in allowed or (type(value) is int and float in allowed)
        assert not isinstance(value, float) or np.isfinite(value)
    found.write(folder / "again.json")
    assert kind.read(folder / "again.json", {}) == found


# dictionaries


def dictionary(rng: random.Random, folder: Path) -> None:
    """A library's files with the config, a tensor or the bytes spoiled."""
    name = rng.choice(FAMILIES)
    path = copied(name, folder)
    weights, config = weights_of(path), config_of(path)
    match rng.randrange(4 if config is None else 6):
        case 0:
            weights.write_bytes(spoiled_bytes(rng, weights.read_bytes()))
        case 1 | 2 | 3:
            tensors: dict[str, Any] = dict(stored(weights))
            key = rng.choice(list(tensors))
            tensors[key] = _spoiled_tensor(rng, tensors[key])
            store(weights, tensors)
        case _:
            assert config is not None
            if config.suffix == ".json":
                spoiled = json_text(rng, spoiled_value(rng, json.loads(config.read_text(encoding="utf-8"))))
            else:
                spoiled = spoiled_text(rng, config.read_text(encoding="utf-8"))
            config.write_bytes(spoiled.encode("utf-8", "surrogatepass"))
    describe(path)
    found = load_source(path)
    assert 0 < found.width <= 1 << 20
    assert all(tensor.isfinite().all() for tensor in found.tensors().values() if tensor.is_floating_point())
    features = found.to(torch.device("cpu"), torch.float32).encode(
        torch.randn(3, found.read_width, generator=torch.Generator().manual_seed(0))
    )
    assert features.shape == (3, found.n_features)


def _spoiled_tensor(rng: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    match rng.randrange(8):
        case 0:
            return tensor.flatten()[:0]
        case 1:
            return tensor[None]
        case 2:
            return tensor.flatten()
        case 3:
            return tensor.to(rng.choice((torch.float64, torch.float16, torch.int64, torch.int8, torch.bool)))
        case 4:
            return torch.cat([tensor[None], tensor[None]])[0] if tensor.ndim == 0 else torch.cat([tensor, tensor[:1]])
        case 5:
            return tensor.mT.contiguous() if tensor.ndim == 2 else tensor * 0
        case _:
            changed = tensor.contiguous().clone()
            if changed.numel() and changed.is_floating_point():
                changed.view(-1)[rng.randrange(changed.numel())] = rng.choice((float("nan"), float("inf"), 1e38, -1e38))
            return changed


# texts on the command line


OPTIONS: Mapping[str, tuple[Callable[[str], Any], tuple[str, ...]]] = {
    "estimator": (
        parse_estimator,
        (*ESTIMATORS, "ig:steps=5:quadrature=gauss", "relp:rules=ln+half", "ig-chain:steps=3"),
    ),
    "rule": (parse_pruning, tuple(f"{name}=0.5" for name in PRUNING_RULES) + ("top=100",)),
    "selection": (parse_selection, (*SELECTIONS, "ratio:positive=0.8")),
    "site": (Site.parse, ("embed", "resid_3", "attn_z_12", "mlp_in_0")),
    "node": (Node.parse, ("resid_3/1042@7", "mlp_0/error@subject", "attn_1/5")),
    "sites": (lambda text: chosen(["embed", "mlp_0", "resid_0", "resid_1"], text), ("resid", "resid_0-1", "*_0,embed")),
}


def option_text(rng: random.Random, folder: Path) -> None:
    """An option's text with pieces spoiled; names that are taken have one spelling."""
    kind = rng.choice(list(OPTIONS))
    parse, texts = OPTIONS[kind]
    text = spoiled_text(rng, rng.choice(texts))
    found = parse(text)
    if kind in ("site", "node"):
        assert str(found) == text
    if kind == "estimator":
        assert parse_estimator(str(found)) == found


def text_file(rng: random.Random, folder: Path) -> None:
    """A text to train on, of any bytes."""
    path = folder / "text.txt"
    text = "\n".join(["The boys that the girl likes are here", "", "the cat"] * rng.randint(0, 3))
    path.write_bytes(spoiled_bytes(rng, spoiled_text(rng, text).encode("utf-8", "surrogatepass")))
    rows = read_rows(path, tokenizer(), rng.choice((2, 8, 128)))
    assert rows
    assert all(0 < len(row) <= 128 and max(row) < len(tokenizer()) for row in rows)


def model_folder(rng: random.Random, folder: Path) -> None:
    """The shipped model with a file spoiled."""
    model = folder / "model"
    shutil.copytree(SUITE / "model", model)
    path = rng.choice(sorted(model.iterdir()))
    if path.suffix == ".json" and rng.random() < 0.7:
        path.write_text(json_text(rng, spoiled_value(rng, json.loads(path.read_text(encoding="utf-8")))))
    else:
        path.write_bytes(spoiled_bytes(rng, path.read_bytes()))
    spliced = fc.load(str(model), SUITE)
    task = Task.from_jsonl(SUITE / "tasks" / "ioi_test.jsonl", spliced.tokenizer).take(2)
    assert fc.node_effects(spliced, task, "atp").total_effect.isfinite().all()


TARGETS: Mapping[str, tuple[Callable[[random.Random, Path], None], int]] = {
    "circuit": (circuit_file, 4),
    "graph": (graph, 2),
    "task": (task_file, 5),
    "suite": (suite_file, 3),
    "config": (config_file, 3),
    "dictionary": (dictionary, 5),
    "option": (option_text, 6),
    "text": (text_file, 1),
}
"""Name -> target, and its share of the cases."""

SLOW: Mapping[str, Callable[[random.Random, Path], None]] = {"model": model_folder}
"""Those that load a model; a small share of the cases."""
