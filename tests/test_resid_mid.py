"""Transcoders that read the stream between attention and MLP: the place, its edges, and how files name it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

import featcircuits as fc
from featcircuits.dictionaries import Affine
from featcircuits.model.connections import Connection, Through, connections
from featcircuits.model.nodes import Node
from featcircuits.model.sites import EMBED, Site, all_sites, resid
from featcircuits.model.tokens import Tokens
from featcircuits.provenance.manifest import dictionaries_of
from featcircuits.sources import describe, load_source
from featcircuits.suites import load_suite
from tests.source_files import copied, store
from tests.tiny import FAMILIES, LAYERS, random_dictionary, random_task, spliced_model, tiny_model, tolerance

SEQUENTIAL = [family for family in FAMILIES if family != "gpt_neox_parallel"]
POSITIONS = {"gpt2", "gpt_neo"}
PROMPTS = Tokens.pad([[3, 5, 2, 7], [4, 1, 6]], 0)


# the place


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_it_is_the_sum_of_the_stream_and_the_attention(family: str) -> None:
    model = spliced_model(tiny_model(family))
    between = [Site(layer, "resid_mid") for layer in range(LAYERS)]
    _, seen = model.record(PROMPTS, [*all_sites(LAYERS), *between])
    for layer, site in enumerate(between):
        if layer or family not in POSITIONS:
            total = seen[resid(layer - 1)] + seen[Site(layer, "attn")]
            torch.testing.assert_close(seen[site], total, rtol=1e-6, atol=1e-6)
        _, moved = model.record(PROMPTS, [site])
        assert torch.equal(moved[site], seen[site])


def test_parallel_blocks_have_no_such_place() -> None:
    model, dictionary = tiny_model("gpt_neox_parallel"), random_dictionary("stream_transcoder")
    with pytest.raises(fc.InputError, match=r"resid_mid_1: 'gpt_neox' computes attention and MLP .* in parallel"):
        fc.load(model, {"mlp_1": dictionary})


def test_it_is_only_read() -> None:
    model = tiny_model("llama")
    with pytest.raises(fc.InputError, match="site resid_mid_1: what is before an MLP is only read"):
        fc.load(model, {"resid_mid_1": random_dictionary()})
    with pytest.raises(fc.InputError, match="a transcoder reads 'resid_post'; known: resid_mid, mlp_in"):
        fc.load(model, {"mlp_1": replace(random_dictionary("transcoder"), reads="resid_post")})


def test_a_dictionary_that_reads_elsewhere_is_another_one() -> None:
    one = random_dictionary("transcoder")
    here, there = (fc.load(tiny_model("llama"), {"mlp_1": d}) for d in (one, replace(one, reads="resid_mid")))
    marks = [dictionaries_of(model)["mlp_1"] for model in (here, there)]
    assert [mark["reads"] for mark in marks] == ["mlp_in", "resid_mid"]
    assert marks[0]["fingerprint"] != marks[1]["fingerprint"]


# edges


def test_the_way_into_it_is_the_stream_alone() -> None:
    sites, mlp = list(all_sites(2)), Site(1, "mlp")
    plain, stream = (connections(sites, 2, True, (), without) for without in ((), (mlp,)))
    assert Connection(resid(0), mlp, Through.MLP) in plain
    assert [c for c in stream if c not in plain] == [
        Connection(resid(0), mlp, Through.SKIP),
        Connection(Site(1, "attn"), mlp, Through.SKIP),
    ]
    # past a skip's bypass, which is linear but not the identity
    past = connections([EMBED, mlp, resid(1)], 2, True, [mlp], [mlp])
    assert Connection(EMBED, resid(1), Through.ATTENTION) in past
    past = connections([Site(1, "attn"), mlp, resid(1)], 2, True, [mlp], [mlp])
    assert Connection(Site(1, "attn"), resid(1), Through.MLP) in past


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_a_feature_reads_the_attention_without_the_norm(family: str) -> None:
    """By hand: the edge into a feature is its coefficient times <encoder row, change>; and effects are conserved."""
    attention, mlp = Site(1, "attn"), Site(1, "mlp")
    model, task = (
        spliced_model(tiny_model(family), "stream_skip_transcoder", [str(attention), str(mlp)]),
        random_task(1, 3),
    )
    effects = fc.node_effects(model, task, "relp:rules=with_ah", baseline="zero")
    at = {node: mean for node, mean, _ in effects.nodes()}
    edges = {ends[:2]: ends.mean for ends in fc.edge_effects(model, task, effects, node_threshold=0.0).edges()}

    d, own = model.dictionaries[mlp], model.dictionaries[attention]
    _, seen = model.record(task.batch([0]).clean, model.with_reads(model.sites))
    x, active = seen[attention][0, 2], d.encode(seen[Site(1, "resid_mid")][0, 2])
    change, error = own.decode(own.encode(x)) - x, Node(attention, None, 2)
    found = {target: mean for (source, target), mean in edges.items() if source == error and isinstance(target, Node)}
    scale = max(map(abs, at.values()))
    assert len(found) > 3
    for node, mean in found.items():
        if node.feature is not None:
            row = d.encoder_rows(torch.tensor([node.feature]))[0]
            expected = at[node] / -active[node.feature] * (row @ change)
            assert mean == pytest.approx(float(expected), rel=1e-5, abs=1e-9 * scale)

    total = dict.fromkeys(at, 0.0)
    for (source, _), mean in edges.items():
        total[source] += mean
    assert max(abs(total[node] - mean) for node, mean in at.items()) < tolerance(family) * scale


# files


def test_a_config_that_names_it(tmp_path: Path) -> None:
    path = copied("circuit_tracer_skip_transcoder", tmp_path)
    config = yaml.safe_load((path.parent / "config.yaml").read_text())
    (path.parent / "config.yaml").write_text(json.dumps({**config, "feature_input_hook": "hook_resid_mid"}))
    info = describe(path)
    assert (str(info.site), info.reads, load_source(path).reads) == ("mlp_1", "resid_mid", "resid_mid")
    with pytest.raises(fc.InputError, match=r"is to read mlp_in_1, but its files say .*hook_resid_mid', which is res"):
        fc.load(_gpt2(24), {"mlp_1": load_source(path, reads="mlp_in")})
    assert fc.load(_gpt2(24), {"mlp_1": load_source(path)}).read_site(Site(1, "mlp")) == Site(1, "resid_mid")


def test_a_config_of_sae_lens_that_names_it(tmp_path: Path) -> None:
    folder = copied("sae_lens_transcoder", tmp_path)
    text = (folder / "cfg.json").read_text()
    record = json.loads(text)
    hook = (record.get("metadata") or record)["hook_name"]
    (folder / "cfg.json").write_text(text.replace(f'"{hook}"', '"blocks.1.hook_resid_mid"'))
    assert (load_source(folder).reads, str(describe(folder).site)) == ("resid_mid", "mlp_1")


def _gpt2(width: int) -> Any:
    import transformers

    config = transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=width, n_layer=2, n_head=2)
    config._attn_implementation = "eager"
    return transformers.GPT2LMHeadModel(config).eval()


def _layers(folder: Path, names: list[str], width: int = 8) -> Path:
    """Files of transcoders as circuit-tracer writes them, without a config."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        d = random_dictionary("transcoder", width, 12, seed=number)
        assert isinstance(d, Affine)
        on_its_side = "layer" in path.name  # others are plain files
        tensors = {"W_enc": d.W_enc.T if on_its_side else d.W_enc, "b_enc": d.b_enc, "W_dec": d.W_dec, "b_dec": d.b_dec}
        save_file({k: t.float().contiguous() for k, t in tensors.items()}, path)
    return folder


