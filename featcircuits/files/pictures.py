"""Pictures as files: PNG for screens, PDF and SVG for papers, in one style and with the same bytes each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcircuits.errors import InputError, known, shortened
from featcircuits.files.palette import INK, PALE
from featcircuits.files.writing import write_whole

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}
"""The format's metadata about the date and the program, which are left out."""
FORMATS = tuple(_DATED)
_DPI, _MOST_PIXELS = 200, 40e6
"""Of PNG; a very large picture has fewer dots per inch."""
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that a picture looks the same on every machine
    "font.size": 8,
    "figure.labelsize": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "axes.linewidth": 0.6,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "text.hinting": "none",  # so that letters are as wide on the screen as in a PDF
    "pdf.fonttype": 42,  # whole letters, which editors can select; journals ask for it
    "svg.fonttype": "path",  # outlines, which look the same whatever fonts a reader has
}


@contextmanager
def styled() -> Iterator[None]:
    """The style of all pictures, whatever the user's own settings of matplotlib are."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


def logarithmic(axes: Axes) -> None:
    """Make the x-axis logarithmic, with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_xlim()
    if high < 1.01 * low:  # one value, but for rounding: matplotlib leaves the axis without a width
        axes.set_xlim(low / 2, 2 * high)


def band(axes: Axes, xs: Sequence[float], low: np.ndarray, high: np.ndarray, colour: str) -> None:
    """Draw an interval around a line, in a pale shade of its colour."""
    axes.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)


def drawable(text: str) -> str:
    """The text with the characters that the pictures' letters lack written out: `\\u4e2d`."""
    known = _characters()
    return "".join(c if ord(c) in known else ascii(c)[1:-1] for c in text)


@cache
def _characters() -> frozenset[int]:
    """Those that the letters have, bold ones too."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = (FontProperties(family=_STYLE["font.family"], weight=weight) for weight in ("normal", "bold"))
    return frozenset.intersection(*(frozenset(get_font(findfont(font)).get_charmap()) for font in fonts))


def check_format(name: str) -> None:
    """Raise `InputError` for an unknown format of pictures."""
    if name not in FORMATS:
        raise InputError(f"pictures cannot be written as {shortened(name)}; {known(FORMATS, name)}")


def format_of(path: str | Path) -> str:
    """The format that a path's suffix names; raises `InputError` for another suffix."""
    kind = Path(path).suffix.removeprefix(".").lower()
    check_format(kind)
    return kind


def save(figure: Figure, path: str | Path, *, overwrite: bool = True) -> None:
    """Save a picture in the format of its suffix, whole or not at all; raises `InputError` for another suffix."""
    write_whole(path, encoded(figure, format_of(path)), overwrite=overwrite)


def encoded(figure: Figure, kind: str) -> bytes:
    """A picture as the bytes of a file of this format."""
    from matplotlib import rc_context

    width, height = figure.get_size_inches()
    content = BytesIO()
    with styled(), rc_context({"svg.hashsalt": "featcircuits"}):
        dpi = min(_DPI, (_MOST_PIXELS / (width * height)) ** 0.5)
        figure.savefig(content, format=kind, dpi=dpi, metadata=_DATED[kind])
    return content.getvalue()
