"""The provenance of results, and whether a model, a task, effects and a circuit belong together."""
