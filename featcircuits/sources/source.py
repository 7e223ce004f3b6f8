"""The result of reading a source: a dictionary, and the place that its files name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from featcircuits.dictionaries import Affine, Origin
from featcircuits.dictionaries.affine import check_numbers
from featcircuits.errors import InputError
from featcircuits.model.sites import Site
from featcircuits.sources.files import Load
from featcircuits.sources.hooks import site_of_hook


class Found(NamedTuple):
    """A dictionary as it was read, and where its files place it."""

    dictionary: Affine
    origin: Origin = Origin()
    warning: str | None = None
    """A warning that the user needs before trusting the features, or None."""

    def placed(self) -> Found:
        """The same, with the origin stored in the dictionary."""
        return self._replace(dictionary=replace(self.dictionary, origin=self.origin))


class Source(NamedTuple):
    """How to recognise and read the files of one library."""

    name: str
    files: tuple[str, ...]
    """The files of its folders, the weights first; those that exist are hashed and downloaded."""
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Load], Found]
    """(path, how to load tensors) -> the dictionary there; raises `InputError`."""


def checked(found: Found, name: str) -> Affine:
    """The dictionary with its numbers checked; passes on its warning. Messages begin with the source's name."""
    try:
        check_numbers(found.dictionary)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if found.warning:
        warnings.warn(f"{name}: {found.warning}", stacklevel=3)
    return found.dictionary


@dataclass(frozen=True)
class SourceInfo:
    """A dictionary's description, without its weights.

    `hook_name`, `hook_name_out` and `model_name` are as in the files; `hook_name_out` is None
    if the dictionary explains what it reads.
    """

    source: str
    kind: str
    width: int
    read_width: int
    n_features: int
    transcodes: bool
    has_bypass: bool
    normalisation: str | None
    hook_name: str | None
    hook_name_out: str | None
    model_name: str | None

    @property
    def site(self) -> Site | None:
        """The dictionary's site; None if its files do not name it. Raises `InputError` if there is no such site."""
        if self.hook_name is None or (self.transcodes and self.hook_name_out is None):
            return None
        return site_of_hook(self.hook_name, self.hook_name_out)

    @property
    def reads_before_gain(self) -> bool:
        """Whether it reads an RMSNorm's output before the norm's gain (TransformerLens' `ln2.hook_normalized`).

        The MLP's input is this output times the gain, so rows of W_enc and W_skip are divided by the gain
        to read the MLP's input instead. For a LayerNorm the same hook is after gain and bias, so it
        is the MLP's input itself.
        """
        return self.transcodes and (self.hook_name or "").endswith("ln2.hook_normalized")


def info_of(source: str, found: Found) -> SourceInfo:
    """The description of a dictionary that was read from the source of this name."""
    d, origin = found.dictionary, found.origin
    normalisation = None if d.normalisation is None else d.normalisation.name
    return SourceInfo(
        source, d.kind, d.width, d.read_width, d.n_features, d.transcodes, d.has_bypass, normalisation,
        origin.hook_name, origin.hook_name_out, origin.model_name,
    )  # fmt: skip


def home(path: Path, *names: str) -> Path | None:
    """The folder that holds all of these files, if `path` is that folder or the first of them; else None."""
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name != names[0]:
        return None
    return folder if all((folder / name).is_file() for name in names) else None


def check_same_width(dictionary: Affine) -> None:
    """Raise `InputError` for a transcoder whose sides differ, for libraries where both have the model's width."""
    if dictionary.read_width != dictionary.width:
        raise InputError(f"W_enc reads {dictionary.read_width} dimensions, but W_dec writes {dictionary.width}")
