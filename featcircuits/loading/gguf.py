"""Models in GGUF files, as llama.cpp runs them: transformers reads and dequantises them, by the package gguf.

Such a file holds the config, the tokenizer and the weights together. What comes out is a plain model in floating
point, which computes, moves and is saved like any other.
"""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcircuits.errors import InputError, check_file, naming, shortened

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUFFIX = ".gguf"
_HEADER = struct.Struct("<4sIQQ")
"""Magic, version, and how many tensors and settings follow."""
_VERSIONS = (2, 3)
_SMALLEST_ENTRY = 13
"""The bytes of the shortest setting: the length of its name, a type and a value of one byte."""


def gguf_file(source: str) -> Path | None:
    """The GGUF file that a model's source means: itself, or the only one in a folder without safetensors files.

    Raises `InputError` for a folder with several (one per quantisation, usually), a damaged file, and where the
    package gguf is missing.
    """
    path = Path(source)
    if path.suffix.lower() == SUFFIX:
        return _checked(path)
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX)
    if len(found) > 1:
        names = ", ".join(shortened(file.name, 60) for file in found[:5])
        raise InputError(f"model folder {shortened(source, 300)}: it holds {len(found)} GGUF files ({names}); name one")
    return _checked(found[0]) if found else None


def _checked(path: Path) -> Path:
    """The file, after a look at its header: counts that its size cannot hold would keep a reader busy for hours."""
    size, shown = check_file(path, "GGUF file").st_size, shortened(path, 300)
    with naming(path, "GGUF file"), path.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(b"GGUF"):
        raise InputError(f"{shown}: not a GGUF file, which begins with the letters GGUF")
    _, version, n_tensors, n_settings = _HEADER.unpack(head)
    if version not in _VERSIONS:
        raise InputError(f"{shown}: GGUF version {version}; versions {_VERSIONS[0]} and {_VERSIONS[1]} can be read")
    if (n_tensors + n_settings) * _SMALLEST_ENTRY > size:
        raise InputError(
            f"{shown}: it claims {n_tensors} tensors and {n_settings} settings, more than its {size} bytes can hold; "
            "the file is damaged"
        )
    if find_spec("gguf") is None:
        raise InputError(f"{shown}: reading it needs the package gguf; pip install 'featcircuits[gguf]'")
    return path


def made_plain(model: PreTrainedModel, path: Path) -> PreTrainedModel:
    """The model as one that was never quantised, which is what its weights are now; otherwise it could not be saved."""
    plain: Any = model
    plain.hf_quantizer, plain.is_quantized = None, False
    plain.__dict__.pop("quantization_method", None)
    if hasattr(plain.config, "quantization_config"):
        del plain.config.quantization_config
    plain.config._name_or_path = str(path)
    return model
