"""Dictionaries: sparse autoencoders, transcoders, the identity and the whole output, one small file per kind."""

from featcircuits.dictionaries.abstopk import abstopk
from featcircuits.dictionaries.affine import Activation, Affine
from featcircuits.dictionaries.dictionary import Dictionary
from featcircuits.dictionaries.gated import gated
from featcircuits.dictionaries.groupmax import groupmax
from featcircuits.dictionaries.identity import identity
from featcircuits.dictionaries.jumprelu import jumprelu
from featcircuits.dictionaries.normalisation import ConstantNorm, LayerNorm
from featcircuits.dictionaries.origin import Origin
from featcircuits.dictionaries.relu import relu
from featcircuits.dictionaries.topk import topk
from featcircuits.dictionaries.whole import whole

__all__ = [
    "Activation", "Affine", "ConstantNorm", "Dictionary", "LayerNorm", "Origin", "abstopk", "gated", "groupmax",
    "identity", "jumprelu", "relu", "topk", "whole",
]  # fmt: skip
