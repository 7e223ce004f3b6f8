"""SAELens's table of releases, read without importing SAELens, which takes ten seconds or more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def release_names() -> list[str]:
    """The names of all releases that SAELens knows; none if it is not installed."""
    return re.findall(r"^(\S+):$", _table(), re.MULTILINE)


@cache
def release_entry(release: str) -> Mapping[str, Any] | None:
    """A release's entry in the table: `repo_id`, `conversion_func` and `saes`; None if the table does not have it.

    Only this part of the text is parsed, since the whole would take seconds.
    """
    import yaml

    part = re.search(rf"^{re.escape(release)}:$.*?(?=^\S|\Z)", _table(), re.MULTILINE | re.DOTALL)
    # use the C parser if PyYAML has one: the entry of a large release has thousands of lines
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return None if part is None else yaml.load(part[0], Loader=loader)[release]


@cache
def _table() -> str:
    package = find_spec("sae_lens")
    if package is None or package.origin is None:
        return ""
    return (Path(package.origin).parent / "pretrained_saes.yaml").read_text(encoding="utf-8")
