"""Releases and repositories out of a hub cache; run by test_sources.py with the cache in its environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from featcircuits import InputError
from featcircuits.sources import describe_release, from_hub, from_release

FOLDER = Path(__file__).parent / "golden" / "dictionaries"
SITES = {
    "hub_bare_repository": "resid_1",
    "hub_dictionary_learning": "resid_12",
    "hub_llama_scope": "resid_19",
    "hub_sae_lens_release": "resid_5",
    "hub_transcoder": "mlp_1",
}


@pytest.mark.parametrize("name", SITES)
def test_features_are_those_of_the_library(name: str) -> None:
    with safe_open(FOLDER / name / "expect.safetensors", "pt") as file:
        release, sae_id = file.metadata()["load"].split(" :: ")
        x, features, output = (file.get_tensor(name) for name in ("x", "features", "reconstruction"))
    d = from_release(release, sae_id).to("cpu", torch.float32)
    found = d.encode(x)
    assert torch.equal(found != 0, features != 0)
    assert (found - features).abs().max() <= 1e-5 * features.abs().max()
    assert (d.decode(found) - output).abs().max() <= 1e-5 * output.abs().max()
    info = describe_release(release, sae_id)
    assert (info.kind, info.n_features, info.transcodes) == (d.kind, d.n_features, d.transcodes)
    assert str(info.site) == SITES[name]


def test_a_repository_gives_a_folder_or_a_file() -> None:
    assert from_hub("someone/tiny-saes", "blocks.1.hook_resid_post").n_features == 64
    assert from_hub("someone/tiny-saes", "blocks.1.hook_resid_post", "main").kind == "jumprelu"
    assert from_hub("mwhanna/qwen3-4b-transcoders", "layer_1.safetensors").transcodes


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (from_release, ("gpt2-small-res-jbb", "x"), "unknown SAELens release 'gpt2-small-res-jbb'; known: gpt2-"),
        (from_release, ("gpt2-small-res-jb", "blocks.6"), "has no id 'blocks.6'; known: blocks."),
        (from_release, ("gpt2-small-res-jb", "blocks.7.hook_resid_pre"), "must be in the Hugging Face cache"),
        (from_release, ("nobody/nothing", "sae"), "must be in the Hugging Face cache"),
        (from_release, ("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_0"), "cross layer transcoder dictionaries"),
        (from_hub, ("someone/tiny-saes", "nothing"), "has no such file or folder"),
        (from_hub, ("someone/tiny-saes", "../../secret"), "is not a path inside a repository"),
        (from_hub, ("someone/tiny-saes", "/etc"), "is not a path inside a repository"),
        (from_hub, ("nobody/nothing", "sae"), "nobody/nothing/sae: could not be loaded"),
        (from_hub, ("no such name", "sae"), "no such name/sae: could not be loaded"),
        (from_hub, ("someone/tiny-saes", "blocks.1.hook_resid_post", "v2"), "at revision v2: could not be loaded"),
    ],
)
def test_what_cannot_be_had_is_one_error(call: Callable[..., Any], arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert message in str(caught.value)
