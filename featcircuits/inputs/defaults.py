"""Defaults that public functions and the command line share."""

KEEP_NODES = "top=150"
KEEP_EDGES = "top=1000"
EDGE_NODES = 40
"""How many nodes `fc.agree` takes to compare the edges among them."""
DRAWS = 5
"""The number of random circuits at each size of an evaluation's curve."""
MOST_EDGE_ROWS = 5_000_000
"""The most forward rows that judging edges takes without being asked for more: rows per example times examples."""
