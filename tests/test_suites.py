"""Suites of published dictionaries: every name in them exists; suite.toml files; weights on the hub; the list."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

import featcircuits as fc
from featcircuits.cli import tasks
from featcircuits.cli.config import TraceConfig
from featcircuits.cli.listing import suite_table
from featcircuits.cli.tasks import load_for, read_task
from featcircuits.dictionaries import Affine, jumprelu
from featcircuits.model.architecture import FAMILIES
from featcircuits.model.sites import Site, all_sites, chosen, in_ranges
from featcircuits.model.tokens import Tokens
from featcircuits.provenance.manifest import dictionaries_of
from featcircuits.sources import site_of_hook
from featcircuits.suites import SHIPPED, Suite, load_suite, named_suites
from featcircuits.suites.adapting import adaptation, after_gain, centred, mlp_gain, moved, value_offset
from featcircuits.suites.cache import need_of, release_named
from featcircuits.suites.summary import Part, parts_of
from tests.tiny import ALL_SITES, HEADS, LAYERS, VOCABULARY, WIDTH, random_dictionary, spliced_model, tiny_model

PUBLISHED = sorted(set(named_suites()) - {SHIPPED})


# published suites: what they name exists


@pytest.fixture(scope="session")
def releases() -> Mapping[str, Any]:
    """What sae_lens carries, read without importing it."""
    spec = find_spec("sae_lens")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "pretrained_saes.yaml"
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def on_hub(suite: Suite) -> dict[str, Mapping[str, Any]]:
    return {name: record for name, record in suite.sites.items() if "release" in record}


_GEMMA_2 = {"res": "hook_resid_post", "att": "attn.hook_z", "mlp": "hook_mlp_out"}
_GEMMA_3 = {
    "resid_post_all": "hook_resid_post", "attn_out_all": "attn.hook_z", "mlp_out_all": "hook_mlp_out",
}  # fmt: skip
_LLAMA = {"R": "hook_resid_post", "A": "hook_attn_out", "M": "hook_mlp_out"}


def number_after(text: str, word: str) -> str:
    rest = text.split(word, 1)[1]
    return rest[: len(rest) - len(rest.lstrip("0123456789"))]


HOOKS: Mapping[str | None, Callable[[str, str, str], tuple[str, ...]]] = {
    None: lambda repo, path, id: (id,),
    "gemma_2": lambda repo, path, id: (f"blocks.{number_after(path, 'layer_')}.{_GEMMA_2[repo.split('-')[-1]]}",),
    "gemma_2_transcoder": lambda repo, path, id: (
        f"blocks.{number_after(path, 'layer_')}.ln2.hook_normalized",
        f"blocks.{number_after(path, 'layer_')}.hook_mlp_out",
    ),
    "gemma_3": lambda repo, path, id: (f"blocks.{number_after(path, 'layer_')}.{_GEMMA_3[path.split('/')[0]]}",),
    "connor_rob_hook_z": lambda repo, path, id: (id.replace("hook_z", "attn.hook_z"),),
    "llama_scope": lambda repo, path, id: (f"blocks.{number_after(path, 'Base-L')}.{_LLAMA[path.split('-')[-2][-1]]}",),
    "qwen_scope": lambda repo, path, id: (f"blocks.{number_after(path, 'layer')}.hook_resid_post",),
    "mwhanna_transcoder": lambda repo, path, id: (
        f"blocks.{number_after(path, 'layer_')}.mlp.hook_in",
        f"blocks.{number_after(path, 'layer_')}.hook_mlp_out",
    ),
}
"""sae_lens' loaders -> the hooks that they give a dictionary, from its repository, path and id."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_release_and_id_exists_and_stands_at_its_site(name: str, releases: Mapping[str, Any]) -> None:
    sites = on_hub(load_suite(name))
    assert sites
    for site, record in sites.items():
        release = releases[record["release"]]
        paths = {sae["id"]: sae["path"] for sae in release["saes"]}
        assert record["id"] in paths, f"{site}: {record['release']} has no {record['id']}"
        hooks = HOOKS[release.get("conversion_func")](release["repo_id"], paths[record["id"]], record["id"])
        assert str(site_of_hook(*hooks)) == site
        assert record.get("before_gain", False) == hooks[0].endswith("ln2.hook_normalized")


