"""The shipped suite is what its suite.toml says: files, formats, tasks and the model's accuracy."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import featcircuits as fc
from featcircuits.dossiers.text import text_of
from featcircuits.splicing.sinks import usual_tokens
from featcircuits.splicing.spliced import SplicedModel
from featcircuits.tasks.table import METRICS
from featcircuits.tasks.token_rows import rows_of, token_batches

FOLDER = Path(__file__).parents[1] / "saes" / "grammar-4l"
SUITE = tomllib.loads((FOLDER / "suite.toml").read_text(encoding="utf-8"))
TASKS = sorted(SUITE["tasks"])
KEY_ROLES = ("subject", "attractor", "name", "giver", "receiver", "event")
AGREEMENT = [task for task in TASKS if task.startswith("agreement")]
SAMPLE = 100
SLACK = 0.04
"""How far a sample of 100 pairs may lie below the claim over all pairs."""


@pytest.fixture(scope="module")
def spliced() -> SplicedModel:
    return fc.load(suite=FOLDER)


def rows(task: str, split: str) -> list[dict[str, Any]]:
    text = (FOLDER / SUITE["tasks"][task][split]).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def role_text(row: dict[str, Any], prefix: str, role: str) -> str:
    """The word that a role covers; the same token of either prompt."""
    piece = row["roles"][role]
    clean = row["clean_prefix"]
    start = clean.index(piece) if isinstance(piece, str) else piece[0]
    return row[prefix].split()[clean[:start].count(" ")].strip(",")


def test_every_file_is_the_recorded_one() -> None:
    for name, digest in SUITE["model"]["files"].items():
        assert sha256(FOLDER / "model" / name) == digest, name
    assert {path.name for path in (FOLDER / "model").iterdir()} == set(SUITE["model"]["files"])
    for name, site in SUITE["sites"].items():
        assert sha256(FOLDER / site["source"]) == site["sha256"], name


def test_the_folder_is_small_and_holds_nothing_executable() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert {path.suffix for path in files} == {".md", ".toml", ".json", ".jsonl", ".safetensors", ".txt", ".parquet"}


def test_the_dossiers_are_of_every_feature_and_of_the_text_beside_them(spliced: SplicedModel) -> None:
    dossiers = fc.Dossiers.open(FOLDER, spliced)
    assert len(dossiers) == sum(site["n_features"] for site in SUITE["sites"].values())
    assert dossiers.manifest["text"]["sha256"] == text_of(spliced, FOLDER / "text.txt", 128).sha256
    assert dossiers.manifest["model"]["source"] == "saes/grammar-4l/model"
    assert sum(path.stat().st_size for path in (FOLDER / "dossiers").iterdir()) < 5e6


def test_every_site_has_a_dictionary_in_the_plain_form() -> None:
    layers = range(SUITE["model"]["num_hidden_layers"])
    expected = {"embed"} | {f"{kind}_{n}" for kind in ("attn", "mlp", "resid") for n in layers}
    assert set(SUITE["sites"]) == expected
    for name, site in SUITE["sites"].items():
        with safe_open(FOLDER / site["source"], framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the file itself is not iterable)
        width, count = site["width"], site["n_features"]
        shapes = {
            "W_enc": (width, count),
            "b_enc": (count,),
            "W_dec": (count, width),
            "b_dec": (width,),
            "threshold": (count,),
        }
        assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == shapes, name
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}, name
        assert (tensors["threshold"] > 0).all(), name
        assert torch.allclose(tensors["W_dec"].norm(dim=1), torch.ones(count), atol=1e-5), name


@pytest.mark.parametrize("name", sorted(SUITE["sites"]))
def test_dictionaries_are_as_good_as_asked_for(name: str) -> None:
    site = SUITE["sites"][name]
    assert site["variance_unexplained"] <= 0.05
    assert site["l0"] <= 32
    assert site["loss_recovered"] >= 0.97
    assert site["dead_features"] <= 0.05 * site["n_features"]


def test_no_token_is_a_sink(spliced: SplicedModel) -> None:
    """So the suite's figures and its training are the same with sinks kept; the card says so."""
    files = (FOLDER / SUITE["tasks"][task]["test"] for task in TASKS)
    prompts = [row for path in files for row in rows_of(fc.Task.from_jsonl(path, spliced.tokenizer).take(40))]
    batches = token_batches(prompts, 512)
    usual = usual_tokens(spliced, batches, spliced.sites)
    for tokens in batches:
        for site, x in spliced.record(tokens)[1].items():
            assert torch.equal(usual.at(site, x, tokens), tokens.mask > 0), site
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, site in SUITE["sites"].items():
        assert (site["sink_tokens"], site["sink_tokens_training"]) == (0, 0)
        assert re.search(rf"\| `{name}` \| .* \| 0 \(0\) \|", card)


