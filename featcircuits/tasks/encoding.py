"""Texts as a tokenizer's ids: tokens in front of them, chat templates, spans, answers in context."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, first_line, known, shortened
from featcircuits.tasks.examples import SAME_TOKENS, Example, Span, check_example
from featcircuits.tasks.jsonl import Line, Messages, Piece, at_line

Ids = tuple[int, ...]

_CONTEXT = 256
"""How many characters at the end of a long prompt its answers are tokenised with."""
_CUTS = 64
"""How many places to cut such a prompt are tried; the first after which its tokens do not change is taken."""
_MOST_CHARACTERS = 20_000_000
"""The most characters of a line's answers in their context."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model takes it.

    `own`: the ids of its text, at the end of `ids`; the first `shared` of these may also be tokens that the
    tokenizer puts in front.
    """

    text: str
    ids: Ids
    own: Ids
    shared: int = 0

    def position(self, own: int) -> int:
        """The position in the prompt of a token of its own text."""
        return own if own < self.shared else own + len(self.ids) - len(self.own)


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, and the tokens that it puts in front of a text (usually a BOS token)."""

    tokenizer: Any
    front: Ids

    @classmethod
    def of(cls, tokenizer: Any) -> Encoder:
        """The encoder of a tokenizer; raises `InputError` if its special tokens cannot be told from a text's own."""
        for probe in ("a", "the", "1", "."):
            bare, whole = _bare(tokenizer, [probe])[0], tuple(tokenizer(probe)["input_ids"])
            for start in range(len(whole) - len(bare) + 1):
                if bare and whole[start : start + len(bare)] == bare:
                    return cls(tokenizer, whole[:start])
        raise InputError("the tokenizer's special tokens cannot be told from those of a text")

    @property
    def unknown(self) -> int | None:
        """The id of words outside the vocabulary; None if no word can be outside it (`unknown_id`)."""
        return unknown_id(self.tokenizer)

    def rendered(self, prefix: str | Messages) -> str:
        """The text itself, or a conversation as the chat template writes it, up to where the answer begins."""
        if isinstance(prefix, str):
            return prefix
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(
                "messages need a tokenizer with a chat template; this one has none: write the prompt as text"
            )
        answer_begun = prefix[-1]["role"] == "assistant"
        options = {"continue_final_message": True} if answer_begun else {"add_generation_prompt": True}
        try:
            text = self.tokenizer.apply_chat_template([dict(m) for m in prefix], tokenize=False, **options)
        except Exception as error:  # a template is a program, which may raise anything
            raise InputError(f"the chat template refuses the messages: {first_line(error)}") from None
        if not text:
            raise InputError("the chat template turns the messages into no text")
        return text

    def prompt(self, text: str, prepend: str = "") -> Prompt:
        """The text's tokens after the tokens in front; those that the text begins with are not put in front again."""
        (own,) = _bare(self.tokenizer, [text])
        added = self._prepended(prepend) if prepend else ()
        if own[: len(added)] == added:
            added = ()
        shared, again = _common(self.front, own), _common(self.front, added)
        ids = (*self.front, *added[again:], *own[shared:])
        first = self.tokenizer.bos_token_id
        if first is not None and ids[:2] == (first, first):
            raise InputError(f"the prompt begins twice with {self.tokenizer.bos_token!r}; remove one of them")
        return Prompt(text, ids, own, shared)

    def _prepended(self, text: str) -> Ids:
        (ids,) = _bare(self.tokenizer, [text])
        misspelt = text[0] in "<[" and text[-1] in ">]" and not set(ids) <= {*self.tokenizer.get_added_vocab().values()}
        if not ids or self.unknown in ids or (misspelt and len(ids) > 1):
            pieces = self.tokenizer.convert_ids_to_tokens(list(ids))
            raise InputError(
                f"prepend: {shortened(text)} is not a token of the tokenizer, which makes {shortened(pieces)} of it; "
                f"special tokens {known(self.tokenizer.get_added_vocab(), text)}"
            )
        return ids

    def unknown_words(self, prompt: Prompt) -> tuple[str, ...]:
        """The pieces of a prompt's text that are unknown tokens."""
        numbers = [number for number, token in enumerate(prompt.own) if token == self.unknown]
        if not numbers:
            return ()
        if not self.tokenizer.is_fast:
            return (self.tokenizer.unk_token,) * len(numbers)
        offsets = self._offsets(prompt)
        return tuple(prompt.text[slice(*offsets[number])] for number in numbers)

    def spans(self, prompt: Prompt, roles: Iterable[tuple[str, Piece]]) -> tuple[tuple[str, Span], ...]:
        """The tokens of each role, given as a piece of the prompt's text or as a span of its characters."""
        roles = list(roles)
        if not roles:
            return ()
        if not self.tokenizer.is_fast:
            raise InputError("roles need a fast tokenizer (with character offsets); this one is not")
        offsets = self._offsets(prompt)
        return tuple(
            (name, _tokens_of(name, _characters(prompt.text, name, piece), offsets, prompt)) for name, piece in roles
        )

    def _offsets(self, prompt: Prompt) -> list[tuple[int, int]]:
        return self.tokenizer(prompt.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]

    def answers(self, prompt: Prompt, texts: Sequence[str], name: str) -> Ids:
        """The answers' tokens in context: the token that each adds to its prompt, not those of the answer alone."""
        if not texts:
            return ()
        tail, stem = self._tail(prompt)
        if len(tail) * len(texts) > _MOST_CHARACTERS:
            raise InputError(
                f"field {name!r}: {len(texts)} answers are too many for a prompt of {len(prompt.text)} characters "
                "whose end is not tokenised as it is within the prompt"
            )
        wholes = _bare(self.tokenizer, [tail + text for text in texts])
        return tuple(dict.fromkeys(self._answer(stem, *pair, name) for pair in zip(wholes, texts, strict=True)))

    def _tail(self, prompt: Prompt) -> tuple[str, Ids]:
        """The end of a long prompt, from a place where its tokens do not depend on the text before it."""
        text = prompt.text
        if len(text) > 2 * _CONTEXT:
            tails = [text[-size:] for size in range(_CONTEXT, _CONTEXT + _CUTS)]
            for tail, ids in zip(tails, _bare(self.tokenizer, tails), strict=True):
                if ids and ids == prompt.own[-len(ids) :]:
                    return tail, ids
        return text, prompt.own

    def _answer(self, stem: Ids, whole: Ids, text: str, name: str) -> int:
        if whole[: len(stem)] != stem:
            raise InputError(
                f"field {name!r}: {shortened(text)} merges with the end of its prefix into other tokens; "
                "move the space from the prefix to the answer"
            )
        added = whole[len(stem) :]
        if len(added) != 1:
            pieces = shortened(self.tokenizer.convert_ids_to_tokens(list(added[:20])))
            raise InputError(
                f"field {name!r}: {shortened(text)} is {len(added)} tokens {pieces} after its prefix; it must be one"
            )
        if added[0] == self.unknown:
            raise InputError(f"field {name!r}: {shortened(text)} is not in the tokenizer's vocabulary")
        return added[0]


