"""suite.toml, read and checked, with its groups expanded to one record per site.

A site's weights come from one of `SOURCES`. A `[[groups]]` table describes one site in each of its
layers: `{layer}` is replaced by the layer, and a list holds one value per layer, which replaces `{its name}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, known, shortened
from featcircuits.files.containment import inside, link_in
from featcircuits.files.reading import read_toml
from featcircuits.inputs.names import check_name
from featcircuits.model.sites import MLP_IN, Site, check_reads

FORMAT = 1

SOURCES: Mapping[str, tuple[str, ...]] = {
    "source": (),
    "release": ("id",),
    "repo": ("path",),
    "dictionary": ("width",),
}
"""The key that names a site's weights -> the keys that it needs. Weights come from a file or folder of the suite, a
sae_lens release, a hub repository, or nowhere (the neurons or the whole vector of the site)."""

ORIGIN = ("release", "id", "repo", "path", "revision")
"""The keys that name weights on the hub."""

BASES = ("identity", "whole")
"""The values of `dictionary`."""

_BELONGS = {"sha256": "source", "id": "release", "path": "repo", "revision": "repo"}
_FIGURES = (
    "l0",
    "variance_unexplained",
    "loss_recovered",
    "loss_recovered_mean",
    "dead_features",
    "sink_tokens",
    "sink_tokens_training",
)
_SITE: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys([*SOURCES, *_BELONGS, "kind", "dtype"], str),
    **dict.fromkeys(["width", "n_features"], int),
    **dict.fromkeys(_FIGURES, (int, float)),
    "reads": str,
    "before_gain": bool,
    "processed": bool,
    "check_place": bool,
}
_GROUP = {*_SITE, "sites", "layers"}
_TOP_TYPES = {
    **dict.fromkeys(["name", "description", "licence"], str),
    **dict.fromkeys(["model", "recipe", "tasks", "sites"], dict),
}
_TOP = {*_TOP_TYPES, "format", "groups"}
_MODEL: Mapping[str, type] = {
    **dict.fromkeys(["source", "revision", "fingerprint", "architecture"], str),
    **dict.fromkeys(["hidden_size", "num_hidden_layers"], int),
    "files": dict,
}
_TASK = dict.fromkeys(["train", "test", "description", "metric"], str)
_LARGEST, _MOST_LAYERS, _LONGEST = 10**8, 1000, 1000
"""The largest width or number of features, the most layers of a model, and the most characters of a value."""
_NAMES = {
    str: "text",
    dict: "table",
    int: f"whole number above 0, and below {_LARGEST}",
    bool: "true or false",
    (int, float): "number",
}

Record = dict[str, Any]


def read_record(path: Path) -> Record:
    """The content of a suite.toml, with every site in `sites`; raises `InputError` that names each fault."""
    record = read_toml(path)
    try:
        return _checked(record)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _checked(record: Record) -> Record:
    if record.get("format") != FORMAT:
        raise InputError(f"format is {shortened(record.get('format'))}; this version reads format {FORMAT}")
    _check_known("", record, _TOP)
    groups = record.get("groups", [])
    if not isinstance(groups, list):
        raise InputError(f"groups is {shortened(groups)}; write each group as a [[groups]] table")
    _check_types("", record, _TOP_TYPES, ["name", "model", *([] if groups else ["sites"])])
    _check_known("model.", record["model"], _MODEL)
    check_name(record["name"], "name")
    _check_types("model.", record["model"], _MODEL, ["source"])
    for name, value in record["model"].get("files", {}).items():
        _check_types("model.files.", {name: value}, {name: str}, [name])
    for name, task in record.get("tasks", {}).items():
        check_name(name, "task")
        _check_types("tasks.", {name: task}, {name: dict}, [])
        _check_types(f"tasks.{name}.", task, _TASK, [])
    return {**record, "sites": _sites(groups, record.get("sites", {}))}


def _sites(groups: list[Any], explicit: Mapping[str, Any]) -> dict[str, Record]:
    """The record of every site in forward order: those of the groups, as the explicit tables change them."""
    grouped: dict[str, Record] = {}
    for number, group in enumerate(groups, 1):
        for site, entry in _expanded(f"groups[{number}].", group).items():
            if site in grouped:
                raise InputError(f"groups[{number}].sites: {site} is in an earlier group; a site has one dictionary")
            grouped[site] = entry
    sites = dict(grouped)
    for site, entry in explicit.items():
        _check_layer(site)
        if not isinstance(entry, dict):
            raise InputError(f"sites.{site} must be a table with a source, found {shortened(entry)}")
        _check_known(f"sites.{site}.", entry, _SITE)
        # a table with a source of its own replaces the group's entry; one without a source adds to it
        sites[site] = entry if any(name in entry for name in SOURCES) else {**grouped.get(site, {}), **entry}
        _check_site(f"sites.{site}.", sites[site])
    return {site: sites[site] for site in sorted(sites, key=Site.parse)}


def _expanded(where: str, group: Any) -> dict[str, Record]:
    """The checked records of a group's sites."""
    if not isinstance(group, dict):
        raise InputError(f"{where[:-1]} is {shortened(group)}; give a table")
    _check_known(where, group, _GROUP)
    _check_types(where, group, {"sites": str}, ["sites"])
    layers = _layers(where, group.get("layers"))
    shared = {name: value for name, value in group.items() if name not in ("sites", "layers")}
    by_layer = {name: value for name, value in shared.items() if isinstance(value, list)}
    for name, values in by_layer.items():
        if len(values) != len(layers):
            raise InputError(
                f"{where}{name} has {len(values)} values for {len(layers)} layers; give one value for all, or one each"
            )
    _check_templates(where, group, by_layer)
    entries: dict[str, Record] = {}
    for place, layer in enumerate(layers):
        values = {**shared, **{name: listed[place] for name, listed in by_layer.items()}}
        filled = {name: _filled(value, {**values, "layer": layer}) for name, value in values.items()}
        site = _filled(group["sites"], {"layer": layer})
        _check_layer(site)
        _check_site(where, filled)
        entries[site] = filled
    _check_differ(where, group)
    return entries


