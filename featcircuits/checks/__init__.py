"""Checks of a circuit: paths, patches, missed nodes, illusions, totals."""
