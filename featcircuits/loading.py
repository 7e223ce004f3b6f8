"""fc.load: a model and its suite, checked against each other before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from featcircuits.dictionaries import Dictionary
from featcircuits.errors import InputError
from featcircuits.models import architecture_of
from featcircuits.sites import Site, all_sites
from featcircuits.splice import SplicedModel
from featcircuits.states import precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    model: str | Path | PreTrainedModel | None = None,
    suite: str | Path | Mapping[str, Dictionary] | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tokenizer: Any = None,
) -> SplicedModel:
    """Splice a suite's dictionaries into a causal language model.

    `model`: a hub name, a folder, a loaded model (put into eval mode), or None for the suite's own.
    `suite`: a suite's name, a folder with a suite.toml, or a mapping from site names to
    dictionaries; None for the shipped suite. Raises `InputError` where they do not fit.
    """
    from featcircuits.suites import check_model, load_suite, shipped_suite

    given = suite if isinstance(suite, Mapping) else None
    found = None if isinstance(suite, Mapping) else load_suite(suite or shipped_suite())
    if model is None:
        if found is None:
            raise InputError("no model was given, and a mapping of dictionaries names none")
        model = found.model_source
    if isinstance(model, (str, Path)):
        model, tokenizer = _pretrained(str(model), tokenizer, dtype)
    model = _placed_model(model, check_device(device), _dtype(dtype))
    architecture = architecture_of(model)
    if found is not None:
        check_model(found, model, architecture)
        given = {str(site): dictionary for site, dictionary in found.dictionaries().items()}
    placed = _placed(given or {}, model, architecture.n_layers, architecture.width)
    return SplicedModel(model, architecture, placed, tokenizer, found)


def _placed_model(model: PreTrainedModel, device: torch.device | None, dtype: torch.dtype | None) -> PreTrainedModel:
    """In eval mode; moved only where that was asked for, so that a model spread over devices stays."""
    model.eval()
    if device is not None or dtype is not None:
        nn.Module.to(model, device=device, dtype=dtype)
    return model


def check_device(device: str | torch.device | None) -> torch.device | None:
    """Refuse a device that this machine does not have."""
    if device is None:
        return None
    try:
        device = torch.device(device)
    except RuntimeError:
        raise InputError(f"unknown device {device!r}; use 'cpu', 'cuda' or 'cuda:<number>'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for, but PyTorch finds no CUDA device here; use device='cpu'")
    return device


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _pretrained(source: str, tokenizer: Any, dtype: str | torch.dtype | None) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer from a folder or the hub; loading problems become one clear message."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (folder := Path(source)).exists() and not (folder / "config.json").is_file():
        raise InputError(f"model folder {source}: there is no config.json in it")
    options = {} if dtype is None else {"dtype": _dtype(dtype)}
    try:
        model = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, **options)
        return model, tokenizer or AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(f"model {source!r} could not be loaded: {first_line}") from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise InputError(f"model {source!r}: its safetensors file is truncated or damaged ({error})") from None


def _placed(
    dictionaries: Mapping[str, Dictionary],
    model: PreTrainedModel,
    n_layers: int,
    width: int,
) -> dict[Site, Dictionary]:
    """In forward order, on the model's device, in at least float32; every site and width checked."""
    if not dictionaries:
        raise InputError("the suite has no dictionaries")
    by_site = {Site.parse(name): dictionary for name, dictionary in dictionaries.items()}
    known = all_sites(n_layers)
    for site, dictionary in by_site.items():
        if site not in known:
            raise InputError(f"site {site}: the model has {n_layers} layers, 0 to {n_layers - 1}")
        if dictionary.width != width:
            raise InputError(
                f"site {site}: the dictionary is {dictionary.width} wide, the model's activation {width}; "
                "it belongs to another model or site"
            )
    device = next(model.get_input_embeddings().parameters()).device
    return {site: by_site[site].to(device, precision(model.dtype)) for site in sorted(by_site)}
