"""A site's dictionary from wherever its record says that the weights are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from featcircuits.dictionaries import Affine, Dictionary, identity, whole
from featcircuits.dictionaries.offloaded import offloaded
from featcircuits.errors import InputError
from featcircuits.sites import Site
from featcircuits.sources import describe, describe_release, from_release, load_source, read_source
from featcircuits.sources.hub import fetch
from featcircuits.suites.record import inside

Reader = Callable[[], Affine]
_BASES: Mapping[str, Callable[[int], Dictionary]] = {"identity": identity, "whole": whole}


def dictionary_at(
    folder: Path,
    site: Site,
    record: Mapping[str, Any],
    offload: str | None = None,
    gain_of: Callable[[Site], Tensor] | None = None,
) -> Dictionary:
    """The dictionary of one site, of the size that the record says.

    `offload`: None, "cpu" or "disk"; a file of the hub is then read again from the local cache.
    `gain_of`: of the norm before a site's MLP, for transcoders that read the norm's result before its gain.
    """
    if "dictionary" in record:
        return _BASES[record["dictionary"]](record["width"])
    first, again = _readers(folder, site, record)
    dictionary = first()
    _check_size(site, record, dictionary)
    if gain_of is not None and dictionary.transcodes and _reads_before_gain(folder, site, record):
        gain = gain_of(site)
        dictionary, again = after_gain(dictionary, gain), partial(_with_gain, again, gain)
    if offload is None:
        return dictionary
    held = offloaded(partial(_given, dictionary))
    return held if offload == "cpu" else replace(held, read=again)


def _readers(folder: Path, site: Site, record: Mapping[str, Any]) -> tuple[Reader, Reader]:
    """The first reading, which checks the file, and later ones."""
    if "release" in record:
        read = partial(from_release, record["release"], record["id"])
        return read, read
    path = _path(folder, site, record)
    return partial(load_source, path, record.get("sha256")), partial(read_source, path)


def _path(folder: Path, site: Site, record: Mapping[str, Any]) -> Path:
    """In the suite's folder, or in the local cache of the hub."""
    if "repo" in record:
        return fetch(record["repo"], record["path"], record.get("revision"))
    return inside(folder, record["source"], f"sites.{site}.source")


def _check_size(site: Site, record: Mapping[str, Any], dictionary: Dictionary) -> None:
    """Other weights than the recorded ones would mostly have another number of features."""
    recorded, found = record.get("n_features"), dictionary.n_features
    if recorded not in (None, found):
        raise InputError(
            f"site {site}: the suite records n_features = {recorded}, but the weights have {found}; "
            "they are another dictionary's, or the record is wrong"
        )


def _reads_before_gain(folder: Path, site: Site, record: Mapping[str, Any]) -> bool:
    """As recorded, else as the weights' own files say."""
    if "before_gain" in record:
        return record["before_gain"]
    if "release" in record:
        return describe_release(record["release"], record["id"]).reads_before_gain
    return describe(_path(folder, site, record)).reads_before_gain


def after_gain(dictionary: Affine, gain: Tensor) -> Affine:
    """Reads x = gain * n, where the one given reads n: the same features, W_enc and W_skip divided by the gain."""
    if dictionary.normalisation is not None:
        raise InputError(f"a {dictionary.kind} transcoder that normalises its input cannot read before a norm's gain")
    if not gain.all():
        raise InputError("the norm's gain is 0 in some dimension; the MLP's input does not show what was before it")
    gain = gain.to(dictionary.W_enc.device)
    return replace(
        dictionary,
        W_enc=dictionary.W_enc / gain[:, None],
        centre=None if dictionary.centre is None else dictionary.centre * gain,
        W_skip=None if dictionary.W_skip is None else dictionary.W_skip / gain[:, None],
    )


def _with_gain(read: Reader, gain: Tensor) -> Affine:
    return after_gain(read(), gain)


def _given(dictionary: Dictionary) -> Dictionary:
    return dictionary
