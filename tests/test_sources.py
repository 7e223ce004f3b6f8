"""Dictionaries read from the files of the libraries that write them, against those libraries' own numbers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import featcircuits as fc
from featcircuits import dictionaries
from featcircuits.dictionaries import Affine
from featcircuits.model.sites import Site
from featcircuits.sources import (
    describe,
    files,
    load,
    load_source,
    read_source,
    sha256,
    site_of_hook,
    source,
    source_kinds,
)

FOLDER = Path(__file__).parent / "golden" / "dictionaries"
NAMES = sorted(path.name for path in FOLDER.iterdir() if not path.name.startswith("hub"))
RELEASES = sorted(path.name for path in FOLDER.glob("hub_*"))
TOLERANCE = 1e-5
UNSCALED = "sae_lens_expected_average"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*scaled to a norm of sqrt.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*not said what the transcoder.*:UserWarning"),
]


class Golden(NamedTuple):
    path: Path
    metadata: dict[str, str]
    tensors: dict[str, Tensor]

    def dictionary(self) -> Affine:
        return load_source(self.path).to("cpu", torch.float32)


def golden(name: str) -> Golden:
    folder = FOLDER / name
    with safe_open(folder / "expect.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return Golden(folder / file.metadata()["load"], file.metadata(), tensors)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_every_family_and_kind_is_among_the_files() -> None:
    assert len(NAMES) == 60
    assert len(RELEASES) == 5
    assert {describe(golden(name).path).source for name in NAMES} == set(source_kinds())


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_the_library(name: str) -> None:
    file = golden(name)
    d, x = file.dictionary(), file.tensors["x"]
    features = d.encode(x)
    assert_close(features, file.tensors["features"])
    assert torch.equal(features != 0, file.tensors["features"] != 0)
    assert (d.kind, d.n_features) == (file.metadata["kind"], int(file.metadata["features"]))
    assert (d.read_width, d.width) == (int(file.metadata["d_in"]), int(file.metadata["d_out"]))
    assert d.transcodes == ("x_out" in file.tensors)


@pytest.mark.parametrize("name", NAMES)
def test_reconstructions_are_those_of_the_library(name: str) -> None:
    """With the bypass where there is one, and decoded alone; also other features with x's own statistics."""
    file = golden(name)
    d, x = file.dictionary(), file.tensors["x"]
    statistics, bypass = d.statistics(x), d.bypass(x)
    decoded = d.decode(d.encode(x), statistics)
    assert_close(decoded if bypass is None else decoded + bypass, file.tensors["reconstruction"])
    assert ("decoded" in file.tensors) == d.has_bypass == (bypass is not None)
    if d.has_bypass:
        assert_close(decoded, file.tensors["decoded"])
    assert ("features_other" in file.tensors) == (d.normalisation is not None)
    if d.normalisation is not None:
        assert_close(d.decode(file.tensors["features_other"], statistics), file.tensors["decoded_other"])


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("hook_z")])
def test_heads_lie_side_by_side(name: str) -> None:
    file = golden(name)
    d, heads = file.dictionary(), file.tensors["x_heads"]
    found = d.decode(d.encode(heads.flatten(-2)))
    assert_close(found.view_as(heads), file.tensors["reconstruction_heads"])
    assert describe(file.path).site == Site(1, "attn_z")


@pytest.mark.parametrize("kind", ["standard", "p_anneal", "standard_april"])
def test_decoder_rows_are_given_unit_norm_where_the_library_does(kind: str) -> None:
    file = golden(f"dictionary_learning_{kind}")
    stored = torch.load(file.path / "ae.pt", weights_only=True)["decoder.weight"].norm(dim=0)
    d = file.dictionary()
    torch.testing.assert_close(d.W_dec.norm(dim=1), torch.ones(d.n_features), rtol=1e-4, atol=0)
    assert (kind == "standard_april") == bool((stored - 1).abs().max() > 0.1)
    assert_close(d.encode(file.tensors["x"]), file.tensors["features_as_stored"] * stored)


def test_a_topk_threshold_is_not_used() -> None:
    file = golden("dictionary_learning_topk")
    other = file.tensors["features_threshold"] != 0
    assert not torch.equal(file.dictionary().encode(file.tensors["x"]) != 0, other)


def test_an_unknown_scale_is_said() -> None:
    with pytest.warns(UserWarning, match=f"{UNSCALED}.*the factor is not in its folder"):
        load_source(FOLDER / UNSCALED)


# descriptions


