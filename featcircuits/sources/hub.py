"""Dictionaries from a repository on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from featcircuits.dictionaries import Affine
from featcircuits.errors import InputError, first_line, shortened
from featcircuits.sources.load import SOURCES, load_source


def from_hub(repo: str, path: str, revision: str | None = None, reads: str | None = None) -> Affine:
    """Load the dictionary of a folder or file, from the cache or, if it is not there, from the hub.

    Only the files that are read are downloaded. `HF_HUB_OFFLINE=1` forbids the network. Raises
    `InputError` if the repository, revision or path does not exist or cannot be loaded.
    `reads`: as for `load_source`.
    """
    local = fetch(repo, path, revision)
    try:
        return load_source(local, reads=reads)
    except InputError as error:
        raise InputError(f"{repo}/{path}: {error}") from None


def fetch(repo: str, path: str, revision: str | None = None) -> Path:
    """The path of the dictionary's files in the cache, after a download if needed."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    what = f"{repo}/{path}" + (f" at revision {revision}" if revision else "")
    try:
        root = snapshot_download(repo, revision=revision, allow_patterns=_patterns(path))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(
            f"{what}: could not be loaded from the Hugging Face hub or its cache ({first_line(error)})"
        ) from None
    local = Path(root) / path
    if not os.path.exists(local):
        raise InputError(f"{what}: the repository has no such file or folder, or it is not in the cache")
    return local


def _patterns(path: str) -> list[str]:
    """Patterns for the file itself, the files that may be beside it, and the files of a folder of any source."""
    place = PurePosixPath(path)
    if place.is_absolute() or ".." in place.parts or not re.fullmatch(r"[\w./ =,+@-]+", path):
        raise InputError(f"{shortened(path)} is not a path inside a repository")
    names = sorted({name for source in SOURCES for name in source.files})
    folders = (place, place.parent)
    return [str(place), *(str(folder / name) for folder in folders for name in names)]
