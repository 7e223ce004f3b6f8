"""Which files of the hub a site needs, and which of them are in the local cache, without any download.

The contents of a sae_lens release are read from that package's own directory, without importing it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from featcircuits.files.containment import inside
from featcircuits.sources.release_table import release_entry

WEIGHTS: Mapping[str, Callable[[str], tuple[str, ...]]] = {
    "sae_lens": lambda path: (f"{path}/cfg.json", f"{path}/sae_weights.safetensors"),
    "connor_rob_hook_z": lambda path: (path.split(".pt")[0] + "_cfg.json", path),
    "gemma_2": lambda path: (f"{path}/params.npz",),
    "gemma_2_transcoder": lambda path: (f"{path}/params.npz",),
    "gemma_3": lambda path: (f"{path}/params.safetensors",),
    "llama_scope": lambda path: (f"{path}/hyperparams.json", f"{path}/checkpoints/final.safetensors"),
    "dictionary_learning_1": lambda path: (f"{path}/config.json", f"{path}/ae.pt"),
    "sparsify": lambda path: (f"{path}/cfg.json", f"{path}/sae.safetensors"),
    "qwen_scope": lambda path: (path,),
    "mwhanna_transcoder": lambda path: (path,),
    "deepseek_r1": lambda path: (path,),
    "goodfire": lambda path: (path,),
}
"""Name of a release's loader -> the files that an SAE at a path of its repository needs."""

_IN_FOLDERS = ("sae_weights.safetensors", "params.safetensors", "params.npz", "sae.safetensors", "ae.pt")
_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin")
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Release(NamedTuple):
    """A release's entry in sae_lens' directory. `paths`: id -> path in the repository."""

    repo: str
    loader: str
    paths: Mapping[str, str]


def release_named(name: str) -> Release | None:
    """The release of this name; None if the directory does not have it or SAELens is not installed."""
    entry = release_entry(name)
    if entry is None:
        return None
    paths = {sae["id"]: str(sae["path"]) for sae in entry["saes"]}
    return Release(entry["repo_id"], entry.get("conversion_func") or "sae_lens", paths)


class Need(NamedTuple):
    """Files of a repository at a revision."""

    repo: str
    files: tuple[str, ...]
    revision: str | None = None


def need_of(record: Mapping[str, Any]) -> Need | None:
    """The files that a site's record needs from the hub; None if it needs none, or if sae_lens' directory is silent."""
    if "repo" in record:
        need = Need(record["repo"], (record["path"],), record.get("revision"))
        return need if Path(record["path"]).suffix in _SUFFIXES else _folder_of(need, record["path"])
    release = release_named(record["release"]) if "release" in record else None
    if release is None or record["id"] not in release.paths or release.loader not in WEIGHTS:
        return None
    return Need(release.repo, WEIGHTS[release.loader](release.paths[record["id"]]))


def _folder_of(need: Need, path: str) -> Need:
    """The hub's names for a folder's files; the source they belong to is known only after a download."""
    files = [f"{path}/{name}" for name in _IN_FOLDERS]
    return need._replace(files=(next((file for file in files if _cached(need, file)), files[0]),))


def size_here(folder: Path, record: Mapping[str, Any]) -> int | None:
    """Bytes of a site's weights on this machine; None if they are missing, 0 if the site has no weights."""
    if "dictionary" in record:
        return 0
    if "source" in record:
        path = inside(folder, folder / record["source"])
        return None if path is None else _size(path)
    need = need_of(record)
    paths = [] if need is None else [_cached(need, file) for file in need.files]
    sizes = [None if path is None else _size(path) for path in paths]
    return sum(size for size in sizes if size is not None) if sizes and None not in sizes else None


def _cached(need: Need, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(need.repo, file, revision=need.revision)
    except (HFValidationError, OSError):  # neither the hub nor a file can have this name
        return None
    return Path(found) if isinstance(found, str) else None


def _size(path: Path) -> int | None:
    """Bytes of a file, or of a folder's files without links that lead out of the folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and inside(path, file))
    return path.stat().st_size if path.is_file() else None


def size_expected(record: Mapping[str, Any]) -> int | None:
    """Bytes of the two matrices in their published dtype; None if the record does not give it."""
    known = all(name in record for name in ("width", "n_features", "dtype"))
    if not known or record["dtype"] not in _BYTES:
        return None
    return math.prod((2, record["width"], record["n_features"], _BYTES[record["dtype"]]))
