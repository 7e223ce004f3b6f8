"""Paths that others wrote, such as a suite's: where they lead, and whether that is inside their folder.

A hard link cannot be told from the file itself, and making one takes the right to read the file, so
hard links are files like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from featcircuits.errors import InputError, shortened


def inside(folder: Path, path: Path) -> Path | None:
    """Where `path` really is, links followed; None where that is outside `folder`, or nowhere.

    In the hub's cache files are links to their repository's blobs, which count as inside.
    """
    try:
        home, found = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError):  # loops of links, names that no file can have
        return None
    blobs = (parent.parents[1] / "blobs" for parent in (home, *home.parents) if parent.parent.name == "snapshots")
    return found if any(found.is_relative_to(allowed) for allowed in (home, *blobs)) else None


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse files of a folder that are links to somewhere else."""
    for name in names:
        if (folder / name).is_symlink() and inside(folder, folder / name) is None:
            raise InputError(
                f"{shortened(folder / name, 300)}: this link leads outside of its folder; put the file itself there"
            )


def link_in(folder: Path, path: Path) -> Path | None:
    """The first link on the way from `folder` to a path below it."""
    ways = [path, *path.parents]
    below = ways[: ways.index(folder)] if folder in ways else []
    return next((way for way in reversed(below) if way.is_symlink()), None)
