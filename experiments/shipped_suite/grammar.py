"""The grammar: random English-like sentences that show every shipped behaviour.

A sentence is a list of words; all choices come from one `random.Random`, so a seed fixes the
corpus. Most sentences are ordinary clauses whose subject may carry a prepositional phrase or a
relative clause; the others tell of a gift between two people, of someone and their own things, or
of an event with a first and a last year.
"""

import math
from collections.abc import Iterator
from random import Random

from experiments.shipped_suite import vocabulary as words
from experiments.shipped_suite.vocabulary import Noun

FAMILIES = {"clause": 0.52, "gift": 0.21, "pronoun": 0.14, "event": 0.13}
DURATION = 20.0
"""Years after which the share of events still going on has fallen to 1/e."""


def corpus(seed: int, count: int) -> Iterator[str]:
    """`count` random sentences; the same seed gives the same sentences."""
    rng = Random(seed)
    for _ in range(count):
        yield sentence(rng)


def sentence(rng: Random) -> str:
    """One sentence of a random family, spelt with a capital and a full stop."""
    family = rng.choices(list(FAMILIES), list(FAMILIES.values()))[0]
    tokens = {"clause": clause, "gift": gift, "pronoun": pronoun, "event": event}[family](rng)
    text = " ".join(tokens).replace(" ,", ",")
    return text[0].upper() + text[1:] + "."


def clause(rng: Random) -> list[str]:
    """A plain clause, at times with an opener or a second verb phrase."""
    opener = [*rng.choice(words.OPENERS).split(), ","] if rng.random() < 0.12 else []
    subject, plural, animate = noun_phrase(rng, modified=True)
    tokens = opener + subject + verb_phrase(rng, plural, animate)
    if rng.random() < 0.12:
        tokens += ["and", *verb_phrase(rng, plural, animate)]
    return tokens


def noun_phrase(rng: Random, modified: bool) -> tuple[list[str], bool, bool]:
    """A noun phrase, whether it is plural, and whether it is animate."""
    if rng.random() < 0.06:
        return [rng.choice(words.NAMES)], False, True
    noun, animate = any_noun(rng)
    plural = rng.random() < 0.5
    tokens = [determiner(rng, plural)]
    if rng.random() < 0.18:
        tokens.append(adjective(rng, animate))
    tokens.append(noun.form(plural))
    if modified:
        tokens += modifier(rng, plural, animate)
    return tokens, plural, animate


def any_noun(rng: Random) -> tuple[Noun, bool]:
    """A noun and whether it names someone who can act; people are the most frequent."""
    kind = rng.random()
    if kind < 0.62:
        return rng.choice(words.PEOPLE), True
    if kind < 0.74:
        return rng.choice(words.ANIMALS), True
    return rng.choice(words.THINGS), False


def determiner(rng: Random, plural: bool) -> str:
    """An article or a demonstrative; nearly always `the`, which tells nothing of the number."""
    if rng.random() < 0.85:
        return "the"
    return rng.choice(("some", "these", "many") if plural else ("a", "this", "every"))


def adjective(rng: Random, animate: bool) -> str:
    """An adjective that suits people and animals, or things."""
    return rng.choice(words.PERSON_ADJECTIVES if animate else words.THING_ADJECTIVES)


def modifier(rng: Random, plural: bool, animate: bool) -> list[str]:
    """Nothing, a prepositional phrase, or a relative clause after the head noun."""
    kind = rng.random()
    if kind < 0.36:
        return []
    if kind < 0.60:
        return [rng.choice(words.PREPOSITIONS), *noun_phrase(rng, modified=False)[0]]
    if kind < 0.88:
        return object_relative(rng)
    return ["that", *verb_phrase(rng, plural, animate, short=True)]


def object_relative(rng: Random) -> list[str]:
    """A relative clause with its own subject, whose verb agrees with that subject alone."""
    while True:
        subject, plural, animate = noun_phrase(rng, modified=False)
        if animate:
            break
    verb = rng.choice(words.TRANSITIVE)
    form = verb.past if rng.random() < 0.12 else verb.present(plural)
    adverb = [rng.choice(words.ADVERBS)] if rng.random() < 0.08 else []
    return ["that", *subject, *adverb, form]


def verb_phrase(rng: Random, plural: bool, animate: bool, short: bool = False) -> list[str]:
    """A verb phrase that agrees with its subject; a short one takes no adverb."""
    if rng.random() < 0.3:
        return main_verb(rng, plural, animate, adverb=not short)
    if rng.random() < 0.08:
        return [rng.choice(words.MODALS), *bare_verb(rng, animate)]
    singular_form, plural_form = rng.choice(words.AUXILIARIES)
    auxiliary = plural_form if plural else singular_form
    adverb = [rng.choice(words.ADVERBS)] if not short and rng.random() < 0.12 else []
    if singular_form == "does":
        return [auxiliary, "not", *bare_verb(rng, animate)]
    if singular_form == "has":
        return [auxiliary, *adverb, *past_verb(rng, animate)]
    return [auxiliary, *adverb, *after_be(rng, animate)]


