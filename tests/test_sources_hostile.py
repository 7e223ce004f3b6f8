"""Files that mean harm, and paths that lead nowhere: nothing is executed, and one `InputError` names the path."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featcircuits as fc
from featcircuits.sources import describe, load_source, source_kinds
from tests.source_files import FAMILIES, assert_refused, copied, store, stored, weights_of

pytestmark = pytest.mark.filterwarnings("ignore:.*not said what the transcoder.*:UserWarning")

# harm


class Harm:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("write", ["zip", "legacy", "inside", "plain pickle"])
def test_a_pickle_executes_nothing(tmp_path: Path, write: str) -> None:
    mark = tmp_path / "executed"
    path = copied("dictionary_learning_standard", tmp_path)
    file = weights_of(path)
    if write == "plain pickle":
        file.write_bytes(pickle.dumps(Harm(mark)))
    else:
        content: Any = {**stored(file), "more": Harm(mark)} if write == "inside" else Harm(mark)
        torch.save(content, file, _use_new_zipfile_serialization=write != "legacy")
    assert_refused(path, "not readable as PyTorch weights without executing code")
    with pytest.raises(fc.InputError):
        describe(path)
    assert not mark.exists()
    os.system(f"touch {mark}")  # what it would have done
    assert mark.exists()


def test_an_array_of_objects_executes_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    path = copied("gemma_scope_res", tmp_path)
    objects = np.empty(1, dtype=object)
    objects[0] = Harm(mark)
    np.savez(weights_of(path.parent), **{**np.load(weights_of(path.parent)), "W_enc": objects})
    assert_refused(path, "holds object, not floats")
    assert not mark.exists()


def test_a_yaml_tag_executes_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    path = copied("circuit_tracer_topk", tmp_path)
    (path.parent / "config.yaml").write_text(f'model_kind: !!python/object/apply:os.system ["touch {mark}"]\n')
    assert_refused(path, "config.yaml: not valid YAML")
    assert not mark.exists()


def test_an_archive_that_unpacks_without_end(tmp_path: Path) -> None:
    path = copied("gemma_scope_res", tmp_path)
    np.savez_compressed(path, **{**np.load(path), "W_enc": np.zeros((24, 1_000_000), np.float32)})
    assert path.stat().st_size < 1 << 20
    assert_refused(path, "unpacks to more than a hundred times its size")


def test_an_array_that_is_shorter_than_it_says(tmp_path: Path) -> None:
    path = copied("gemma_scope_res", tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert b"(24, 64)" in members["W_enc.npy"]
    shape = b"(9999999999999, 64)"
    head = members["W_enc.npy"].replace(b"(24, 64), }" + b" " * (len(shape) - 8), shape + b", }")
    assert len(head) == len(members["W_enc.npy"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, head if name == "W_enc.npy" else content)
    assert_refused(path, "is shorter than its shape")


def test_a_tensor_that_repeats_one_number(tmp_path: Path) -> None:
    path = copied("dictionary_learning_new", tmp_path)
    file = weights_of(path)
    huge = torch.zeros(1).expand(10**6, 10**6)
    store(file, {**stored(file), "encoder.weight": huge, "decoder.weight": huge})
    assert_refused(path, "encoder.weight repeats its numbers")


def test_a_safetensors_header_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    header = {"W_enc": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert_refused(path, "not a readable safetensors file")
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    assert_refused(path, "not a readable safetensors file")


# paths


@pytest.mark.parametrize("name", ["d.safetensors", "layer_1.safetensors", "ae.pt", "params.npz", "folder", "d.txt"])
def test_paths_that_are_no_dictionary(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert_refused(path, "no such file")
    path.symlink_to(path)
    assert_refused(path, "no such file")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert_refused(path, "no such file")
    path.unlink()
    path.mkdir()
    assert_refused(path, "not a known dictionary")
    for family in source_kinds():
        if source_kinds()[family]:
            with pytest.raises(fc.InputError, match=family):
                load_source(path)
    path.rmdir()
    path.write_bytes(b"")
    assert_refused(path)
    path.unlink()
    os.mkfifo(path)
    assert_refused(path, "no such file")


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_that_are_a_loop_or_a_folder(tmp_path: Path, name: str) -> None:
    path = copied(name, tmp_path)
    file = weights_of(path)
    file.unlink()
    file.symlink_to(file)
    assert_refused(path)
    file.unlink()
    file.mkdir()
    assert_refused(path)


# archives


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_state_dict_is_refused(tmp_path: Path, method: int) -> None:
    path = copied("dictionary_learning_new", tmp_path)
    file = weights_of(path)
    with zipfile.ZipFile(file) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content if "data/" not in name else content + bytes(1 << 24))
    assert_refused(path, "is compressed, as torch.save never does")
    with pytest.raises(fc.InputError, match="compressed"):
        describe(path)


def test_one_compressed_member_among_others_is_refused(tmp_path: Path) -> None:
    path = copied("dictionary_learning_new", tmp_path)
    with zipfile.ZipFile(weights_of(path), "a") as archive:
        archive.writestr("more", bytes(1 << 24), zipfile.ZIP_DEFLATED)
    assert_refused(path, "'more' in it is compressed")


@pytest.mark.parametrize("write", ["zip", "legacy", "inside", "plain pickle", "object", "truncated", "text"])
def test_nobody_is_told_to_execute_what_a_file_holds(tmp_path: Path, write: str) -> None:
    """One line of our own: PyTorch's says how to load such a file all the same."""
    path = copied("dictionary_learning_standard", tmp_path)
    file = weights_of(path)
    harm = Harm(tmp_path / "executed")
    if write == "plain pickle":
        file.write_bytes(pickle.dumps(harm))
    elif write == "truncated":
        file.write_bytes(file.read_bytes()[:-200])
    elif write == "text":
        file.write_text("no weights")
    else:
        content: Any = {"inside": {**stored(file), "more": harm}, "object": {"a": np.float64(3)}}.get(write, harm)
        torch.save(content, file, _use_new_zipfile_serialization=write != "legacy")
    with pytest.raises(fc.InputError) as caught:
        load_source(path)
    said = str(caught.value)
    assert said.isprintable()
    assert "()" not in said
    for advice in ("weights_only", "torch.load", "trust", "add_safe_globals", "http", "allowlist", "docs"):
        assert advice not in said
    if write in ("zip", "legacy", "inside"):
        assert "it asks for" in said


