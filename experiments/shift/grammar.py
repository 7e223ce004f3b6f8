"""Texts in the shipped grammar with a label and a cue: somebody does something to a thing of their own.

"Mary lost her keys.": the cue is whether it is a woman (the name and the pronoun tell), and the label is one of

    verb      the class of the verb: lost, found, sold against painted, dropped, washed
    number    whether it is several things: keys against key
"""

from __future__ import annotations

from random import Random
from typing import Any

from experiments.shipped_suite import vocabulary as words
from experiments.shipped_suite.grammar import any_noun
from featcircuits.probes.texts import Text

LABELS = ("verb", "number")
CUE_WORDS = (*words.NAMES, "she", "he", "her", "his")
_HALF = len(words.LOSING) // 2


def texts(label: str, count: int, seed: int, tokenizer: Any, *, balanced: bool) -> list[Text]:
    """`count` texts; the label is the cue, or, if `balanced`, independent of it."""
    made = sentences(label, count, seed, balanced=balanced)
    return [Text(tuple(tokenizer(each["text"]).input_ids), each["label"], each["cue"]) for each in made]


def sentences(label: str, count: int, seed: int, *, balanced: bool) -> list[dict[str, Any]]:
    """The same as lines of a file of texts."""
    rng = Random(seed)
    return [_sentence(label, rng, balanced) for _ in range(count)]


def _sentence(label: str, rng: Random, balanced: bool) -> dict[str, Any]:
    own = rng.random() < 0.5
    woman = rng.random() < 0.5 if balanced else own
    name = rng.choice(words.WOMEN if woman else words.MEN)
    if label == "verb":
        verb, several = rng.choice(words.LOSING[:_HALF] if own else words.LOSING[_HALF:]), rng.random() < 0.5
    else:
        verb, several = rng.choice(words.LOSING), own
    noun = any_noun(rng)[0].form(several)
    return {"text": f"{name} {verb} {'her' if woman else 'his'} {noun}.", "label": int(own), "cue": int(woman)}


def keywords(label: str) -> list[str]:
    """Words about the label, for the concept bottleneck."""
    if label == "verb":
        return list(words.LOSING)
    nouns = (*words.THINGS[:5], *words.PEOPLE[:5])
    return [noun.form(several) for noun in nouns for several in (False, True)]