def _layers(where: str, given: Any) -> range:
    numbers = isinstance(given, list) and len(given) == 2 and all(type(layer) is int for layer in given)
    if not numbers or not 0 <= given[0] <= given[1]:
        raise InputError(f"{where}layers is {shortened(given)}; give [first, last]")
    if given[1] >= _MOST_LAYERS:
        raise InputError(f"{where}layers is {shortened(given)}; layers are numbered from 0, and below {_MOST_LAYERS}")
    return range(given[0], given[1] + 1)


def _check_layer(site: str) -> None:
    if Site.parse(site).layer >= _MOST_LAYERS:
        raise InputError(f"site {site}: layers are numbered from 0, and below {_MOST_LAYERS}")


def _check_templates(where: str, group: Record, by_layer: Mapping[str, Any]) -> None:
    """Raise `InputError` for unknown names in braces, or if the layers would share one site."""
    for name, value in group.items():
        fields = ["layer"] if name == "sites" else ["layer", *(other for other in by_layer if other != name)]
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        for field in _FIELD.findall(" ".join(texts)):
            if field not in fields:
                raise InputError(
                    f"{where}{name} = {shortened(value)}: {{{field}}} has no value; {known(fields, field)}"
                )
    if "{layer}" not in group["sites"]:
        raise InputError(
            f"{where}sites = {shortened(group['sites'])} has no {{layer}}; a single site is a [sites.<site>] table"
        )


def _check_differ(where: str, group: Record) -> None:
    """Raise `InputError` if the layers would share the same weights."""
    origin = {name: group[name] for name in _WHERE if name in group}
    if origin and not any(isinstance(value, list) or _FIELD.search(str(value)) for value in origin.values()):
        name, value = list(origin.items())[-1]
        raise InputError(
            f"{where}{name} = {shortened(value)} has no {{layer}}; every layer would have the same weights"
        )


