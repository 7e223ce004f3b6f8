"""What many cases need: the shipped model, a tiny one, a run folder. None of them is changed by a case."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

import featcircuits as fc
from featcircuits.cli.config import TraceConfig
from featcircuits.splicing.spliced import SplicedModel
from tests.bad_inputs.case import ROOT
from tests.test_belonging import Made, small_model
from tests.tiny import random_task, traced

SUITE = ROOT / "saes" / "grammar-4l"
MODEL = SUITE / "model"
TASKS = SUITE / "tasks"


@cache
def shipped() -> SplicedModel:
    return fc.load()


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@cache
def tiny() -> Made:
    model, task = small_model(), random_task(3)
    effects = fc.node_effects(model, task, "atp")
    return Made(model, task, effects, traced(model, task, nodes="atp", keep_nodes="top=30"))


def run_in(folder: str = "run") -> Path:
    """A run folder, as far as commands look at it before they load a model."""
    path = Path(folder)
    path.mkdir()
    tiny().circuit.save(path / "circuit.safetensors")
    tiny().circuit.save(path / "nodes.safetensors")
    TraceConfig().write(path / "config.json")
    return path