@pytest.mark.parametrize("name", PUBLISHED)
def test_model_and_sizes_are_those_of_the_release(name: str, releases: Mapping[str, Any]) -> None:
    suite = load_suite(name)
    for record in on_hub(suite).values():
        release = releases[record["release"]]
        theirs, ours = release["model"].lower().split("/")[-1], suite.model["source"].lower().split("/")[-1]
        assert theirs in (ours, {"gpt2": "gpt2-small"}.get(ours))
        features = {
            "width_16k": 16384, "8x": 8 * suite.model["hidden_size"], "W32K": 32768, "v5_32k": 32768,
        }  # fmt: skip
        stated = record["id"] + {sae["id"]: sae["path"] for sae in release["saes"]}[record["id"]] + release["repo_id"]
        for part, count in features.items():
            assert part not in stated or record["n_features"] == count


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_layer_has_the_same_kinds_of_sites(name: str) -> None:
    suite = load_suite(name)
    sites = [Site.parse(site) for site in suite.sites]
    kinds = {site.kind for site in sites} - {"embed"}
    assert sorted(sites) == list(all_sites(suite.model["num_hidden_layers"], sorted(kinds)))
    assert suite.model["architecture"] in FAMILIES
    for site in sites:
        width = suite.sites[str(site)]["width"]
        assert site.kind == "attn_z" or width == suite.model["hidden_size"]
        assert width % 64 == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_suite_is_a_record_and_a_card(name: str) -> None:
    folder = named_suites()[name]
    assert {path.name for path in folder.iterdir()} == {"suite.toml", "README.md"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    suite = load_suite(folder)
    assert suite.name == name
    assert card.startswith(f"# {name}\n")
    assert suite.model["source"] in card
    assert f"{len(suite.sites)} sites" in card
    for part in ("trained by", "licence"):
        assert f"| {part} |" in card
    licence = tomllib.loads((folder / "suite.toml").read_text(encoding="utf-8")).get("licence")
    assert licence is None or licence in card


def test_the_sites_that_users_expect() -> None:
    def held(name: str) -> str:
        return in_ranges(load_suite(name).sites)

    assert held("pythia-70m-deduped") == "embed, attn 0-5, mlp 0-5, resid 0-5"
    assert held("gpt2-small") == "embed, attn 0-11, mlp 0-11, resid 0-11"
    assert held("gpt2-small-z") == "embed, attn_z 0-11, mlp 0-11, resid 0-11"
    assert held("gemma-2-9b") == "embed, attn_z 0-41, mlp 0-41, resid 0-41"
    assert held("gemma-2-2b-transcoders") == "embed, attn_z 0-25, mlp 0-25"
    assert load_suite("gemma-2-2b-transcoders").sites["mlp_13"]["id"] == "layer_13/width_16k/average_l0_8"


# suite.toml


HEAD = 'format = 1\nname = "small"\n[model]\nsource = "model"\n'
GROUP: dict[str, Any] = {"sites": "mlp_{layer}", "layers": [0, 2], "release": "some", "id": "blocks.{layer}.hook"}


def literal(value: Any) -> str:
    return json.dumps(value)  # the same for TOML's text, numbers, booleans and lists


def table(header: str, values: Mapping[str, Any]) -> str:
    lines = [f"{name} = {literal(value)}" for name, value in values.items() if value is not None]
    return "\n".join([header, *lines, ""])


def groups_of(*groups: Mapping[str, Any], sites: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    explicit = [table(f"[sites.{site}]", record) for site, record in (sites or {}).items()]
    return HEAD + "".join([*(table("[[groups]]", group) for group in groups), *explicit])


def suite_of(folder: Path, text: str) -> Suite:
    (folder / "suite.toml").write_text(text, encoding="utf-8")
    return load_suite(folder)


def test_a_group_stands_for_a_site_in_each_layer(tmp_path: Path) -> None:
    group = {**GROUP, "id": "layer_{layer}/l0_{l0}", "l0": [7, 8, 9], "width": 16, "kind": "relu"}
    suite = suite_of(tmp_path, groups_of(group))
    assert list(suite.sites) == ["mlp_0", "mlp_1", "mlp_2"]
    expected = {"release": "some", "id": "layer_2/l0_9", "l0": 9, "width": 16, "kind": "relu"}
    assert suite.sites["mlp_2"] == expected
    assert suite.origins()["mlp_2"] == {"release": "some", "id": "layer_2/l0_9"}


def test_sites_of_groups_and_tables_are_in_forward_order(tmp_path: Path) -> None:
    resid = {**GROUP, "sites": "resid_{layer}", "release": None, "id": None, "source": "r{layer}.safetensors"}
    suite = suite_of(tmp_path, groups_of(resid, GROUP, sites={"embed": {"dictionary": "whole", "width": 16}}))
    assert list(suite.sites) == ["embed", "mlp_0", "resid_0", "mlp_1", "resid_1", "mlp_2", "resid_2"]


def test_a_table_adds_to_its_group_or_replaces_it(tmp_path: Path) -> None:
    changes = {"mlp_1": {"l0": 3}, "mlp_2": {"repo": "owner/name", "path": "x"}}
    sites = suite_of(tmp_path, groups_of({**GROUP, "width": 16}, sites=changes)).sites
    assert sites["mlp_1"] == {"release": "some", "id": "blocks.1.hook", "width": 16, "l0": 3}
    assert sites["mlp_2"] == {"repo": "owner/name", "path": "x"}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"sites": "mlp_0"}, "groups[1].sites = 'mlp_0' has no {layer}"),
        ({"sites": None}, "groups[1].sites is None; give a text"),
        ({"sites": "mlp{layer}"}, "unknown site 'mlp0'"),
        ({"sites": "mlp_{layer}{id}"}, "groups[1].sites = 'mlp_{layer}{id}': {id} has no value; known: layer"),
        ({"layers": [2, 0]}, "groups[1].layers is [2, 0]; give [first, last]"),
        ({"layers": [0, 1, 2]}, "give [first, last]"),
        ({"layers": 3}, "groups[1].layers is 3"),
        ({"layers": None}, "groups[1].layers is None"),
        ({"layers": [False, True]}, "give [first, last]"),
        ({"layers": [-1, 2]}, "give [first, last]"),
        ({"id": "blocks.hook"}, "groups[1].id = 'blocks.hook' has no {layer}; every layer would have the same weights"),
        ({"id": "{l}"}, "{l} has no value; known: layer"),
        ({"id": ["a", "b{x}", "c"]}, "{x} has no value; known: layer"),
        ({"id": ["a", 3, "c"]}, "groups[1].id is 3; give a text"),
        ({"id": None}, "groups[1].id is None; give a text"),
        ({"id": 3, "release": "r{layer}"}, "groups[1].id is 3; give a text"),
        ({"release": None}, "groups[1].source is None; give a text: a file or folder of the suite, or instead release"),
        ({"source": "x"}, "groups[1] has both source and release; a site has one source"),
        ({"repo": "x"}, "groups[1] has both release and repo"),
        ({"release": None, "id": None, "repo": "a/{layer}"}, "groups[1].path is None; give a text"),
        ({"release": None, "id": None, "dictionary": "whole"}, "groups[1].width is None; give a whole number above 0"),
        (
            {"release": None, "id": None, "dictionary": "half", "width": 4},
            "groups[1].dictionary is 'half'; known: identity, whole",
        ),
        ({"sha256": "0" * 64}, "groups[1].sha256 belongs to source, but the weights come from release"),
        ({"revision": "main"}, "groups[1].revision belongs to repo"),
        ({"l0": [1, 2]}, "groups[1].l0 has 2 values for 3 layers; give one value for all, or one each"),
        ({"l0": "few"}, "groups[1].l0 is 'few'; give a number"),
        ({"width": 16.5}, "groups[1].width is 16.5; give a whole number above 0"),
        ({"width": 0}, "groups[1].width is 0; give a whole number above 0"),
        ({"width": True}, "groups[1].width is True"),
        ({"kind": 1}, "groups[1].kind is 1; give a text"),
        ({"before_gain": "yes"}, "groups[1].before_gain is 'yes'; give a true or false"),
        ({"layer": 3}, "unknown key groups[1].layer; known: "),
    ],
)
def test_a_broken_group_is_refused_with_one_message(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    with pytest.raises(fc.InputError) as caught:
        suite_of(tmp_path, groups_of({**GROUP, **change}))
    assert str(caught.value).startswith(f"{tmp_path / 'suite.toml'}: ")
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (groups_of(GROUP, {**GROUP, "layers": [2, 4]}), "groups[2].sites: mlp_2 is in an earlier group"),
        ("sites = 3\n" + groups_of(GROUP), "sites is 3; give a table"),
        ("groups = 3\n" + HEAD, "groups is 3; write each group as a [[groups]] table"),
        ("groups = [3]\n" + HEAD, "groups[1] is 3; give a table"),
        (HEAD, "sites is None; give a table"),
        (groups_of(sites={"mlp_0": {"l0": 3}}), "sites.mlp_0.source is None; give a text"),
        (groups_of(sites={"mlp_0": {"source": "x", "release": "y"}}), "sites.mlp_0 has both source and release"),
        (groups_of(GROUP, sites={"mlp_0": {"sha256": "0" * 64}}), "sites.mlp_0.sha256 belongs to source"),
    ],
)
def test_a_broken_record_is_refused_with_one_message(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(fc.InputError) as caught:
        suite_of(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'suite.toml'}: ")
    assert part in str(caught.value)


def test_the_pages_example_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "suites.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    suite = suite_of(tmp_path, example)
    assert in_ranges(suite.sites) == "embed, mlp 0, resid 0-11"
    assert suite.sites["resid_7"]["id"] == "blocks.7.hook_resid_post"
    assert all(f"saes/{name}/README.md" in page for name in named_suites())


# weights of each source


REPO = "owner/dictionaries"
RELEASE, RELEASED = "gemma-scope-2-270m-pt-res-all", "layer_{layer}_width_16k_l0_small"


def matrices(seed: int) -> dict[str, Tensor]:
    return {name: tensor.float().contiguous() for name, tensor in random_dictionary(seed=seed).tensors().items()}


def weights(seed: int) -> dict[str, Tensor]:
    """A JumpReLU's."""
    found = matrices(seed)
    return {**found, "threshold": torch.full((found["b_enc"].shape[0],), 0.01)}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def cached(cache: Path, repo: str, revision: str = "a" * 40, branch: str = "main") -> Path:
    """The folder of a repository's revision, laid out as huggingface_hub does."""
    home = cache / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / branch).write_text(revision)
    snapshot = home / "snapshots" / revision
    snapshot.mkdir(parents=True, exist_ok=True)
    return snapshot