_FIELD = re.compile(r"\{(\w+)\}")
_WHERE = ("source", "release", "id", "repo", "path")


def _filled(value: Any, fields: Mapping[str, Any]) -> Any:
    return _FIELD.sub(lambda found: str(fields[found[1]]), value) if isinstance(value, str) else value


def _check_site(where: str, entry: Record) -> None:
    """Raise `InputError` unless the record has exactly one complete source and every value has its type."""
    named = [name for name in SOURCES if name in entry]
    if not named:
        raise InputError(
            f"{where}source is None; give a text: a file or folder of the suite, or instead release and id, "
            "repo and path, or dictionary"
        )
    if len(named) > 1:
        raise InputError(f"{where[:-1]} has both {named[0]} and {named[1]}; a site has one source")
    (source,) = named
    for name, owner in _BELONGS.items():
        if name in entry and owner != source:
            raise InputError(f"{where}{name} belongs to {owner}, but the weights come from {source}; remove it")
    _check_types(where, entry, _SITE, (source, *SOURCES[source]))
    if source == "dictionary" and entry[source] not in BASES:
        raise InputError(f"{where}dictionary is {shortened(entry[source])}; {known(BASES, entry[source])}")
    if source == "dictionary" and entry.get("kind", entry[source]) != entry[source]:
        raise InputError(f"{where}kind is {shortened(entry['kind'])}, but the dictionary is {entry[source]!r}")
    _check_reads(where, entry)
    for name, pattern in _ON_HUB.items():
        if name in entry and (not pattern.fullmatch(entry[name]) or ".." in entry[name].split("/")):
            raise InputError(f"{where}{name} is {shortened(entry[name])}, which is not a {name} of the hub")


def _check_reads(where: str, entry: Record) -> None:
    reads = entry.get("reads", MLP_IN)
    check_reads(reads)
    if reads != MLP_IN and entry.get("before_gain"):
        raise InputError(
            f"{where}before_gain is true, but the transcoder reads {reads}, which is before the whole norm; remove one "
            "of the two"
        )


_ON_HUB = {
    "repo": re.compile(r"[\w.-]+(/[\w.-]+)?"),
    "path": re.compile(r"[\w.=,+@-][\w./ =,+@-]*"),
    "revision": re.compile(r"[\w.-][\w./-]*"),
}


def _check_known(where: str, table: Record, names: Any) -> None:
    if unknown := sorted(set(table) - set(names)):
        raise InputError(f"unknown key {where}{shortened(unknown[0])[1:-1]}; {known(sorted(names), unknown[0])}")


def _check_types(where: str, table: Record, types: Mapping[str, Any], needed: Any) -> None:
    """Raise `InputError` unless every value has its type, and the `needed` ones are there and not empty."""
    for name, kind in types.items():
        value = table.get(name)
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if kind is int and isinstance(value, int):
            right = right and 0 < value < _LARGEST
        if kind is str and isinstance(value, str) and len(value) > _LONGEST:
            raise InputError(f"{where}{name} has {len(value)} characters; it may have {_LONGEST}")
        if (name in table and not right) or (name in needed and not value):
            raise InputError(f"{where}{name} is {shortened(value)}; give a {_NAMES[kind]}")


def path_in(folder: Path, relative: str, what: str) -> Path:
    """The path that a suite names; raises `InputError` if it leads outside the suite's folder."""
    if inside(folder, folder / relative) is not None:
        return folder.resolve() / relative  # keep the link's own name, which says what the file holds
    link = link_in(folder, folder / relative)
    through = f" through the link {shortened(link, 300)}; put the files themselves into the suite's folder"
    raise InputError(
        f"{shortened(folder / 'suite.toml', 300)}: {what} = {shortened(relative, 300)} points outside the suite's "
        f"folder{through if link else ''}"
    )
