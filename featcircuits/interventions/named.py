"""What interventions call by name: groups of nodes, vectors, and other prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from featcircuits.errors import InputError, known, shortened
from featcircuits.interventions.how import CORRUPTED
from featcircuits.interventions.intervention import check_vector_name
from featcircuits.model.nodes import Node, nodes_of
from featcircuits.provenance.belonging import checked_rows
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.encoding import Encoder


@dataclass(frozen=True, eq=False)
class Named:
    """Groups, vectors [width] and prompts (token ids), by name."""

    groups: Mapping[str, tuple[Node, ...]] = field(default_factory=dict)
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    runs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def group(self, name: str) -> tuple[Node, ...]:
        """The nodes of a group; raises `InputError` if there is none of this name."""
        return _found(self.groups, "group", name)

    def vector(self, name: str) -> Tensor:
        """A vector; raises `InputError` if there is none of this name."""
        return _found(self.vectors, "vector", name)

    def run(self, name: str) -> tuple[int, ...]:
        """The tokens of a prompt; raises `InputError` if there is none of this name."""
        return _found(self.runs, "run", name)


def _found(table: Mapping[str, Any], what: str, name: str) -> Any:
    if name not in table:
        remedy = {"group": "groups", "vector": "vectors", "run": "runs"}[what]
        raise InputError(f"there is no {what} {shortened(name)}; {known(table, name)} (give {remedy}={{name: ...}})")
    return table[name]


def named(
    spliced: SplicedModel,
    groups: Mapping[str, Iterable[Node | str]] | None = None,
    vectors: Mapping[str, Any] | None = None,
    runs: Mapping[str, str | Sequence[int]] | None = None,
) -> Named:
    """The things that have names, checked.

    `groups`: name -> nodes, which may have places. `vectors`: name -> [width]. `runs`: name -> a text or token ids.
    Raises `InputError` for groups that share a node, vectors with other than one dimension, and prompts that the
    model cannot read.
    """
    return Named(
        groups=_groups(_table("groups", groups)),
        vectors={check_vector_name(name): _vector(name, one) for name, one in _table("vectors", vectors).items()},
        runs={check_vector_name(name): _run(spliced, name, one) for name, one in _table("runs", runs).items()},
    )


def _table(what: str, given: Any) -> Mapping[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"{what} is {shortened(given)}; give a mapping from names")
    return given or {}


def _groups(given: Mapping[str, Any]) -> dict[str, tuple[Node, ...]]:
    found: dict[str, tuple[Node, ...]] = {}
    owner: dict[Node, str] = {}
    for name, nodes in given.items():
        found[check_vector_name(name)] = tuple(nodes_of(nodes))
        if not found[name]:
            raise InputError(f"group {name!r} has no nodes")
        for node in found[name]:
            other = owner.setdefault(node, name)
            if other != name:
                raise InputError(f"node {node} is in the groups {other!r} and {name!r}; groups cannot share nodes")
    return found


def _vector(name: str, given: Any) -> Tensor:
    try:
        vector = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"vector {name!r} is {shortened(given)}; give numbers [width]") from None
    if vector.ndim != 1 or not vector.is_floating_point() or not torch.isfinite(vector).all() or not vector.any():
        raise InputError(f"vector {name!r} must hold finite numbers [width], not all of them 0")
    return vector.detach()


def _run(spliced: SplicedModel, name: str, prompt: Any) -> tuple[int, ...]:
    if name == CORRUPTED:
        raise InputError("a run cannot be called 'corrupted', which is the run of the corrupted prompts")
    ids = prompt_ids(spliced, prompt)
    if not ids:
        raise InputError(f"run {name!r} has no tokens")
    return ids


def prompt_ids(spliced: SplicedModel, prompt: Any) -> tuple[int, ...]:
    """The token ids of a prompt, given as text or as ids; raises `InputError` for anything else."""
    if not isinstance(prompt, str):
        return tuple(checked_rows(spliced, [list(prompt) if isinstance(prompt, tuple) else prompt])[0])
    if spliced.tokenizer is None:
        raise InputError("a prompt as text needs a tokenizer, and the model was loaded without; give token ids")
    encoder = Encoder.of(spliced.tokenizer)
    found = encoder.prompt(prompt)
    if words := encoder.unknown_words(found):
        raise InputError(
            f"prompt {shortened(prompt)}: the tokenizer does not know {', '.join(map(shortened, words[:5]))}, and the "
            f"model would read {spliced.tokenizer.unk_token} instead; give words that it knows, or token ids"
        )
    return found.ids
