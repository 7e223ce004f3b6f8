"""Circuit files, nodes and their names."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from safetensors.numpy import save_file

import featcircuits as fc
from featcircuits.circuit.circuit import Circuit
from tests.bad_inputs.case import Case
from tests.bad_inputs.shared import tiny
from tests.test_circuit import damaged, small

PATH = Path("circuit.safetensors")


def changed(**values: Any) -> None:
    """A saved circuit, some of whose record or tables are others."""
    damaged(PATH, **values)
    Circuit.load(PATH)


def holding(content: bytes) -> None:
    PATH.write_bytes(content)
    Circuit.load(PATH)


def recorded(text: str) -> None:
    tables = {"scores": np.zeros((0, 2)), "edges": np.zeros((0, 2), np.int64), "weights": np.zeros(0)}
    save_file(tables, PATH, {"circuit": text})
    Circuit.load(PATH)


def cut() -> None:
    small().save(PATH)
    holding(PATH.read_bytes()[:-7])


def twice() -> None:
    small().save(PATH)
    small().save(PATH)


TABLES: dict[str, dict[str, Any]] = {
    "a circuit of a later format": {"format": 99},
    "a circuit with fewer nodes than scores": {"nodes": ["embed/3@0"]},
    "a circuit with a node twice": {"nodes": ["embed/3@0", "embed/3@0", "resid_2/7@1"]},
    "a circuit with an edge twice": {"edges": np.array([[0, 1], [0, 1], [1, 2], [2, 3]])},
    "an edge to a node that is not there": {"edges": np.array([[0, 1], [1, 2], [2, 9], [0, 2]])},
    "an edge whose weight is NaN": {"weights": np.array([1.0, np.nan, 1.0, 1.0])},
    "an edge whose weight is infinite": {"weights": np.array([1.0, np.inf, 1.0, 1.0])},
    "scores that are whole numbers": {"scores": np.ones((3, 2), dtype=np.int64)},
    "a negative standard error": {"scores": np.array([[1.0, -1.0]] * 3)},
    "an infinite standard error": {"scores": np.array([[1.0, np.inf]] * 3)},
    "an effect that is NaN": {"scores": np.array([[np.nan, 0.0]] * 3)},
    "places that are a number": {"places": 3},
    "a place twice": {"places": [0, 1, 0]},
    "half a place": {"places": [0, 1.5]},
    "a role among positions": {"places": [0, 1, "verb"]},
    "an aggregate that is not known": {"aggregate": "mean"},
    "an aggregate that is a list": {"aggregate": ["none"]},
    "positions apart in a circuit that sums them": {"aggregate": "sum"},
    "a manifest that is a text": {"manifest": "seed"},
    "a node at a place that the circuit lacks": {"nodes": ["embed/3@0", "mlp_1/error@1", "resid_2/7@9"]},
    "a node of site `mlp_01`": {"nodes": ["embed/3@0", "mlp_1/error@1", "mlp_01/7@1"]},
}

NAMES = (
    "rubbish", "resid_3/05", "resid_3/٣", "resid_3/1_0", "resid_3/-5", "resid_3/1e3", "resid_03/1", "Resid_3/5",
    "resid_3/5@", "resid_3/5@07", "resid_3/5@a\nb", "resid_3/",
)  # fmt: skip


def without_manifest(name: str) -> None:
    """Nothing but the node's name says that it belongs elsewhere."""
    made = tiny()
    score = next(iter(made.circuit.nodes.values()))
    circuit = fc.Circuit({fc.Node.parse(name): score}, {}, made.task.places, "none")
    fc.evaluate(made.model, circuit, made.task)


CASES = [
    *(Case(tried, partial(changed, **values)) for tried, values in TABLES.items()),
    Case("a circuit file that is not there", lambda: Circuit.load(PATH)),
    Case("a circuit file that is cut off", cut),
    Case("a circuit file that is a pickle", partial(holding, pickle.dumps({}))),
    Case("an empty circuit file", partial(holding, b"")),
    Case("a record that is a list", partial(recorded, "[1]")),
    Case("a record with a key twice", partial(recorded, '{"format": 2, "format": 2}')),
    Case("a record of 9,999 brackets", partial(recorded, "[" * 9999)),
    Case("a circuit saved where one is already", twice),
    Case("a circuit saved into a folder that there is not", lambda: small().save(Path("none/circuit.safetensors"))),
    Case("a graph of something else", lambda: Circuit.from_networkx(nx.DiGraph([(1, 2)]))),
    Case("a label of two lines", lambda: replace(small(), labels={"embed/3@0": "two\nlines"})),
    Case("a label of a node that is not there", lambda: replace(small(), labels={"mlp_0/1@0": "none"})),
    *(Case(f"a node named `{json.dumps(name, ensure_ascii=False)}`", partial(fc.Node.parse, name)) for name in NAMES),
    Case("a node that the circuit does not have", lambda: small().nodes["resid_2/8@1"]),
    Case("a node of a site that the suite lacks", partial(without_manifest, "mlp_1/3@0")),
    Case("a feature that the dictionary lacks", partial(without_manifest, "resid_1/24@0")),
]