ASSUMED = (
    r"layer_0.safetensors and 1 more: not said what the transcoder at mlp 0-1 reads; taken to read the MLP's input"
)


def test_the_place_that_is_assumed_is_said_aloud(tmp_path: Path) -> None:
    folder = _layers(tmp_path / "set", ["layer_0.safetensors", "layer_1.safetensors"])
    with pytest.warns(UserWarning, match=r"layer_1\.safetensors: not said .* at mlp_1 reads; .*\"resid_mid\" if it r"):
        assert load_source(folder / "layer_1.safetensors").reads == "mlp_in"
    assert load_source(folder / "layer_1.safetensors", reads="resid_mid").reads == "resid_mid"
    with pytest.warns(UserWarning, match=ASSUMED) as caught:
        model = fc.load(_gpt2(8), folder)
    assert len(caught) == 1
    assert [str(site) for site in model.sites] == ["embed", "mlp_0", "mlp_1"]
    assert model.suite is not None
    assert model.suite.name == "set"
    (folder / "config.yaml").write_text("feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n")
    assert fc.load(_gpt2(8), folder, offload="disk").dictionaries["mlp_0"].reads == "resid_mid"


def test_a_suite_says_what_is_read(tmp_path: Path) -> None:
    _layers(tmp_path, ["layer_0.safetensors", "layer_1.safetensors"])
    text = (
        'format = 1\nname = "mine"\n[model]\nsource = "a/b"\n[[groups]]\nsites = "mlp_{layer}"\nlayers = [0, 1]\n'
        'source = "layer_{layer}.safetensors"\nreads = "resid_mid"\n'
    )
    (tmp_path / "suite.toml").write_text(text)
    for offload in (None, "cpu", "disk"):
        found = load_suite(tmp_path).dictionaries(offload)
        assert [d.reads for d in found.values()] == ["resid_mid"] * 2
    (tmp_path / "suite.toml").write_text(text.replace("resid_mid", "resid"))
    with pytest.raises(fc.InputError, match="a transcoder reads 'resid'; known: resid_mid, mlp_in"):
        load_suite(tmp_path)
    (tmp_path / "suite.toml").write_text(text + "before_gain = true\n")
    with pytest.raises(fc.InputError, match="before_gain is true, but the transcoder reads resid_mid"):
        load_suite(tmp_path)


