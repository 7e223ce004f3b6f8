"""A dictionary whose files name another place than its site is refused, by every source and in every way in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import featcircuits as fc
from featcircuits.dictionaries import Affine, Origin
from featcircuits.model.sites import Site
from featcircuits.provenance.manifest import dictionaries_of
from featcircuits.sources import load_source
from featcircuits.suites.places import elsewhere
from tests.source_files import copied, stored
from tests.test_sources import golden
from tests.tiny import LAYERS, random_dictionary, tiny_model


def said(site: str, origin: Origin, transcodes: bool = False) -> str | None:
    d = replace(random_dictionary(), transcodes=transcodes, origin=origin)
    return elsewhere(Site.parse(site), d)


RESID, MLP, NOWHERE = "which is resid_1", "which is mlp_1", "where no dictionary can be spliced in"


@pytest.mark.parametrize(
    ("site", "hook", "part"),
    [
        ("resid_1", "blocks.1.hook_resid_post", None),
        ("resid_1", "blocks.2.hook_resid_pre", None),
        ("resid_2", "blocks.2.hook_resid_pre", RESID),
        ("resid_2", "blocks.1.hook_resid_post", RESID),
        ("embed", "blocks.0.hook_resid_pre", None),
        ("resid_0", "blocks.0.hook_resid_pre", "which is embed"),
        ("embed", "hook_embed", None),
        ("resid_0", "hook_embed", "which is embed"),
        ("resid_0", "model.embed_tokens", "which is embed"),
        ("mlp_1", "blocks.1.hook_mlp_out", None),
        ("mlp_1", "blocks.1.mlp.hook_out", None),
        ("attn_1", "blocks.1.hook_mlp_out", MLP),
        ("attn_1", "blocks.1.hook_attn_out", None),
        ("attn_1", "blocks.1.attn.hook_z", "which is attn_z_1"),
        ("attn_z_1", "blocks.1.attn.hook_z", None),
        ("attn_z_1", "model.layers.1.self_attn.o_proj.input", None),
        ("resid_1", "blocks.1.hook_resid_mid", NOWHERE),
        ("attn_z_1", "blocks.1.attn.hook_z[3]", NOWHERE),
        ("attn_z_1", "blocks.1.attn.hook_q", NOWHERE),
        ("mlp_1", "blocks.1.mlp.hook_post", NOWHERE),
        ("embed", "hook_pos_embed", NOWHERE),
        ("resid_3", "ln_final.hook_normalized", NOWHERE),
        ("resid_1", "gpt_neox.layers.1", None),
        ("resid_1", "transformer.h.1", None),
        ("resid_2", "transformer.h.1", RESID),
        ("resid_1", "model.language_model.layers.1.output", None),
        ("mlp_1", "model.layers.1.mlp", None),
        ("mlp_2", "model.layers.1.mlp", MLP),
        ("resid_1", "layers.1.mlp", MLP),
        # free text, and modules that nothing is known of: the layer alone is compared
        ("mlp_1", "layers.1.mlp.down_proj", None),
        ("mlp_2", "layers.1.mlp.down_proj", "'layers.1.mlp.down_proj', in layer 1"),
        ("resid_0", "model.layers.1.input_layernorm", None),
        ("mlp_1", "the best of my dictionaries", None),
    ],
)
def test_a_place_in_the_words_of_others(site: str, hook: str, part: str | None) -> None:
    found = said(site, Origin(hook))
    assert (found is None) == (part is None), found
    assert part is None or part in str(found)


@pytest.mark.parametrize(
    ("site", "origin", "part"),
    [
        ("mlp_1", Origin("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"), None),
        ("mlp_2", Origin("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"), MLP),
        ("mlp_1", Origin("blocks.1.ln2.hook_normalized"), None),
        ("mlp_2", Origin("blocks.1.ln2.hook_normalized"), "'blocks.1.ln2.hook_normalized', in layer 1"),
        ("mlp_2", Origin("layers.1.mlp", "layers.1.mlp"), MLP),
        ("mlp_2", Origin(layer=1), "layer 1"),
        ("mlp_0", Origin(layer=1), "layer 1"),
        ("mlp_1", Origin(layer=1), None),
    ],
)
def test_a_transcoders_place(site: str, origin: Origin, part: str | None) -> None:
    found = said(site, origin, transcodes=True)
    assert (found is None) == (part is None), found
    assert part is None or part in str(found)


STATED = {
    "circuit_tracer_relu": None, "safetensors_relu": None,
    "circuit_tracer_topk": "mlp_1", "circuit_tracer_skip_transcoder": "mlp_1",
    "dictionary_learning_standard": "resid_1", "dictionary_learning_topk": "resid_1",
    "dictionary_learning_gated_anneal": "resid_1", "gemma_scope_res": "resid_1", "gemma_scope_att": "attn_z_1",
    "gemma_scope_transcoder": "mlp_1", "gemma_scope_embedding": "embed", "gemma_scope_2_res": "resid_1",
    "gemma_scope_2_transcoder": "mlp_1", "sae_lens_standard": "resid_1", "sae_lens_hook_z": "attn_z_1",
    "sae_lens_transcoder": "mlp_1", "sae_lens_v3_hook_z": "attn_z_1", "sae_lens_v5_topk": "resid_1",
    "sparsify_topk": "resid_1", "sparsify_transcoder": "mlp_1", "sparsify_multi_topk": "embed",
}  # fmt: skip


@pytest.mark.parametrize(("name", "site"), [(name, site) for name, site in STATED.items() if site])
def test_every_family_says_its_place(name: str, site: str) -> None:
    d = load_source(golden(name).path)
    assert elsewhere(Site.parse(site), d) is None
    for other in ("embed", "attn_z_1", "mlp_2", "resid_2", "resid_3", "mlp_0"):
        if other != site and not (name.endswith("anneal") and other == "resid_0"):
            assert elsewhere(Site.parse(other), d) is not None or d.origin.hook_name is None
    assert elsewhere(Site.parse("resid_5"), d) is not None


def test_a_plain_file_says_nothing_or_what_its_metadata_says(tmp_path: Path) -> None:
    d = load_source(golden("safetensors_relu").path)
    assert d.origin == Origin()
    tensors = stored(golden("safetensors_relu").path)
    save_file(tensors, tmp_path / "d.safetensors", {"hook_name": "blocks.2.hook_mlp_out"})
    assert "mlp_2" in str(elsewhere(Site.parse("mlp_1"), load_source(tmp_path / "d.safetensors")))


# what the files of each family say


def trainer_of(tmp_path: Path, folder: str = "d", **trainer: Any) -> Affine:
    path = copied("dictionary_learning_standard", tmp_path)
    config = json.loads((path / "config.json").read_text())
    config["trainer"] |= {"submodule_name": None, "layer": None, **trainer}
    (path / "config.json").write_text(json.dumps(config))
    (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
    return load_source(path.rename(tmp_path / folder))


@pytest.mark.parametrize(
    ("folder", "trainer", "origin"),
    [
        ("d", {"submodule_name": "resid_post_layer_3", "layer": 3}, ("blocks.3.hook_resid_post", 3)),
        ("d", {"submodule_name": "mlp_layer4"}, ("blocks.4.hook_mlp_out", None)),
        ("d", {"submodule_name": "attn_out_layer_0"}, ("blocks.0.hook_attn_out", None)),
        ("d", {"submodule_name": "gpt_neox.layers.3.mlp"}, ("gpt_neox.layers.3.mlp", None)),
        ("d", {"submodule_name": "whatever", "layer": 2}, (None, 2)),
        ("d", {"layer": 2}, (None, 2)),
        ("resid_out_layer3/10_32768", {}, ("blocks.3.hook_resid_post", None)),
        ("mlp_out_layer0/10_32768", {}, ("blocks.0.hook_mlp_out", None)),
        ("mlp_out_layer0/10_32768", {"submodule_name": "attn_layer1"}, ("blocks.1.hook_attn_out", None)),
        ("d", {}, (None, None)),
    ],
)
def test_dictionary_learning(tmp_path: Path, folder: str, trainer: dict[str, Any], origin: tuple[Any, Any]) -> None:
    found = trainer_of(tmp_path, folder, **trainer).origin
    assert (found.hook_name, found.layer) == origin


def test_a_config_that_names_two_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(fc.InputError, match="says layer = 3, but submodule_name = 'resid_post_layer_2'"):
        trainer_of(tmp_path, submodule_name="resid_post_layer_2", layer=3)


def test_the_number_of_a_circuit_tracers_file_counts_without_hooks(tmp_path: Path) -> None:
    path = copied("circuit_tracer_topk", tmp_path)
    (path.parent / "config.yaml").write_text("k: 32\n")
    with pytest.warns(UserWarning, match="not said what the transcoder at mlp_1 reads"):
        d = load_source(path)
    assert d.origin == Origin(layer=1)
    assert elsewhere(Site.parse("mlp_2"), d) == "layer 1"


@pytest.mark.parametrize("key", ["hook_layer", "hook_point_layer"])
def test_a_sae_lens_config_with_a_layer_alone(tmp_path: Path, key: str) -> None:
    path = copied("sae_lens_v5_topk", tmp_path)
    config = json.loads((path / "cfg.json").read_text())
    config = {name: value for name, value in config.items() if not name.startswith("hook")}
    (path / "cfg.json").write_text(json.dumps({**config, key: 2}))
    assert elsewhere(Site.parse("mlp_1"), load_source(path)) == "layer 2"
    assert elsewhere(Site.parse("mlp_2"), load_source(path)) is None


def test_the_sae_lens_folder_of_another_site(tmp_path: Path) -> None:
    """The case that went unnoticed: version 6, where the hook is in the metadata."""
    path = copied("sae_lens_standard", tmp_path)
    config = json.loads((path / "cfg.json").read_text())
    config["metadata"]["hook_name"] = "blocks.2.hook_resid_pre"
    (path / "cfg.json").write_text(json.dumps(config))
    d = load_source(path)
    assert elsewhere(Site.parse("resid_2"), d) == "'blocks.2.hook_resid_pre', which is resid_1"
    assert elsewhere(Site.parse("resid_1"), d) is None


# ways in


def placed(hook: str | None, seed: int = 0) -> Affine:
    return replace(random_dictionary(seed=seed), origin=Origin(hook))


def saved(folder: Path, hooks: Mapping[str, str | None], more: str = "") -> Path:
    """A suite of plain files, each with its hook in its metadata."""
    text = 'format = 1\nname = "small"\n[model]\nsource = "model"\n'
    (folder / "sites").mkdir(exist_ok=True)
    for number, (site, hook) in enumerate(hooks.items()):
        tensors = {name: t.float().contiguous() for name, t in random_dictionary(seed=number).tensors().items()}
        save_file(tensors, folder / "sites" / f"{number}.safetensors", {"hook_name": hook} if hook else None)
        text += f'[sites.{site}]\nsource = "sites/{number}.safetensors"\n{more}'
    (folder / "suite.toml").write_text(text)
    return folder


SWAPPED = {"resid_1": "blocks.2.hook_resid_post", "resid_2": "blocks.1.hook_resid_post"}
REFUSED = (
    r"site resid_1: the dictionary's files say 'blocks\.2\.hook_resid_post', which is resid_2; put it at that site"
)


def test_two_sites_of_a_suite_that_are_swapped(tmp_path: Path) -> None:
    folder = saved(tmp_path, SWAPPED)
    with pytest.raises(fc.InputError, match=REFUSED):
        fc.load(tiny_model("llama", dtype=torch.float32), folder)
    with pytest.raises(fc.InputError, match=REFUSED):
        fc.load(tiny_model("llama", dtype=torch.float32), folder, offload="disk")
    right = {site: SWAPPED[other] for site, other in (("resid_1", "resid_2"), ("resid_2", "resid_1"))}
    spliced = fc.load(tiny_model("llama", dtype=torch.float32), saved(tmp_path, right))
    assert [d.origin.hook_name for d in spliced.dictionaries.values()] == [right["resid_1"], right["resid_2"]]
    assert all("files_say" not in record for record in dictionaries_of(spliced).values())


def test_two_dictionaries_of_a_mapping_that_are_swapped() -> None:
    given = {site: placed(hook) for site, hook in SWAPPED.items()}
    with pytest.raises(fc.InputError, match=REFUSED):
        fc.load(tiny_model("llama"), given)


@pytest.mark.parametrize("offload", [None, "cpu"])
def test_who_knows_better_says_so_and_the_manifest_too(tmp_path: Path, offload: str | None) -> None:
    said = {"resid_1": "'blocks.2.hook_resid_post', which is resid_2",
            "resid_2": "'blocks.1.hook_resid_post', which is resid_1"}  # fmt: skip
    model = tiny_model("llama", dtype=torch.float32)
    whole = fc.load(model, saved(tmp_path, SWAPPED), offload=offload, check_place=False)
    each = fc.load(model, saved(tmp_path, SWAPPED, "check_place = false\n"), offload=offload)
    given = fc.load(model, {site: placed(hook) for site, hook in SWAPPED.items()}, check_place=False)
    for spliced in (whole, each, given):
        assert {site: record["files_say"] for site, record in dictionaries_of(spliced).items()} == said


def test_one_site_that_is_taken_as_it_is_leaves_the_others_checked(tmp_path: Path) -> None:
    folder = saved(tmp_path, SWAPPED)
    text = (folder / "suite.toml").read_text()
    (folder / "suite.toml").write_text(text.replace("[sites.resid_1]", "[sites.resid_1]\ncheck_place = false"))
    with pytest.raises(fc.InputError, match="site resid_2: the dictionary's files say"):
        fc.load(tiny_model("llama", dtype=torch.float32), folder)


def test_groups_can_say_it_too(tmp_path: Path) -> None:
    saved(tmp_path, SWAPPED)
    (tmp_path / "sites" / "0.safetensors").rename(tmp_path / "sites" / "2.safetensors")
    (tmp_path / "suite.toml").write_text(
        'format = 1\nname = "small"\n[model]\nsource = "model"\n[[groups]]\nsites = "resid_{layer}"\n'
        'layers = [1, 2]\nsource = "sites/{layer}.safetensors"\ncheck_place = [false, true]\n'
    )
    spliced = fc.load(tiny_model("llama", dtype=torch.float32), tmp_path)
    assert [d.origin.hook_name for d in spliced.dictionaries.values()] == [SWAPPED["resid_2"], SWAPPED["resid_1"]]


# names that mean another place in some models


@pytest.mark.parametrize(
    ("family", "refused"), [("llama", False), ("gpt_neox_parallel", False), ("gpt2", True), ("gpt_neo", True)]
)
def test_the_stream_before_layer_0_has_positions_in_some_models(family: str, refused: bool) -> None:
    given = {"embed": placed("blocks.0.hook_resid_pre")}
    if refused:
        with pytest.raises(fc.InputError, match="after the positions that this model adds"):
            fc.load(tiny_model(family), given)
        given = {"embed": placed("hook_embed")}
    assert [str(site) for site in fc.load(tiny_model(family), given).sites] == ["embed"]


@pytest.mark.parametrize(("family", "refused"), [("llama", False), ("gemma2", True), ("olmo2", True)])
@pytest.mark.parametrize(("site", "module"), [("mlp_1", "mlp"), ("attn_1", "self_attn")])
def test_a_modules_output_before_its_post_norm_is_another_place(
    family: str, refused: bool, site: str, module: str
) -> None:
    given = {site: placed(f"model.layers.1.{module}")}
    if refused:
        with pytest.raises(fc.InputError, match=f"site {site}: .* before the norm whose output this model adds"):
            fc.load(tiny_model(family), given)
        given = {site: placed("blocks.1.hook_mlp_out" if site == "mlp_1" else "blocks.1.hook_attn_out")}
    assert LAYERS > 1
    assert [str(found) for found in fc.load(tiny_model(family), given).sites] == [site]
