"""A suite's record and its weights; suites by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcircuits.errors import InputError, known, shortened
from featcircuits.files.containment import check_links, inside
from featcircuits.model.sites import Site, chosen
from featcircuits.suites.record import ORIGIN, path_in, read_record

if TYPE_CHECKING:
    from featcircuits.dictionaries import Dictionary
    from featcircuits.suites.weights import Adapting

SHIPPED = "grammar-4l"
"""The suite whose weights come with the package."""


_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


@dataclass(frozen=True)
class Suite:
    """A suite's record; `dictionaries` reads its weights."""

    folder: Path
    name: str
    description: str
    model: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    sites: Mapping[str, Mapping[str, Any]]

    @property
    def model_source(self) -> str:
        """A folder inside the suite's folder if there is one, else a hub id.

        No other folder of this machine is read because a suite names it; the user has to name it.
        """
        if not self.model["source"]:
            raise InputError(
                f"{shortened(self.folder, 300)}: these dictionaries do not name their model; name it, with --model or "
                "fc.load(model=...)"
            )
        source, local = self.model["source"], self.folder / self.model["source"]
        if os.path.isdir(local) and inside(self.folder, local) is not None:
            check_links(local, (path.name for path in local.iterdir()))
            return str(local)
        if os.path.exists(local) or not _HUB_ID.fullmatch(source):
            fault = "is neither a folder inside the suite nor a name of the hub"
        elif os.path.exists(source):
            fault = "is not a folder of the suite, but the current folder has one of that name"
        else:
            return source
        raise InputError(
            f"{shortened(self.folder / 'suite.toml', 300)}: model.source = {shortened(source, 300)} {fault}; if you "
            "trust it, name the model's folder yourself, with --model or fc.load(model=...)"
        )

    def task_file(self, task: str, split: str) -> Path:
        """The file of a task's "train" or "test" examples."""
        if task not in self.tasks:
            names = known(self.tasks, task).removeprefix("known: ")
            others = f"it has: {names}" if self.tasks else "it has none; give a JSONL file instead"
            raise InputError(f"suite {self.name!r} has no task {shortened(task)}; {others}")
        if split not in self.tasks[task]:
            raise InputError(f"suite {self.name!r}: task {task!r} has no {split} file; give a JSONL file instead")
        return path_in(self.folder, self.tasks[task][split], f"tasks.{task}.{split}")

    def check_model_files(self) -> None:
        """Raise `InputError` if files of the suite's model folder differ from the recorded ones."""
        from featcircuits.sources import check_hash

        for name, recorded in self.model.get("files", {}).items():
            path = path_in(self.folder, f"{self.model['source']}/{name}", f"model.files.{name}")
            check_hash(path, recorded)

    def check_sources(self) -> None:
        """Raise `InputError`, before anything is loaded, for files that are missing or outside the suite's folder."""
        for name, record in self.sites.items():
            if "source" in record and not path_in(self.folder, record["source"], f"sites.{name}.source").exists():
                raise InputError(
                    f"{shortened(self.folder / record['source'], 300)}: no such file; the suite is incomplete"
                )

    def dictionaries(
        self, offload: str | None = None, adapting: Adapting | None = None, check_place: bool = True
    ) -> dict[Site, Dictionary]:
        """Read every site's dictionary and check it against its recorded hash, size and place.

        Weights on the hub come from the local cache, and are downloaded if they are not in it.
        `offload`: None, or where weights stay between uses: "cpu" (memory) or "disk" (their files).
        `adapting`: adapts dictionaries of another form of the model to the unmodified one
        (`featcircuits.suites.adapting`); without it they stay as stored.
        `check_place`: whether to refuse files that name a site other than theirs; a site's record can turn this
        off for that site.
        """
        from featcircuits.suites.places import check_places
        from featcircuits.suites.weights import dictionary_at, notice_assumed

        sites = {Site.parse(name): record for name, record in self.sites.items()}
        found: dict[Site, Dictionary] = {}
        for site, record in sites.items():
            found[site] = dictionary_at(self.folder, site, record, offload, adapting)
            if check_place:
                check_places({site: found[site]}, self.sites)
        notice_assumed(found, self.sites)
        return found

    def only(self, sites: str | Iterable[str]) -> Suite:
        """The suite with only the sites that match names, kinds or patterns (`featcircuits.model.sites.chosen`)."""
        names = chosen(self.sites, sites)
        return replace(self, sites={name: self.sites[name] for name in names})

    def hashes(self) -> dict[str, str]:
        """Site -> sha256 of its dictionary's file, for a manifest."""
        return {name: record.get("sha256", "") for name, record in self.sites.items()}

    def origins(self) -> dict[str, dict[str, str]]:
        """Site -> release and id, or repository, path and revision, for weights that are not in the suite's folder."""
        return {name: {key: record[key] for key in ORIGIN if key in record} for name, record in self.sites.items()}


def suite_folders() -> list[Path]:
    """The folders of named suites: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    return [folder for folder in (package / "saes", package.parent / "saes") if folder.is_dir()]


def named_suites() -> dict[str, Path]:
    """Every suite by name."""
    found = [path.parent for folder in suite_folders() for path in sorted(folder.glob("*/suite.toml"))]
    return {path.name: path for path in reversed(found)}


def load_suite(suite: str | Path) -> Suite:
    """Read a suite by name or folder; raises `InputError` that names what is missing or unknown.

    A folder without a suite.toml may hold one dictionary per layer (`layer_0.safetensors`, `layer_1/`) or site.
    """
    if not isinstance(suite, (str, Path)):
        raise InputError(f"a suite is a name or a folder, found {type(suite).__name__} {shortened(suite)}")
    folder = Path(suite)
    if not os.path.isfile(folder / "suite.toml"):  # raises if the text is not a path
        named = named_suites()
        if str(suite) not in named and os.path.isdir(suite):
            from featcircuits.suites.folder import sites_in

            return Suite(folder, folder.resolve().name, "", *sites_in(folder))
        if str(suite) not in named:
            raise InputError(
                f"unknown suite {shortened(str(suite))}: no folder with a suite.toml or with one dictionary per layer, "
                f"and the named suites are {known(sorted(named), suite).removeprefix('known: ')}"
            )
        folder = named[str(suite)]
    record = read_record(folder / "suite.toml")
    return Suite(
        folder, record["name"], record.get("description", ""), record["model"], record.get("tasks", {}), record["sites"]
    )
