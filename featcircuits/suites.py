"""Suites: which dictionary sits at which site of which model, read from `saes/<name>/suite.toml`."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.offloaded import offloaded
from featcircuits.errors import InputError
from featcircuits.sites import Site
from featcircuits.sources import check_hash, load_source, read_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from featcircuits.models import Architecture

FORMAT = 1
SHIPPED = "grammar-4l"
"""The suite that the package carries."""

_TOP = {"format", "name", "description", "licence", "model", "recipe", "tasks", "sites"}
_MODEL = {"source", "revision", "fingerprint", "architecture", "hidden_size", "num_hidden_layers", "files"}
_FIGURES = {"l0", "variance_unexplained", "loss_recovered", "loss_recovered_mean", "dead_features"}
_SITE = {"source", "sha256", "kind", "width", "n_features"} | _FIGURES


@dataclass(frozen=True)
class Suite:
    """A suite's record; its weights are read by `dictionaries`."""

    folder: Path
    name: str
    description: str
    model: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    sites: Mapping[str, Mapping[str, Any]]

    @property
    def model_source(self) -> str:
        """A folder beside the suite where there is one, else a hub id."""
        local = self.folder / self.model["source"]
        return str(local) if local.is_dir() else self.model["source"]

    def task_file(self, task: str, split: str) -> Path:
        """The file of a behaviour's "train" or "test" examples."""
        if task not in self.tasks:
            raise InputError(f"suite {self.name!r} has no task {task!r}; it has: {', '.join(self.tasks)}")
        if split not in self.tasks[task]:
            raise InputError(f"suite {self.name!r}: task {task!r} has no {split} file; give a JSONL file instead")
        return _inside(self.folder, self.tasks[task][split], f"tasks.{task}.{split}")

    def check_model_files(self) -> None:
        """Refuse a model folder beside the suite whose files are not the recorded ones."""
        for name, recorded in self.model.get("files", {}).items():
            path = _inside(self.folder, f"{self.model['source']}/{name}", f"model.files.{name}")
            check_hash(path, recorded)

    def dictionaries(self, offload: str | None = None) -> dict[Site, Dictionary]:
        """Read every site's dictionary, each checked against its recorded hash.

        `offload`: None, "cpu" (weights stay in the CPU's memory) or "disk" (in their files) between uses.
        """
        found: dict[Site, Dictionary] = {}
        for name, record in self.sites.items():
            path = _inside(self.folder, record["source"], f"sites.{name}.source")
            dictionary = load_source(path, record.get("sha256"))
            if offload == "cpu":
                dictionary = offloaded(partial(_given, dictionary))
            elif offload == "disk":
                dictionary = offloaded(partial(read_source, path))
            found[Site.parse(name)] = dictionary
        return found

    def hashes(self) -> dict[str, str]:
        """Site -> sha256 of its dictionary's file, for a manifest."""
        return {name: record.get("sha256", "") for name, record in self.sites.items()}


def _given(dictionary: Dictionary) -> Dictionary:
    return dictionary


def suite_folders() -> list[Path]:
    """Where named suites live: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    return [folder for folder in (package / "saes", package.parent / "saes") if folder.is_dir()]


def named_suites() -> dict[str, Path]:
    """Every suite by name."""
    found = [path.parent for folder in suite_folders() for path in sorted(folder.glob("*/suite.toml"))]
    return {path.name: path for path in reversed(found)}


def load_suite(suite: str | Path) -> Suite:
    """Read a suite by name or folder; raises `InputError` naming what is missing or unknown."""
    folder = Path(suite)
    if not (folder / "suite.toml").is_file():
        named = named_suites()
        if str(suite) not in named:
            raise InputError(
                f"unknown suite {str(suite)!r}: no folder with a suite.toml, and the named suites are "
                f"{', '.join(sorted(named)) or 'none'}"
            )
        folder = named[str(suite)]
    path = folder / "suite.toml"
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None
    return _checked(folder, path, record)


def _checked(folder: Path, path: Path, record: dict[str, Any]) -> Suite:
    if record.get("format") != FORMAT:
        raise InputError(f"{path}: format is {record.get('format')!r}; this version reads format {FORMAT}")
    _check_table(path, "", record, _TOP, {"name": str, "model": dict, "sites": dict})
    _check_table(path, "model.", record["model"], _MODEL, {"source": str})
    for site, entry in record["sites"].items():
        Site.parse(site)
        if not isinstance(entry, dict):
            raise InputError(f"{path}: sites.{site} must be a table with a source")
        _check_table(path, f"sites.{site}.", {"sha256": "", **entry}, _SITE, {"source": str, "sha256": str})
    return Suite(
        folder, record["name"], record.get("description", ""), record["model"], record.get("tasks", {}), record["sites"]
    )


def _check_table(path: Path, where: str, table: dict[str, Any], known: set[str], needed: dict[str, type]) -> None:
    """Refuse unknown keys, and needed ones that are missing, empty or of another type."""
    if unknown := sorted(set(table) - known):
        raise InputError(f"{path}: unknown key {where}{unknown[0]}; known: {', '.join(sorted(known))}")
    for name, kind in needed.items():
        if not isinstance(table.get(name), kind) or (not table[name] and name != "sha256"):
            raise InputError(f"{path}: {where}{name} is {table.get(name)!r}; give a {_TYPES[kind]}")


_TYPES = {str: "text", dict: "table"}


def _inside(folder: Path, relative: str, what: str) -> Path:
    """A path that a suite names must stay inside the suite's folder."""
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"{folder / 'suite.toml'}: {what} = {relative!r} points outside the suite's folder")
    return path


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 of the input embedding in bfloat16: the same for a model in float32, float64 or bfloat16."""
    weight = next(model.get_input_embeddings().parameters()).detach().to("cpu", torch.bfloat16).contiguous()
    return hashlib.sha256(weight.view(torch.int16).numpy().tobytes()).hexdigest()


def check_model(suite: Suite, model: PreTrainedModel, architecture: Architecture) -> None:
    """Refuse a model that is not the one the suite was trained on."""
    expected = suite.model
    for key, found in (
        ("architecture", architecture.model_type),
        ("hidden_size", architecture.width),
        ("num_hidden_layers", architecture.n_layers),
    ):
        if key in expected and expected[key] != found:
            raise InputError(
                f"suite {suite.name!r} belongs to another model: its {key} is {expected[key]!r}, this model's "
                f"{found!r}; use the suite's model ({expected['source']}) or another suite"
            )
    recorded = expected.get("fingerprint")
    if recorded and model.dtype != torch.float16 and fingerprint(model) != recorded:
        raise InputError(
            f"suite {suite.name!r} belongs to another model: the embedding's weights differ from those it was trained "
            f"on ({expected['source']}); features would be meaningless"
        )
