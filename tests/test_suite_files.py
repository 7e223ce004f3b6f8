"""suite.toml files of strangers: wrong types, sizes without bounds, paths and links that lead elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import featcircuits as fc
from featcircuits.files.containment import inside, link_in
from featcircuits.sources import load_source
from featcircuits.suites import load_suite
from featcircuits.suites.cache import size_here
from featcircuits.suites.summary import parts_of
from tests.test_suites import HEAD, sae_lens_folder, suite_of
from tests.tiny import random_dictionary, tiny_model

SITE = '[sites.resid_1]\nsource = "d.safetensors"\n'
GROUP = '[[groups]]\nsites = "resid_{layer}"\nrelease = "r"\nid = "{layer}"\n'


def weights_in(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.float().contiguous() for name, t in random_dictionary(seed=seed).tensors().items()}, path)


def model() -> Any:
    return tiny_model("llama", dtype=torch.float32)


# what a record may hold


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (HEAD + SITE + "[tasks]\na = true\n", "tasks.a is True; give a table"),
        (HEAD + SITE + "[tasks]\na = 'x.jsonl'\n", "tasks.a is 'x.jsonl'; give a table"),
        (HEAD + SITE + "[tasks.a]\ntrain = 3\n", "tasks.a.train is 3; give a text"),
        (HEAD + SITE + "[tasks.a]\ntest = ['x']\n", "tasks.a.test is ['x']; give a text"),
        (HEAD + SITE + "[tasks.a]\nmetric = {}\n", "tasks.a.metric is {}; give a text"),
        (HEAD + SITE + '[tasks."a\\nb"]\ntrain = "x"\n', "task "),
        (HEAD + SITE + '[tasks]\na = 2024-01-01\n', "tasks.a is datetime.date(2024, 1, 1); give a table"),
        ("tasks = 3\n" + HEAD + SITE, "tasks is 3; give a table"),
        (HEAD + "hidden_size = 'x'\n" + SITE, "model.hidden_size is 'x'; give a whole number above 0"),
        (HEAD + "hidden_size = -1\n" + SITE, "model.hidden_size is -1"),
        (HEAD + "num_hidden_layers = true\n" + SITE, "model.num_hidden_layers is True"),
        (HEAD + "architecture = 3\n" + SITE, "model.architecture is 3; give a text"),
        (HEAD + "fingerprint = []\n" + SITE, "model.fingerprint is []; give a text"),
        (HEAD + "files = 3\n" + SITE, "model.files is 3; give a table"),
        (HEAD + SITE + "[model.files]\n'config.json' = 3\n", "model.files.config.json is 3; give a text"),
        (HEAD.replace('"small"', "3") + SITE, "name is 3; give a text"),
        (HEAD.replace('"small"', '"a\\nb"') + SITE, "name "),
        (HEAD.replace('"small"', f'"{"x" * 300}"') + SITE, "name "),
        (HEAD.replace('"model"', "true") + SITE, "model.source is True; give a text"),
        (HEAD.replace("format = 1", f"format = '{'x' * 5000}'") + SITE, "this version reads format 1"),
        (HEAD + '[sites."resid_05"]\nsource = "x"\n', "unknown site 'resid_05'"),
        (HEAD + '[sites."resid_3/05"]\nsource = "x"\n', "unknown site 'resid_3/05'"),
        (HEAD + '[sites."resid_٣"]\nsource = "x"\n', "unknown site 'resid_٣'"),
        (HEAD + '[sites."resid_1_0"]\nsource = "x"\n', "unknown site 'resid_1_0'"),
        (HEAD + '[sites." resid_1"]\nsource = "x"\n', "unknown site ' resid_1'"),
        (HEAD + f'[sites.resid_{"1" * 5000}]\nsource = "x"\n', "unknown site 'resid_111"),
        (HEAD + '[sites.resid_1000]\nsource = "x"\n', "site resid_1000: layers are numbered from 0, and below 1000"),
        ("sites = [1]\n" + HEAD, "sites is [1]; give a table"),
        (HEAD + "[sites]\nresid_1 = 3\n", "sites.resid_1 must be a table with a source, found 3"),
        (HEAD + SITE + 'width = 1000000000000\n', "resid_1.width is 1000000000000; give a whole number above 0, and"),
        (HEAD + SITE + f'n_features = {10**300}\n', "n_features is a number of about 300 digits; give a whole number"),
        (HEAD + f'[sites.embed]\ndictionary = "whole"\nwidth = {10**12}\n', "embed.width is 1000000000000; give"),
        (HEAD + f'[sites.embed]\ndictionary = "identity"\nwidth = {10**12}\n', "embed.width is 1000000000000; give"),
        (HEAD + '[sites.embed]\ndictionary = "whole"\nwidth = 8\nkind = "relu"\n', "kind is 'relu', but the"),
        (HEAD + SITE + f'kind = "{"x" * 5000}"\n', "resid_1.kind has 5000 characters; it may have 1000"),
        (HEAD + SITE + "check_place = 1\n", "resid_1.check_place is 1; give a true or false"),
        (HEAD + SITE + "l0 = nan\n", "nan is not a number"),
        (HEAD + SITE + f'"{"k" * 5000}" = 1\n', "unknown key sites.resid_1.kkk"),
        (HEAD + GROUP + "layers = [0, 1000000]\n", "groups[1].layers is [0, 1000000]; layers are numbered from 0"),
        (HEAD + GROUP + f"layers = [{10**18}, {10**18}]\n", "layers are numbered from 0, and below 1000"),
        (HEAD + GROUP + f"layers = {list(range(5000))}\n", "; give [first, last]"),
        (HEAD + GROUP + "layers = [0, 2]\nl0 = " + str([1] * 9999) + "\n", "l0 has 9999 values for 3 layers"),
        (HEAD + "[sites.embed]\nrepo = 'a/../b'\npath = 'x'\n", "repo is 'a/../b', which is not a repo of the hub"),
        (HEAD + "[sites.embed]\nrepo = 'a/b'\npath = '../../x'\n", "path is '../../x', which is not a path of the hub"),
        (HEAD + "[sites.embed]\nrepo = 'a/b'\npath = '/etc/passwd'\n", "which is not a path of the hub"),
        (HEAD + "[sites.embed]\nrepo = 'a/b'\npath = 'x'\nrevision = '../../x'\n", "is not a revision of the hub"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_record_is_one_line(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(fc.InputError) as caught:
        suite_of(tmp_path, text)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'suite.toml'}: ")
    assert part in said
    assert len(said) < 1000
    assert "\n" not in said


@pytest.mark.parametrize("suite", ["x" * 300, "a\0b", "", "no/such/folder", "grammar_4l", "\x1b[31m"])
def test_no_suite_at_all(suite: str) -> None:
    with pytest.raises(fc.InputError, match="^unknown suite ") as caught:
        load_suite(suite)
    assert str(caught.value).isprintable()
    assert ("did you mean 'grammar-4l'?" in str(caught.value)) == (suite == "grammar_4l")


@pytest.mark.parametrize("suite", [3, True, ["grammar-4l"], b"grammar-4l"])
def test_a_suite_of_another_type(suite: Any) -> None:
    with pytest.raises(fc.InputError, match="a suite is a name or a folder, found"):
        fc.load(suite=suite)


@pytest.mark.parametrize(
    ("key", "value"), [("kind", "jumprelu"), ("width", 8), ("n_features", 7), ("kind", "identity")]
)
def test_a_record_of_other_weights_than_there_are(tmp_path: Path, key: str, value: Any) -> None:
    weights_in(tmp_path / "d.safetensors")
    written = f'"{value}"' if isinstance(value, str) else value
    suite = suite_of(tmp_path, HEAD + SITE + f"{key} = {written}\n")
    with pytest.raises(fc.InputError, match=f"site resid_1: the suite records {key} = {value!r}, but the weights have"):
        suite.dictionaries()


def test_a_record_of_the_weights_that_there_are(tmp_path: Path) -> None:
    weights_in(tmp_path / "d.safetensors")
    d = load_source(tmp_path / "d.safetensors")
    text = f'kind = "{d.kind}"\nwidth = {d.width}\nn_features = {d.n_features}\n'
    assert len(suite_of(tmp_path, HEAD + SITE + text).dictionaries()) == 1


# where its paths lead


def loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcircuits.loading.load.pretrained", lambda *given: pytest.fail("the model was loaded"))


def test_sites_that_are_missing_or_outside_are_found_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads_nothing(monkeypatch)
    suite_of(tmp_path, HEAD + SITE)
    with pytest.raises(fc.InputError, match=r"d\.safetensors: no such file; the suite is incomplete"):
        fc.load("a model", tmp_path)
    for source in ("../d.safetensors", "/etc/passwd", "a\\u0000b", "x/../../d"):
        suite_of(tmp_path, HEAD + SITE.replace("d.safetensors", source))
        with pytest.raises(fc.InputError, match="points outside the suite's folder"):
            fc.load("a model", tmp_path)


def test_a_folder_of_sites_that_is_a_link_is_named_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads_nothing(monkeypatch)
    suite = tmp_path / "suite"
    suite.mkdir()
    weights_in(tmp_path / "elsewhere" / "d.safetensors")
    (suite / "sites").symlink_to(tmp_path / "elsewhere")
    suite_of(suite, HEAD + SITE.replace("d.safe", "sites/d.safe"))
    with pytest.raises(fc.InputError) as caught:
        fc.load("a model", suite)
    assert str(caught.value) == (
        f"{suite / 'suite.toml'}: sites.resid_1.source = 'sites/d.safetensors' points outside the suite's folder "
        f"through the link {suite / 'sites'}; put the files themselves into the suite's folder"
    )
    assert parts_of(load_suite(suite))[0].here == 0


def test_a_suite_that_is_itself_a_link_is_a_suite(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    weights_in(tmp_path / "real" / "sites" / "d.safetensors")
    suite_of(tmp_path / "real", HEAD + SITE.replace("d.safe", "sites/d.safe"))
    (tmp_path / "named").symlink_to(tmp_path / "real")
    assert [str(site) for site in fc.load(model(), tmp_path / "named").sites] == ["resid_1"]


def test_a_suite_in_the_hubs_cache_is_links_to_blobs(tmp_path: Path) -> None:
    repo = tmp_path / "models--a--suite"
    snapshot = repo / "snapshots" / ("a" * 40)
    weights_in(snapshot / "sites" / "d.safetensors")
    suite_of(snapshot, HEAD + SITE.replace("d.safe", "sites/d.safe"))
    (repo / "blobs").mkdir()
    for number, name in enumerate(["suite.toml", "sites/d.safetensors"]):
        (snapshot / name).rename(repo / "blobs" / str(number))
        (snapshot / name).symlink_to(repo / "blobs" / str(number))
    assert [str(site) for site in fc.load(model(), snapshot).sites] == ["resid_1"]
    assert parts_of(load_suite(snapshot))[0].here == 1


def test_a_source_folder_whose_files_are_links_to_elsewhere(tmp_path: Path) -> None:
    sae_lens_folder(tmp_path / "suite" / "resid_1", seed=1)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1 << 20))
    suite = suite_of(tmp_path / "suite", HEAD + SITE.replace("d.safetensors", "resid_1"))
    assert len(suite.dictionaries()) == 1
    here = size_here(suite.folder, suite.sites["resid_1"])
    (tmp_path / "suite" / "resid_1" / "more").symlink_to(secret)
    assert size_here(suite.folder, suite.sites["resid_1"]) == here
    (tmp_path / "suite" / "resid_1" / "cfg.json").unlink()
    (tmp_path / "suite" / "resid_1" / "cfg.json").symlink_to(secret)
    with pytest.raises(fc.InputError, match=r"cfg\.json: this link leads outside of its folder"):
        suite.dictionaries()


@pytest.mark.parametrize("source", ["../secret", "{absolute}", "link", "x/../../secret"])
def test_the_list_reads_no_sizes_of_what_lies_outside(tmp_path: Path, source: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(1234))
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "link").symlink_to(tmp_path / "secret")
    found = suite_of(suite, HEAD + SITE.replace("d.safetensors", source.format(absolute=tmp_path / "secret")))
    assert size_here(suite, found.sites["resid_1"]) is None
    (part,) = parts_of(found)
    assert (part.here, part.bytes) == (0, None)


def test_a_hard_link_is_a_file_like_any_other(tmp_path: Path) -> None:
    weights_in(tmp_path / "elsewhere.safetensors")
    (tmp_path / "suite").mkdir()
    os.link(tmp_path / "elsewhere.safetensors", tmp_path / "suite" / "d.safetensors")
    assert len(suite_of(tmp_path / "suite", HEAD + SITE).dictionaries()) == 1


# the model that it names


@pytest.mark.parametrize(
    "source",
    ["../model", "{absolute}", "x/../../model", "link", "~/model", "a/b/c", "d.safetensors", "a\\u0000b", ".."],
)
def test_a_model_outside_is_read_only_where_the_user_names_it(tmp_path: Path, source: str) -> None:
    model().save_pretrained(tmp_path / "model")
    weights_in(tmp_path / "suite" / "d.safetensors")
    (tmp_path / "suite" / "link").symlink_to(tmp_path / "model")
    head = HEAD.replace('"model"', f'"{source.format(absolute=tmp_path / "model")}"')
    suite_of(tmp_path / "suite", head + SITE)
    with pytest.raises(fc.InputError, match="model.source = .*; if you trust it, name the model's folder yourself"):
        fc.load(suite=tmp_path / "suite")
    assert [str(site) for site in fc.load(model(), tmp_path / "suite").sites] == ["resid_1"]


def test_a_folder_where_the_user_happens_to_be_is_not_the_suites_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "model").mkdir(parents=True)
    (tmp_path / "suite").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    suite = suite_of(tmp_path / "suite", HEAD + SITE)
    with pytest.raises(
        fc.InputError, match="is not a folder of the suite, but the current folder has one of that name"
    ):
        _ = suite.model_source


def test_files_of_the_suites_own_model_that_are_links_to_elsewhere(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, HEAD + SITE)
    (tmp_path / "model").mkdir()
    assert suite.model_source == str(tmp_path / "model")
    (tmp_path / "model" / "config.json").symlink_to("/etc/hostname")
    with pytest.raises(fc.InputError, match=r"config\.json: this link leads outside of its folder"):
        _ = suite.model_source


def test_a_name_of_the_hub_is_one() -> None:
    assert load_suite("gpt2-small").model_source == "openai-community/gpt2"


# inside


def test_what_is_inside(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    (tmp_path / "a" / "loop").symlink_to("loop")
    (tmp_path / "a" / "up").symlink_to("..")
    real = (tmp_path / "a").resolve()
    assert inside(tmp_path / "a", tmp_path / "a" / "b") == real / "b"
    assert inside(tmp_path / "a", tmp_path / "a" / "missing") == real / "missing"
    assert inside(tmp_path / "a", tmp_path / "a" / "up" / "a" / "b") == real / "b"
    for way in ("../x", "up", "up/x", "loop", "a\0b", "/etc"):
        assert inside(tmp_path / "a", tmp_path / "a" / way) is None
    assert link_in(tmp_path / "a", tmp_path / "a" / "up" / "x") == tmp_path / "a" / "up"
    assert link_in(tmp_path / "a", tmp_path / "a" / "b") is None


@pytest.mark.parametrize("repo", ["x" * 300, "a--b", "-a/b", "a./b"])
def test_the_list_takes_repositories_that_cannot_exist_for_missing(tmp_path: Path, repo: str) -> None:
    suite = suite_of(tmp_path, HEAD + f'[sites.embed]\nrepo = "{repo}"\npath = "{"y" * 300}"\n')
    assert parts_of(suite)[0].here == 0
