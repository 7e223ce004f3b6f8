"""The words of the grammar.

Every word is one token. Nouns have a singular and a plural, verbs four forms; all irregular forms
are written out, so that no rule of English spelling has to be trusted.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """A countable noun in both numbers."""

    singular: str
    plural: str

    def form(self, plural: bool) -> str:
        """The noun in the number asked for."""
        return self.plural if plural else self.singular


@dataclass(frozen=True)
class Verb:
    """A verb: `base` agrees with plurals, `third` with singulars; past and participle are one."""

    base: str
    third: str
    past: str
    ing: str

    def present(self, plural: bool) -> str:
        """The present-tense form that agrees with a subject of this number."""
        return self.base if plural else self.third


def _nouns(text: str) -> tuple[Noun, ...]:
    """Nouns from words; `box/boxes` spells out a plural that is not the word and an s."""
    pairs = (word.partition("/") for word in text.split())
    return tuple(Noun(singular, plural or singular + "s") for singular, _, plural in pairs)


def _verbs(text: str) -> tuple[Verb, ...]:
    """Verbs from words; all of them are regular, those that end in e drop it."""
    verbs = []
    for word in text.split():
        stem = word.removesuffix("e")
        third = word + ("es" if word.endswith("ch") else "s")
        verbs.append(Verb(word, third, stem + "ed", stem + "ing"))
    return tuple(verbs)


PEOPLE = _nouns(
    "athlete manager teacher parent student doctor nurse lawyer farmer pilot singer actor writer "
    "painter driver baker guard judge banker builder captain chef clerk coach/coaches cook dancer "
    "dentist director editor engineer gardener guest hunter leader mayor miner minister neighbor "
    "officer poet senator soldier surgeon tailor visitor waiter worker author customer scientist "
    "sailor cousin player secretary/secretaries runner skater prisoner consultant architect guide"
)
ANIMALS = _nouns("dog cat horse rabbit goat cow bird monkey lion tiger duck bear fox/foxes wolf/wolves")
THINGS = _nouns(
    "car book table chair lamp clock phone ship boat truck box/boxes cup plate mirror statue key "
    "bag desk letter bottle basket hammer piano drum wagon bicycle window door bridge tower candle "
    "blanket ladder rope carpet bench/benches"
)
PLACES = (
    "store park school market garden station hospital library museum office restaurant beach farm harbor theater castle"
).split()
GIFTS = "drink ring ticket snack coin toy flower present map pencil sandwich necklace".split()
EVENTS = (
    "war siege strike journey reign dispute festival drought truce project trial voyage famine "
    "rebellion crisis expedition feud campaign conflict plague exile tour revolt boycott"
).split()

WOMEN = (
    "Mary Anna Emma Lucy Sarah Julia Alice Laura Helen Grace Clara Ruth Emily Susan Karen Linda "
    "Nancy Diana Sophie Martha Jane Kate Rose Amy"
).split()
MEN = (
    "John Tom James David Paul Peter Mark Luke Henry George Frank Simon Adam Brian Kevin Eric "
    "Robert Steven Oscar Victor Jack Carl Daniel Bill"
).split()
NAMES = WOMEN + MEN

TRANSITIVE = _verbs("like admire avoid help follow watch trust visit thank praise call love hate fear blame ignore")
INTRANSITIVE = _verbs("laugh smile wait work dance travel arrive shout cough listen")
THING_VERBS = _verbs("move crack rattle wobble creak")

PERSON_ADJECTIVES = (
    "tall happy quiet clever brave young kind proud tired angry famous polite strict gentle lonely"
).split()
THING_ADJECTIVES = "red blue heavy small large clean dirty new green cheap".split()
GIFT_ADJECTIVES = "nice lovely little".split()
EVENT_ADJECTIVES = "long bitter strange".split()

PREPOSITIONS = "near behind beside with by above below opposite".split()
ADVERBS = "often never always rarely usually probably".split()
OPENERS = ("Today", "Yesterday", "Sometimes", "Of course", "In the morning", "Once again")
MODALS = "can will must should".split()
SAYING = "said thought believed knew hoped claimed".split()
LOSING = "lost found sold painted dropped washed".split()
GOING = "went walked drove hurried".split()
GIVING = "gave handed offered passed sold".split()

AUXILIARIES = (("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"))
YEARS = tuple(f"{year:02d}" for year in range(100))
CENTURIES = YEARS[11:20]
