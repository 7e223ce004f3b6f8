"""The place where a dictionary was trained, by its files."""

from __future__ import annotations

from typing import NamedTuple


class Origin(NamedTuple):
    """The place in the words of the files; None for what they do not name."""

    hook_name: str | None = None
    """The hook that it reads; an SAE also explains this hook."""
    hook_name_out: str | None = None
    """The hook that a transcoder explains."""
    model_name: str | None = None
    layer: int | None = None
    """The layer, if the files name nothing else of the place."""
