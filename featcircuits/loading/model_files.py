"""What a model folder's config claims, compared with what its weights' files hold, before anything is allocated.

Loading makes the model that the config describes and only then compares it with the files. A config that is
damaged, or belongs to another model, can so ask for any amount of memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featcircuits.errors import InputError
from featcircuits.files.reading import check_nesting

_SLACK = 8
"""How many times the numbers that are stored a claim may be: layers can share weights, embeddings be narrower."""
_PACKED = 32
"""How many numbers of a quantised weight one stored number may hold."""
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")


def check_json_files(folder: Path) -> None:
    """Refuse a folder in which a JSON file is nested too deeply for the libraries that read it."""
    for path in sorted(folder.glob("*.json")):
        check_nesting(path)


def check_claims(folder: Path) -> None:
    """Refuse a config that describes a far larger model than the folder's safetensors files hold.

    Only their headers are read. What cannot be judged, as in a folder without such files, is left to the loader.
    """
    check_nesting(folder / "config.json")
    raw, stored = _config(folder / "config.json"), _stored(folder)
    if raw is None or stored is None:
        return
    n_tensors, n_numbers = stored
    parts = [part for part in (raw, raw.get("text_config")) if isinstance(part, dict)]
    for name, claimed in [(name, _whole(part.get(name))) for part in parts for name in _LAYERS]:
        if claimed > n_tensors:
            raise InputError(f"{_claims(folder, f'{name} {claimed}')} {n_tensors} tensors; {_REMEDY}")
    most = n_numbers * _SLACK * (_PACKED if "quantization_config" in raw else 1)
    for factors in _products(folder, raw):
        claimed = math.prod(size for _, size in factors)
        if claimed > most:
            shown = " x ".join(f"{name} {size}" for name, size in factors)
            raise InputError(f"{_claims(folder, f'{shown}, {claimed} numbers,')} {n_numbers}; {_REMEDY}")


_REMEDY = "the config belongs to another model or is damaged"


def _claims(folder: Path, what: str) -> str:
    return f"model {str(folder)!r}: config.json claims {what} and the weights' files hold"


def _config(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _stored(folder: Path) -> tuple[int, int] | None:
    """How many tensors and numbers the safetensors files of a folder hold; None without any, or for damaged ones."""
    from safetensors import SafetensorError, safe_open

    n_tensors = n_numbers = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "np") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        except (SafetensorError, OSError):
            return None
        n_tensors += len(shapes)
        n_numbers += sum(map(math.prod, shapes))
    return (n_tensors, n_numbers) if n_tensors else None


def _products(folder: Path, raw: dict[str, Any]) -> Iterator[list[tuple[str, int]]]:
    """Sizes of the config, its type's defaults among them, whose products are parts of the weights."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    except Exception:  # what is wrong with it, the loader says
        return
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    sizes = {name: size for name in names if (size := _whole(getattr(config, name, None)))}
    sizes |= {"n_positions": size} if (size := _whole(raw.get("n_positions"))) else {}
    layers = ("num_hidden_layers", "hidden_size")
    wanted = [
        ("vocab_size", "hidden_size"),
        ("n_positions", "hidden_size"),
        (*layers, "intermediate_size" if "intermediate_size" in sizes else "hidden_size"),
        (*layers, "num_attention_heads", "head_dim") if "head_dim" in sizes else (*layers, "hidden_size"),
    ]
    for factors in wanted:
        if all(name in sizes for name in factors):
            yield [(name, sizes[name]) for name in factors]


def _whole(value: object) -> int:
    """A size; 0 for what is none."""
    return value if type(value) is int and value > 0 else 0
