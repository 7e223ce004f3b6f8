"""fc.load: a model and its suite, checked against each other before any work starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from featcircuits.dictionaries import Dictionary
from featcircuits.dictionaries.affine import check_numbers
from featcircuits.dictionaries.decomposition import precision
from featcircuits.errors import InputError
from featcircuits.loading.capabilities import check_capabilities, fitting_architecture
from featcircuits.loading.pretrained import SPREAD, pretrained, pretrained_tokenizer
from featcircuits.model.architecture import Architecture
from featcircuits.model.placement import device_of
from featcircuits.model.sites import READ_ONLY, Site, check_reads, chosen
from featcircuits.model.wrapped import unwrapped
from featcircuits.splicing.spliced import SplicedModel, read_by

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from featcircuits.suites import Suite

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    model: str | Path | PreTrainedModel | None = None,
    suite: str | Path | Mapping[str, Dictionary] | None = None,
    *,
    sites: str | Iterable[str] | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tokenizer: Any = None,
    offload: str | None = None,
    check: bool = True,
    check_place: bool = True,
) -> SplicedModel:
    """Splice a suite's dictionaries into a causal language model.

    `model`: a hub name, a folder, a GGUF file or a folder with one (dequantised), a loaded model (put into eval
    mode), or None for the suite's own. A wrapper that changes nothing (`torch.compile(model)`, data parallelism) is
    removed; PEFT's is refused with a remedy.
    `suite`: a suite's name, a folder with a suite.toml, or a mapping from site names to
    dictionaries; None for the shipped suite. `sites`: load only these of its sites, given by names,
    kinds, patterns or ranges of layers ("mlp_3", "resid", "*_3", "attn_0-5"). `offload`: where a suite's weights
    stay between uses, the CPU's memory ("cpu") or their files ("disk"); one site at a time
    is loaded. `device`: "auto" spreads a model that is loaded here over all devices, by accelerate.
    `check`: whether four short forward passes check the claims of the model's family about its modules, and that
    secants add up; without it a model whose modules were replaced is accepted. Compiled modules are always
    refused. `check_place`: whether to refuse dictionaries whose files name another site; without it they
    are accepted, and manifests say so.
    Raises `InputError` if model, suite and options do not fit.
    """
    from featcircuits.suites import check_model
    from featcircuits.suites.adapting import adaptation
    from featcircuits.suites.places import check_places

    given, found = _given(suite, sites)
    spread = device == SPREAD
    device, dtype = None if spread else check_device(device), check_dtype(dtype)
    if offload not in (None, "cpu", "disk"):
        raise InputError(f"offload is {offload!r}; known: 'cpu', 'disk'")
    if offload is not None and isinstance(suite, Mapping):
        raise InputError(
            f"offload is {offload!r}, but dictionaries that were made already stay where they are; give a suite's name "
            "or folder, or leave offload out"
        )
    model = _source_of(found) if model is None else model
    if isinstance(model, (str, Path)):
        model, tokenizer = pretrained(str(model), tokenizer, dtype, spread)
    elif spread:
        raise InputError("device='auto' spreads a model while it is loaded; give its name or folder")
    model = unwrapped(model)
    architecture = fitting_architecture(model)
    if found is not None:
        check_model(found, model, architecture)
        read = found.dictionaries(offload, partial(adaptation, model, architecture), check_place)
        given = {str(site): dictionary for site, dictionary in read.items()}
    checked = _checked(given or {}, model, architecture)
    if check_place:
        check_places(checked, {} if found is None else found.sites, model, architecture)
    if found is None:
        for dictionary in checked.values():
            check_numbers(dictionary)
    model = _placed_model(model, device, dtype)
    if check:
        check_capabilities(model, architecture)
    home = device_of(model.get_input_embeddings())
    placed = {site: dictionary.to(home, precision(model.dtype)) for site, dictionary in checked.items()}
    return SplicedModel(model, architecture, placed, tokenizer, found)


def _given(
    suite: str | Path | Mapping[str, Dictionary] | None, sites: str | Iterable[str] | None
) -> tuple[Mapping[str, Dictionary] | None, Suite | None]:
    """The chosen sites of a mapping or a suite; a suite's files are checked to be where its record says."""
    from featcircuits.suites import SHIPPED, load_suite

    if isinstance(suite, Mapping):
        return suite if sites is None else {name: suite[name] for name in chosen(suite, sites)}, None
    found = load_suite(suite or SHIPPED)
    found = found if sites is None else found.only(sites)
    found.check_sources()
    return None, found


