"""Dictionaries of a Hugging Face repository."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from featcircuits.dictionaries import Affine
from featcircuits.errors import InputError, first_line, shortened
from featcircuits.sources.load import SOURCES, load_source


def from_hub(repo: str, path: str, revision: str | None = None) -> Affine:
    """Download a folder's or file's dictionary, or find it in the cache, and load it.

    Only the files that are read are fetched. `HF_HUB_OFFLINE=1` forbids the network. Raises
    `InputError` where the repository, revision or path does not exist or cannot be had.
    """
    local = fetch(repo, path, revision)
    try:
        return load_source(local)
    except InputError as error:
        raise InputError(f"{repo}/{path}: {error}") from None


def fetch(repo: str, path: str, revision: str | None = None) -> Path:
    """Where the dictionary's files lie in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    what = f"{repo}/{path}" + (f" at revision {revision}" if revision else "")
    try:
        root = snapshot_download(repo, revision=revision, allow_patterns=_patterns(path))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(
            f"{what}: could not be had from the Hugging Face hub or its cache ({first_line(error)})"
        ) from None
    local = Path(root) / path
    if not os.path.exists(local):
        raise InputError(f"{what}: the repository has no such file or folder, or it is not in the cache")
    return local


def _patterns(path: str) -> list[str]:
    """The file itself, what may lie beside it, and what a folder of any family holds."""
    place = PurePosixPath(path)
    if place.is_absolute() or ".." in place.parts or not re.fullmatch(r"[\w./ =,+@-]+", path):
        raise InputError(f"{shortened(path)} is not a path inside a repository")
    names = sorted({name for source in SOURCES for name in source.files})
    folders = (place, place.parent)
    return [str(place), *(str(folder / name) for folder in folders for name in names)]
