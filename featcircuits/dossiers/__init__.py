"""Dossiers of features: what each is active on, what it writes, what it resembles, and a default label."""
