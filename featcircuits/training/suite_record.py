"""suite.toml as text, and the versions that it records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from featcircuits.errors import InputError

LIBRARIES = ("sae-lens", "torch", "transformers")


def toml_text(record: Mapping[str, Any]) -> str:
    """A nested mapping as TOML: plain values first, then its tables."""
    return "\n".join(_lines(record, ())).strip() + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    if path and lines:
        lines = ["", f"[{'.'.join(map(_key, path))}]", *lines]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _lines(value, (*path, key))
    return lines


def _key(key: str) -> str:
    """A TOML key: bare where TOML allows it, else quoted."""
    return key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)


def versions() -> dict[str, str]:
    """The versions of the libraries that affect the numbers; raises `InputError` if the trainer is not installed."""
    try:
        return {f"{name.replace('-', '_')}_version": version(name) for name in LIBRARIES}
    except PackageNotFoundError:
        raise InputError("training needs sae-lens; install it with: pip install 'featcircuits[train]'") from None
