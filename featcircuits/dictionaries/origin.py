"""Where a dictionary was trained, as its files say."""

from __future__ import annotations

from typing import NamedTuple


class Origin(NamedTuple):
    """In the words of the files; None where they do not say."""

    hook_name: str | None = None
    """What it reads; of an SAE also what it explains."""
    hook_name_out: str | None = None
    """What a transcoder explains."""
    model_name: str | None = None
    layer: int | None = None
    """Where the files say no more than this of the place."""
