"""A suite of each source, traced and evaluated from the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from featcircuits.circuit.circuit import Circuit
from featcircuits.model.sites import Site
from tests.test_cli import call
from tests.test_sources import FOLDER, golden

SHIPPED = Path(__file__).parents[1] / "saes" / "grammar-4l"
WIDTH = 24
STANDS_AT = {
    "sae_lens_topk": "resid_1",
    "sae_lens_gated": "attn_1",
    "sae_lens_layer_norm": "mlp_1",
    "sae_lens_hook_z": "attn_z_1",
    "sae_lens_jumprelu_skip_transcoder": "mlp_1",
    "dictionary_learning_gated": "resid_0",
    "dictionary_learning_matryoshka": "mlp_0",
    "gemma_scope_res": "resid_1",
    "gemma_scope_transcoder": "mlp_1",
    "gemma_scope_2_skip_transcoder": "mlp_1",
    "sparsify_groupmax": "attn_0",
    "sparsify_skip_sae": "resid_0",
    "sparsify_skip_transcoder": "mlp_0",
    "circuit_tracer_topk": "mlp_1",
    "circuit_tracer_skip_transcoder": "mlp_1",
    "safetensors_gated": "resid_1",
}


def suite_in(folder: Path, site: str, source: str) -> Path:
    """A model of two layers with the shipped model's tokenizer, the dictionary, and a whole embedding."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=654, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        head_dim=6, initializer_range=0.3, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SHIPPED / "model" / name, folder / "model" / name)
    (folder / "suite.toml").write_text(
        f'format = 1\nname = "one"\n[model]\nsource = "model"\n[sites.embed]\ndictionary = "whole"\nwidth = {WIDTH}\n'
        f"[sites.{site}]\n{source}\ncheck_place = false\n",
        encoding="utf-8",
    )
    return folder


def command(suite: Path, run: Path) -> list[list[str]]:
    """Random weights agree with no dictionary, so the check of the fit is left out."""
    task = SHIPPED / "tasks" / "agreement_simple_train.jsonl"
    own = ["--task", str(task), "--limit", "4", "--keep-wrong"]
    trace = ["trace", "--suite", str(suite), *own, "--keep-nodes", "threshold=0"]
    return [
        [*trace, "--no-check-fit", "-o", str(run)],
        ["evaluate", str(run), *own, "--draws", "1"],
    ]


def check_run(run: Path, site: str) -> None:
    """Nodes and edges at the site, features among them, and a faithfulness that is a number."""
    circuit = Circuit.load(run / "circuit.safetensors")
    nodes = [node for node in circuit.nodes if node.site == Site.parse(site)]
    assert any(node.feature is not None for node in nodes)
    assert any(node.feature is None for node in nodes)
    assert any(target in nodes for _, target in circuit.edges)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert report["n_nodes"] == circuit.n_nodes


@pytest.mark.parametrize("name", STANDS_AT)
def test_a_suite_of_each_source_is_traced_and_evaluated(name: str, tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    shutil.copytree(FOLDER / name, suite / name)
    relative = golden(name).path.relative_to(FOLDER)
    suite_in(suite, STANDS_AT[name], f'source = "{relative}"')
    for arguments in command(suite, tmp_path / "run"):
        assert call(*arguments) == 0
    check_run(tmp_path / "run", STANDS_AT[name])


@pytest.mark.slow
def test_suites_of_the_hub_are_traced_from_their_cache(tmp_path: Path) -> None:
    """In one process of their own: libraries read where the cache is when they are imported, which takes seconds."""
    sources = {
        "resid_1": 'release = "gpt2-small-res-jb"\nid = "blocks.6.hook_resid_pre"',
        "mlp_1": 'repo = "mwhanna/qwen3-4b-transcoders"\npath = "layer_1.safetensors"',
    }
    commands: list[list[str]] = []
    for site, source in sources.items():
        commands += command(suite_in(tmp_path / f"suite_{site}", site, source), tmp_path / site)
    program = f"from tests.test_cli import call\nfor one in {commands!r}: assert call(*one) == 0, one"
    cache = {"HF_HUB_CACHE": str(FOLDER / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **cache}, cwd=SHIPPED.parents[1], capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for site in sources:
        check_run(tmp_path / site, site)
