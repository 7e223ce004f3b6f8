"""Reading task files: one JSON object a line.

Paired (the published agreement format): `clean_prefix`, `patch_prefix`, `clean_answer`,
`patch_answer`, optionally `case` and `roles`. Unpaired: `prefix`, `answer`, optionally
`wrong_answer`, `case` and `roles`. An answer is a string or a list of strings (a set of answers);
a role is a piece of the clean prefix that occurs in it once, or its character span [start, end).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError
from featcircuits.examples import Example, Span, check_example

_PAIRED = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")
_UNPAIRED = ("prefix", "answer")
_OPTIONAL = {_PAIRED: {"case", "roles"}, _UNPAIRED: {"wrong_answer", "case", "roles"}}


def read_examples(path: Path, tokenizer: Any) -> list[Example]:
    """Every line as an example; raises `InputError` naming file, line and remedy."""
    if not path.is_file():
        raise InputError(f"{path}: no such task file")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON strings may hold other line separators
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}, byte {error.start})") from None
    examples = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                examples.append(_example(_parse(line), tokenizer))
                check_example(examples[-1])
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
    if not examples:
        raise InputError(f"{path}: the file holds no examples")
    kinds = {example.corrupted is None for example in examples}
    if len(kinds) > 1:
        raise InputError(f"{path}: paired and unpaired examples are mixed; put them into files of their own")
    return examples


def _parse(line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(row, dict):
        raise InputError(f"a line must be a JSON object, found {type(row).__name__}")
    return row


def _example(row: Mapping[str, Any], tokenizer: Any) -> Example:
    required = _PAIRED if "clean_prefix" in row else _UNPAIRED
    if missing := [name for name in required if name not in row]:
        raise InputError(f"field {missing[0]!r} is missing; a line has {', '.join(_PAIRED)} or {', '.join(_UNPAIRED)}")
    if unknown := sorted(set(row) - set(required) - _OPTIONAL[required]):
        known = ", ".join([*required, *sorted(_OPTIONAL[required])])
        raise InputError(f"unknown field {unknown[0]!r}; known here: {known}")
    if required is _PAIRED:
        clean, corrupted = _text(row, "clean_prefix"), _text(row, "patch_prefix")
        return Example(
            clean=tokenise(clean, tokenizer),
            corrupted=tokenise(corrupted, tokenizer),
            clean_answers=_answers(clean, row, "clean_answer", tokenizer),
            corrupted_answers=_answers(corrupted, row, "patch_answer", tokenizer),
            roles=_roles(clean, row.get("roles") or {}, tokenizer),
        )
    prefix = _text(row, "prefix")
    wrong = _answers(prefix, row, "wrong_answer", tokenizer) if "wrong_answer" in row else ()
    answers = _answers(prefix, row, "answer", tokenizer)
    return Example(tokenise(prefix, tokenizer), None, answers, wrong, _roles(prefix, row.get("roles") or {}, tokenizer))


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row[name], str) or not row[name]:
        raise InputError(f"field {name!r} must be a non-empty string, found {row[name]!r}")
    return row[name]


def tokenise(text: str, tokenizer: Any) -> tuple[int, ...]:
    """Ids with the BOS that some tokenizers put before a text, without the end token that some put behind it."""
    ids = tuple(tokenizer(text)["input_ids"])
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def _answers(prefix: str, row: Mapping[str, Any], name: str, tokenizer: Any) -> tuple[int, ...]:
    """The answers' tokens in context: what the answer adds to its prefix, never the answer alone."""
    texts = row[name] if isinstance(row[name], list) else [row[name]]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"field {name!r} must be a non-empty string or a list of them, found {row[name]!r}")
    return tuple(dict.fromkeys(_answer(prefix, text, name, tokenizer) for text in texts))


def _answer(prefix: str, text: str, name: str, tokenizer: Any) -> int:
    stem, whole = tokenise(prefix, tokenizer), tokenise(prefix + text, tokenizer)
    if whole[: len(stem)] != stem:
        raise InputError(
            f"field {name!r}: {text!r} merges with the end of its prefix into other tokens; "
            "move the space from the prefix to the answer"
        )
    added = whole[len(stem) :]
    if len(added) != 1:
        pieces = tokenizer.convert_ids_to_tokens(list(added))
        raise InputError(f"field {name!r}: {text!r} is {len(added)} tokens {pieces} after its prefix; it must be one")
    if added[0] == tokenizer.unk_token_id:
        raise InputError(f"field {name!r}: {text!r} is not in the tokenizer's vocabulary")
    return added[0]


def _roles(prefix: str, roles: Any, tokenizer: Any) -> tuple[tuple[str, Span], ...]:
    if not isinstance(roles, dict):
        raise InputError(f"field 'roles' must be an object of name: text or [start, end], found {roles!r}")
    if not roles:
        return ()
    if not tokenizer.is_fast:
        raise InputError("roles need a fast tokenizer (with character offsets); this one is not")
    offsets = tokenizer(prefix, return_offsets_mapping=True)["offset_mapping"]
    spans = {name: _tokens_of(*_characters(prefix, name, piece), offsets, name) for name, piece in roles.items()}
    covered: set[int] = set()
    for name, span in spans.items():
        if covered & set(range(*span)):
            raise InputError(f"role {name!r} overlaps another role; each token has one role at most")
        covered |= set(range(*span))
    return tuple(spans.items())


def _characters(prefix: str, name: str, piece: Any) -> tuple[int, int]:
    if isinstance(piece, str) and piece:
        if prefix.count(piece) != 1:
            raise InputError(
                f"role {name!r}: {piece!r} occurs {prefix.count(piece)} times in the clean prefix; "
                "give [start, end) character offsets instead"
            )
        return prefix.index(piece), prefix.index(piece) + len(piece)
    match piece:
        case [int(start), int(end)] if 0 <= start < end <= len(prefix):
            return start, end
    raise InputError(
        f"role {name!r}: {piece!r} is neither text of the prefix nor [start, end) in its {len(prefix)} characters"
    )


def _tokens_of(start: int, end: int, offsets: list[tuple[int, int]], name: str) -> Span:
    """The tokens that share a character with [start, end)."""
    touched = [i for i, (left, right) in enumerate(offsets) if left < end and right > start and right > left]
    if not touched:
        raise InputError(f"role {name!r}: characters {start} to {end} hold no token")
    return Span(touched[0], touched[-1] + 1)
