"""groups.json of a run, and the groups in a view that the page saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, shortened
from featcircuits.files.reading import read_json
from featcircuits.files.writing import write_json
from featcircuits.model.nodes import Node

FORMAT, VERSION = "featcircuits-groups", 1
VIEW = "featcircuits-view"


def read(path: str | Path) -> dict[str, tuple[Node, ...]]:
    """Name -> nodes, from groups.json or a saved view; raises `InputError` for any other file."""
    shown, found = shortened(Path(path), 300), read_json(path, "file of groups")
    if not isinstance(found, Mapping) or found.get("format") not in (FORMAT, VIEW) or found.get("version") != VERSION:
        raise InputError(f"{shown}: neither groups nor a saved view in version {VERSION}")
    groups: dict[str, tuple[Node, ...]] = {}
    listed = found.get("groups")
    for group in listed if isinstance(listed, list) else [None]:
        if not isinstance(group, Mapping) or not _is_group(group):
            raise InputError(f"{shown}: a group is {shortened(group)}; it must have a name and a list of nodes")
        if group["name"] in groups:
            raise InputError(f"{shown}: group {shortened(group['name'])} occurs twice")
        try:
            groups[group["name"]] = tuple(Node.parse(name) for name in group["nodes"])
        except InputError as error:
            raise InputError(f"{shown}: {error}") from None
    return groups


def write(path: str | Path, groups: Mapping[str, Collection[Node | str]], *, overwrite: bool = False) -> None:
    """Write groups.json, whole or not at all; raises `InputError` if the file exists."""
    listed = [{"name": name, "nodes": [*map(str, nodes)]} for name, nodes in groups.items()]
    write_json(path, {"format": FORMAT, "version": VERSION, "groups": listed}, overwrite=overwrite)


def _is_group(value: Mapping[str, Any]) -> bool:
    return (
        isinstance(value.get("name"), str)
        and isinstance(value.get("nodes"), list)
        and all(isinstance(name, str) for name in value["nodes"])
    )