# links


@pytest.mark.parametrize("name", FAMILIES)
def test_a_link_in_a_folder_leads_nowhere_outside(tmp_path: Path, name: str) -> None:
    path = copied(name, tmp_path)
    folder = path if path.is_dir() else path.parent
    for file in [file for file in folder.iterdir() if file.is_file() and file != path]:
        outside = tmp_path / f"outside{file.suffix}"
        file.rename(outside)
        file.symlink_to(outside)
        assert_refused(path, f"{file}: this link leads outside of its folder")
        file.unlink()
        outside.rename(file)
    assert load_source(path).n_features > 0


def test_links_within_a_folder_and_links_that_the_user_names_are_followed(tmp_path: Path) -> None:
    path = copied("sae_lens_gated", tmp_path)
    (path / "real").mkdir()
    (path / "cfg.json").rename(path / "real" / "cfg.json")
    (path / "cfg.json").symlink_to("real/cfg.json")
    (tmp_path / "named").symlink_to(path)
    assert load_source(tmp_path / "named").n_features == load_source(path).n_features > 0


def test_the_hubs_cache_is_links_to_blobs(tmp_path: Path) -> None:
    """Of the same repository; those of another one, or of anything else, are not its own."""
    repo = tmp_path / "models--a--b"
    path = copied("sae_lens_gated", repo / "snapshots" / ("a" * 40))
    (repo / "blobs").mkdir()
    for number, file in enumerate([file for file in path.iterdir() if file.is_file()]):
        file.rename(repo / "blobs" / str(number))
        file.symlink_to(Path("../../../blobs") / str(number))
    assert load_source(path).n_features > 0
    (tmp_path / "models--c--d").mkdir()
    (repo / "blobs").rename(tmp_path / "models--c--d" / "blobs")
    (repo / "blobs").symlink_to(tmp_path / "models--c--d" / "blobs")
    assert_refused(path, "this link leads outside of its folder")


# sizes


@pytest.mark.parametrize("size", [10**12, 2**62, 10**30, 10**300])
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("sae_lens_gated", ["d_sae", "d_in"]), ("sparsify_groupmax", ["num_latents", "d_in", "k"]),
        ("gemma_scope_2_res", ["width"]), ("dictionary_learning_topk", ["k"]), ("sae_lens_topk_rescaled", ["k"]),
    ],
)  # fmt: skip
def test_sizes_without_bounds_reserve_nothing(tmp_path: Path, name: str, keys: list[str], size: int) -> None:
    path = copied(name, tmp_path)
    config = next(file for file in path.iterdir() if file.suffix == ".json")
    record = json.loads(config.read_text())
    for key in keys:
        table = record.get("trainer", {}) if name.startswith("dictionary_learning") else {}
        config.write_text(json.dumps({**record, "trainer": {**table, key: size}, key: size}))
        assert_refused(path, key)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x" * 300 + ".safetensors"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    for read in (load_source, describe):
        with pytest.raises(fc.InputError, match="no such file"):
            read(tmp_path / name)
