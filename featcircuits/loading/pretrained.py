"""Models and tokenizers from folders, GGUF files and the hub; what goes wrong becomes one clear message."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from featcircuits.errors import InputError, first_line
from featcircuits.loading.gguf import gguf_file, made_plain
from featcircuits.loading.model_files import check_claims, check_json_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPREAD = "auto"
"""In place of a device: spread the model over all of them."""


def _check_folder(source: str) -> None:
    """Raise `InputError` for a folder without a model."""
    if (folder := Path(source)).exists() and not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise InputError(
                f"model folder {source}: it holds a PEFT adapter and no model; load the two with peft, and save what "
                "merge_and_unload() returns"
            )
        raise InputError(f"model folder {source}: there is no config.json in it")


def _place(source: str) -> tuple[str, dict[str, Any]]:
    """The folder or hub name to load from, and what the loaders need besides."""
    if (file := gguf_file(source)) is not None:
        return str(file.parent), {"gguf_file": file.name}
    _check_folder(source)
    return source, {}


def pretrained_tokenizer(source: str) -> Any:
    """The tokenizer from a folder, a GGUF file or the hub."""
    from transformers import AutoTokenizer

    place, options = _place(source)
    check_json_files(Path(place))
    try:
        found = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
        found("a")  # some damage shows only in use
        return found
    except Exception as error:  # damaged files can make the libraries raise anything, even Exception itself
        raise InputError(f"the tokenizer of model {source!r} could not be loaded: {first_line(error)}") from None


def pretrained(
    source: str, tokenizer: Any, dtype: torch.dtype | None, spread: bool = False
) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer from a folder, a GGUF file (dequantised) or the hub."""
    from transformers import AutoModelForCausalLM

    place, options = _place(source)
    if (folder := Path(place)).is_dir() and not options:
        check_claims(folder)
    tokenizer = tokenizer or pretrained_tokenizer(source)
    options |= {"output_loading_info": True, "trust_remote_code": False, "use_safetensors": True}
    if dtype is not None:
        options["dtype"] = dtype
    if spread:
        if find_spec("accelerate") is None:
            raise InputError("device='auto' needs accelerate, which is not installed: pip install accelerate")
        options["device_map"] = SPREAD
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(place, **options)
        model, found = loaded
    except Exception as error:  # as above
        if type(error).__name__ == "SafetensorError":
            raise InputError(f"model {source!r}: its safetensors file is truncated or damaged ({error})") from None
        raise InputError(f"model {source!r} could not be loaded: {first_line(error)}") from None
    if missing := sorted(found["missing_keys"]):
        raise InputError(
            f"model {source!r} lacks {len(missing)} weights, the first {missing[0]!r}; they would be random numbers"
        )
    return (made_plain(model, Path(place) / options["gguf_file"]) if "gguf_file" in options else model), tokenizer