def sae_lens_folder(folder: Path, seed: int) -> None:
    tensors = weights(seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {
        "architecture": "jumprelu", "d_in": WIDTH, "d_sae": tensors["b_enc"].shape[0], "dtype": "float32",
        "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"hook_name": f"blocks.{seed}.hook_resid_post", "sae_lens_version": "6.54.12"},
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))


def gemma_scope_2_folder(folder: Path, seed: int) -> None:
    tensors = weights(seed)
    lower = {"W_enc": "w_enc", "W_dec": "w_dec"}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({lower.get(name, name): tensor for name, tensor in tensors.items()}, folder / "params.safetensors")
    config = {
        "architecture": "jump_relu", "model_name": "google/gemma-3-270m", "hf_hook_point_in": "model.layers.1.output",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def mixed(tmp_path: Path, cache: Path) -> Suite:
    """A site of each source: this suite's folder, a hub repository, a release, and none."""
    sae_lens_folder(tmp_path / "suite" / "sites" / "resid_0", seed=0)
    gemma_scope_2_folder(
        cached(cache, "google/gemma-scope-2-270m-pt") / "resid_post_all" / RELEASED.format(layer=1), seed=1
    )
    sae_lens_folder(cached(cache, REPO) / "resid_2", seed=2)
    sites: dict[str, dict[str, Any]] = {
        "embed": {"dictionary": "whole", "width": WIDTH},
        "mlp_1": {"dictionary": "identity", "width": WIDTH},
        "resid_0": {"source": "sites/resid_0", "width": WIDTH},
        "resid_1": {"release": RELEASE, "id": RELEASED.format(layer=1)},
        "resid_2": {"repo": REPO, "path": "resid_2", "revision": "main"},
    }
    return suite_of(tmp_path / "suite", groups_of(sites=sites))


@pytest.mark.parametrize("offload", [None, "cpu", "disk"])
def test_every_source_gives_its_dictionary(mixed: Suite, offload: str | None) -> None:
    found = {str(site): dictionary for site, dictionary in mixed.dictionaries(offload).items()}
    assert [d.kind for d in found.values()] == ["whole", "jumprelu", "identity", "jumprelu", "jumprelu"]
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    for seed, site in enumerate(("resid_0", "resid_1", "resid_2")):
        expected = jumprelu(**weights(seed))
        assert isinstance(found[site], Affine) == (offload is None)
        torch.testing.assert_close(found[site].encode(x), expected.encode(x))
        torch.testing.assert_close(found[site].decode(expected.encode(x)), expected.decode(expected.encode(x)))
    assert torch.equal(found["mlp_1"].encode(x), x)


def test_a_suite_of_mixed_sources_is_spliced_and_its_origins_recorded(mixed: Suite) -> None:
    spliced = fc.load(tiny_model("llama", dtype=torch.float32), mixed.folder, sites="resid")
    records = dictionaries_of(spliced)
    assert list(records) == ["resid_0", "resid_1", "resid_2"]
    assert records["resid_1"]["release"] == RELEASE
    assert {"repo", "path", "revision"} <= set(records["resid_2"])
    assert not {"repo", "release"} & set(records["resid_0"])


def test_what_is_not_in_the_cache_is_refused_offline(mixed: Suite, cache: Path) -> None:
    (cache / "models--owner--dictionaries" / "snapshots" / ("a" * 40) / "resid_2" / "sae_weights.safetensors").unlink()
    with pytest.raises(fc.InputError, match="models--owner--dictionaries"):
        mixed.dictionaries()


def test_weights_of_another_size_than_recorded_are_refused(tmp_path: Path) -> None:
    sae_lens_folder(tmp_path / "resid_0", seed=0)
    record = {"source": "resid_0", "n_features": 7}
    suite = suite_of(tmp_path, groups_of(sites={"resid_0": record}))
    with pytest.raises(fc.InputError, match="site resid_0: the suite records n_features = 7, but the weights have"):
        suite.dictionaries()


# transcoders that read before a norm's gain


@pytest.mark.parametrize("family", ["gemma2", "llama"])
def test_a_transcoder_before_the_gain_has_the_same_features_after_it(family: str) -> None:
    model = tiny_model(family, dtype=torch.float32)
    gain = mlp_gain(model, fc.load(model, {"embed": random_dictionary()}).architecture, Site(1, "mlp"))
    layer = model.get_submodule("model.layers.1")
    norm = layer.get_submodule("pre_feedforward_layernorm" if family == "gemma2" else "post_attention_layernorm")
    x = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0))
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    with torch.no_grad():
        torch.testing.assert_close(norm(x), normed * gain, rtol=1e-4, atol=1e-5)
    tensors = weights(0)
    centre = torch.linspace(-0.1, 0.1, WIDTH)
    skip = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    before = Affine(
        "relu", tensors["W_enc"], tensors["b_enc"], tensors["W_dec"], tensors["b_dec"],
        jumprelu(**tensors).activation, centre=centre, W_skip=skip, transcodes=True,
    )  # fmt: skip
    after = after_gain(before, gain)
    torch.testing.assert_close(after.encode(normed * gain), before.encode(normed), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.bypass(normed * gain), before.bypass(normed), rtol=1e-4, atol=1e-4)
    assert after.W_dec is before.W_dec


