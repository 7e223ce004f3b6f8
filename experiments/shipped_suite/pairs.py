"""Task files: pairs of a clean and a corrupted prompt for every behaviour of the grammar.

Words at even places of each vocabulary list belong to the train files, the others to the test
files, so no key noun or name occurs in both. Cases take turns, so any first part of a file is
nearly as balanced as the whole.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

from experiments.shipped_suite import vocabulary as words
from experiments.shipped_suite.grammar import event_words, pronoun_form
from experiments.shipped_suite.vocabulary import Noun

SPLITS = ("train", "test")
LATE_START = range(20, 86)
"""First years of clean prompts: late enough that a war begun in 01 has probably ended by then."""
EARLY_YEAR = "01"


@dataclass(frozen=True)
class Pair:
    """Two prompts of equal length, word by word, and what follows each of them."""

    clean: list[str]
    corrupted: list[str]
    clean_answer: list[str]
    corrupted_answer: list[str]
    case: str
    roles: dict[str, int]
    """Role name -> index of the word in the prompt."""

    def record(self) -> dict[str, object]:
        """The pair as one object of a task file."""
        prefix = spell(self.clean)
        return {
            "clean_prefix": prefix,
            "patch_prefix": spell(self.corrupted),
            "clean_answer": answer(self.clean_answer),
            "patch_answer": answer(self.corrupted_answer),
            "case": self.case,
            "roles": {role: place(prefix, index) for role, index in self.roles.items()},
        }


@dataclass(frozen=True)
class Lexicon:
    """The key words that one split may use."""

    people: Sequence[Noun]
    animals: Sequence[Noun]
    things: Sequence[Noun]
    women: Sequence[str]
    men: Sequence[str]
    events: Sequence[str]

    @classmethod
    def of(cls, split: str) -> "Lexicon":
        """Every second word of each list."""
        part = slice(SPLITS.index(split), None, 2)
        return cls(
            words.PEOPLE[part],
            words.ANIMALS[part],
            words.THINGS[part],
            words.WOMEN[part],
            words.MEN[part],
            words.EVENTS[part],
        )


def spell(tokens: list[str]) -> str:
    """Words as text, with a capital at the start."""
    text = " ".join(tokens).replace(" ,", ",")
    return text[0].upper() + text[1:]


def answer(continuations: list[str]) -> str | list[str]:
    """One answer as a string, several as a list, each with its leading space."""
    spaced = [" " + word for word in continuations]
    return spaced[0] if len(spaced) == 1 else spaced


def place(prefix: str, index: int) -> str | list[int]:
    """The word at this index: its text where that occurs once, else its character offsets."""
    match = list(re.finditer(r"\w+|[^\w\s]", prefix))[index]
    if prefix.count(match.group()) == 1:
        return match.group()
    return [match.start(), match.end()]


def number_name(plural: bool) -> str:
    """The name of a grammatical number in case labels."""
    return "plural" if plural else "singular"


def agreeing(subject: Noun, plural: bool, rest: list[str], answers: tuple[str, str], case: str, **roles: int) -> Pair:
    """`The SUBJECT rest`, with the other number of the subject as the corrupted prompt."""
    right, wrong = answers[plural], answers[not plural]
    return Pair(
        ["the", subject.form(plural), *rest],
        ["the", subject.form(not plural), *rest],
        [right],
        [wrong],
        case,
        {"subject": 1, **roles},
    )


def agreement_simple(rng: Random, lexicon: Lexicon, turn: int) -> Pair:
    """`The parents` -> are / is."""
    plural = bool(turn % 2)
    subject = rng.choice([*lexicon.people, *lexicon.animals, *lexicon.things])
    answers = words.AUXILIARIES[turn // 2 % 4]
    return agreeing(subject, plural, [], answers, number_name(plural), determiner=0)


def agreement_nounpp(rng: Random, lexicon: Lexicon, turn: int) -> Pair:
    """`The parents near the car` -> are / is."""
    plural, other_plural, answers = numbers(turn)
    subject = rng.choice(lexicon.people)
    other = rng.choice([noun for noun in (*lexicon.people, *lexicon.things) if noun != subject])
    rest = [rng.choice(words.PREPOSITIONS), "the", other.form(other_plural)]
    case = f"{number_name(plural)}_{number_name(other_plural)}"
    roles = {"preposition": 2, "determiner": 3, "attractor": 4}
    return agreeing(subject, plural, rest, answers, case, **roles)


def agreement_rc(rng: Random, lexicon: Lexicon, turn: int) -> Pair:
    """`The athlete that the managers like` -> does / do."""
    plural, other_plural, answers = numbers(turn)
    subject, other = rng.sample(lexicon.people, 2)
    verb = rng.choice(words.TRANSITIVE).present(other_plural)
    rest = ["that", "the", other.form(other_plural), verb]
    case = f"{number_name(plural)}_{number_name(other_plural)}"
    roles = {"that": 2, "determiner": 3, "attractor": 4, "rc_verb": 5}
    return agreeing(subject, plural, rest, answers, case, **roles)


def agreement_within_rc(rng: Random, lexicon: Lexicon, turn: int) -> Pair:
    """`The athlete that the managers` -> like / likes."""
    plural, other_plural, _ = numbers(turn)
    other, subject = rng.sample(lexicon.people, 2)
    verb = rng.choice(words.TRANSITIVE)
    start = ["the", other.form(other_plural), "that", "the"]
    return Pair(
        [*start, subject.form(plural)],
        [*start, subject.form(not plural)],
        [verb.present(plural)],
        [verb.present(not plural)],
        f"{number_name(other_plural)}_{number_name(plural)}",
        {"attractor": 1, "that": 2, "determiner": 3, "subject": 4},
    )


def numbers(turn: int) -> tuple[bool, bool, tuple[str, str]]:
    """The numbers of subject and other noun and the auxiliary, all combinations in turn."""
    return bool(turn % 2), bool(turn // 2 % 2), words.AUXILIARIES[turn // 4 % 4]


def ioi(rng: Random, lexicon: Lexicon, turn: int) -> Pair:
    """`When Mary and John went to the store, John gave a drink to` -> Mary / John."""
    receiver, giver = rng.sample([*lexicon.women, *lexicon.men], 2)
    giver_second = bool(turn % 2)
    both = [receiver, "and", giver] if giver_second else [giver, "and", receiver]
    start = ["when", "after", "while"][turn // 2 % 3]
    going = rng.choice(words.GOING)
    opening = [start, *both, going, "to", "the", rng.choice(words.PLACES), ","]
    rest = [rng.choice(words.GIVING), "a", rng.choice(words.GIFTS), "to"]
    first, second = (3, 1) if giver_second else (1, 3)
    return Pair(
        [*opening, giver, *rest],
        [*opening, receiver, *rest],
        [receiver],
        [giver],
        "receiver_giver" if giver_second else "giver_receiver",
        {"giver": first, "receiver": second, "giver_again": 9, "to": 13},
    )


def gender(rng: Random, lexicon: Lexicon, turn: int) -> Pair:
    """`Mary said that` -> she / he, and three other ways to call for a pronoun."""
    woman = bool(turn % 2)
    names = rng.choice(lexicon.women), rng.choice(lexicon.men)
    rest, possessive = [
        ([rng.choice(words.SAYING), "that"], False),
        ([rng.choice(words.LOSING)], True),
        ([rng.choice(words.INTRANSITIVE).past, "because"], False),
        ([rng.choice(words.GOING), "to", "the", rng.choice(words.PLACES), "with"], True),
    ][turn // 2 % 4]
    return Pair(
        [names[not woman], *rest],
        [names[woman], *rest],
        [pronoun_form(woman, possessive)],
        [pronoun_form(not woman, possessive)],
        f"{'woman' if woman else 'man'}_{'possessive' if possessive else 'subject'}",
        {"name": 0},
    )


def greater_than(rng: Random, lexicon: Lexicon, turn: int) -> Pair:
    """`The war lasted from the year 17 32 to the year 17` -> later years / the others."""
    century = words.CENTURIES[turn % len(words.CENTURIES)]
    start = rng.choice(LATE_START)
    head = ["the", rng.choice(lexicon.events)]
    return Pair(
        [*head, *event_words(century, words.YEARS[start])],
        [*head, *event_words(century, EARLY_YEAR)],
        list(words.YEARS[start + 1 :]),
        list(words.YEARS[1 : start + 1]),
        f"century_{century}",
        {"event": 1, "century": 6, "start": 7, "last": 11},
    )


Maker = Callable[[Random, Lexicon, int], Pair]
BEHAVIOURS: dict[str, tuple[Maker, str]] = {
    "agreement_simple": (agreement_simple, "a verb agrees with the noun before it"),
    "agreement_nounpp": (agreement_nounpp, "agreement across a prepositional phrase"),
    "agreement_rc": (agreement_rc, "agreement across a relative clause"),
    "agreement_within_rc": (agreement_within_rc, "agreement inside a relative clause"),
    "ioi": (ioi, "the receiver of a gift is the one of two people who is not its giver"),
    "gender": (gender, "a pronoun takes the gender of a name"),
    "greater_than": (greater_than, "the last year of an event is later than its first"),
}


def make_pairs(maker: Maker, split: str, count: int, seed: int) -> list[Pair]:
    """`count` different pairs of one behaviour; every turn repeats until it gives a new one."""
    rng = Random(f"{seed} {maker.__name__} {split}")
    lexicon, pairs, seen = Lexicon.of(split), [], set()
    for turn in range(count):
        while True:
            pair = maker(rng, lexicon, turn)
            key = (*pair.clean, *pair.corrupted, *pair.clean_answer)
            if key not in seen:
                break
        seen.add(key)
        pairs.append(pair)
    return pairs


def write_tasks(folder: Path, count: int, seed: int) -> None:
    """Writes `<behaviour>_<split>.jsonl` for every behaviour and split."""
    folder.mkdir(parents=True, exist_ok=True)
    for (name, (maker, _)), split in product(BEHAVIOURS.items(), SPLITS):
        pairs = make_pairs(maker, split, count, seed)
        lines = [json.dumps(pair.record(), ensure_ascii=False) + "\n" for pair in pairs]
        (folder / f"{name}_{split}.jsonl").write_text("".join(lines), encoding="utf-8")
