"""The colours of every picture: those of Okabe and Ito, which readers with any colour vision can tell apart."""

from __future__ import annotations

POSITIVE, NEGATIVE, NEUTRAL = "#0072b2", "#d55e00", "#8c8c8c"
"""Carries the behaviour, works against it, has no effect of its own."""
INK, PALE, BAND = "#1b2733", "#6b7782", "#f1f4f7"
"""Text and lines, secondary text, and the background of every other layer."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1b2733", "#8c8c8c")
"""The colours of lines and points that are compared, in the order in which they are taken."""
SITE_KINDS = {
    "embed": "#56b4e9", "attn_z": "#cc79a7", "attn": "#e69f00", "mlp": "#0072b2", "resid": "#009e73",
    "metric": "#d55e00",
}  # fmt: skip


def sign_colour(value: float) -> str:
    """The colour of an effect or an edge by its sign."""
    return NEUTRAL if value == 0 else POSITIVE if value > 0 else NEGATIVE


def tint(colour: str, share: float) -> str:
    """A mixture with white: `share` 1 is the colour itself, 0 is white."""
    parts = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in parts)
