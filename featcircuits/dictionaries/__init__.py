"""Dictionaries: sparse autoencoders and the identity, one small file a kind."""

from featcircuits.dictionaries.base import Activation, Affine, Dictionary
from featcircuits.dictionaries.files import load_dictionary
from featcircuits.dictionaries.identity import identity
from featcircuits.dictionaries.jumprelu import jumprelu
from featcircuits.dictionaries.relu import relu
from featcircuits.dictionaries.topk import topk

__all__ = ["Activation", "Affine", "Dictionary", "identity", "jumprelu", "load_dictionary", "relu", "topk"]
