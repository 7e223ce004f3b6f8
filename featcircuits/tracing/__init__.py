"""From a model and a task to a circuit, and how long that takes."""