@pytest.mark.parametrize("task", TASKS)
def test_train_and_test_share_no_key_word(task: str) -> None:
    """A shared noun would let a circuit be right by heart."""
    words = {
        split: {
            role_text(row, prefix, role)
            for row in rows(task, split)
            for prefix in ("clean_prefix", "patch_prefix")
            for role in KEY_ROLES
            if role in row["roles"]
        }
        for split in ("train", "test")
    }
    assert words["train"]
    assert words["test"]
    assert not words["train"] & words["test"]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("task", TASKS)
def test_pairs_align_and_differ(task: str, split: str, spliced: SplicedModel) -> None:
    """Reading a task file already refuses answers that are not one known token in context."""
    found = fc.Task.from_jsonl(FOLDER / SUITE["tasks"][task][split], spliced.tokenizer)
    assert len(found) >= 300
    unknown = spliced.tokenizer.unk_token_id
    for example in found.examples:
        assert example.corrupted is not None
        assert len(example.clean) == len(example.corrupted)
        assert sum(a != b for a, b in zip(example.clean, example.corrupted, strict=True)) == 1
        assert unknown not in example.clean + example.corrupted
        assert not set(example.clean_answers) & set(example.corrupted_answers)
        assert example.roles
    texts = [json.dumps({**row, "case": ""}) for row in rows(task, split)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("task", AGREEMENT)
def test_agreement_prompts_have_one_length_and_both_directions(task: str, spliced: SplicedModel) -> None:
    for split in ("train", "test"):
        found = fc.Task.from_jsonl(FOLDER / SUITE["tasks"][task][split], spliced.tokenizer)
        assert len({len(example.clean) for example in found.examples}) == 1
        cases = [row["case"] for row in rows(task, split)]
        counts = [cases.count(case) for case in set(cases)]
        assert len(counts) in (2, 4)
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("task", TASKS)
def test_the_model_does_what_the_card_claims(task: str, spliced: SplicedModel) -> None:
    claimed = SUITE["tasks"][task]["accuracy_test"]
    assert claimed >= 0.98
    path = FOLDER / SUITE["tasks"][task]["test"]
    batch = fc.Task.from_jsonl(path, spliced.tokenizer).batch(range(SAMPLE))
    metric = METRICS.parse(SUITE["tasks"][task]["metric"])
    assert batch.corrupted is not None
    with torch.no_grad():
        clean = metric(spliced.run(batch.clean, answers_only=True), batch.answers)
        corrupted = metric(spliced.run(batch.corrupted, answers_only=True), batch.answers)
    assert ((clean > 0) & (corrupted < 0)).float().mean() >= claimed - SLACK


def test_the_tokenizer_gives_text_back(spliced: SplicedModel) -> None:
    text = "When Mary and John went to the store, John gave a drink to Mary."
    encoded = spliced.tokenizer(text, return_offsets_mapping=True)
    assert spliced.tokenizer.decode(encoded["input_ids"]) == text
    assert [text[a:b] for a, b in encoded["offset_mapping"]][:2] == ["When", "Mary"]


@pytest.mark.parametrize("offload", ["cpu", "disk"])
def test_an_offloaded_suite_traces_the_same_circuit(offload: str) -> None:
    here, elsewhere = fc.load(suite=FOLDER), fc.load(suite=FOLDER, offload=offload)
    assert not any(hasattr(dictionary, "W_enc") for dictionary in elsewhere.dictionaries.values())
    task = fc.Task.from_jsonl(FOLDER / "tasks" / "ioi_train.jsonl", here.tokenizer, aggregate="role").take(4)
    one, two = (fc.trace(model, task, keep_nodes="top=40", keep_edges="top=200").circuit for model in (here, elsewhere))
    assert list(one.nodes) == list(two.nodes)
    for node, score in one.nodes.items():
        assert two.nodes[node].effect == pytest.approx(score.effect, rel=1e-5)
    assert one.edges.keys() == two.edges.keys()
    for edge, weight in one.edges.items():
        assert two.edges[edge] == pytest.approx(weight, rel=1e-4, abs=1e-6)
    with pytest.raises(fc.InputError, match="offload is 'tape'; known: 'cpu', 'disk'"):
        fc.load(suite=FOLDER, offload="tape")
