"""Rebuilds `saes/grammar-4l`: grammar, corpus, model, task files, SAEs and their figures."""
