"""A site's dictionary, read from the source that its record names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from featcircuits.dictionaries import Affine, Dictionary, identity, whole
from featcircuits.dictionaries.affine import check_numbers
from featcircuits.dictionaries.offloaded import offloaded
from featcircuits.errors import InputError, shortened
from featcircuits.model.sites import MLP_IN, Site, in_ranges
from featcircuits.sources import checked_source, describe, describe_release, from_release, read_source
from featcircuits.sources.hub import fetch
from featcircuits.sources.source import assumed, unsaid
from featcircuits.suites.record import path_in

Reader = Callable[[], Affine]
Adapting = Callable[[Site, bool, bool], Callable[[Affine], Affine]]
"""(site, before_gain, processed) -> the function that adapts the site's dictionary."""
_BASES: Mapping[str, Callable[[int], Dictionary]] = {"identity": identity, "whole": whole}


def dictionary_at(
    folder: Path,
    site: Site,
    record: Mapping[str, Any],
    offload: str | None = None,
    adapting: Adapting | None = None,
) -> Dictionary:
    """The dictionary of one site, checked against the size in its record.

    `offload`: None, "cpu" or "disk"; a file of the hub is then read again from the local cache.
    `adapting`: adapts dictionaries that were trained on another form of the model.
    """
    if "dictionary" in record:
        return _BASES[record["dictionary"]](record["width"])
    first, again = _readers(folder, site, record)
    dictionary = first()
    _check_record(site, record, dictionary)
    if adapting is not None:
        reads_input = dictionary.transcodes and dictionary.reads == MLP_IN
        before_gain = reads_input and _reads_before_gain(folder, site, record)
        adapt = adapting(site, before_gain, record.get("processed", False))
        dictionary, again = adapt(dictionary), partial(_adapted, again, adapt)
        check_numbers(dictionary)  # dividing by a gain near 0 can make weights infinite
    if offload is None:
        return dictionary
    held = offloaded(partial(_given, dictionary))
    return held if offload == "cpu" else replace(held, read=again)


def _readers(folder: Path, site: Site, record: Mapping[str, Any]) -> tuple[Reader, Reader]:
    """Functions for the first reading, which checks the file, and for later ones."""
    if "release" in record:
        read = partial(from_release, record["release"], record["id"], said_to_read(record))
        return read, read
    path, reads = _path(folder, site, record), said_to_read(record)
    return partial(checked_source, path, record.get("sha256"), reads), partial(read_source, path, reads)


def said_to_read(record: Mapping[str, Any]) -> str | None:
    """What the record says that a transcoder reads; what is before or after a gain is the MLP's input."""
    return record.get("reads") or (MLP_IN if "before_gain" in record else None)


def notice_assumed(found: Mapping[Site, Dictionary], records: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn once of all transcoders of which neither the record nor their files say what they read."""
    sites = [site for site, d in found.items() if unsaid(d) and said_to_read(records[str(site)]) is None]
    if sites:
        first = records[str(sites[0])]
        files = str(first.get("source") or first.get("path") or first.get("id"))
        more = f" and {len(sites) - 1} more" if len(sites) > 1 else ""
        warnings.warn(assumed(f"{shortened(files, 300)[1:-1]}{more}", in_ranges(sites)), stacklevel=3)


def _path(folder: Path, site: Site, record: Mapping[str, Any]) -> Path:
    """The path of the weights, in the suite's folder or in the local cache of the hub."""
    if "repo" in record:
        return fetch(record["repo"], record["path"], record.get("revision"))
    return path_in(folder, record["source"], f"sites.{site}.source")


def _check_record(site: Site, record: Mapping[str, Any], dictionary: Dictionary) -> None:
    """Raise `InputError` if kind or size differ from the record, as they usually do for the wrong weights."""
    for name, found in (("kind", dictionary.kind), ("width", dictionary.width), ("n_features", dictionary.n_features)):
        if record.get(name, found) != found:
            raise InputError(
                f"site {site}: the suite records {name} = {shortened(record[name])}, but the weights have {found!r}; "
                "they are another dictionary's, or the record is wrong"
            )


def _reads_before_gain(folder: Path, site: Site, record: Mapping[str, Any]) -> bool:
    """Whether the dictionary reads before a norm's gain: by the record, else by the weights' own files."""
    if "before_gain" in record:
        return record["before_gain"]
    if "release" in record:
        return describe_release(record["release"], record["id"]).reads_before_gain
    return describe(_path(folder, site, record)).reads_before_gain


def _adapted(read: Reader, adapt: Callable[[Affine], Affine]) -> Affine:
    return adapt(read())


def _given(dictionary: Dictionary) -> Dictionary:
    return dictionary