def test_a_gain_of_zero_or_a_layer_norm_is_refused() -> None:
    gain = torch.ones(WIDTH)
    gain[3] = 0
    with pytest.raises(fc.InputError, match="gain is 0 in some dimension"):
        after_gain(jumprelu(**weights(0)), gain)
    spliced = fc.load(tiny_model("gpt2"), {"embed": random_dictionary()})
    with pytest.raises(
        fc.InputError, match="site mlp_0 reads before a gain: this needs an RMSNorm before the MLP, and 'gpt2' has a"
    ):
        mlp_gain(spliced.model, spliced.architecture, Site(0, "mlp"))


@pytest.mark.parametrize("offload", [None, "cpu", "disk"])
@pytest.mark.parametrize(
    ("hook", "field", "divided"),
    [
        ("blocks.1.ln2.hook_normalized", None, True),
        ("blocks.1.mlp.hook_in", None, False),
        ("blocks.1.mlp.hook_in", True, True),
        ("blocks.1.ln2.hook_normalized", False, False),
    ],
)
def test_a_transcoder_reads_before_the_gain_where_record_or_file_says_so(
    tmp_path: Path, offload: str | None, hook: str, field: bool | None, divided: bool
) -> None:
    metadata = {"hook_name": hook, "hook_name_out": "blocks.1.hook_mlp_out"}
    save_file(weights(0), tmp_path / "mlp_1.safetensors", metadata=metadata)
    suite_of(tmp_path, groups_of(sites={"mlp_1": {"source": "mlp_1.safetensors", "before_gain": field}}))
    spliced = fc.load(tiny_model("gemma2", dtype=torch.float32), tmp_path, offload=offload)
    x = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0))
    gain = mlp_gain(spliced.model, spliced.architecture, Site(1, "mlp"))
    read = x / gain if divided else x
    features = spliced.dictionaries[Site(1, "mlp")].encode(x)
    torch.testing.assert_close(features, jumprelu(**weights(0)).encode(read))


