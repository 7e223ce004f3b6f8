"""Pictures as files: PNG for screens, PDF and SVG for papers, with the same bytes each time."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcircuits.errors import InputError, known, shortened
from featcircuits.files.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}
"""The format's metadata about the date and the program, which are left out."""
FORMATS = tuple(_DATED)


def check_format(name: str) -> None:
    """Raise `InputError` for an unknown format of pictures."""
    if name not in FORMATS:
        raise InputError(f"pictures cannot be written as {shortened(name)}; {known(FORMATS, name)}")


def save(figure: Figure, path: Path) -> None:
    """Save a picture in the format of its suffix, whole or not at all; raises `InputError` for another suffix."""
    from matplotlib import rc_context

    kind = path.suffix.removeprefix(".").lower()
    check_format(kind)
    content = BytesIO()
    with rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(content, format=kind, dpi=150, metadata=_DATED[kind])
    write_whole(path, content.getvalue())
