"""Sparse autoencoders for any local Hugging Face model: activations, training, figures, a suite."""