@dataclass(frozen=True)
class Entry:
    """A line of a task file, its prompts, and its example."""

    line: Line
    clean: Prompt
    corrupted: Prompt | None
    example: Example


def entries_of(path: Path, lines: Iterable[Line], encoder: Encoder, prepend: str = "") -> list[Entry]:
    """Every line tokenised; `prepend` goes in front of lines that have none of their own."""
    found = []
    for line in lines:
        with at_line(path, line.number):
            found.append(_entry(line, encoder, line.prepend or prepend))
    _warn_of_unknown(path, found, encoder)
    return found


def _warn_of_unknown(path: Path, entries: Sequence[Entry], encoder: Encoder) -> None:
    """A model that reads <unk> in place of a word does not do what the file asks."""
    words = {entry.line.number: _unknown_words(entry.clean, entry.corrupted, encoder) for entry in entries}
    if lines := [number for number, found in words.items() if found]:
        named = [*dict.fromkeys(shortened(word) for number in lines for word in words[number])]
        warnings.warn(
            f"{path}: in {len(lines)} of {len(entries)} lines, the first of them line {lines[0]}, are words that the "
            f"tokenizer does not know ({', '.join(named[:5])}{', ...' if len(named) > 5 else ''}); the model reads "
            f"{encoder.tokenizer.unk_token} in their place",
            stacklevel=2,
        )


