"""Labels made from dossiers: the default ones, those of any function, and those of any command."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from featcircuits.errors import InputError, first_line, shortened
from featcircuits.inputs.names import one_line
from featcircuits.labels.record import DEFAULT, LONGEST_LABEL, Label
from featcircuits.model.nodes import Node

_SECONDS = 600
_MOST_BYTES = 1 << 16


class Dossier(Protocol):
    """What a labeller is given of a feature; `fc.features` makes them."""

    @property
    def name(self) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


Labeller = Callable[[Any], str]
"""Dossier -> label."""


def default_labels(texts: Mapping[str, str]) -> list[Label]:
    """Of dossiers' own labels, such as `Dossiers.open("saes/grammar-4l").labels`."""
    return [_made(name, text, DEFAULT) for name, text in texts.items()]


def made(dossiers: Iterable[Dossier], labeller: Labeller, source: str) -> Iterator[Label]:
    """A label for each dossier by any function, one after the other; `source` names who made them."""
    for dossier in dossiers:
        text = labeller(dossier)
        if not isinstance(text, str) or not one_line(text, LONGEST_LABEL):
            raise InputError(f"the labeller gave {shortened(text)} for {dossier.name}; it must give a text")
        yield _made(dossier.name, text, source)


def _made(name: str, text: str, source: str) -> Label:
    node = Node.parse(name)
    if node.feature is None:
        raise InputError(f"{name} is an error node; labels are of features")
    return Label(node.site, node.feature, one_line(text, LONGEST_LABEL), source)


def command(line: str, seconds: float = _SECONDS) -> Labeller:
    """A labeller that runs a command for each dossier: JSON on its standard input, the label on its standard output.

    No shell reads the line. Raises `InputError`, when it is used, where the command fails, prints nothing or more
    than a label, or takes longer than `seconds`.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise InputError(f"the command {shortened(line)} cannot be read: {first_line(error)}") from None
    if not words:
        raise InputError("the command of a labeller is empty; give one, such as 'python label.py'")

    def labelled(dossier: Dossier) -> str:
        text = _run(words, json.dumps(dossier.to_json()), f"the command {shortened(line)} for {dossier.name}", seconds)
        if not text.strip():
            raise InputError(f"the command {shortened(line)} printed no label for {dossier.name}")
        if len(text) > LONGEST_LABEL:
            raise InputError(
                f"the command {shortened(line)} printed {len(text)} characters for {dossier.name}; a label may have "
                f"{LONGEST_LABEL}"
            )
        return text

    return labelled


def _run(words: list[str], given: str, what: str, seconds: float) -> str:
    try:
        done = subprocess.run(words, input=given.encode(), capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"{what} took more than {seconds:g} s") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{what} cannot be run: {getattr(error, 'strerror', None) or first_line(error)}") from None
    if done.returncode:
        said = done.stderr[-_MOST_BYTES:].decode(errors="replace").strip().splitlines()
        raise InputError(f"{what} ended with code {done.returncode}: {shortened(said[-1] if said else '', 200)}")
    return done.stdout[:_MOST_BYTES].decode(errors="replace").strip()
