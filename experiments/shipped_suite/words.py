"""The page of the words that the shipped model knows, from its tokenizer and the grammar's lists.

python -m experiments.shipped_suite.words > docs/vocabulary.md
"""

from __future__ import annotations

from collections.abc import Iterable

from experiments.shipped_suite import vocabulary as words
from featcircuits.loading.load import load_tokenizer

HEAD = """# The words of the shipped model

This page is made by `python -m experiments.shipped_suite.words > docs/vocabulary.md`.

The model of the suite `grammar-4l` has one token per word or punctuation mark, and {count} of them besides
`<pad>` and `<unk>`. Every other word becomes `<unk>`, so that two unknown words are one and the same for it
(`featcircuits data check` names them). Capitals count: "The" and "the" are two words. Its sentences begin
at position 0 without a BOS token.
"""


def groups() -> dict[str, Iterable[str]]:
    """What a word is -> the words, as the grammar has them."""
    nouns = {"People": words.PEOPLE, "Animals": words.ANIMALS, "Things": words.THINGS}
    verbs = (*words.TRANSITIVE, *words.INTRANSITIVE, *words.THING_VERBS)
    adjectives = (words.PERSON_ADJECTIVES, words.THING_ADJECTIVES, words.GIFT_ADJECTIVES, words.EVENT_ADJECTIVES)
    return {
        "Names of women": words.WOMEN,
        "Names of men": words.MEN,
        **{name: [form for noun in found for form in (noun.singular, noun.plural)] for name, found in nouns.items()},
        "Places": words.PLACES,
        "Gifts": words.GIFTS,
        "Events": words.EVENTS,
        "Verbs": [form for verb in verbs for form in (verb.base, verb.third, verb.past, verb.ing)],
        "Other verbs": [*words.SAYING, *words.LOSING, *words.GOING, *words.GIVING],
        "Auxiliaries and modals": [*(form for pair in words.AUXILIARIES for form in pair), *words.MODALS],
        "Adjectives": [word for group in adjectives for word in group],
        "Prepositions and adverbs": [*words.PREPOSITIONS, *words.ADVERBS],
        "Numbers of years": words.YEARS,
    }


def page() -> str:
    """Every word of the tokenizer once, under the first group that has it."""
    tokenizer = load_tokenizer(suite="grammar-4l")
    left = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    text = HEAD.format(count=len(left))
    for name, found in groups().items():
        listed = [word for word in dict.fromkeys(found) if word in left]
        left -= set(listed)
        text += section(name, listed)
    return text + section("Other words and marks", sorted(left))


def section(name: str, listed: list[str]) -> str:
    return f"\n## {name}\n\n" + " ".join(f"`{word}`" for word in listed) + "\n"


if __name__ == "__main__":
    print(page(), end="")
