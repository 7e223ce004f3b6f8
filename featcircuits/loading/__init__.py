"""Loading a model with its dictionaries, and trying everything that is assumed of it."""