# folders of files


@pytest.mark.filterwarnings("ignore:.*not said what the transcoder:UserWarning")
def test_a_folder_of_layers_is_a_suite(tmp_path: Path) -> None:
    names = ["layer_0.safetensors", "layer_1/layer_1.safetensors"]
    folder = _layers(tmp_path / "set", names)
    shutil.copytree(copied("safetensors_relu", tmp_path).parent, folder / "resid_0")
    (folder / "README.md").write_text("not a dictionary")
    suite = load_suite(folder)
    assert list(suite.sites) == ["embed", "mlp_0", "resid_0", "mlp_1"]
    assert suite.only("mlp").sites["mlp_1"]["source"] == names[1]
    alone = fc.load(_gpt2(8), {f"mlp_{layer}": load_source(folder / names[layer]) for layer in range(2)})
    model = fc.load(_gpt2(8), folder, sites="mlp")
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    for site in alone.sites:
        assert torch.equal(model.dictionaries[site].encode(x), alone.dictionaries[site].encode(x))
    with pytest.raises(fc.InputError, match="these dictionaries do not name their model; name it, with --model"):
        fc.load(suite=folder)


def test_a_folder_of_folders_with_configs(tmp_path: Path) -> None:
    shutil.copytree(copied("sae_lens_transcoder", tmp_path / "a"), tmp_path / "set" / "any")
    shutil.copytree(copied("sae_lens_standard", tmp_path / "b"), tmp_path / "set" / "name")
    assert list(load_suite(tmp_path / "set").sites) == ["embed", "mlp_1", "resid_1"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["weights.safetensors"], "neither its files nor its name say at which site it was trained"),
        (
            ["layer_0.safetensors", "layer_0/layer_0.safetensors"],
            "both layer_0/layer_0.safetensors and layer_0.safetensors belong to mlp_0",
        ),
        (["layer_0/a.safetensors", "layer_0/b.safetensors"], r"holds 2 dictionaries \(a.safetensors, b.safetensors\)"),
        (["layer_0/a/b/c.safetensors"], "neither a suite.toml nor dictionaries, one file or folder per layer"),
        ([], "neither a suite.toml nor dictionaries"),
    ],
)
def test_folders_that_are_no_suite(tmp_path: Path, names: list[str], said: str) -> None:
    folder = _layers(tmp_path / "set", names)
    folder.mkdir(exist_ok=True)
    with pytest.raises(fc.InputError, match=said):
        load_suite(folder)


def test_links_out_of_a_folder_are_not_followed(tmp_path: Path) -> None:
    outside = _layers(tmp_path / "outside", ["layer_0.safetensors"]) / "layer_0.safetensors"
    folder = _layers(tmp_path / "set", ["layer_1.safetensors"])
    (folder / "layer_0.safetensors").symlink_to(outside)
    with pytest.raises(fc.InputError, match="this link leads outside of its folder"):
        load_suite(folder)


def test_the_folder_of_one_dictionary_is_no_suite(tmp_path: Path) -> None:
    with pytest.raises(fc.InputError, match="the dictionary of one site, and a suite is a folder of them"):
        load_suite(copied("sae_lens_transcoder", tmp_path))


# cross-layer transcoders


def _cross_layer(folder: Path) -> Path:
    """Files as circuit-tracer publishes them: W_dec has one matrix for each layer from its own to the last."""
    folder.mkdir()
    for layer in range(3):
        encoder: dict[str, Tensor] = {f"W_enc_{layer}": torch.ones(6, 4), f"b_enc_{layer}": torch.ones(6)}
        save_file({**encoder, f"b_dec_{layer}": torch.ones(4)}, folder / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": torch.ones(6, 3 - layer, 4)}, folder / f"W_dec_{layer}.safetensors")
    return folder


@pytest.mark.parametrize("given", ["", "W_enc_0.safetensors", "W_dec_1.safetensors"])
def test_cross_layer_transcoders_are_refused_with_the_reason(tmp_path: Path, given: str) -> None:
    path = _cross_layer(tmp_path / "clt") / given
    with pytest.raises(fc.InputError, match="cross layer transcoder .* each feature writes to the MLPs of all later"):
        load_source(path)


def test_cross_layer_transcoders_are_refused_as_a_suite_and_by_their_tensors(tmp_path: Path) -> None:
    with pytest.raises(fc.InputError, match="cross layer transcoder dictionaries cannot be used"):
        load_suite(_cross_layer(tmp_path / "clt"))
    tensors = {"w_enc": torch.ones(4, 6), "b_enc": torch.ones(6), "w_dec": torch.ones(6, 3, 4), "b_dec": torch.ones(4)}
    path = store(tmp_path / "one.safetensors", tensors) or tmp_path / "one.safetensors"
    with pytest.raises(fc.InputError, match="cross layer transcoder dictionaries cannot be used"):
        load_source(path)
    assert set(load_file(path)) == set(tensors)