# dictionaries of models that TransformerLens processed


def processed_activations(model: Any, ids: list[int]) -> Mapping[str, Tensor]:
    """What TransformerLens itself makes of a GPT-2 model: norms folded, writes centred, value biases moved."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    config = HookedTransformerConfig(
        n_layers=LAYERS, d_model=WIDTH, n_ctx=64, d_head=WIDTH // HEADS, n_heads=HEADS, d_mlp=24,
        d_vocab=VOCABULARY, act_fn="gelu_new", normalization_type="LNPre", dtype=torch.float64, device="cpu",
    )  # fmt: skip
    hooked = HookedTransformer(config)
    hooked.load_and_process_state_dict(
        convert_gpt2_weights(model, config), fold_ln=True, center_writing_weights=True, fold_value_biases=True
    )
    return hooked.run_with_cache(torch.tensor([ids]))[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dictionaries_of_a_processed_model_have_its_features_in_the_unmodified_one() -> None:
    """Features, and what is left over, are those that they have in TransformerLens' own activations."""
    model, ids = tiny_model("gpt2"), [1, 2, 3, 4, 5]
    theirs = processed_activations(model, ids)
    spliced = spliced_model(model, sites=list(ALL_SITES))
    ours = spliced.record(Tokens.pad([ids], 0))[1]
    hooks = {"attn_z": "attn.hook_z", "attn": "hook_attn_out", "mlp": "hook_mlp_out", "resid": "hook_resid_post"}
    for site in spliced.sites[1:]:
        own = random_dictionary()
        assert isinstance(own, Affine)
        fitted = adaptation(model, spliced.architecture, site, before_gain=False, processed=True)(own)
        x, read = theirs[f"blocks.{site.layer}.{hooks[site.kind]}"].flatten(2).detach(), ours[site]
        assert not torch.allclose(x, read, atol=0.05)
        torch.testing.assert_close(fitted.encode(read), own.encode(x), rtol=1e-4, atol=1e-5)
        left = read - fitted.decode(fitted.encode(read), fitted.statistics(read))
        torch.testing.assert_close(left, x - own.decode(own.encode(x)), rtol=1e-4, atol=1e-5)


