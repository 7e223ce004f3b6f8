"""Training of dictionaries for a model with sae_lens; needs the package's extra `train`."""

from featcircuits.training.recipe import ARCHITECTURES, Recipe
from featcircuits.training.sampling import sample_rows
from featcircuits.training.train import train_suite

__all__ = ["ARCHITECTURES", "Recipe", "sample_rows", "train_suite"]
