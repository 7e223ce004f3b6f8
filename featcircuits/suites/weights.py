"""A site's dictionary from wherever its record says that the weights are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from featcircuits.dictionaries import Affine, Dictionary, identity, whole
from featcircuits.dictionaries.files import load_dictionary, read_dictionary
from featcircuits.dictionaries.offloaded import offloaded
from featcircuits.errors import InputError
from featcircuits.suites.record import inside

Reader = Callable[[], Dictionary]
_BASES: Mapping[str, Callable[[int], Dictionary]] = {"identity": identity, "whole": whole}


def dictionary_at(
    folder: Path, site: str, record: Mapping[str, Any], offload: str | None = None, gain: Tensor | None = None
) -> Dictionary:
    """The dictionary of one site, of the size that the record says.

    `offload`: None, "cpu" or "disk"; a file of the hub is then read again from the local cache.
    `gain` [read_width]: of the norm whose result before the gain it reads; it reads what follows instead.
    """
    if "dictionary" in record:
        return _BASES[record["dictionary"]](record["width"])
    first, again = _readers(folder, site, record)
    checked_anyway = first is again
    if gain is not None:
        first, again = partial(_with_gain, first, gain), partial(_with_gain, again, gain)
    dictionary = offloaded(again) if offload == "disk" and checked_anyway else first()
    _check_size(site, record, dictionary)
    if offload == "cpu":
        return offloaded(partial(_given, dictionary))
    if offload == "disk" and not checked_anyway:
        return offloaded(again)
    return dictionary


def _readers(folder: Path, site: str, record: Mapping[str, Any]) -> tuple[Reader, Reader]:
    """The first reading, which checks the file, and later ones."""
    if "source" in record:
        path = inside(folder, record["source"], f"sites.{site}.source")
        return partial(load_dictionary, path, record.get("sha256")), partial(read_dictionary, path)
    from featcircuits import sources

    if "release" in record:
        read = partial(sources.from_release, record["release"], record["id"])
    else:
        read = partial(sources.from_hub, record["repo"], record["path"], record.get("revision"))
    return read, read


def _check_size(site: str, record: Mapping[str, Any], dictionary: Dictionary) -> None:
    """Other weights than the recorded ones would mostly differ in size."""
    for name, found in (("width", dictionary.width), ("n_features", dictionary.n_features)):
        if record.get(name, found) != found:
            raise InputError(
                f"site {site}: the suite records {name} = {record[name]}, but the weights have {found}; "
                "they are another dictionary's, or the record is wrong"
            )


def _given(dictionary: Dictionary) -> Dictionary:
    return dictionary


def _with_gain(read: Reader, gain: Tensor) -> Dictionary:
    dictionary = read()
    if not isinstance(dictionary, Affine) or dictionary.normalisation is not None:
        raise InputError(f"a {dictionary.kind} dictionary with a norm of its own cannot read before a gain")
    return after_gain(dictionary, gain)


def after_gain(dictionary: Affine, gain: Tensor) -> Affine:
    """Reads x = gain * n, where the one given reads n: the same features, W_enc and W_skip divided by the gain."""
    if not gain.all():
        raise InputError(
            "the norm's gain is 0 in some dimension, where the MLP's input does not show what was before it"
        )
    gain = gain.to(dictionary.W_enc.device)
    return replace(
        dictionary,
        W_enc=dictionary.W_enc / gain[:, None],
        centre=None if dictionary.centre is None else dictionary.centre * gain,
        W_skip=None if dictionary.W_skip is None else dictionary.W_skip / gain[:, None],
    )
