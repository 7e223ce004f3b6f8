"""Reading of task files: one JSON object per line (docs/tasks.md), with the checks that need no tokenizer.

Pairs (the published agreement format): `clean_prefix`, `patch_prefix`, `clean_answer`,
`patch_answer`. Single prompts: `prefix`, `answer`, optionally `wrong_answer`. Both may have `case`,
`roles` and `prepend`. A prefix is a text or `{"messages": [...]}`, a conversation for the chat
template. An answer is a string or a list of strings (a set of answers). A role is a piece of text that occurs
exactly once in the clean prefix, or a span of its characters [start, end).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError, known, shortened
from featcircuits.files.reading import parse_json, read_text
from featcircuits.inputs.names import check_name, check_role

_PAIRED = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")
_UNPAIRED = ("prefix", "answer")
_OPTIONAL = {_PAIRED: ("case", "roles", "prepend"), _UNPAIRED: ("wrong_answer", "case", "roles", "prepend")}

MOST_ANSWERS = 10_000
"""The most answers of a set."""
MOST_ROLES = 100
"""The most roles of a line."""
MOST_CHARACTERS = 1_000_000
"""The most characters of a prompt or an answer."""

Messages = tuple[Mapping[str, str], ...]
"""A conversation: the role and the content of each message."""

Piece = str | tuple[int, int]
"""How a line gives a role: as text that occurs once, or as characters [start, end)."""


@dataclass(frozen=True)
class Line:
    """The content of a line, with its number in the file; `corrupted` is None for a single prompt."""

    number: int
    clean: str | Messages
    corrupted: str | Messages | None
    clean_answers: tuple[str, ...]
    corrupted_answers: tuple[str, ...] = ()
    roles: Mapping[str, Piece] = field(default_factory=dict)
    prepend: str = ""
    case: str = ""


def read_lines(path: Path) -> list[Line]:
    """Every line that is not blank; raises `InputError` that names file, line and remedy."""
    text = read_text(path, what="task file")
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):  # JSON strings may hold other line separators
        if line.strip():
            with at_line(path, number):
                lines.append(_line(number, line))
    if not lines:
        raise InputError(f"{path}: the file holds no examples")
    if len({line.corrupted is None for line in lines}) > 1:
        raise InputError(f"{path}: pairs and single prompts are mixed; put them into separate files")
    return lines


@contextmanager
def at_line(path: Path, number: int) -> Iterator[None]:
    """Errors inside the block name the file and the line."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{shortened(path, 300)}, line {number}: {error}") from None


def _line(number: int, text: str) -> Line:
    row = _object(text)
    required = _PAIRED if "clean_prefix" in row else _UNPAIRED
    if missing := [name for name in required if name not in row]:
        raise InputError(f"field {missing[0]!r} is missing; a line has {', '.join(_PAIRED)} or {', '.join(_UNPAIRED)}")
    allowed = (*required, *_OPTIONAL[required])
    if unknown := [name for name in row if name not in allowed]:
        raise InputError(f"unknown field {shortened(unknown[0])}; {known(allowed, unknown[0])}")
    clean, corrupted, right, wrong = _PAIRED if required is _PAIRED else ("prefix", None, "answer", "wrong_answer")
    return Line(
        number=number,
        clean=_prefix(row, clean),
        corrupted=None if corrupted is None else _prefix(row, corrupted),
        clean_answers=_answers(row, right),
        corrupted_answers=_answers(row, wrong) if wrong in row else (),
        roles=_roles(row["roles"]) if "roles" in row else {},
        prepend=_text(row, "prepend") if "prepend" in row else "",
        case=check_name(row["case"], "case") if "case" in row else "",
    )


def _object(text: str) -> Mapping[str, Any]:
    try:
        row = parse_json(text, "the line")
    except InputError as error:  # the parser counts each line as line 1
        raise InputError(str(error).removeprefix("the line: ").replace(": line 1 column ", ", column ")) from None
    if not isinstance(row, dict):
        raise InputError(f"a line must be a JSON object, found {type(row).__name__} {shortened(row)}")
    return row


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row[name], str) or not row[name]:
        raise InputError(f"field {name!r} must be a non-empty string, found {shortened(row[name])}")
    _check_size(row[name], name)
    return row[name]


def _check_size(text: str, name: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"field {name!r}: a text has {len(text)} characters; it may have {MOST_CHARACTERS}")


def _prefix(row: Mapping[str, Any], name: str) -> str | Messages:
    if not isinstance(row[name], dict):
        return _text(row, name)
    if set(row[name]) != {"messages"}:
        raise InputError(f'field {name!r} must be a text or {{"messages": [...]}}, found {shortened(row[name])}')
    messages = row[name]["messages"]
    if not isinstance(messages, list) or not messages:
        raise InputError(f"field {name!r}: messages must be a list of one message or more, found {shortened(messages)}")
    return tuple(_message(message, name) for message in messages)


def _message(message: Any, name: str) -> Mapping[str, str]:
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        raise InputError(f"field {name!r}: a message has 'role' and 'content', found {shortened(message)}")
    check_name(message["role"], f"field {name!r}: a message's role")
    if not isinstance(message["content"], str):
        raise InputError(f"field {name!r}: a message's content must be a text, found {shortened(message['content'])}")
    _check_size(message["content"], name)
    return message


def _answers(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    texts = row[name] if isinstance(row[name], list) else [row[name]]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"field {name!r} must be a non-empty string or a list of them, found {shortened(row[name])}")
    if len(texts) > MOST_ANSWERS:
        raise InputError(f"field {name!r} has {len(texts)} answers; a set may have {MOST_ANSWERS}")
    for text in texts:
        _check_size(text, name)
    return tuple(dict.fromkeys(texts))


def _roles(roles: Any) -> Mapping[str, Piece]:
    if not isinstance(roles, dict) or not roles:
        raise InputError(
            f"field 'roles' must be an object of name: text or [start, end], found {shortened(roles)}; "
            "leave out the field if there are none"
        )
    if len(roles) > MOST_ROLES:
        raise InputError(f"field 'roles' has {len(roles)} roles; a line may have {MOST_ROLES}")
    return {check_role(name): _piece(name, piece) for name, piece in roles.items()}


def _piece(name: str, piece: Any) -> Piece:
    if isinstance(piece, str) and piece:
        return piece
    if isinstance(piece, list) and [type(end) for end in piece] == [int, int] and 0 <= piece[0] < piece[1]:
        return piece[0], piece[1]
    raise InputError(
        f"role {name!r}: {shortened(piece)} is neither text of the prefix nor [start, end) of its characters"
    )
