"""Files that are damaged or contradict themselves: one `InputError` that names the path, nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from featcircuits.sources import load_source
from tests.source_files import FAMILIES, assert_contained, assert_refused, config_of, copied, store, stored, weights_of
from tests.test_sources import golden

pytestmark = pytest.mark.filterwarnings("ignore:.*not said what the transcoder.*:UserWarning")

OPTIONAL = {
    ("circuit_tracer_jumprelu", "activation_function.threshold"), ("circuit_tracer_topk", "k"),
    ("circuit_tracer_skip_transcoder", "W_skip"), ("dictionary_learning_topk", "k"),
    ("dictionary_learning_topk", "threshold"), ("dictionary_learning_batch_topk", "k"),
    ("dictionary_learning_matryoshka", "k"), ("safetensors_skip_transcoder", "W_skip"),
}  # fmt: skip
"""Tensors without which the files are those of another dictionary, or that only training needs."""

UNUSED = {
    ("dictionary_learning_topk", "threshold"), ("dictionary_learning_batch_topk", "k"),
    ("dictionary_learning_matryoshka", "k"), ("dictionary_learning_matryoshka", "group_sizes"),
}  # fmt: skip


CASES = [(name, tensor) for name in FAMILIES for tensor in stored(weights_of(golden(name).path))]
READ = [case for case in CASES if case not in UNUSED]
SINGLE_NUMBERS = {(name, tensor) for name, tensor in CASES if tensor in ("k", "group_sizes")}


def numpy_lacks(name: str, dtype: torch.dtype) -> bool:
    return weights_of(golden(name).path).suffix == ".npz" and dtype in (torch.bfloat16, torch.float8_e4m3fn)


# tensors


@pytest.mark.parametrize(("name", "tensor"), CASES)
def test_a_missing_tensor(tmp_path: Path, name: str, tensor: str) -> None:
    path = copied(name, tmp_path)
    tensors = stored(weights_of(path))
    del tensors[tensor]
    store(weights_of(path), tensors)
    if (name, tensor) in OPTIONAL:
        assert_contained(path)
    else:
        assert_refused(path)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_tensor_that_nobody_reads(tmp_path: Path, name: str) -> None:
    path = copied(name, tmp_path)
    store(weights_of(path), {**stored(weights_of(path)), "stray": torch.ones(3)})
    assert_refused(path, "stray")


@pytest.mark.parametrize(("name", "tensor"), READ)
def test_a_tensor_of_another_shape(tmp_path: Path, name: str, tensor: str) -> None:
    """Longer or shorter at either end, of another rank, empty."""
    path = copied(name, tmp_path)
    tensors = stored(weights_of(path))
    found = tensors[tensor]
    changed = [torch.cat([found[:1], found]) if found.dim() else found.expand(2), found[None].expand(2, *found.shape)]
    if found.dim():
        changed += [found[1:], found[:0], found.sum() if found.is_floating_point() else found[0]]
    if found.dim() == 2:
        changed += [found[:, 1:], found.flatten(), torch.cat([found[:, :1], found], dim=1), found[:, :0]]
    for shape in changed:
        store(weights_of(path), {**tensors, tensor: shape.clone()})
        assert_refused(path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("name", "tensor"), [case for case in READ if case not in SINGLE_NUMBERS])
def test_a_number_that_is_none(tmp_path: Path, name: str, tensor: str, value: float) -> None:
    path = copied(name, tmp_path)
    tensors = stored(weights_of(path))
    tensors[tensor] = tensors[tensor].clone(memory_format=torch.contiguous_format)
    tensors[tensor].view(-1)[-1] = value
    store(weights_of(path), tensors)
    assert_refused(path, "NaN or infinity")


NOT_FLOATS = (torch.int32, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in FAMILIES for dtype in NOT_FLOATS if not numpy_lacks(name, dtype)]
)
def test_weights_that_are_not_floats(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    path = copied(name, tmp_path)
    tensors = stored(weights_of(path))
    largest = max(tensors, key=lambda tensor: tensors[tensor].numel())
    store(weights_of(path), {**tensors, largest: tensors[largest].to(dtype)})
    assert_refused(path)


OTHER_FLOATS = (torch.float64, torch.float16, torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in FAMILIES for dtype in OTHER_FLOATS if not numpy_lacks(name, dtype)]
)
def test_other_floats_are_read(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    path = copied(name, tmp_path)
    tensors = stored(weights_of(path))
    store(weights_of(path), {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()})
    d, plain = load_source(path).to("cpu", torch.float32), load_source(golden(name).path).to("cpu", torch.float32)
    torch.testing.assert_close(d.W_dec, plain.W_dec, rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(d.W_enc, plain.W_enc, rtol=2e-2, atol=1e-3)


# configs


WRONG: dict[str, list[tuple[str, Any]]] = {
    "sae_lens_topk": [
        ("d_in", 25), ("d_sae", 63), ("d_in", "24"), ("d_in", True), ("k", 0), ("k", 65), ("k", -1), ("k", None),
        ("k", "8"), ("k", 8.5), ("k", [8]), ("architecture", "nonsense"), ("architecture", 3),
        ("architecture", "gated"), ("architecture", "temporal"), ("architecture", "matching_pursuit"),
        ("architecture", "batchtopk"), ("architecture", "transcoder"), ("normalize_activations", "nonsense"),
        ("normalize_activations", 7), ("normalize_activations", "covariance_whitening"),
        ("reshape_activations", "nonsense"), ("apply_b_dec_to_input", "yes"), ("metadata", 3),
        ("metadata", {"hook_name": 3}), ("rescale_acts_by_decoder_norm", 1), ("activation_fn", "tanh-relu"),
    ],
    "sae_lens_transcoder": [("d_out", 24), ("apply_b_dec_to_input", True), ("architecture", "standard")],
    "sae_lens_v5_topk": [
        ("activation_fn_kwargs", {}), ("activation_fn_kwargs", {"k": 100}), ("activation_fn_kwargs", 8),
        ("activation_fn_str", "gelu"),
    ],
    "sparsify_groupmax": [
        ("d_in", 23), ("k", 7), ("k", 0), ("k", None), ("k", 100), ("num_latents", 65), ("activation", "softmax"),
        ("skip_connection", True), ("transcode", "no"), ("signed", "yes"),
    ],
    "sparsify_topk_unnormalised": [("expansion_factor", 4), ("num_latents", 71)],
    "sparsify_skip_sae": [("skip_connection", False), ("skip_connection", None)],
    "gemma_scope_2_res": [
        ("architecture", "relu"), ("architecture", None), ("width", 65), ("type", "crosscoder"), ("type", "clt"),
        ("type", 4), ("affine_connection", True), ("hf_hook_point_in", 4),
    ],
    "gemma_scope_2_skip_transcoder": [("affine_connection", False), ("hf_hook_point_in", "model.layers.1.output")],
    "circuit_tracer_topk": [
        ("k", 31), ("k", "many"), ("activation", "relu"), ("activation", "softmax"),
        ("model_kind", "cross_layer_transcoder"), ("model_kind", "nonsense"), ("feature_input_hook", "hook_resid_pre"),
        ("feature_output_hook", "hook_resid_post"), ("feature_input_hook", ["mlp"]),
    ],
    "circuit_tracer_transcoder": [("activation", "jump_relu"), ("activation", "topk")],
    "dictionary_learning_topk": [
        ("trainer.k", 9), ("trainer.activation_dim", 23), ("trainer.dict_size", 60), ("trainer.dict_class", None),
        ("trainer.dict_class", "AutoEncoder"), ("trainer.dict_class", "CrossCoder"), ("trainer.dict_class", "Nonsense"),
        ("trainer.dict_class", 4), ("trainer", []), ("buffer.io", "in_and_out"),
    ],
    "dictionary_learning_gated": [("trainer.dict_class", "AutoEncoderTopK"), ("trainer.dict_class", "AutoEncoderNew")],
}  # fmt: skip


@pytest.mark.parametrize(("name", "key", "value"), [(n, key, v) for n, pairs in WRONG.items() for key, v in pairs])
def test_a_config_that_cannot_be_right(tmp_path: Path, name: str, key: str, value: Any) -> None:
    path = copied(name, tmp_path)
    config = config_of(path)
    assert config is not None
    record = yaml.safe_load(config.read_text())
    *outer, last = key.split(".")
    table = record[outer[0]] if outer else record
    table.update({last: value})
    config.write_text(json.dumps(record))
    assert_refused(path)


WITH_CONFIG = [name for name in FAMILIES if config_of(golden(name).path) is not None and "expect" not in name]


@pytest.mark.parametrize("value", [None, "x", "", -1, 10**30, 1.5, 1e300, [], {}, {"a": [1]}, True, "../../../x"])
@pytest.mark.parametrize("name", WITH_CONFIG)
def test_any_value_anywhere_in_a_config(tmp_path: Path, name: str, value: Any) -> None:
    path = copied(name, tmp_path)
    config = config_of(path)
    assert config is not None
    record = yaml.safe_load(config.read_text())
    for key in [*record, "signed", "hook_head_index", "scaling_factor"]:
        config.write_text(json.dumps({**record, key: value}))
        assert_contained(path)


SETTINGS = {
    "sae_lens_topk": "k", "sae_lens_gated": "architecture", "sparsify_groupmax": "k", "gemma_scope_2_res": "width",
    "dictionary_learning_topk": "trainer", "circuit_tracer_topk": "k",
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), SETTINGS.items())
def test_a_setting_that_is_given_twice(tmp_path: Path, name: str, key: str) -> None:
    """Even with the same value: readers differ in which of two counts."""
    path = copied(name, tmp_path)
    config = config_of(path)
    assert config is not None
    record = yaml.safe_load(config.read_text())
    line = json.dumps({key: record.pop(key)})[1:-1]
    twice = {
        ".json": f"{{{line}, {json.dumps(record)[1:-1] or line}, {line}}}",
        ".yaml": "\n".join([line, *(json.dumps({k: v})[1:-1] for k, v in record.items()), line]),
    }
    config.write_text(twice[config.suffix])
    assert_refused(path, f"{key!r} is given twice; remove one of them")


def test_a_setting_of_a_table_that_is_given_twice(tmp_path: Path) -> None:
    path = copied("dictionary_learning_topk", tmp_path)
    text = (path / "config.json").read_text()
    (path / "config.json").write_text(text.replace('"k": ', '"k": 3, "k": ', 1))
    assert_refused(path, "'k' is given twice")


def test_aliases_that_stand_for_billions_of_values(tmp_path: Path) -> None:
    path = copied("circuit_tracer_topk", tmp_path)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    for last in ("feature_input_hook: *a9", "k: *a9", "model_kind: *a9"):
        (path.parent / "config.yaml").write_text("\n".join([*lines, last]))
        assert_refused(path, "is an alias; write out its value")


@pytest.mark.parametrize("name", ["sae_lens_topk", "sae_lens_v5_topk", "sparsify_groupmax", "dictionary_learning_topk"])
@pytest.mark.parametrize(
    ("k", "said"), [(0, "k is 0, but must be at least 1"), (-3, "k is -3, but must be at least 1")]
)
def test_no_features_at_all(tmp_path: Path, name: str, k: int, said: str) -> None:
    path = copied(name, tmp_path)
    config = config_of(path)
    assert config is not None
    record = json.loads(config.read_text())
    table = record.get("trainer") or record.get("activation_fn_kwargs") or record
    table["k"] = k
    config.write_text(json.dumps(record))
    if name == "dictionary_learning_topk":
        tensors = stored(weights_of(path))
        store(weights_of(path), {**tensors, "k": torch.tensor(k)})
    assert_refused(path, said)


def test_no_k_at_all(tmp_path: Path) -> None:
    path = copied("sparsify_groupmax", tmp_path)
    record = json.loads((path / "cfg.json").read_text())
    del record["k"]
    (path / "cfg.json").write_text(json.dumps(record))
    assert_refused(path, "the files give no k, how many features a token may have")


@pytest.mark.parametrize("value", [1e300, -1e300, 1e38, 1e15])
@pytest.mark.parametrize(("name", "tensor"), [case for case in READ if case not in SINGLE_NUMBERS])
def test_finite_numbers_that_overflow(tmp_path: Path, name: str, tensor: str, value: float) -> None:
    """In conversion to float32, or in the products that the features are made of; a threshold is only compared."""
    path = copied(name, tmp_path)
    tensors = stored(weights_of(path))
    wide = tensors[tensor].to(torch.float64).contiguous()
    wide.view(-1)[-1] = value
    store(weights_of(path), {**tensors, tensor: wide})
    if "threshold" in tensor and abs(value) < 1e39:
        assert_contained(path)
    else:
        assert_refused(path, "")


@pytest.mark.parametrize("name", WITH_CONFIG)
def test_long_values_are_shortened(tmp_path: Path, name: str) -> None:
    path = copied(name, tmp_path)
    config = config_of(path)
    assert config is not None
    record = yaml.safe_load(config.read_text())
    for table in (record, *(value for value in record.values() if isinstance(value, dict))):
        for key in list(table):
            kept, table[key] = table[key], "x" * 10**5
            config.write_text(json.dumps(record))
            assert_contained(path)
            table[key] = kept


def test_a_file_of_many_tensors_with_long_names(tmp_path: Path) -> None:
    path = copied("safetensors_relu", tmp_path)
    store(path, {**stored(path), **{f"{number}{'x' * 5000}": torch.ones(1) for number in range(200)}})
    assert_refused(path, "and 192 others")


NO_CONFIGS = (
    "", "{", "[1, 2]", "null", "3", "[" * 100_000, '{"k": ' * 5000, "\x00", '{"k": 1e999}', "%", "- a\n- b",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_CONFIGS, ids=range(len(NO_CONFIGS)))
@pytest.mark.parametrize("name", WITH_CONFIG)
def test_a_config_that_is_none(tmp_path: Path, name: str, text: str) -> None:
    path = copied(name, tmp_path)
    config = config_of(path)
    assert config is not None
    config.write_text(text, encoding="utf-8")
    if text == '{"k": 1e999}':  # a config indeed
        assert_contained(path)
    else:
        assert_refused(path, config.name)


def test_a_config_in_another_encoding_or_of_any_size(tmp_path: Path) -> None:
    path = copied("sae_lens_topk", tmp_path)
    (path / "cfg.json").write_bytes(b"\xff\xfe{\x00}\x00")
    assert_refused(path, "cfg.json: not UTF-8 text")
    with (path / "cfg.json").open("r+b") as file:
        file.truncate(1 << 34)
    assert_refused(path, "bytes are too many")


@pytest.mark.parametrize("name", WITH_CONFIG)
def test_a_missing_config(tmp_path: Path, name: str) -> None:
    """Some tensors say everything."""
    path = copied(name, tmp_path)
    config = config_of(path)
    assert config is not None
    config.unlink()
    if name.startswith(("sae_lens", "gemma_scope_2", "sparsify")) or name.endswith(("learning_topk", "batch_topk")):
        assert_refused(path)
    else:
        assert_contained(path)


# bytes


@pytest.mark.parametrize("name", FAMILIES)
def test_a_truncated_file(tmp_path: Path, name: str) -> None:
    path = copied(name, tmp_path)
    file = weights_of(path)
    whole = file.read_bytes()
    for size in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert_refused(path)


@pytest.mark.parametrize("name", FAMILIES)
def test_any_bytes(tmp_path: Path, name: str) -> None:
    """In the weights' header, in their trailer, everywhere, and in the config."""
    path = copied(name, tmp_path)
    config = config_of(path)
    rng = random.Random(name)
    for file in (weights_of(path), *([config] if config else [])):
        whole = file.read_bytes()
        for trial in range(45):
            damaged = bytearray(whole)
            start, stop = ((0, 400), (len(whole) - 1000, len(whole)), (0, len(whole)))[trial % 3]
            for _ in range(1 + trial % 4):
                damaged[rng.randrange(max(0, start), min(stop, len(whole)))] = rng.randrange(256)
            file.write_bytes(damaged)
            assert_contained(path)
        file.write_bytes(whole)
