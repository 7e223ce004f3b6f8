"""Where paths that others wrote, such as a suite's, lead, and whether that is inside their folder.

A hard link cannot be told from the file itself, and nobody can make one without the right to read the file,
so hard links count as ordinary files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from featcircuits.errors import InputError, shortened


def inside(folder: Path, path: Path) -> Path | None:
    """The real path after following links; None if it is outside `folder` or does not exist.

    In the hub's cache files are links to their repository's blobs, which count as inside.
    """
    try:
        home, found = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError):  # loops of links, names that no file can have
        return None
    blobs = (parent.parents[1] / "blobs" for parent in (home, *home.parents) if parent.parent.name == "snapshots")
    return found if any(found.is_relative_to(allowed) for allowed in (home, *blobs)) else None


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Raise `InputError` for files of a folder that are links out of it."""
    for name in names:
        if (folder / name).is_symlink() and inside(folder, folder / name) is None:
            raise InputError(
                f"{shortened(folder / name, 300)}: this link leads outside of its folder; put the file itself there"
            )


def link_in(folder: Path, path: Path) -> Path | None:
    """The first link on the path from `folder` to a path below it."""
    ways = [path, *path.parents]
    below = ways[: ways.index(folder)] if folder in ways else []
    return next((way for way in reversed(below) if way.is_symlink()), None)
