"""Dicts that accept a key's text in place of the key: `circuit.nodes["resid_2/303@5"]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from featcircuits.errors import InputError

K = TypeVar("K")
V = TypeVar("V")


class MissingKey(InputError, KeyError):
    """A missing key: an `InputError` that is also the `KeyError` of any dict."""

    __str__ = Exception.__str__


class Keyed(dict[K, V]):
    """A dict that accepts a key's text wherever it accepts the key; `parse` turns text into a key.

    Looking up a key itself is as fast as in any dict. If `items` have a key both as itself and as text, the last
    one counts, as in any dict. `what`: the name of the keys in messages.
    """

    def __init__(self, parse: Callable[[Any], K], what: str, items: Mapping[Any, V]) -> None:
        super().__init__({parse(key): value for key, value in items.items()})
        self.parse, self.what = parse, what

    def __missing__(self, key: Any) -> V:
        found = self.parse(key)
        if found != key and dict.__contains__(self, found):
            return dict.__getitem__(self, found)
        few = ", ".join(_written(own) for own in list(self)[:5])
        more = f" and {len(self) - 5} others" if len(self) > 5 else ""
        raise MissingKey(f"there is no {self.what} {_written(found)} here; there are: {few or 'none'}{more}")

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or (self._text(key) and dict.__contains__(self, self._parsed(key)))

    def get(self, key: Any, default: Any = None) -> Any:
        """As in any dict; a text that is not a key returns the default."""
        return dict.__getitem__(self, key) if dict.__contains__(self, key) else self._found(key, default)

    def _found(self, key: Any, default: Any) -> Any:
        parsed = self._parsed(key) if self._text(key) else None
        return default if parsed is None else super().get(parsed, default)

    def _parsed(self, key: Any) -> K | None:
        try:
            return self.parse(key)
        except InputError:
            return None

    @staticmethod
    def _text(key: object) -> bool:
        return isinstance(key, str) or (isinstance(key, tuple) and any(isinstance(part, str) for part in key))

    def __reduce__(self) -> tuple[Any, ...]:
        return Keyed, (self.parse, self.what, dict(self))


def _written(key: Any) -> str:
    return " -> ".join(map(str, key)) if type(key) is tuple else str(key)
