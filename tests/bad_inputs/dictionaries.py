"""Files of dictionaries: damaged, contradicting themselves, hostile, of another site or of an unknown kind."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import featcircuits as fc
from featcircuits.dictionaries import identity, jumprelu
from featcircuits.sources import load_source
from tests.bad_inputs.case import Case
from tests.source_files import config_of, copied, store, stored, weights_of
from tests.test_suites import sae_lens_folder
from tests.tiny import WIDTH, tiny_model

Change = Callable[[Path], object]


def read(family: str, change: Change) -> None:
    """Files as that library writes them, after a change."""
    path = copied(family, Path())
    change(path)
    load_source(path)


def config(**values: Any) -> Change:
    """Other values in the files' config; None takes a key away."""

    def change(path: Path) -> None:
        file = config_of(path)
        assert file is not None
        record = {**yaml.safe_load(file.read_text(encoding="utf-8")), **values}
        file.write_text(json.dumps({key: value for key, value in record.items() if value is not None}), "utf-8")

    return change


def written(text: str) -> Change:
    """Another text in place of the config."""

    def change(path: Path) -> None:
        file = config_of(path)
        assert file is not None
        file.write_text(text, encoding="utf-8")

    return change


def tensors(**values: Callable[[Any], Any] | None) -> Change:
    """Other tensors, each made from the one that was there; None takes one away."""

    def change(path: Path) -> None:
        found = stored(weights_of(path))
        for name, make in values.items():
            old = found.pop(name, torch.ones(3))
            found |= {} if make is None else {name: make(old.clone())}
        store(weights_of(path), found)

    return change


def one(value: float) -> Callable[[Any], Any]:
    """The tensor with one number changed."""

    def change(tensor: Any) -> Any:
        tensor.view(-1)[-1] = value
        return tensor

    return change


class Harm:
    """Writes a file if it is ever unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def harmful(path: Path) -> None:
    torch.save(Harm(), weights_of(path))


def pickled(path: Path) -> None:
    weights_of(path).write_bytes(pickle.dumps(Harm()))


def compressed(path: Path) -> None:
    file = weights_of(path)
    with zipfile.ZipFile(file) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


def bomb(path: Path) -> None:
    np.savez_compressed(path, **{**np.load(path), "W_enc": np.zeros((24, 1_000_000), np.float32)})


def linked(path: Path) -> None:
    file = config_of(path)
    assert file is not None
    file.rename("elsewhere.json")
    file.symlink_to(Path("elsewhere.json").absolute())


def cut(path: Path) -> None:
    file = weights_of(path)
    file.write_bytes(file.read_bytes()[:100])


ALIASES = "\n".join([
    "a0: &a0 [x, x, x, x, x, x, x, x, x]",
    *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)),
    "model_kind: *a9",
])  # fmt: skip

FILES: dict[str, tuple[str, Change]] = {
    "a file that is cut off": ("safetensors_relu", cut),
    "a tensor that is missing": ("sae_lens_gated", tensors(b_mag=None)),
    "a tensor that nobody reads": ("safetensors_relu", tensors(stray=lambda old: old)),
    "a tensor of another shape": ("safetensors_relu", tensors(b_enc=lambda old: old[1:])),
    "a NaN among the weights": ("safetensors_relu", tensors(W_dec=one(torch.nan))),
    "a weight that is finite and overflows": ("safetensors_relu", tensors(W_dec=one(1e30))),
    "weights that are whole numbers": ("safetensors_relu", tensors(W_enc=lambda old: old.to(torch.int32))),
    "a width that the weights do not have": ("sae_lens_topk", config(d_in=25)),
    "a width of 10^300": ("sae_lens_gated", config(d_in=10**300)),
    "`k = 0`": ("sae_lens_topk", config(k=0)),
    "`k` larger than the number of features": ("sae_lens_topk", config(k=65)),
    'a text for `k`: `"8"`': ("sae_lens_topk", config(k="8")),
    "no `k` at all": ("sparsify_groupmax", config(k=None)),
    "an architecture that is not known": ("sae_lens_topk", config(architecture="nonsense")),
    "features that depend on earlier tokens": ("sae_lens_topk", config(architecture="temporal")),
    "a checkpoint of a training": ("sae_lens_topk", config(architecture="batchtopk")),
    "a crosscoder": ("gemma_scope_2_res", config(type="crosscoder")),
    "a cross-layer transcoder": ("circuit_tracer_topk", config(model_kind="cross_layer_transcoder")),
    "inputs that are whitened": ("sae_lens_topk", config(normalize_activations="covariance_whitening")),
    "settings of a dictionary that are a list": ("sae_lens_topk", written("[1, 2]")),
    "a config of 100,000 brackets": ("sae_lens_topk", written("[" * 100_000)),
    "a setting of a dictionary twice": ("sae_lens_topk", written('{"k": 8, "k": 9}')),
    "a config in YAML whose aliases stand for billions of values": ("circuit_tracer_topk", written(ALIASES)),
    "no config": ("sae_lens_topk", lambda path: (path / "cfg.json").unlink()),
    "a config that is a link to elsewhere": ("sae_lens_topk", linked),
    "a state dict that would run code": ("dictionary_learning_standard", harmful),
    "a plain pickle in its place": ("dictionary_learning_standard", pickled),
    "a state dict that is compressed": ("dictionary_learning_new", compressed),
    "an archive that unpacks to a thousand times its size": ("gemma_scope_res", bomb),
}


def elsewhere() -> None:
    """At another site than the files say."""
    sae_lens_folder(Path("folder"), seed=1)
    fc.load(tiny_model("gpt2"), {"resid_2": load_source(Path("folder"))})


def weights(**changes: Any) -> None:
    ones = {"W_enc": torch.ones(WIDTH, 8), "b_enc": torch.ones(8), "W_dec": torch.ones(8, WIDTH)}
    made = jumprelu(**{**ones, "b_dec": torch.ones(WIDTH), "threshold": torch.ones(8), **changes})
    fc.load(tiny_model("gpt2"), {"resid_1": made})


CASES = [
    *(Case(tried, partial(read, *given)) for tried, given in FILES.items()),
    Case("a dictionary at another site than its files say", elsewhere),
    Case("a file that is not there", lambda: load_source(Path("nowhere.safetensors"))),
    Case("a folder without anything in it", lambda: load_source(Path())),
    Case("a name of 300 characters", lambda: load_source(Path("x" * 300))),
    Case("a path with the character NUL", lambda: load_source(Path("a\0b"))),
    Case("a threshold of another size than the features", partial(weights, threshold=torch.ones(9))),
    Case("an encoder that is a vector", partial(weights, W_enc=torch.ones(WIDTH))),
    Case("a bias that is infinite", partial(weights, b_dec=torch.full((WIDTH,), torch.inf))),
    Case("an identity of no width", lambda: identity(0)),
]