SITES = {
    "circuit_tracer_transcoder": "mlp_1",
    "dictionary_learning_topk": "resid_1",
    "dictionary_learning_gated_anneal": None,
    "gemma_scope_2_res": "resid_1",
    "gemma_scope_2_transcoder": "mlp_1",
    "gemma_scope_att": "attn_z_1",
    "gemma_scope_embedding": "embed",
    "gemma_scope_res": "resid_1",
    "gemma_scope_transcoder": "mlp_1",
    "sae_lens_v5_topk": "resid_1",
    "sae_lens_jumprelu_transcoder": "mlp_1",
    "safetensors_relu": None,
    "sparsify_multi_topk": "embed",
    "sparsify_topk": "resid_1",
    "sparsify_legacy_skip_transcoder": "mlp_1",
}


@pytest.mark.parametrize("name", SITES)
def test_files_say_where_a_dictionary_belongs(name: str) -> None:
    expected = SITES[name]
    assert describe(golden(name).path).site == (None if expected is None else Site.parse(expected))


@pytest.mark.parametrize("name", NAMES)
def test_a_description_is_that_of_the_dictionary(name: str) -> None:
    path = golden(name).path
    info, d = describe(path), load_source(path)
    for field in ("kind", "width", "read_width", "n_features", "transcodes", "has_bypass"):
        assert getattr(info, field) == getattr(d, field), field
    assert info.normalisation == (None if d.normalisation is None else d.normalisation.name)


def test_the_gain_is_left_out_by_one_hook_only() -> None:
    before = {name for name in NAMES if describe(golden(name).path).reads_before_gain}
    assert "gemma_scope_transcoder" in before
    assert not before & {"gemma_scope_2_transcoder", "circuit_tracer_transcoder", "gemma_scope_res"}


def test_model_names_are_kept() -> None:
    assert describe(golden("sae_lens_gated").path).model_name == "gpt2"
    assert describe(golden("dictionary_learning_topk").path).model_name == "EleutherAI/pythia-70m-deduped"
    assert describe(golden("gemma_scope_2_res").path).model_name == "google/gemma-3-270m-pt"


@pytest.mark.parametrize(
    ("repository", "hook", "model"),
    [
        ("gemma-scope-2b-pt-res", "blocks.1.hook_resid_post", "google/gemma-2-2b"),
        ("models--google--gemma-scope-9b-it-mlp", "blocks.1.hook_mlp_out", "google/gemma-2-9b-it"),
        ("gemma-scope-2b-pt-transcoders", "blocks.1.ln2.hook_normalized", "google/gemma-2-2b"),
        ("unnamed", None, None),
    ],
)
def test_a_gemma_scope_repository_says_what_its_files_are(
    tmp_path: Path, repository: str, hook: str | None, model: str | None
) -> None:
    folder = tmp_path / repository / "layer_1" / "width_16k" / "average_l0_9"
    shutil.copytree(golden("gemma_scope_res").path.parent, folder)
    info = describe(folder)
    assert (info.hook_name, info.model_name) == (hook, model)
    assert info.transcodes == ("transcoder" in repository) == (info.hook_name_out is not None)


def test_a_description_reads_no_weights(tmp_path: Path) -> None:
    """A file of 1.5 GB whose numbers are a hole."""
    n = 1 << 16
    shapes = {"W_enc": [3000, n], "b_enc": [n], "W_dec": [n, 3000], "b_dec": [3000]}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path = tmp_path / "sae.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with path.open("r+b") as file:
        file.truncate(8 + len(text) + at)
    assert (describe(path).width, describe(path).n_features) == (3000, n)


def test_a_plain_file_may_say_where_it_belongs(tmp_path: Path) -> None:
    weights = {"W_enc": torch.ones(3, 4), "b_enc": torch.ones(4), "W_dec": torch.ones(4, 2), "b_dec": torch.ones(2)}
    metadata = {"hook_name": "blocks.3.mlp.hook_in", "hook_name_out": "blocks.3.hook_mlp_out", "model_name": "m"}
    save_file(weights, tmp_path / "d.safetensors", metadata)
    info = describe(tmp_path / "d.safetensors")
    assert (info.site, info.model_name, info.transcodes) == (Site(3, "mlp"), "m", True)
    assert (info.read_width, info.width) == (3, 2)


@pytest.mark.parametrize(
    ("hook", "out", "site"),
    [
        ("hook_embed", None, "embed"),
        ("blocks.0.hook_resid_pre", None, "embed"),
        ("blocks.3.hook_resid_pre", None, "resid_2"),
        ("blocks.3.hook_resid_post", None, "resid_3"),
        ("blocks.12.hook_attn_out", None, "attn_12"),
        ("blocks.3.attn.hook_z", None, "attn_z_3"),
        ("blocks.3.hook_mlp_out", None, "mlp_3"),
        ("model.layers.4", None, "resid_4"),
        ("model.layers.4.output", None, "resid_4"),
        ("model.layers.4.self_attn.o_proj.input", None, "attn_z_4"),
        ("model.layers.4.post_feedforward_layernorm.output", None, "mlp_4"),
        ("gpt_neox.layers.4.attention", None, "attn_4"),
        ("transformer.h.4.mlp", None, "mlp_4"),
        ("model.embed_tokens", None, "embed"),
        ("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out", "mlp_3"),
        ("blocks.3.mlp.hook_in", "blocks.3.mlp.hook_out", "mlp_3"),
        ("layers.4.mlp", "layers.4.mlp", "mlp_4"),
        ("blocks.3.hook_resid_mid", "blocks.3.hook_mlp_out", "mlp_3"),
        ("model.layers.3.pre_feedforward_layernorm.input", "model.layers.3.post_feedforward_layernorm.output", "mlp_3"),
    ],
)
def test_hooks_are_sites(hook: str, out: str | None, site: str) -> None:
    assert site_of_hook(hook, out) == Site.parse(site)


