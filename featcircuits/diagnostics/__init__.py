"""Is a circuit's effect what it seems? Checks of how its nodes act."""

from featcircuits.diagnostics.illusion import Illusion, illusion

__all__ = ["Illusion", "illusion"]
