"""What is neither linear nor known to a rule is refused when a model is loaded, by name; all else adds up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

import featcircuits as fc
from featcircuits.model.architecture import FAMILIES as ROWS
from featcircuits.model.architecture import Family, architecture_of
from featcircuits.model.families import LLAMA
from tests.tiny import LAYERS, VOCABULARY, WIDTH, n_hooks, random_task, tiny_model

HALF = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def loaded(model: Any) -> fc.SplicedModel:
    """With the whole of the stream as one node at every full cut."""
    width = model.config.get_text_config().hidden_size
    layers = model.config.get_text_config().num_hidden_layers
    names = ["embed", *(f"resid_{layer}" for layer in range(layers))]
    return fc.load(model, {name: fc.dictionaries.identity(width) for name in names})


def largest_miss(model: Any) -> float:
    """Of the secants' sum at any full cut, as a share of the largest total effect."""
    spliced = loaded(model)
    effects = fc.node_effects(spliced, random_task(3, 5), "secant")
    total = effects.total_effect
    sums = [effects.features(site).sum((1, 2)) + effects.error(site).sum(1) for site in spliced.sites]
    return max(((found - total).abs().max() / total.abs().max()).item() for found in sums)


def test_a_row_has_a_product_and_its_branch_or_neither() -> None:
    for change in ({"branch": None}, {"product": None}):
        with pytest.raises(fc.InputError, match=r"product=.* and branch=.*; give both"):
            replace(LLAMA, **change)
    assert replace(LLAMA, product=None, branch=None).product is None


# what a row does not name


def each_layer(model: Any, path: str) -> Iterator[Any]:
    for layer in model.model.layers:
        yield layer.get_submodule(path)


def clipped_queries(model: Any) -> None:
    """Far outside of what the short forwards have, as OLMo's and DBRX's clip_qkv."""
    for projection in each_layer(model, "self_attn.q_proj"):
        projection.register_forward_hook(lambda _, __, y: y.clamp(-1000, 1000))


def normed_values(model: Any) -> None:
    for attention in each_layer(model, "self_attn"):
        attention.v_proj = nn.Sequential(attention.v_proj, nn.LayerNorm(WIDTH // 2).to(model.dtype))


def squashed_heads(model: Any) -> None:
    for projection in each_layer(model, "self_attn.o_proj"):
        projection.register_forward_pre_hook(lambda _, args: (torch.tanh(args[0]),))


def gated_heads(model: Any) -> None:
    for projection in each_layer(model, "self_attn.o_proj"):
        projection.register_forward_pre_hook(lambda _, args: (args[0] * torch.sigmoid(args[0]),))


def rectified_attention(model: Any) -> None:
    for attention in each_layer(model, "self_attn"):
        attention.register_forward_hook(lambda _, __, output: (output[0].relu(), *output[1:]))


def capped_logits(model: Any) -> None:
    model.lm_head.register_forward_hook(lambda _, __, y: 5 * torch.tanh(y / 5))


def routed(model: Any) -> None:
    """Two linear maps mixed by a router."""

    class Routed(nn.Module):
        def __init__(self, one: nn.Module) -> None:
            super().__init__()
            self.one, self.two = one, nn.Linear(24, WIDTH, bias=False).to(model.dtype)
            self.router = nn.Linear(24, 2).to(model.dtype)

        def forward(self, x: Tensor) -> Tensor:
            share = self.router(x).softmax(-1)
            return share[..., :1] * self.one(x) + share[..., 1:] * self.two(x)

    for mlp in each_layer(model, "mlp"):
        mlp.down_proj = Routed(mlp.down_proj)


def cut_off_values(model: Any) -> None:
    """Nothing that autograd could tell from a linear map: the numbers tell."""
    for projection in each_layer(model, "self_attn.v_proj"):
        projection.register_forward_hook(lambda _, __, y: torch.where(y > 0.5, 0.5, y))


def half_detached(model: Any) -> None:
    for mlp in each_layer(model, "mlp"):
        mlp.register_forward_hook(lambda _, __, y: y + y.detach())


def rounded(model: Any) -> None:
    for mlp in each_layer(model, "mlp"):
        mlp.register_forward_hook(lambda _, __, y: y + y.round())


def positions_as_numbers(model: Any) -> None:
    """A mask that is added is more than open and closed, as ALiBi's."""

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **rest: Any) -> Any:
        return eager_attention_forward(
            module, query, key, value, mask + 0.3 * torch.arange(key.shape[2]).to(key), **rest
        )

    ALL_ATTENTION_FUNCTIONS.register("sloped", attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register("sloped", eager_mask)
    model.config._attn_implementation = "sloped"


@HALF
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (clipped_queries, r"model.layers.0.self_attn.q_proj \(Linear\): its clamp is not linear"),
        (normed_values, r"model.layers.0.self_attn.v_proj.1 \(LayerNorm\): its nativelayernorm is not linear"),
        (squashed_heads, r"model.layers.0.self_attn \(LlamaAttention\): its tanh is not linear"),
        (gated_heads, r"model.layers.0.self_attn \(LlamaAttention\): its (mul|sigmoid) is not linear"),
        (rectified_attention, r"model.layers.0.self_attn \(LlamaAttention\): its relu is not linear"),
        (capped_logits, r"lm_head \(Linear\): its tanh is not linear"),
        (routed, r"model.layers.0.mlp.down_proj \(Routed\): its (mul|softmax) is not linear"),
        (cut_off_values, r"from enter_0 to attn_0 secants carry .* neither linear nor known to a rule"),
        (half_detached, r"from attn_0 to enter_1 secants carry .* neither linear nor known to a rule"),
        (rounded, r"from attn_0 to enter_1 secants carry .* neither linear nor known to a rule"),
        (positions_as_numbers, r"from enter_0 to attn_0 secants carry .* neither linear nor known to a rule"),
    ],
)
def test_what_no_rule_knows_is_named_in_every_dtype(
    change: Callable[[Any], None], message: str, dtype: torch.dtype
) -> None:
    model = tiny_model("llama", dtype=dtype)
    change(model)
    hooks = n_hooks(model)
    with pytest.raises(fc.InputError, match=message):
        loaded(model)
    assert n_hooks(model) == hooks
    assert all(parameter.requires_grad for parameter in model.parameters())


