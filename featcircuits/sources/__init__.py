"""Sources: dictionaries from the files of every library that writes them, one small file per library.

Names are imported when they are first used, so that the table of SAELens's releases can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcircuits.sources.files import check_hash
    from featcircuits.sources.hooks import site_of_hook
    from featcircuits.sources.hub import from_hub
    from featcircuits.sources.load import (
        checked_source,
        describe,
        is_source,
        load_source,
        read_source,
        sha256,
        source_kinds,
    )
    from featcircuits.sources.releases import describe_release, from_release
    from featcircuits.sources.source import SourceInfo

_HOMES = {
    "SourceInfo": "source",
    "check_hash": "files",
    "checked_source": "load",
    "describe": "load",
    "describe_release": "releases",
    "from_hub": "hub",
    "from_release": "releases",
    "is_source": "load",
    "load_source": "load",
    "read_source": "load",
    "sha256": "load",
    "site_of_hook": "hooks",
    "source_kinds": "load",
}

__all__ = [
    "SourceInfo", "check_hash", "checked_source", "describe", "describe_release", "from_hub", "from_release",
    "is_source", "load_source", "read_source", "sha256", "site_of_hook", "source_kinds",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"featcircuits.sources.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'featcircuits.sources' has no attribute {name!r}")