def test_what_is_not_known_of_processed_models_is_refused() -> None:
    rescaled, transcoder = (random_dictionary(kind) for kind in ("constant_norm", "transcoder"))
    assert isinstance(rescaled, Affine)
    assert isinstance(transcoder, Affine)
    for dictionary in (rescaled, transcoder):
        with pytest.raises(fc.InputError, match="not known for processed models"):
            centred(dictionary)
        with pytest.raises(fc.InputError, match="cannot be moved by a bias"):
            moved(dictionary, torch.ones(WIDTH))
    normalised = random_dictionary("layer_norm")
    assert isinstance(normalised, Affine)
    assert centred(normalised) is normalised
    spliced = fc.load(tiny_model("llama"), {"embed": random_dictionary()})
    with pytest.raises(fc.InputError, match="site attn_z_1 is of a processed model"):
        value_offset(spliced.model, spliced.architecture, Site(1, "attn_z"))


@pytest.mark.parametrize("offload", [None, "cpu", "disk"])
def test_a_suite_says_which_dictionaries_are_of_a_processed_model(tmp_path: Path, offload: str | None) -> None:
    save_file(weights(0), tmp_path / "here.safetensors")
    record = {"source": "here.safetensors", "processed": True}
    suite_of(tmp_path, groups_of(sites={"attn_z_1": record, "mlp_1": record}))
    spliced = fc.load(tiny_model("gpt2", dtype=torch.float32), tmp_path, offload=offload)
    x, stored = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(0)), jumprelu(**weights(0))
    offset = value_offset(spliced.model, spliced.architecture, Site(1, "attn_z"))
    heads, mlp = spliced.dictionaries[Site(1, "attn_z")], spliced.dictionaries[Site(1, "mlp")]
    torch.testing.assert_close(heads.encode(x + offset), stored.encode(x))
    torch.testing.assert_close(heads.decode(stored.encode(x)), stored.decode(stored.encode(x)) + offset)
    torch.testing.assert_close(mlp.encode(x + 3), stored.encode(x - x.mean(-1, keepdim=True)), rtol=1e-4, atol=1e-5)


