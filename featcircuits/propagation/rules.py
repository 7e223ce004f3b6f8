"""What a rule is, and putting rules on a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from featcircuits.model.architecture import Architecture
from featcircuits.model.forwards import check_not_compiled


class Handle(Protocol):
    """What takes a part of a rule off the model again; torch's handles of hooks are such."""

    def remove(self) -> object: ...


class Undo(ExitStack):
    """A handle for what is not a hook: contexts and calls to come."""

    def remove(self) -> None:
        self.close()


Rule = Callable[[Any, Architecture], Iterator[Handle]]
"""(model, architecture) -> handles of the hooks that it put on."""


def entered(context: AbstractContextManager[Any]) -> Undo:
    """A context that lasts until it is undone."""
    stack = Undo()
    stack.enter_context(context)
    return stack


@contextmanager
def applied(model: Any, architecture: Architecture, rules: Iterable[Rule]) -> Iterator[None]:
    """The rules are on the model inside, and nothing of them stays; compiled modules are an `InputError`."""
    rules = tuple(rules)
    if rules:
        check_not_compiled(model)
    with ExitStack() as hooks:
        for rule in rules:
            for handle in rule(model, architecture):
                hooks.callback(handle.remove)
        yield
