"""Whether dictionaries belong at their sites, and how good they are there."""

from featcircuits.health.check import Health, check_suite
from featcircuits.health.figures import Figures, Losses, measure

__all__ = ["Figures", "Health", "Losses", "check_suite", "measure"]
