"""The models and behaviours that are measured: training and held-out pairs of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import featcircuits as fc
from experiments.neurons_and_features import with_roles
from experiments.selection.pairs import tasks
from featcircuits.evaluation.scope import scope_of
from featcircuits.splicing.spliced import SplicedModel

ESTIMATORS = (
    "atp", "atp-drop", "atp-qk", "atp-star", "atp-hop1", "relp", "relp:rules=with_ah", "relp:rules=gim",
    "relp:rules=attnlrp", "ig", "ig:steps=3:quadrature=gauss", "ig-inputs", "ig-chain", "ig-conductance", "secant",
    "blend", "blend:error_effects=exact",
)  # fmt: skip
REFERENCE = "exact"
PLAIN = "relp"
"""What the others' circuits are compared with."""
SIZES = (10, 20, 40, 80, 120, 180, 270)


FOLDER_SIZES = (20, 40, 80, 160, 320, 640, 1280)


@dataclass(frozen=True, eq=False)
class Case:
    """A behaviour of a model. `test` is None where only estimates are compared."""

    model: str
    behaviour: str
    spliced: SplicedModel
    train: fc.Task
    test: fc.Task | None
    first_layer: int = 0
    """Circuits are of this layer and the later ones; earlier ones run as they are."""
    sizes: tuple[int, ...] = SIZES
    """How many nodes the circuits of a curve have."""

    @cached_property
    def scope(self) -> SplicedModel:
        """The model with the sites that circuits are of."""
        return scope_of(self.spliced, self.first_layer)

    def found(self) -> dict[str, str]:
        """What a row of results says of where it comes from."""
        return {"model": self.model, "behaviour": self.behaviour}


@dataclass(frozen=True)
class Folders:
    """A model, its suite and files of pairs of one behaviour."""

    model: Path
    suite: Path
    train: Path
    test: Path | None = None


def suite_cases(name: str, behaviours: list[str]) -> Iterator[Case]:
    """Behaviours of a suite (all where none is named), every pair of their files."""
    spliced = fc.load(suite=name)
    assert spliced.suite is not None
    for behaviour in behaviours or spliced.suite.tasks:
        train, test = tasks(spliced, behaviour, None, None)
        yield Case(name, behaviour, spliced, train, test)


def folder_case(name: str, folders: Folders) -> Case:
    """A model of the user's own; positions go by role, read off where the prompts of a pair differ."""
    spliced = fc.load(str(folders.model), str(folders.suite))
    train, test = (
        None if path is None else with_roles(fc.Task.from_jsonl(path, spliced.tokenizer))
        for path in (folders.train, folders.test)
    )
    assert train is not None
    behaviour, first = folders.train.stem.partition("_")[0], spliced.architecture.n_layers // 3
    return Case(name, behaviour, spliced, train, test, first, FOLDER_SIZES)
