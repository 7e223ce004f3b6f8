"""Random dictionaries of every class of SAELens, saved by the library itself, against its own encode and decode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import featcircuits as fc
from featcircuits.sources import describe, load_source

pytestmark = pytest.mark.slow

D_IN, D_SAE = 12, 40
HOOKS = {"hook_name": "blocks.2.hook_resid_post", "model_name": "gpt2"}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    (name, {"apply_b_dec_to_input": centred, "normalize_activations": normalisation, **extra})
    for name, extra in (
        ("standard", {}),
        ("gated", {}),
        ("jumprelu", {}),
        ("topk", {"k": 5, "rescale_acts_by_decoder_norm": False}),
        ("topk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
        ("abstopk", {"k": 5, "rescale_acts_by_decoder_norm": False}),
        ("abstopk", {"k": 5, "rescale_acts_by_decoder_norm": True}),
    )
    for centred in (True, False)
    for normalisation in ("none", "layer_norm", "constant_norm_rescale")
] + [
    (name, {"apply_b_dec_to_input": False, "d_out": d_out, "normalize_activations": normalisation})
    for name in ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
    for d_out in (D_IN, 10)
    for normalisation in ("none", "layer_norm")
]


@pytest.fixture(scope="module")
def sae_lens() -> Any:
    return pytest.importorskip("sae_lens")


def randomised(sae: Any, seed: int) -> None:
    """Every parameter, biases and thresholds too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)


def inputs() -> Tensor:
    return torch.randn(50, D_IN, generator=torch.Generator().manual_seed(7)) * 3 + 0.5


def assert_same(path: Path, sae: Any) -> None:
    """Features from one pass; the library's decode forgets the statistics of a normalisation after one use."""
    d, x = load_source(path).to("cpu", torch.float32), inputs()
    with torch.no_grad():
        features = sae.encode(x)
        output = sae.decode(features)
        skip = sae(x) - sae.decode(sae.encode(x)) if d.has_bypass else None
    found = d.encode(x)
    assert torch.equal(found != 0, features != 0)
    torch.testing.assert_close(found, features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(d.decode(found, d.statistics(x)), output, rtol=1e-5, atol=3e-5)
    if skip is not None:
        torch.testing.assert_close(d.bypass(x), skip, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_every_class_for_inference(sae_lens: Any, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    from sae_lens.registry import get_sae_class

    make, config = get_sae_class(name)
    sae = make(config(d_in=D_IN, d_sae=D_SAE, **options))
    randomised(sae, seed=len(str(options)))
    sae.cfg.metadata.hook_name = HOOKS["hook_name"]
    if "d_out" in options:
        sae.cfg.metadata.hook_name, sae.cfg.metadata.hook_name_out = "blocks.2.mlp.hook_in", "blocks.2.hook_mlp_out"
    sae.save_model(tmp_path / "sae")
    assert_same(tmp_path / "sae", sae)
    assert str(describe(tmp_path / "sae").site) == ("mlp_2" if "d_out" in options else "resid_2")


TRAINED: list[tuple[str, dict[str, Any]]] = [
    ("standard", {}),
    ("gated", {}),
    ("jumprelu", {}),
    ("topk", {"k": 5}),
    ("abstopk", {"k": 5}),
    ("batchtopk", {"k": 5}),
    ("matryoshka_batchtopk", {"k": 5, "matryoshka_widths": [10, D_SAE]}),
]


@pytest.mark.parametrize(("name", "options"), TRAINED)
def test_every_class_out_of_training(sae_lens: Any, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """As saved for inference; a checkpoint of training is either the same dictionary or refused by name."""
    from sae_lens.registry import get_sae_training_class

    make, config = get_sae_training_class(name)
    sae = make(config(d_in=D_IN, d_sae=D_SAE, **options))
    randomised(sae, seed=3)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(1.5)
    sae.save_inference_model(tmp_path / "inference")
    assert_same(tmp_path / "inference", sae_lens.SAE.load_from_disk(tmp_path / "inference"))
    sae.save_model(tmp_path / "training")
    if name in ("batchtopk", "matryoshka_batchtopk"):
        with pytest.raises(fc.InputError, match="save it for inference with save_inference_model"):
            load_source(tmp_path / "training")
    else:
        assert_same(tmp_path / "training", sae_lens.SAE.load_from_disk(tmp_path / "training"))


UNUSABLE: list[tuple[str, dict[str, Any]]] = [
    ("matching_pursuit", {}),
    ("temporal", {"n_heads": 2, "bottleneck_factor": 2}),
]


@pytest.mark.parametrize(("name", "options"), UNUSABLE)
def test_kinds_that_cannot_be_spliced_are_refused_by_name(
    sae_lens: Any, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    from sae_lens.registry import get_sae_class

    make, config = get_sae_class(name)
    make(config(d_in=D_IN, d_sae=D_SAE, **options)).save_model(tmp_path / "sae")
    with pytest.raises(fc.InputError, match=f"{name.replace('_', ' ')} dictionaries cannot be used: its features"):
        load_source(tmp_path / "sae")