# what is linear


class Adapted(nn.Module):
    """A linear map with another of low rank beside it, as LoRA's layers."""

    def __init__(self, base: nn.Module, wide: int, narrow: int) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A, self.lora_B = nn.Linear(wide, 2, bias=False), nn.Linear(2, narrow, bias=False)
        self.lora_dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 2.0 * self.lora_B(self.lora_A(self.lora_dropout(x)))


def adapted(model: Any) -> None:
    for attention in each_layer(model, "self_attn"):
        attention.q_proj, attention.v_proj = (
            Adapted(attention.q_proj, WIDTH, WIDTH),
            Adapted(attention.v_proj, WIDTH, 8),
        )
    model.to(model.dtype)


class Quantised(nn.Module):
    """Whole numbers and a scale per row in place of weights."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.register_buffer("scale", weight.abs().amax(1, keepdim=True) / 127)
        self.register_buffer("weight", (weight / self.scale).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype))  # type: ignore[operator]


def quantised(model: Any) -> None:
    for layer in model.model.layers:
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear):
                parent, _, child = name.rpartition(".")
                setattr(layer.get_submodule(parent), child, Quantised(module))


def scaled_logits(model: Any) -> None:
    model.lm_head.register_forward_hook(lambda _, __, y: y / 3)


@pytest.mark.parametrize("change", [adapted, quantised, scaled_logits])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_is_linear_needs_no_rule(change: Callable[[Any], None], dtype: torch.dtype) -> None:
    model = tiny_model("llama", dtype=dtype)
    change(model.eval())
    model.to(dtype).eval()
    assert largest_miss(model) < {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 0.2}[dtype]


# architectures without a row

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 24, "max_position_embeddings": 64,
    "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def of_type(model_type: str, **options: Any) -> Any:
    """A tiny random model of any type that transformers has."""
    kind = transformers.models.auto.configuration_auto.CONFIG_MAPPING[model_type]
    known = {
        name: value
        for name, value in SMALL.items()
        if hasattr(kind(), name) and not isinstance(getattr(kind, name, None), property)
    }
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(kind(**{**known, **options}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.3 if parameter.ndim > 1 else 0.1)
    return model.float().eval()


@pytest.mark.parametrize(
    ("model_type", "row"),
    [("gemma", "llama"), ("olmo3", "olmo2"), ("smollm3", "llama"), ("granite", "llama"), ("exaone4", "olmo2"),
     ("ministral", "llama")],
)  # fmt: skip
def test_a_copy_of_a_family_is_read_as_it_and_adds_up(model_type: str, row: str) -> None:
    model = of_type(model_type)
    with pytest.warns(UserWarning, match=f"'{model_type}' has no row; it passes all checks of '{row}'"):
        assert largest_miss(model) < 1e-5


@pytest.mark.parametrize(
    ("model_type", "options", "reason"),
    [
        ("hunyuan_v1_dense", {}, r"row of 'llama' .*self_attn.key_layernorm \(HunYuan.*\): its mul is not linear"),
        ("granite", {"residual_multiplier": 0.5}, r"row of 'llama' .*not the sum of the stream"),
        ("granite", {"embedding_multiplier": 3.0}, r"row of 'llama' .*does not move it by as much"),
        ("stablelm", {}, r"StableLmForCausalLM computes attention by itself"),
        ("olmo", {"clip_qkv": 8.0}, r"OlmoLayerNorm is neither a LayerNorm nor an RMSNorm"),
        ("opt", {"word_embed_proj_dim": WIDTH, "ffn_dim": 24}, ""),
        ("bloom", {"n_layer": 2, "n_head": 2}, ""),
        ("falcon", {}, ""),
        ("mamba", {"state_size": 4}, ""),
        ("gptj", {"n_layer": 2, "n_head": 2, "n_embd": WIDTH, "rotary_dim": 4}, ""),
        ("mixtral", {}, ""),
        ("cohere", {}, ""),
        ("starcoder2", {}, ""),
        ("xglm", {"d_model": WIDTH, "num_layers": 2, "attention_heads": 2, "ffn_dim": 24}, ""),
    ],
)  # fmt: skip
def test_an_architecture_that_no_row_fits_is_not_supported(
    model_type: str, options: dict[str, Any], reason: str
) -> None:
    model = of_type(model_type, **options)
    message = (
        rf"model family '{model_type}' is not supported; supported: gemma2, .*qwen3\. A new one is a row.*{reason}"
    )
    with pytest.raises(fc.InputError, match=message):
        loaded(model)


def test_a_linear_scale_of_attention_or_logits_adds_up() -> None:
    model = of_type("granite", attention_multiplier=0.2, logits_scaling=4.0)
    with pytest.warns(UserWarning, match="treated as one"):
        assert largest_miss(model) < 1e-5


def test_a_config_without_the_numbers_that_rows_need_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(type(model.config), "get_text_config", lambda self: SimpleNamespace(hidden_size=WIDTH))
    with pytest.raises(fc.InputError, match="LlamaConfig has no num_attention_heads"):
        architecture_of(model)


def test_a_row_that_breaks_a_forward_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = ROWS["phi3"].queries_keys
    narrow = replace(fused, values=lambda config: torch.zeros(7, dtype=torch.bool))  # type: ignore[type-var]
    monkeypatch.setitem(ROWS, "phi3", replace(ROWS["phi3"], queries_keys=narrow))  # type: ignore[arg-type]
    with pytest.raises(
        fc.InputError, match="a forward pass of a few tokens ends in RuntimeError: 'The size of tensor a"
    ):
        loaded(tiny_model("phi3"))


def test_a_model_class_in_another_file_than_its_attention_is_opened() -> None:
    """Its file has no eager kernel."""

    class Mine(transformers.LlamaForCausalLM):
        pass

    own = tiny_model("llama")
    mine = Mine(own.config).to(torch.float64).eval()
    mine.load_state_dict(own.state_dict())
    assert largest_miss(mine) == pytest.approx(largest_miss(own), abs=1e-9)


def test_the_row_of_the_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/howto/model-family.md's, on the family that it is about."""
    text = (Path(__file__).parents[1] / "docs" / "howto" / "model-family.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"Family": Family}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    monkeypatch.setitem(ROWS, "olmo2", names["FAMILIES"]["olmo2"])  # type: ignore[arg-type]
    assert largest_miss(tiny_model("olmo2", dtype=torch.float32)) < 1e-5
    with pytest.raises(fc.InputError, match="give both"):
        replace(names["OLMO2"], branch=None)
