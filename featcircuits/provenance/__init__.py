"""What a result was made with, and whether a model, a task, effects and a circuit belong together."""
