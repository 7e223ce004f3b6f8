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
    assert_refused(path, "not a dictionary that is known")
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