# a choice of sites


SOME = ["embed", *(f"{kind}_{n}" for n in range(12) for kind in ("attn_z", "attn", "mlp", "resid"))]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("mlp_3", ["mlp_3"]),
        ("embed, mlp_3", ["embed", "mlp_3"]),
        (["mlp_3", "embed"], ["embed", "mlp_3"]),
        ("attn_*", [f"attn_{n}" for n in range(12)]),
        ("attn_z", [f"attn_z_{n}" for n in range(12)]),
        ("attn_z_9-10", ["attn_z_9", "attn_z_10"]),
        ("*_1", ["attn_z_1", "attn_1", "mlp_1", "resid_1"]),
        ("mlp_1?", ["mlp_10", "mlp_11"]),
        ("*", SOME),
    ],
)
def test_sites_are_chosen_by_name_kind_pattern_and_range(patterns: str | list[str], expected: list[str]) -> None:
    assert chosen(SOME, patterns) == expected


@pytest.mark.parametrize("pattern", ["mlp_12", "mlp3", "neuron", "", "resid_20-30", "attn_q_*"])
def test_a_pattern_that_no_site_fits_is_refused(pattern: str) -> None:
    with pytest.raises(fc.InputError) as caught:
        chosen(SOME, ["embed", pattern])
    assert str(caught.value).startswith(f"no site fits {pattern!r}")
    assert "embed, attn_z 0-11, attn 0-11, mlp 0-11, resid 0-11" in str(caught.value)


