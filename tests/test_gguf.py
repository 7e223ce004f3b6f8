"""Models in GGUF files: the same model as the one that was written, and one message for files that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import featcircuits as fc
from featcircuits.dictionaries import identity
from featcircuits.loading.load import load_bare
from featcircuits.provenance.manifest import origins_of

gguf = pytest.importorskip("gguf")

WORDS = ["<unk>", "<s>", "</s>", "a", "b", "c", "d", "e", "ab", "f", "g", "h", "i", "j", "k", "l"]


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries and keys in the order of GGUF, whose rotations pair neighbours."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def written(path: Path, model: LlamaForCausalLM, quantised: Any = None) -> Path:
    config, writer = model.config, gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3] + [1] * (len(WORDS) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    outer = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    for name, weight in model.state_dict().items():
        if name in outer:
            there = outer[name]
        else:
            _, _, layer, rest = name.split(".", 3)
            there = f"blk.{layer}.{names[rest.removesuffix('.weight')]}"
        if "q_proj" in name:
            weight = permuted(weight, config.num_attention_heads)
        if "k_proj" in name:
            weight = permuted(weight, config.num_key_value_heads)
        array = weight.numpy()
        if quantised is not None and array.ndim == 2:
            writer.add_tensor(f"{there}.weight", gguf.quants.quantize(array, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(f"{there}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny())


TOKENS = torch.tensor([[1, 3, 4, 5, 6]])


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_gguf_file_or_its_folder_is_the_model_that_was_written(file: Path, named: str) -> None:
    bare = load_bare(file if named == "file" else file.parent)
    torch.testing.assert_close(bare.model(TOKENS).logits, tiny()(TOKENS).logits, rtol=1e-5, atol=1e-6)
    assert bare.model.config._name_or_path == str(file)
    assert bare.tokenizer.convert_tokens_to_ids("c") == WORDS.index("c")


def test_quantised_weights_are_dequantised_and_the_manifest_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "tiny-q8.gguf", tiny(), gguf.GGMLQuantizationType.Q8_0)
    spliced = fc.load(path, {"resid_0": identity(32)})
    assert spliced.model.dtype == torch.float32
    exact, found = tiny()(TOKENS).logits, spliced.model(TOKENS).logits
    assert 0 < (found - exact).abs().max() < 0.05 * exact.abs().max()
    record = origins_of(spliced)["model"]
    assert record["source"] == str(path)
    assert record["weights"] == "dequantised from GGUF"


def test_what_was_dequantised_is_saved_as_a_plain_model(file: Path, tmp_path: Path) -> None:
    model = load_bare(file).model
    model.save_pretrained(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_folder_with_several_files_asks_for_one(file: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    with pytest.raises(fc.InputError, match=r"2 GGUF files \(.a.gguf., .b.gguf.\); name one"):
        load_bare(tmp_path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: b"", "not a GGUF file"),
        (lambda raw: b"GGML" + raw[4:], "not a GGUF file"),
        (lambda raw: raw[:4] + (9).to_bytes(4, "little") + raw[8:], "GGUF version 9"),
        (lambda raw: raw[:8] + (2**60).to_bytes(8, "little") + raw[16:], "more than its .* bytes can hold"),
        (lambda raw: raw[: len(raw) // 8], "could not be loaded"),
        (lambda raw: raw[: len(raw) - 999], "could not be loaded"),
    ],
)
def test_damaged_files_end_in_one_message(file: Path, tmp_path: Path, damage: Any, said: str) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damage(file.read_bytes()))
    with pytest.raises(fc.InputError, match=said):
        load_bare(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(fc.InputError, match="nowhere.gguf"):
        load_bare(tmp_path / "nowhere.gguf")
