"""Circuits beside each other: what they share, what sets them apart, and whether one explains the other's task."""