@pytest.mark.parametrize(
    ("hook", "out"),
    [
        ("blocks.3.hook_resid_mid", None),
        ("blocks.3.ln1.hook_normalized", None),
        ("blocks.3.ln2.hook_normalized", None),
        ("blocks.3.attn.hook_q", None),
        ("blocks.3.attn.hook_z[2]", None),
        ("blocks.x.hook_resid_post", None),
        ("model.layers.4.post_attention_layernorm.output", None),
        ("nonsense", None),
        ("", None),
        ("blocks.3.hook_resid_mid", "blocks.4.hook_mlp_out"),
        ("blocks.3.hook_resid_pre", "blocks.3.hook_mlp_out"),
        ("blocks.3.mlp.hook_in", "blocks.4.hook_mlp_out"),
        ("blocks.3.mlp.hook_in", "blocks.3.hook_resid_post"),
    ],
)
def test_other_hooks_are_refused_by_name(hook: str, out: str | None) -> None:
    with pytest.raises(fc.InputError) as caught:
        site_of_hook(hook, out)
    assert repr(hook) in str(caught.value)


# hashes and reading again


def test_a_folder_has_one_hash(tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(FOLDER / "sae_lens_topk", folder)
    recorded = sha256(folder)
    assert load_source(folder, recorded).kind == "topk"
    (folder / "expect.safetensors").unlink()
    assert sha256(folder) == recorded
    (folder / "cfg.json").write_text((folder / "cfg.json").read_text().replace('"k": 8', '"k": 9'))
    with pytest.raises(fc.InputError, match=f"{folder}: sha256 is .*, but the suite records {recorded[:12]}"):
        load_source(folder, recorded)


def test_a_file_that_was_checked_is_read_without_looking_at_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    shutil.copy(golden("safetensors_relu").path, path)
    assert torch.equal(read_source(path).W_enc, load_source(path).W_enc)


@pytest.mark.parametrize("name", ["sae_lens_topk", "gemma_scope_2_res", "sparsify_topk", "dictionary_learning_topk"])
def test_a_folder_may_be_given_by_its_weights(name: str) -> None:
    path = golden(name).path
    weights = source_kinds()[describe(path).source]
    assert torch.equal(load_source(path / weights[0]).W_enc, load_source(path).W_enc)


# the libraries themselves


@pytest.mark.slow
def test_releases_and_repositories_out_of_the_cache() -> None:
    """In a process of its own: the hub's client reads where its cache is when it is imported."""
    pytest.importorskip("sae_lens")
    environment = {**os.environ, "HF_HUB_CACHE": str(FOLDER / "hub"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/hub_cache.py"],
        capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert "17 passed" in ran.stdout


def test_the_example_of_the_page_reads_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "howto" / "source.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {**vars(dictionaries), **vars(files), **vars(source)}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    monkeypatch.setattr(load, "SOURCES", (names["MINE"], *load.SOURCES))
    w = {"encoder": torch.eye(4)[:, :3], "encoder_bias": torch.zeros(4), "decoder": torch.eye(4)[:, :3]}
    save_file(
        {name: t.contiguous() for name, t in {**w, "decoder_bias": torch.zeros(3)}.items()},
        tmp_path / "weights.safetensors",
    )
    (tmp_path / "settings.json").write_text('{"width": 4, "hook": "blocks.0.hook_mlp_out"}')
    assert load_source(tmp_path).encode(torch.tensor([1.0, -1.0, 2.0])).tolist() == [1.0, 0.0, 2.0, 0.0]
    assert (describe(tmp_path).source, describe(tmp_path).site) == ("mine", Site(0, "mlp"))
    (tmp_path / "settings.json").write_text('{"width": 5}')
    with pytest.raises(fc.InputError, match="the config says width = 5, but the tensors have 4"):
        load_source(tmp_path)


def test_reading_files_imports_no_other_library() -> None:
    code = (
        "import sys, featcircuits.sources as s; s.load_source(sys.argv[1]); s.describe(sys.argv[1]); "
        "assert not {'sae_lens', 'transformer_lens', 'huggingface_hub'} & set(sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(FOLDER / "sae_lens_topk")],
        capture_output=True, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