def test_only_the_chosen_sites_are_read(tmp_path: Path) -> None:
    """The others' files are not there."""
    sae_lens_folder(tmp_path / "resid_1", seed=1)
    group = {"sites": "resid_{layer}", "layers": [0, 2], "source": "resid_{layer}"}
    suite_of(tmp_path, groups_of(group))
    spliced = fc.load(tiny_model("llama", dtype=torch.float32), tmp_path, sites=["resid_1"])
    assert [str(site) for site in spliced.sites] == ["resid_1"]
    assert spliced.suite is not None
    assert list(spliced.suite.sites) == ["resid_1"]


def test_sites_of_a_mapping_can_be_chosen_too() -> None:
    given = {f"mlp_{layer}": random_dictionary(seed=layer) for layer in range(LAYERS)}
    spliced = fc.load(tiny_model("llama"), given, sites="mlp_0-1")
    assert [str(site) for site in spliced.sites] == ["mlp_0", "mlp_1"]


def test_commands_load_the_sites_of_their_settings() -> None:
    spliced = load_for(TraceConfig(sites="embed, resid_0-1"), None)
    assert [str(site) for site in spliced.sites] == ["embed", "resid_0", "resid_1"]


def test_a_suite_without_the_task_is_refused_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "load_tokenizer", lambda *given, **options: pytest.fail("the hub was asked"))
    with pytest.raises(fc.InputError, match="'gpt2-small' has no task 'agreement_rc'; it has none; give a JSONL file"):
        read_task(TraceConfig(suite="gpt2-small"), "agreement_rc", "train")


def test_runs_of_layers() -> None:
    assert in_ranges(["mlp_0", "mlp_2", "mlp_3", "mlp_7", "embed"]) == "embed, mlp 0 2-3 7"


# the list


def test_the_list_says_what_is_here_and_how_large(mixed: Suite, cache: Path) -> None:
    embed, mlp, resid = parts_of(mixed)
    assert (embed, mlp) == (Part("embed", "whole", "", 1, 1, 0), Part("mlp 1", "identity", "", 1, 1, 0))
    assert (resid.sites, resid.count, resid.here) == ("resid 0-2", 3, 3)
    files = [*cache.rglob("*.safetensors"), *mixed.folder.rglob("*.safetensors"), *mixed.folder.rglob("cfg.json")]
    assert resid.bytes == sum(path.stat().st_size for path in files)
    next(cache.rglob("sae_weights.safetensors")).unlink()
    assert parts_of(mixed)[2].here == 2


def test_sizes_of_what_is_missing_are_those_of_its_matrices(tmp_path: Path, cache: Path) -> None:
    (part,) = parts_of(suite_of(tmp_path, groups_of({**GROUP, "width": 8, "n_features": 32, "dtype": "float32"})))
    assert part == Part("mlp 0-2", "?", "32", count=3, here=0, bytes=3 * 2 * 8 * 32 * 4)
    (unknown,) = parts_of(suite_of(tmp_path, groups_of({**GROUP, "width": 8, "n_features": [32, 16, 64]})))
    assert (unknown.features, unknown.bytes) == ("16-64", None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_files_of_every_site_are_known(name: str) -> None:
    needs = [need_of(record) for record in on_hub(load_suite(name)).values()]
    assert all(need is not None and need.files for need in needs)
    distinct = {(need.repo, file) for need in needs if need is not None for file in need.files}
    assert len(distinct) == sum(len(need.files) for need in needs if need is not None)


def test_releases_are_read_one_by_one_from_the_directory(releases: Mapping[str, Any]) -> None:
    for name in ("gemma-scope-2b-pt-res", "gemma-scope-2b-pt-res-canonical", "qwen-scope-3.5-2b-base-w32k-l50"):
        found = release_named(name)
        assert found is not None
        assert found.repo == releases[name]["repo_id"]
        assert found.paths == {sae["id"]: sae["path"] for sae in releases[name]["saes"]}
    assert release_named("no-such-release") is None


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys; from featcircuits.cli.listing import list_suites; list_suites(); "
        "print(sorted({'torch', 'sae_lens', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    assert all(name in out for name in named_suites())


def test_the_table_has_a_row_for_each_suite() -> None:
    table = suite_table(load_suite(folder) for folder in named_suites().values())
    assert table.row_count == len(named_suites())
