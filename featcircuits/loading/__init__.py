"""Loading of a model with its dictionaries, and checks of everything that is assumed about it."""
