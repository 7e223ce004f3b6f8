"""Texts with a label and a cue: a second property, which goes with the label where a classifier is trained."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from featcircuits.errors import InputError, shortened
from featcircuits.files.reading import parse_json, read_text
from featcircuits.tasks.encoding import Encoder

_KEYS = {"text", "label", "cue"}


class Text(NamedTuple):
    """A text as token ids, with two properties that are 0 or 1 each."""

    ids: tuple[int, ...]
    label: int
    """What the classifier is to tell."""
    cue: int
    """What it is not to use."""


def read_texts(path: str | Path, tokenizer: Any) -> list[Text]:
    """The texts of a JSONL file, one object {"text": ..., "label": 0 or 1, "cue": 0 or 1} a line.

    Raises `InputError` that names the file and the line for anything else.
    """
    encoder, texts = Encoder.of(tokenizer), []
    for number, line in enumerate(read_text(path, what="file of texts").split("\n"), start=1):
        if line.strip():
            where = f"{shortened(Path(path), 300)}, line {number}"
            texts.append(_text(parse_json(line, where), where, encoder))
    if not texts:
        raise InputError(f"{shortened(Path(path), 300)}: holds no texts")
    return texts


def _text(row: Any, where: str, encoder: Encoder) -> Text:
    if not isinstance(row, dict) or row.keys() != _KEYS or not isinstance(row["text"], str):
        raise InputError(f'{where}: {shortened(row)} is not {{"text": "...", "label": 0 or 1, "cue": 0 or 1}}')
    for name in ("label", "cue"):
        if row[name] not in (0, 1):
            raise InputError(f"{where}: {name} is {shortened(row[name])}; it must be 0 or 1")
    ids = encoder.prompt(row["text"]).ids
    if not ids:
        raise InputError(f"{where}: the text has no tokens")
    return Text(ids, int(row["label"]), int(row["cue"]))


def without(texts: Iterable[Text], ids: Collection[int]) -> list[Text]:
    """The texts without some tokens; a text that has no others stays as it is."""
    return [text._replace(ids=tuple(id for id in text.ids if id not in ids) or text.ids) for text in texts]


def check_texts(what: str, texts: Sequence[Text], *, balanced: bool) -> None:
    """Raise `InputError` unless both labels occur, or, if `balanced`, all four combinations of label and cue."""
    if isinstance(texts, (str, Path)) or not all(isinstance(text, Text) for text in texts):
        raise InputError(f"{what} is {shortened(texts)}; give a list of Text, such as read_texts(path, tokenizer)")
    kind, every = ("(label, cue)", {(0, 0), (0, 1), (1, 0), (1, 1)}) if balanced else ("label", {0, 1})
    if lacking := every - {(text.label, text.cue) if balanced else text.label for text in texts}:
        raise InputError(f"{what}: no text has {kind} {min(lacking)}; nothing could be told from the others")
