"""Dictionaries: sparse autoencoders, the identity and the whole, one small file a kind."""

from featcircuits.dictionaries.base import Activation, Affine, Dictionary
from featcircuits.dictionaries.files import load_dictionary
from featcircuits.dictionaries.identity import identity
from featcircuits.dictionaries.jumprelu import jumprelu
from featcircuits.dictionaries.relu import relu
from featcircuits.dictionaries.topk import topk
from featcircuits.dictionaries.whole import whole

__all__ = ["Activation", "Affine", "Dictionary", "identity", "jumprelu", "load_dictionary", "relu", "topk", "whole"]
