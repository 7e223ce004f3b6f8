"""Experiments that repeat with readouts, on planted models and the shipped one, what papers test."""
