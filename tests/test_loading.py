"""fc.load: models and suites that fit are spliced; whatever does not fit is refused with a reason."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

import featcircuits as fc
from featcircuits.dictionaries import identity, relu
from featcircuits.model.tokens import Tokens
from featcircuits.suites import fingerprint, load_suite, named_suites
from tests.tiny import LAYERS, WIDTH, n_hooks, random_dictionary, tiny_model

FAMILY = "gpt_neox_parallel"
TOKENIZER = Path(__file__).parents[1] / "saes" / "grammar-4l" / "model"
DICTIONARIES = {"embed": random_dictionary()}
SITES = ("embed", "mlp_0", "resid_2")
PROMPT = Tokens.pad([[3, 1, 4, 1, 5]], pad_id=0)


def model_of(seed: int = 0) -> PreTrainedModel:
    return tiny_model(FAMILY, seed=seed, dtype=torch.float32)


def matrices(seed: int = 0, width: int = WIDTH) -> dict[str, Tensor]:
    tensors = random_dictionary(width=width, seed=seed).tensors()
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def toml(tables: Mapping[str, Mapping[str, Any]], top: Mapping[str, Any]) -> str:
    """A suite.toml of plain values; a value of None leaves its key out."""

    def lines(values: Mapping[str, Any]) -> list[str]:
        literal = {key: value if isinstance(value, int) else f'"{value}"' for key, value in values.items()}
        return [f"{key} = {literal[key]}" for key, value in values.items() if value is not None]

    parts = lines(top)
    for table, values in tables.items():
        parts += [f"[{table}]", *lines(values)]
    return "\n".join(parts) + "\n"


def suite_in(
    folder: Path,
    sites: Mapping[str, Mapping[str, Any]] | None = None,
    model: Mapping[str, Any] | None = None,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    **top: Any,
) -> Path:
    """A suite of random dictionaries at `SITES`; the arguments change its record."""
    (folder / "sites").mkdir(parents=True, exist_ok=True)
    records: dict[str, dict[str, Any]] = {}
    for seed, site in enumerate(SITES):
        path = folder / "sites" / f"{site}.safetensors"
        save_file(matrices(seed), path)
        records[site] = {"source": f"sites/{site}.safetensors", "sha256": sha256(path)}
    for site, record in (sites or {}).items():
        records[site] = {**records.get(site, {}), **record}
    written = {"model": {"source": "model", **(model or {})}, **(tables or {})}
    written |= {f"sites.{site}": record for site, record in records.items()}
    (folder / "suite.toml").write_text(toml(written, {"format": 1, "name": "small", **top}), "utf-8")
    return folder


def model_in(folder: Path, seed: int = 0) -> Path:
    """A model folder as transformers saves it, with a tokenizer."""
    model_of(seed).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    return folder


def refusal(model: Any, suite: Any, **options: Any) -> str:
    with pytest.raises(fc.InputError) as caught:
        fc.load(model, suite, **options)
    return str(caught.value)


# what fits


def test_a_model_and_a_mapping_are_spliced_in_forward_order() -> None:
    model = model_of()
    given = {"resid_2": random_dictionary(seed=2), "embed": random_dictionary(seed=0), "mlp_0": identity(WIDTH)}
    spliced = fc.load(model, given)
    assert spliced.model is model
    assert [str(site) for site in spliced.sites] == ["embed", "mlp_0", "resid_2"]
    assert spliced.suite is None
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    for site, dictionary in spliced.dictionaries.items():
        torch.testing.assert_close(dictionary.encode(x), given[str(site)].to("cpu", torch.float32).encode(x))


def test_loading_leaves_the_model_as_it_was() -> None:
    """In eval mode, but with no hook and the same logits."""
    model = model_of()
    with torch.no_grad():
        before = model(input_ids=PROMPT.ids).logits
    spliced = fc.load(model.train(), {"mlp_1": random_dictionary()})
    assert not model.training
    assert n_hooks(model) == 0
    with torch.no_grad():
        assert torch.equal(spliced.run(PROMPT), before)


def test_a_suites_folder_is_read(tmp_path: Path) -> None:
    spliced = fc.load(model_of(), suite_in(tmp_path))
    assert tuple(str(site) for site in spliced.sites) == SITES
    assert spliced.suite is not None
    assert spliced.suite.name == "small"
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    for seed, dictionary in enumerate(spliced.dictionaries.values()):
        assert torch.equal(dictionary.encode(x), relu(**matrices(seed)).encode(x))
    recorded = {site: sha256(tmp_path / "sites" / f"{site}.safetensors") for site in SITES}
    assert spliced.suite.hashes() == recorded


def test_a_suite_brings_its_model_and_tokenizer(tmp_path: Path) -> None:
    suite = suite_in(tmp_path / "suite", model={"fingerprint": fingerprint(model_of())})
    model_in(suite / "model")
    spliced = fc.load(suite=suite)
    assert torch.equal(spliced.model.get_input_embeddings().weight, model_of().get_input_embeddings().weight)
    assert spliced.tokenizer("The author")["input_ids"] == [158, 188]


def test_a_models_folder_is_read_beside_a_mapping(tmp_path: Path) -> None:
    folder = model_in(tmp_path / "model")
    mine = object()
    spliced = fc.load(folder, {"embed": random_dictionary()}, dtype="float64", tokenizer=mine)
    assert spliced.tokenizer is mine
    assert spliced.model.dtype == torch.float64


@pytest.mark.parametrize(
    ("dtype", "model_has", "dictionary_has"),
    [
        ("bfloat16", torch.bfloat16, torch.float32),
        (torch.float16, torch.float16, torch.float32),
        (None, torch.float32, torch.float32),
        ("float64", torch.float64, torch.float64),
    ],
)
def test_dictionaries_are_never_below_float32(
    dtype: str | torch.dtype | None, model_has: torch.dtype, dictionary_has: torch.dtype
) -> None:
    spliced = fc.load(model_of(), {"mlp_1": random_dictionary()}, dtype=dtype)
    assert spliced.model.dtype == model_has
    (dictionary,) = spliced.dictionaries.values()
    assert {tensor.dtype for tensor in dictionary.tensors().values()} == {dictionary_has}


def test_the_fingerprint_survives_a_change_of_dtype_but_not_of_weights() -> None:
    marks = {fingerprint(model_of().to(dtype)) for dtype in (torch.float32, torch.float64, torch.bfloat16)}
    assert len(marks) == 1
    assert fingerprint(model_of(seed=1)) not in marks


# dictionaries that do not fit


def test_a_dictionary_of_another_width_is_refused() -> None:
    message = refusal(model_of(), {"mlp_1": random_dictionary(width=WIDTH + 1)})
    assert f"site mlp_1: the dictionary is {WIDTH + 1} wide, the model's activation {WIDTH}" in message
    assert "another model" in message


@pytest.mark.parametrize("name", ["mlp", "mlp_01", "MLP_1", "resid_-1", "attention_0", "embed_0", "", "mlp_1 "])
def test_an_unknown_site_is_refused_with_the_known_spellings(name: str) -> None:
    message = refusal(model_of(), {name: random_dictionary()})
    assert f"unknown site {name!r}" in message
    assert "'mlp_<layer>'" in message


@pytest.mark.parametrize("name", [f"mlp_{LAYERS}", "resid_99"])
def test_a_site_beyond_the_models_layers_is_refused(name: str) -> None:
    expected = f"site {name}: the model has {LAYERS} layers, 0 to {LAYERS - 1}"
    assert refusal(model_of(), {name: random_dictionary()}) == expected


def test_no_dictionaries_and_no_model_are_refused() -> None:
    assert "has no dictionaries" in refusal(model_of(), {})
    assert "no model was given" in refusal(None, {"embed": random_dictionary()})


# suites that do not fit


def test_a_suite_of_another_model_is_refused_by_fingerprint(tmp_path: Path) -> None:
    suite = suite_in(tmp_path, model={"fingerprint": fingerprint(model_of(seed=0))})
    assert fc.load(model_of(seed=0), suite).suite is not None
    message = refusal(model_of(seed=1), suite)
    assert "suite 'small' belongs to another model" in message
    assert "embedding's weights differ" in message


@pytest.mark.parametrize(
    ("key", "recorded", "found"),
    [("hidden_size", 128, WIDTH), ("num_hidden_layers", 6, LAYERS), ("architecture", "gpt2", "'gpt_neox'")],
)
def test_a_suite_of_another_shape_is_refused(tmp_path: Path, key: str, recorded: int | str, found: int | str) -> None:
    message = refusal(model_of(), suite_in(tmp_path, model={key: recorded}))
    assert "suite 'small' belongs to another model" in message
    assert f"its {key} is {recorded!r}, this model's {found}" in message
    assert "use the suite's model (model)" in message


def test_a_suites_site_beyond_the_model_is_refused(tmp_path: Path) -> None:
    suite = suite_in(tmp_path, {"mlp_7": {"source": "sites/mlp_0.safetensors"}})
    assert "site mlp_7: the model has 3 layers" in refusal(model_of(), suite)


def test_a_suites_dictionary_of_another_width_is_refused(tmp_path: Path) -> None:
    suite = suite_in(tmp_path, {"mlp_1": {"source": "sites/wide.safetensors"}})
    save_file(matrices(width=WIDTH * 2), tmp_path / "sites" / "wide.safetensors")
    assert f"site mlp_1: the dictionary is {WIDTH * 2} wide" in refusal(model_of(), suite)


# suites that are not there or not whole


def test_an_unknown_suite_is_refused_with_the_known_ones() -> None:
    message = refusal(model_of(), "grammar-5l")
    assert "unknown suite 'grammar-5l'" in message
    for name in named_suites():
        assert name in message


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    suite_in(tmp_path)
    (tmp_path / "suite.toml").unlink()
    message = refusal(model_of(), tmp_path)
    assert str(tmp_path) in message
    assert "sites: holds 3 dictionaries" in message
    assert "write a suite.toml" in message


def test_a_missing_site_file_is_refused(tmp_path: Path) -> None:
    suite = suite_in(tmp_path)
    missing = tmp_path / "sites" / "mlp_0.safetensors"
    missing.unlink()
    assert refusal(model_of(), suite) == f"{missing}: no such file; the suite is incomplete"


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    """A single bit of one weight."""
    suite = suite_in(tmp_path)
    path = tmp_path / "sites" / "mlp_0.safetensors"
    recorded = sha256(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    message = refusal(model_of(), suite)
    assert f"{path}: sha256 is {sha256(path)[:12]}..., but the suite records {recorded[:12]}" in message
    assert "rebuild the suite" in message


@pytest.mark.parametrize("kept", [0, 4, 60, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    """Wherever it ends, and without a recorded hash: before the header, inside it, inside the weights."""
    suite = suite_in(tmp_path, {"mlp_0": {"sha256": None}})
    path = tmp_path / "sites" / "mlp_0.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)] if isinstance(kept, float) else data[:kept])
    message = refusal(model_of(), suite)
    assert f"{path}: not a readable safetensors file" in message
    assert "truncated or damaged" in message


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    suite = suite_in(tmp_path, {"mlp_0": {"sha256": None}})
    path = tmp_path / "sites" / "mlp_0.safetensors"
    tensors = matrices()
    tensors["W_dec"][2, 3] = torch.nan
    save_file(tensors, path)
    message = refusal(model_of(), suite)
    assert message.startswith(f"{path}: ")
    assert "W_dec holds NaN" in message


# records that cannot be used


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"format": 2}, ["format is 2", "reads format 1"]),
        ({"format": None}, ["format is None", "reads format 1"]),
        ({"name": None}, ["name is None; give a text"]),
        ({"name": ""}, ["name is ''; give a text"]),
        ({"licens": "MIT"}, ["unknown key licens", "licence"]),
        ({"model": {"hidden": 16}}, ["unknown key model.hidden", "hidden_size"]),
        ({"model": {"source": None}}, ["model is"]),
        ({"model": {"source": None, "hidden_size": WIDTH}}, ["model.source is None; give a text"]),
        ({"sites": {"mlp_1": {"sha256": "0" * 64}}}, ["sites.mlp_1.source is None; give a text"]),
        ({"model": {"source": 3}}, ["model.source is 3; give a text"]),
        ({"sites": {"embed": {"sha265": "0" * 64}}}, ["unknown key sites.embed.sha265"]),
        ({"sites": {"embed": {"sha256": 3}}}, ["sites.embed.sha256 is 3; give a text"]),
    ],
)
def test_a_bad_record_is_refused(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    message = refusal(model_of(), suite_in(tmp_path, **changes))
    assert str(tmp_path / "suite.toml") in message
    for part in parts:
        assert part in message


def test_an_unknown_site_in_a_record_is_refused(tmp_path: Path) -> None:
    suite = suite_in(tmp_path, {"neuron_1": {"source": "sites/mlp_0.safetensors"}})
    assert "unknown site 'neuron_1'" in refusal(model_of(), suite)


@pytest.mark.parametrize("content", [b"format = ", b'format = 1\nname = "caf\xe9"\n'])
def test_a_record_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (suite_in(tmp_path) / "suite.toml").write_bytes(content)
    message = refusal(model_of(), tmp_path)
    assert f"{tmp_path / 'suite.toml'}: not " in message


@pytest.mark.parametrize("how", ["..", "absolute", "link"])
def test_a_path_that_leaves_the_suites_folder_is_refused(tmp_path: Path, how: str) -> None:
    """A downloaded suite must not read what lies elsewhere on the disk, though it is a dictionary."""
    outside = tmp_path / "outside.safetensors"
    save_file(matrices(), outside)
    source = {"..": "../outside.safetensors", "absolute": str(outside), "link": "sites/link.safetensors"}[how]
    suite = suite_in(tmp_path / "suite", {"mlp_1": {"source": source}})
    if how == "link":
        (suite / source).symlink_to(outside)
    message = refusal(model_of(), suite)
    assert f"{suite / 'suite.toml'}: sites.mlp_1.source = {source!r} points outside the suite's folder" in message


def test_task_files_are_found_inside_the_folder_only(tmp_path: Path) -> None:
    tasks = {"tasks.agreement": {"train": "tasks/train.jsonl", "test": "../test.jsonl"}}
    suite = load_suite(suite_in(tmp_path / "suite", tables=tasks))
    assert suite.task_file("agreement", "train") == tmp_path.resolve() / "suite/tasks/train.jsonl"
    with pytest.raises(fc.InputError, match="tasks.agreement.test = '../test.jsonl' points outside"):
        suite.task_file("agreement", "test")
    with pytest.raises(fc.InputError, match="suite 'small' has no task 'gender'; it has: agreement"):
        suite.task_file("gender", "train")


# nothing that could run code is read


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.mark, "unpickled")


@pytest.mark.parametrize("name", ["mlp_1.pt", "mlp_1.bin", "mlp_1.pkl", "mlp_1.safetensors"])
def test_a_pickled_dictionary_is_refused_unread(tmp_path: Path, name: str) -> None:
    """Whatever its name, and though its hash is the recorded one."""
    mark = tmp_path / "mark"
    data = pickle.dumps(Trap(mark))
    suite = suite_in(tmp_path / "suite", {"mlp_1": {"source": name, "sha256": hashlib.sha256(data).hexdigest()}})
    (suite / name).write_bytes(data)
    what = "not a readable safetensors file" if name.endswith("safetensors") else "not a known dictionary"
    assert f"{suite / name}: {what}" in refusal(model_of(), suite)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["mlp_1.pt", "mlp_1.bin"])
def test_a_harmless_torch_file_is_refused_too(tmp_path: Path, name: str) -> None:
    suite = suite_in(tmp_path, {"mlp_1": {"source": name}})
    torch.save(matrices(), tmp_path / name)
    assert f"{tmp_path / name}: not a known dictionary" in refusal(model_of(), suite)


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    folder = model_in(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "mark"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(mark)))
    message = refusal(folder, {"embed": random_dictionary()})
    assert f"model {str(folder)!r} could not be loaded" in message
    assert not mark.exists()


# models, devices and dtypes


def test_a_model_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"embed": random_dictionary()})
    assert message == f"model folder {tmp_path}: there is no config.json in it"


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    path = model_in(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    message = refusal(tmp_path, {"embed": random_dictionary()})
    assert f"model {str(tmp_path)!r}" in message
    assert "truncated or damaged" in message


def test_a_model_of_an_unknown_family_is_refused_with_the_known_ones() -> None:
    config = transformers.OPTConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, ffn_dim=24, num_attention_heads=2, word_embed_proj_dim=16
    )
    message = refusal(transformers.AutoModelForCausalLM.from_config(config), {"embed": random_dictionary()})
    assert "model family 'opt' is not supported" in message
    assert "gpt_neox, llama" in message


def test_a_model_without_a_head_is_refused() -> None:
    """Its layers are elsewhere, and there are no logits to explain."""
    headless = transformers.AutoModel.from_config(model_of().config)
    message = refusal(headless, {"embed": random_dictionary()})
    assert "GPTNeoXModel is not the causal language model" in message
    assert "AutoModelForCausalLM" in message


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = refusal(model_of(), {"embed": random_dictionary()}, device=device)
    assert f"device '{device}' was asked for" in message
    assert "use device='cpu'" in message


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"device": "xpu"}, "cannot use it here"),
        ({"device": "meta"}, "holds no numbers"),
        ({"device": torch.device("meta")}, "holds no numbers"),
        ({"dtype": torch.int8}, "unknown dtype 'torch.int8'"),
    ],
)
def test_devices_and_dtypes_that_cannot_be_are_refused(options: dict[str, Any], part: str) -> None:
    assert part in refusal(model_of(), DICTIONARIES, **options)


def test_a_refusal_leaves_the_callers_model_alone() -> None:
    model = model_of()
    refusal(model, {"embed": random_dictionary(width=3)}, dtype="bfloat16")
    assert model.dtype == torch.float32


def test_a_model_file_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """transformers would fill the gap with random numbers."""
    path = model_in(tmp_path) / "model.safetensors"
    kept = {name: weight for name, weight in load_file(path).items() if "layers.1.mlp" not in name}
    save_file(kept, path, metadata={"format": "pt"})
    message = refusal(tmp_path, DICTIONARIES)
    assert "lacks 4 weights" in message
    assert "layers.1.mlp" in message


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"vocab_size": 10**9}, "claims vocab_size 1000000000 x hidden_size 16, 16000000000 numbers, and the weights'"),
        ({"hidden_size": 10**6}, "x hidden_size 1000000"),
        ({"intermediate_size": 10**8}, "x intermediate_size 100000000"),
        ({"num_hidden_layers": 10**9}, "claims num_hidden_layers 1000000000 and the weights' files hold"),
    ],
)
def test_a_config_that_claims_more_than_the_files_hold_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], part: str
) -> None:
    path = model_in(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    assert part in refusal(tmp_path, DICTIONARIES)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_model_folder_with_deeply_nested_json_is_refused(tmp_path: Path, name: str) -> None:
    path = model_in(tmp_path) / name
    table = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**table, "more": "@"}).replace('"@"', "[" * 5000 + "]" * 5000))
    assert f"{path}: its values are nested 5001 deep; 64 is the most" in refusal(tmp_path, DICTIONARIES)


def test_a_model_file_with_a_weight_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = model_in(tmp_path) / "model.safetensors"
    weights = load_file(path)
    weights["gpt_neox.embed_in.weight"] = weights["gpt_neox.embed_in.weight"][:, :8].contiguous()
    save_file(weights, path, metadata={"format": "pt"})
    assert "could not be loaded" in refusal(tmp_path, DICTIONARIES)


def test_a_tampered_model_beside_its_suite_is_refused(tmp_path: Path) -> None:
    suite = suite_in(tmp_path, model={"source": "model"}, tables={"model.files": {'"model.safetensors"': "0" * 64}})
    model_in(tmp_path / "model")
    assert "model.safetensors: sha256 is" in refusal(None, suite)


def test_a_task_without_the_split_is_refused(tmp_path: Path) -> None:
    suite = load_suite(suite_in(tmp_path, tables={"tasks.a": {"train": "x"}}))
    with pytest.raises(fc.InputError, match="task 'a' has no test file"):
        suite.task_file("a", "test")


def test_a_mapping_of_paths_is_refused() -> None:
    assert "site embed: str is not a dictionary" in refusal(model_of(), {"embed": "embed.safetensors"})


def test_an_unknown_device_is_refused() -> None:
    message = refusal(model_of(), {"embed": random_dictionary()}, device="gpu")
    assert "unknown device 'gpu'" in message


@pytest.mark.parametrize("as_folder", [False, True])
def test_an_unknown_dtype_is_refused_with_the_known_ones(tmp_path: Path, as_folder: bool) -> None:
    model = model_in(tmp_path) if as_folder else model_of()
    message = refusal(model, {"embed": random_dictionary()}, dtype="float23")
    assert message == "unknown dtype 'float23'; known: float32, float64, bfloat16, float16"