def _unknown_words(clean: Prompt, corrupted: Prompt | None, encoder: Encoder) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(word for prompt in (clean, corrupted) if prompt for word in encoder.unknown_words(prompt))
    )


def _entry(line: Line, encoder: Encoder, prepend: str) -> Entry:
    clean = encoder.prompt(encoder.rendered(line.clean), prepend)
    corrupted = None if line.corrupted is None else encoder.prompt(encoder.rendered(line.corrupted), prepend)
    right, wrong = ("answer", "wrong_answer") if corrupted is None else ("clean_answer", "patch_answer")
    example = Example(
        clean=clean.ids,
        corrupted=None if corrupted is None else corrupted.ids,
        clean_answers=encoder.answers(clean, line.clean_answers, right),
        corrupted_answers=encoder.answers(corrupted or clean, line.corrupted_answers, wrong),
        roles=encoder.spans(clean, line.roles.items()),
        case=line.case,
    )
    if corrupted is not None and clean.ids == corrupted.ids:
        words = _unknown_words(clean, corrupted, encoder)
        because = f" (not in the tokenizer's vocabulary: {', '.join(map(shortened, words))})" if words else ""
        raise InputError(SAME_TOKENS + because)
    check_example(example)
    return Entry(line, clean, corrupted, example)


_RARE = "\ua66e \U00012000 \U00010380"
"""Letters that no vocabulary has whole: a tokenizer spells them in bytes, or they are unknown."""


def unknown_id(tokenizer: Any) -> int | None:
    """The id of words outside the vocabulary; None if no word can be outside it.

    Tokenizers that spell everything in bytes often name a token for unknown words all the same, which then stands for
    something else: it begins or ends texts (GPT-2), or parts documents, and chat markers begin and end texts (SmolLM2).
    """
    unknown = tokenizer.unk_token_id
    if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return None
    (rare,) = _bare(tokenizer, [_RARE])
    return unknown if not rare or unknown in rare else None


def _bare(tokenizer: Any, texts: list[str]) -> list[Ids]:
    """Each text's ids without the special tokens that the tokenizer puts around it."""
    return [tuple(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _common(first: Ids, second: Ids) -> int:
    """How many ids at the start of two rows are the same."""
    return next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _characters(text: str, name: str, piece: Piece) -> tuple[int, int]:
    if isinstance(piece, str):
        places = [n for n in range(len(text)) if text.startswith(piece, n)]
        if len(places) != 1:
            raise InputError(
                f"role {name!r}: {shortened(piece)} occurs {len(places)} times in the clean prefix; "
                "give [start, end) character offsets instead"
            )
        return places[0], places[0] + len(piece)
    if piece[1] > len(text):
        raise InputError(f"role {name!r}: {list(piece)} ends after the prefix, which has {len(text)} characters")
    return piece


def _tokens_of(name: str, characters: tuple[int, int], offsets: list[tuple[int, int]], prompt: Prompt) -> Span:
    """The tokens that share a character with [start, end)."""
    start, end = characters
    touched = [i for i, (left, right) in enumerate(offsets) if left < end and right > start and right > left]
    if not touched:
        raise InputError(f"role {name!r}: characters {start} to {end} hold no token")
    return Span(prompt.position(touched[0]), prompt.position(touched[-1]) + 1)
