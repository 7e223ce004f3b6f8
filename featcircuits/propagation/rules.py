"""The type of a rule, and the context that applies rules to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from featcircuits.model.architecture import Architecture
from featcircuits.model.forwards import check_not_compiled


class Handle(Protocol):
    """Removes a part of a rule from the model; torch's handles of hooks have this interface."""

    def remove(self) -> object:
        """Remove the part from the model."""
        ...


class Undo(ExitStack):
    """A handle for a context or a call that undoes something other than a hook."""

    def remove(self) -> None:
        """Undo it."""
        self.close()


Rule = Callable[[Any, Architecture], Iterator[Handle]]
"""(model, architecture) -> handles of the hooks that it installed."""


def entered(context: AbstractContextManager[Any]) -> Undo:
    """Enter a context, and return the handle that leaves it."""
    stack = Undo()
    stack.enter_context(context)
    return stack


@contextmanager
def applied(model: Any, architecture: Architecture, rules: Iterable[Rule]) -> Iterator[None]:
    """A context in which the rules are on the model; raises `InputError` for compiled modules."""
    rules = tuple(rules)
    if rules:
        check_not_compiled(model)
    with ExitStack() as hooks:
        for rule in rules:
            for handle in rule(model, architecture):
                hooks.callback(handle.remove)
        yield
