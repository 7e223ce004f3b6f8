"""The result of reading a source: a dictionary, and the place that its files name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from featcircuits.dictionaries import Affine, Dictionary, Origin
from featcircuits.dictionaries.affine import check_numbers
from featcircuits.errors import InputError
from featcircuits.model.sites import MLP_IN, READ_ONLY, RESID_MID, Site
from featcircuits.sources.files import Load
from featcircuits.sources.hooks import read_of_hook, site_of_hook


class Found(NamedTuple):
    """A dictionary as it was read, and where its files place it."""

    dictionary: Affine
    origin: Origin = Origin()
    warning: str | None = None
    """A warning that the user needs before trusting the features, or None."""

    def placed(self, reads: str | None = None) -> Found:
        """The same, with the origin stored in the dictionary, and what a transcoder reads.

        `reads`: what that is; None for what the files say, or else the MLP's input.
        """
        said = None if self.origin.hook_name is None else read_of_hook(self.origin.hook_name)
        return self._replace(dictionary=replace(self.dictionary, origin=self.origin, reads=reads or said or MLP_IN))


def unsaid(dictionary: Dictionary) -> bool:
    """Whether it is a transcoder whose files do not say what it reads."""
    return dictionary.transcodes and dictionary.origin.hook_name is None


def assumed(files: str, sites: str) -> str:
    """The notice about transcoders that are taken to read the MLP's input, because their files say nothing."""
    return (
        f"{files}: not said what the transcoder at {sites} reads; taken to read {READ_ONLY[MLP_IN]}. Say reads = "
        f'"{MLP_IN}", or "{RESID_MID}" if it reads {READ_ONLY[RESID_MID]}: beside its source in suite.toml, in a '
        f"config.yaml beside circuit-tracer's files (feature_input_hook: {HOOKS[RESID_MID]}), or in Python with "
        "load_source(path, reads=...)"
    )


HOOKS: Mapping[str, str] = {RESID_MID: "hook_resid_mid", MLP_IN: "mlp.hook_in"}
"""What transcoders read -> the name of it in circuit-tracer's configs."""


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
    reads: str
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
        source, d.kind, d.width, d.read_width, d.n_features, d.transcodes, d.reads,
        d.has_bypass, normalisation, origin.hook_name, origin.hook_name_out, origin.model_name,
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
