"""Defaults that public functions and the command line share."""

KEEP_NODES = "top=150"
KEEP_EDGES = "top=1000"
EDGE_NODES = 40
"""Among how many nodes `fc.agree` compares edges"""
DRAWS = 5
"""Random circuits at each size of an evaluation's curve"""
