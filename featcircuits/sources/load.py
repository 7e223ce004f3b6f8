"""The dictionary at any path: the table of sources, tried in order."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

from featcircuits.dictionaries import Affine
from featcircuits.errors import InputError, first_line, shortened
from featcircuits.files.containment import check_links
from featcircuits.model.sites import check_reads
from featcircuits.sources.circuit_tracer import CIRCUIT_TRACER
from featcircuits.sources.dictionary_learning import DICTIONARY_LEARNING
from featcircuits.sources.files import Load, compare_hash, mapped, shapes
from featcircuits.sources.files import sha256 as file_sha256
from featcircuits.sources.gemma_scope import GEMMA_SCOPE, GEMMA_SCOPE_2
from featcircuits.sources.plain import PLAIN
from featcircuits.sources.sae_lens import SAE_LENS
from featcircuits.sources.source import Found, Source, SourceInfo, assumed, checked, info_of, unsaid
from featcircuits.sources.sparsify import SPARSIFY

SOURCES = (SAE_LENS, GEMMA_SCOPE_2, GEMMA_SCOPE, SPARSIFY, DICTIONARY_LEARNING, CIRCUIT_TRACER, PLAIN)
"""The sources in the order in which they are tried; the plain one is last, since it accepts any safetensors file."""


def source_kinds() -> Mapping[str, tuple[str, ...]]:
    """The name of each source, and the files in its folders."""
    return {source.name: source.files for source in SOURCES}


def load_source(path: str | Path, sha256: str | None = None, reads: str | None = None) -> Affine:
    """The dictionary of a file or folder, with its numbers checked, and its hash if one is given.

    `reads`: what a transcoder reads, "mlp_in" or "resid_mid"; None for what the files say. If they say nothing, it is
    the MLP's input, with a warning.
    Raises `InputError` that names the file and what is wrong with it. Warns if the files lack
    something that the features depend on.
    """
    dictionary = checked_source(path, sha256, reads)
    if reads is None and unsaid(dictionary):
        layer = dictionary.origin.layer
        warnings.warn(assumed(str(path), "an mlp site" if layer is None else f"mlp_{layer}"), stacklevel=2)
    return dictionary


def checked_source(path: str | Path, sha256: str | None = None, reads: str | None = None) -> Affine:
    """The same without the warning about what a transcoder reads."""
    path = Path(path)
    _check_exists(path)
    if reads is not None:
        check_reads(reads)
    if sha256:
        compare_hash(path, hash_of(path), sha256)
    return checked(_found(path, mapped, reads), str(path))


def read_source(path: str | Path, reads: str | None = None) -> Affine:
    """A dictionary that was checked before; its weights are memory-mapped if the format allows it."""
    return _found(Path(path), mapped, reads).dictionary


def describe(path: str | Path) -> SourceInfo:
    """The description of the dictionary at a path, without reading its weights."""
    path = Path(path)
    return info_of(_source_of(path).name, _found(path, shapes))


def sha256(path: str | Path) -> str:
    """The sha256 of a file, or of a folder's files that its source reads, as one digest."""
    path = Path(path)
    _check_exists(path)
    return hash_of(path)


def hash_of(path: Path) -> str:
    """The sha256 of the dictionary at a path."""
    if path.is_file():
        return file_sha256(path)
    files = [path / name for name in _source_of(path).files if (path / name).is_file()]
    lines = "".join(f"{file_sha256(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def is_source(path: Path) -> bool:
    """Whether there is a dictionary at the path."""
    return any(source.recognises(path) for source in SOURCES)


def _check_exists(path: Path) -> None:
    if not os.path.isfile(path) and not os.path.isdir(path):  # these raise if the text cannot be a path
        raise InputError(f"{shortened(path, 300)}: no such file; the suite is incomplete")


def _source_of(path: Path) -> Source:
    _check_exists(path)
    for source in SOURCES:
        if source.recognises(path):
            return source
    folders = "; ".join(f"{s.name} ({' and '.join(s.files)})" for s in SOURCES if s not in (CIRCUIT_TRACER, PLAIN))
    raise InputError(
        f"{path}: not a known dictionary; known are single safetensors files (one per layer from circuit-tracer, "
        f"among them) and folders of {folders}"
    )


def _found(path: Path, load: Load, reads: str | None = None) -> Found:
    """The source's reading of a path; its errors name the path that the user gave."""
    try:
        source = _source_of(path)
        check_links(path if path.is_dir() else path.parent, (name for name in source.files if name != path.name))
        found = source.read(path, load).placed(reads)
        # a transcoder that does not belong to an MLP would be spliced in at the wrong place
        if found.dictionary.transcodes:
            _ = info_of("", found).site
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    except (
        RuntimeError,
        TypeError,
        IndexError,
    ) as error:  # torch's, for shapes that do not fit each other
        raise InputError(f"{path}: the shapes of its tensors do not fit each other ({first_line(error)})") from None
    return found