def main_verb(rng: Random, plural: bool, animate: bool, adverb: bool) -> list[str]:
    """A verb without an auxiliary, most often in the present tense."""
    start = [rng.choice(words.ADVERBS)] if adverb and rng.random() < 0.15 else []
    if rng.random() < 0.25:
        return start + past_verb(rng, animate)
    if not animate:
        return [*start, rng.choice(words.THING_VERBS).present(plural)]
    if rng.random() < 0.35:
        return [*start, rng.choice(words.INTRANSITIVE).present(plural)]
    verb = rng.choice(words.TRANSITIVE).present(plural)
    return [*start, verb, *noun_phrase(rng, modified=False)[0]]


def past_verb(rng: Random, animate: bool) -> list[str]:
    """A past tense or participle (one form in this vocabulary) with its object."""
    if not animate:
        return [rng.choice(words.THING_VERBS).past]
    if rng.random() < 0.35:
        return [rng.choice(words.INTRANSITIVE).past]
    return [rng.choice(words.TRANSITIVE).past, *noun_phrase(rng, modified=False)[0]]


def bare_verb(rng: Random, animate: bool) -> list[str]:
    """A verb phrase without tense, after a modal or a negation."""
    if not animate:
        return [rng.choice(words.THING_VERBS).base]
    if rng.random() < 0.35:
        return [rng.choice(words.INTRANSITIVE).base]
    return [rng.choice(words.TRANSITIVE).base, *noun_phrase(rng, modified=False)[0]]


def after_be(rng: Random, animate: bool) -> list[str]:
    """What follows a form of `be`: an adjective, a place, or a progressive verb."""
    kind = rng.random()
    if kind < 0.4:
        return [adjective(rng, animate)]
    if kind < 0.65:
        return [rng.choice(("in", "near", "behind")), "the", rng.choice(words.PLACES)]
    if not animate:
        return [rng.choice(words.THING_VERBS).ing]
    return [rng.choice(words.TRANSITIVE).ing, *noun_phrase(rng, modified=False)[0]]


def gift(rng: Random) -> list[str]:
    """Two people, one of whom gives something: the receiver is the one not named again."""
    giver, receiver = rng.sample(words.NAMES, 2)
    first, second = rng.sample((giver, receiver), 2)
    opening = gift_opening(rng, first, second, rng.choice(words.PLACES))
    return [*opening, giver, *giving(rng), "to", receiver]


def gift_opening(rng: Random, first: str, second: str, place: str) -> list[str]:
    """The clause that names the two people before the gift."""
    going = rng.choice(words.GOING)
    if rng.random() < 0.25:
        return ["then", ",", first, "and", second, going, "to", "the", place, "and"]
    start = rng.choice(("when", "after", "while"))
    if rng.random() < 0.3:
        return [start, first, "and", second, "were", "in", "the", place, ","]
    return [start, first, "and", second, going, "to", "the", place, ","]


def giving(rng: Random) -> list[str]:
    """A verb of giving and the thing given."""
    plain = rng.random() < 0.8
    return [
        rng.choice(words.GIVING),
        "a",
        *([] if plain else [rng.choice(words.GIFT_ADJECTIVES)]),
        rng.choice(words.GIFTS),
    ]


def pronoun(rng: Random) -> list[str]:
    """Someone, and a pronoun that means the same person."""
    woman = rng.random() < 0.5
    name = rng.choice(words.WOMEN if woman else words.MEN)
    start = ["yesterday"] if rng.random() < 0.12 else []
    prefix, possessive = pronoun_prefix(rng, name)
    return [*start, *prefix, pronoun_form(woman, possessive), *pronoun_rest(rng, possessive)]


def pronoun_prefix(rng: Random, name: str) -> tuple[list[str], bool]:
    """The words up to the pronoun, and whether a possessive is due (else the subject form)."""
    kind = rng.random()
    if kind < 0.4:
        return [name, rng.choice(words.SAYING), "that"], False
    if kind < 0.55:
        return [name, rng.choice(words.INTRANSITIVE).past, "because"], False
    if kind < 0.85:
        return [name, rng.choice(words.LOSING)], True
    return [name, rng.choice(words.GOING), "to", "the", rng.choice(words.PLACES), "with"], True


def pronoun_form(woman: bool, possessive: bool) -> str:
    """The pronoun itself."""
    return ("her" if woman else "his") if possessive else ("she" if woman else "he")


def pronoun_rest(rng: Random, possessive: bool) -> list[str]:
    """What follows the pronoun."""
    if possessive:
        noun, _ = any_noun(rng)
        return [noun.form(rng.random() < 0.4)]
    return verb_phrase(rng, plural=False, animate=True, short=True)


def event(rng: Random) -> list[str]:
    """An event with its first and last year, the last one always later in the same century."""
    century = rng.choice(words.CENTURIES)
    start = rng.randrange(1, 98)
    tokens = ["the", rng.choice(words.EVENTS)]
    if rng.random() < 0.1:
        tokens.insert(1, rng.choice(words.EVENT_ADJECTIVES))
    tokens += event_words(century, words.YEARS[start])
    return [*tokens, words.YEARS[last_year(rng, start)]]


def event_words(century: str, start: str) -> list[str]:
    """The words between the name of an event and its last year."""
    return ["lasted", "from", "the", "year", century, start, "to", "the", "year", century]


def last_year(rng: Random, start: int) -> int:
    """A year after `start`: near ones are likelier, every one up to 99 has a real share."""
    years = range(start + 1, 100)
    return rng.choices(years, [math.exp(-(year - start) / DURATION) for year in years])[0]
