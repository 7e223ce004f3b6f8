"""Tracing of a circuit from a model and a task, and estimates of the time and memory that it takes."""
