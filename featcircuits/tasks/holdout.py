"""The split of examples into those to trace on and those held out, so that no prompt is in both."""

from __future__ import annotations

import random
from collections.abc import Sequence

from featcircuits.errors import InputError
from featcircuits.tasks.examples import Example


def parted(examples: Sequence[Example], share: float, seed: int) -> tuple[list[int], list[int]]:
    """The indices of the examples to keep and of those held out, each in the file's order.

    Examples that share a prompt stay together, so the held-out part can be smaller or larger than `share`.
    Raises `InputError` if all share one.
    """
    if not 0 < share < 1:
        raise InputError(f"hold_out is {share}; it must be above 0 and below 1, such as 0.3")
    groups = _sharing(examples)
    if len(groups) < 2:
        raise InputError(
            f"hold_out is {share}, but {len(examples)} examples cannot be split so that no prompt is in both parts; "
            "give more examples, or a test file of their own"
        )
    random.Random(seed).shuffle(groups)
    held: set[int] = set()
    for group in groups:
        size, wanted = len(held) + len(group), share * len(examples)
        if size < len(examples) and abs(size - wanted) < abs(len(held) - wanted):
            held |= set(group)
    held = held or set(min(groups, key=len))
    return [number for number in range(len(examples)) if number not in held], sorted(held)


def _sharing(examples: Sequence[Example]) -> list[list[int]]:
    """Groups of examples that share no prompt with another group, in the order of their first examples."""
    import networkx as nx

    graph = nx.Graph()
    for number, example in enumerate(examples):
        graph.add_edges_from((number, prompt) for prompt in (example.clean, example.corrupted) if prompt is not None)
    numbers = range(len(examples))
    return sorted(sorted(n for n in group if n in numbers) for group in nx.connected_components(graph))
