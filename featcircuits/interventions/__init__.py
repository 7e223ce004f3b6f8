"""Interventions: what is done to nodes, groups, sites and directions, and what comes of it."""