def load_tokenizer(model: str | Path | None = None, suite: str | Path | None = None) -> Any:
    """The tokenizer of the model that `load` would load, without the model, so that tasks can be read first."""
    _, found = _given(suite, None)
    return pretrained_tokenizer(found.model_source if model is None and found is not None else str(model))


def _source_of(suite: Suite | None) -> str:
    """The source of the suite's own model; its files are checked if they are in the suite's folder."""
    if suite is None:
        raise InputError("no model was given, and a mapping of dictionaries names none")
    suite.check_model_files()
    return suite.model_source


def load_bare(
    model: str | Path, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> SplicedModel:
    """A model and its tokenizer, from a folder, a GGUF file or the hub, without dictionaries."""
    spread = device == SPREAD
    device, dtype = None if spread else check_device(device), check_dtype(dtype)
    loaded, tokenizer = pretrained(str(model), None, dtype, spread)
    return SplicedModel(_placed_model(loaded, device, dtype), fitting_architecture(loaded), {}, tokenizer)


def _placed_model(model: PreTrainedModel, device: torch.device | None, dtype: torch.dtype | None) -> PreTrainedModel:
    """The model in eval mode; it is moved only if the user asks for it, so a model spread over devices stays."""
    model.eval()
    if device is not None or dtype is not None:
        if any(parameter.is_meta for parameter in model.parameters()):
            raise InputError(
                "accelerate keeps weights of this model elsewhere, so it cannot be moved; leave out device and "
                "dtype, and choose them where the model is loaded"
            )
        nn.Module.to(model, device=device, dtype=dtype)
    return model


def check_device(device: str | torch.device | None) -> torch.device | None:
    """Raise `InputError` for a device that this machine does not have."""
    if device is None:
        return None
    try:
        device = torch.device(device)
    except RuntimeError:
        raise InputError(f"unknown device {device!r}; use 'cpu', 'cuda', 'cuda:<number>' or 'auto'") from None
    if device.type == "meta":
        raise InputError("device 'meta' holds no numbers to compute with; use 'cpu', 'cuda' or 'cuda:<number>'")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device '{device}' was asked for, but PyTorch finds no CUDA device here; use device='cpu'")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"device '{device}' was asked for, but PyTorch cannot use it here; use device='cpu'") from None
    return device


def check_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Raise `InputError` for a dtype in which models cannot compute."""
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in DTYPES.values():
        raise InputError(f"unknown dtype {str(dtype)!r}; known: {', '.join(DTYPES)}")
    return found


def _checked(
    dictionaries: Mapping[str, Dictionary], model: PreTrainedModel, architecture: Architecture
) -> dict[Site, Dictionary]:
    """The dictionaries in forward order, after a check that every site and width fits the model."""
    if not dictionaries:
        raise InputError("the suite has no dictionaries")
    by_site = {Site.parse(name): dictionary for name, dictionary in dictionaries.items()}
    for site, dictionary in by_site.items():
        if not isinstance(dictionary, Dictionary):
            raise InputError(
                f"site {site}: {type(dictionary).__name__} is not a dictionary; make one with featcircuits.dictionaries"
            )
        if site.kind in READ_ONLY:
            raise InputError(
                f"site {site}: what is before an MLP is only read; a transcoder belongs to mlp_{site.layer}"
            )
        architecture.module(model, site)  # this refuses layers that the model does not have
        check_reads(dictionary.reads)
        if dictionary.transcodes and site.kind != "mlp":
            raise InputError(f"site {site}: a transcoder explains an MLP's output; put it at an mlp site")
        read = read_by(dictionary, site)
        architecture.module(model, read)  # and this the stream inside a block whose parts are parallel
        for what, found, at in (("", dictionary.width, site), ("'s input", dictionary.read_width, read)):
            if found != (width := architecture.site_width(model, at)):
                raise InputError(
                    f"site {site}: the dictionary{what} is {found} wide, the model's activation {width}; "
                    "it belongs to another model or site"
                )
    return {site: by_site[site] for site in sorted(by_site)}
