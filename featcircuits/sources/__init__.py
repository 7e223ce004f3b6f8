"""Sources: dictionaries from the files of every library that writes them, one small file a family."""

from featcircuits.sources.contract import SourceInfo
from featcircuits.sources.files import check_hash
from featcircuits.sources.hooks import site_of_hook
from featcircuits.sources.hub import from_hub
from featcircuits.sources.load import describe, load_source, read_source, sha256, source_kinds
from featcircuits.sources.releases import describe_release, from_release

__all__ = [
    "SourceInfo", "check_hash", "describe", "describe_release", "from_hub", "from_release", "load_source",
    "read_source", "sha256", "site_of_hook", "source_kinds",
]  # fmt: skip
