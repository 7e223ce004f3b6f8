"""Readouts: states moved between layers and prompts, vectors as nodes, attention sunk, circuits over tasks, splits."""
