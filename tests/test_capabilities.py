"""What a family's row claims is checked on the model: right rows pass, each wrong claim is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import featcircuits as fc
from featcircuits.loading.capabilities import check_capabilities, fitting_architecture
from featcircuits.model.architecture import FAMILIES as ROWS
from featcircuits.model.architecture import Fused, architecture_of
from tests.tiny import EAGER_ONLY, FAMILIES, WIDTH, made_linear, n_hooks, random_task, spliced_model, tiny_model


def check(model: PreTrainedModel) -> None:
    check_capabilities(model, architecture_of(model))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_is_right_about_its_models(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family, dtype=dtype)
    torch.manual_seed(5)
    check(model)
    if family not in EAGER_ONLY:
        model.set_attn_implementation("sdpa")
        check(model)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    assert n_hooks(model) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_models_whose_parts_were_taken_out_are_not_refused(family: str) -> None:
    """Norms and activations replaced by the identity, pattern uniform; or an MLP that writes nothing."""
    check(made_linear(tiny_model(family)))
    silent = tiny_model(family)
    layer = architecture_of(silent).layers(silent)[1]
    with torch.no_grad():
        for parameter in layer.get_submodule("mlp").parameters():
            parameter.zero_()
    check(silent)


def test_a_model_in_training_is_checked_without_dropout_and_goes_on_training() -> None:
    model = tiny_model("gpt2").train()
    check(model)
    assert model.training


def queries_alone(config: Any) -> Tensor:
    return torch.arange(3 * config.hidden_size) < config.hidden_size


PRE_NORMS = ("input_layernorm", "pre_feedforward_layernorm")

WRONG_ROWS = [
    ("llama", {"attn": "self_attention"}, r"no module 'model.layers.0.self_attention' \(attn\).*model-family.md"),
    ("llama", {"final_norm": "model.layers.0.input_layernorm"}, r"final .*does not read resid_2"),
    ("llama", {"qk_norms": ("self_attn.q_norm",)}, r"no module 'model.layers.0.self_attn.q_norm' \(qk_norms\[0\]\)"),
    ("gpt2", {"attn": "attn.c_attn"}, r"attn_0 \(output of transformer.h.0.attn.c_attn\): the shape is .* 48\]"),
    ("gpt2", {"projection": "mlp.c_proj"}, r"attn_z_0 \(input of transformer.h.0.mlp.c_proj\): the shape is .* 24\]"),
    ("gpt2", {"mlp_module": "mlp.act"}, r"mlp_in_0 \(input of transformer.h.0.mlp.act\): the shape"),
    ("gpt2", {"attn": "attn.c_proj", "mlp": "attn.c_proj"}, r"resid_0 \(output of transformer.h.0\): not the sum"),
    ("gemma2", {"attn": "self_attn"}, r"resid_0 .*not the sum of .* attn_0 \(output of model.layers.0.self_attn\)"),
    ("gemma3_text", {"mlp": "mlp"}, r"resid_0 .*not the sum of .* mlp_0 \(output of model.layers.0.mlp\)"),
    ("gpt_neo", {"tuples": False}, r"resid_0 .*the block returns a tuple, and the row has tuples=False"),
    ("llama", {"tuples": True}, r"resid_0 .*the block returns a tensor, and the row has tuples=True"),
    ("gpt_neox_parallel", {"sequential": lambda config: True}, r"resid_mid_0 .*not the sum of the stream .* attn_0"),
    ("gpt_neox_sequential", {"sequential": lambda config: False}, r"an edit of attn_0 .* moves mlp_in_0 .*at slot 2"),
    ("llama", {"norms": ("self_attn", "post_attention_layernorm")}, r"norm .*0.self_attn: .*neither a LayerNorm"),
    ("gpt2", {"norms": ("ln_1", "attn.resid_dropout")}, r"norm transformer.h.0.attn.resid_dropout: Dropout is neither"),
    ("gpt2", {"activation": "mlp.c_fc"}, r"activation_0 \(output of transformer.h.0.mlp.c_fc\): not elementwise"),
    ("gpt2", {"activation": "ln_2"}, r"an edit of mlp_in_0 .*does not reach gate_0 \(input of transformer.h.0.ln_2\)"),
    ("llama", {"product": None, "branch": None}, r"an edit of mlp_in_0 .*, activation_0 .* moves mlp_0"),
    ("gpt2", {"product": "mlp.c_proj", "branch": "mlp.c_fc"}, r"product_0 .*not the product of activation_0 .*mlp.act"),
    ("llama", {"product": "mlp.up_proj"}, r"product_0 .*not the product of activation_0"),
    ("llama", {"branch": "mlp.gate_proj"}, r"product_0 .*not the product of activation_0 .*branch_0 .*gate_proj"),
    ("phi3", {"branch": "mlp.activation_fn"}, r"product_0 .*not the product of activation_0 .*activation_fn"),
    ("llama", {"branch": "mlp.up"}, r"no module 'model.layers.0.mlp.up' \(branch\)"),
    ("qwen3", {"qk_norms": ()}, r"0.self_attn.k_norm \(Qwen3RMSNorm\): its mul is not linear.*q_norm"),
    ("olmo2", {"qk_norms": ("self_attn.q_norm",)}, r"0.self_attn.k_norm \(Olmo2RMSNorm\): its mul is not linear"),
    ("gemma3_text", {"norms": PRE_NORMS}, r"layers.0.post_attention_layernorm .*: its mul is not linear"),
    ("gemma3_text", {"norms": ("input_layernorm",)}, r"resid_mid_0 .*not the sum of the stream .* attn_0"),
    ("llama", {"queries_keys": ("self_attn.q_proj", "self_attn.v_proj")}, r"v_proj\) at all .* moves attn_z_0 .* 0"),
    ("gpt2", {"queries_keys": Fused("attn.c_attn", queries_alone)}, r"c_attn\).* moves attn_z_0 .*slot 0"),
    ("llama", {"queries_keys": ("self_attn.o_proj",)}, r"an edit of attn_z_0 .*moves projection0_0 .*slot 2"),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("family", "change", "message"), WRONG_ROWS)
def test_a_wrong_claim_is_named_when_the_model_is_loaded(
    family: str, change: dict[str, Any], message: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(family, dtype=dtype)
    name = model.config.model_type
    monkeypatch.setitem(ROWS, name, replace(ROWS[name], **change))  # type: ignore[arg-type]
    with pytest.raises(fc.InputError, match=message):
        fc.load(model, {"embed": fc.dictionaries.identity(WIDTH)})
    assert n_hooks(model) == 0


def softmax_for_activation(model: Any) -> None:
    model.transformer.h[2].mlp.act = nn.Softmax(-1)


def later_tokens_in_the_attention(model: Any) -> None:
    model.transformer.h[0].attn.c_proj.register_forward_hook(lambda _, __, y: y + y.mean(1, keepdim=True))


def scaled_stream(model: Any) -> None:
    model.transformer.h[1].register_forward_hook(lambda _, __, y: y * 1.1)


def one_activation_for_two_layers(model: Any) -> None:
    model.transformer.h[1].mlp.act = model.transformer.h[0].mlp.act


def norm_of_another_kind(model: Any) -> None:
    model.transformer.h[0].ln_2 = nn.GroupNorm(1, WIDTH)
    model.transformer.h[0].ln_2.forward = lambda x: torch.tanh(x)


def pattern_without_queries(model: Any) -> None:
    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **_: Any) -> Any:
        return (mask.softmax(-1) @ value).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("uniform", attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register("uniform", eager_mask)
    model.config._attn_implementation = "uniform"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pattern_without_queries, r"an edit of projection0_0 .* at all slots does not reach attn_z_0"),
        (softmax_for_activation, r"activation_2 \(output of transformer.h.2.mlp.act\): not elementwise"),
        (later_tokens_in_the_attention, r"an edit of attn_z_0 .*moves attn_0 .*at slot 0"),
        (scaled_stream, r"resid_1 \(output of transformer.h.1\): not the sum"),
        (one_activation_for_two_layers, r"activation_0 .*one forward pass calls the module several times"),
        (norm_of_another_kind, r"norm transformer.h.0.ln_2: GroupNorm is neither a LayerNorm nor an RMSNorm"),
    ],
)
def test_a_model_that_was_changed_is_named_too(change: Any, message: str) -> None:
    model = tiny_model("gpt2", dtype=torch.float32)
    change(model)
    with pytest.raises(fc.InputError, match=message):
        check(model)


def test_a_model_with_other_modules_is_taken_as_it_is_without_the_check() -> None:
    model: Any = tiny_model("gpt2")
    model.transformer.h[1].mlp = nn.Linear(WIDTH, WIDTH).double()
    dictionaries = {"mlp_1": fc.dictionaries.identity(WIDTH)}
    with pytest.raises(fc.InputError, match=r"there is no module 'transformer.h.1.mlp.act' \(activation\)"):
        fc.load(model, dictionaries)
    found = fc.node_effects(fc.load(model, dictionaries, check=False), random_task(), "exact")
    assert found.features("mlp_1").abs().max() > 0


class NewConfig(transformers.LlamaConfig):
    model_type = "brand_new"


def test_an_unknown_family_is_read_as_one_whose_claims_all_hold() -> None:
    model = tiny_model("llama")
    expected = fc.node_effects(spliced_model(model), random_task(), "relp")
    settings = {k: v for k, v in model.config.to_dict().items() if k != "model_type"}
    model.config = NewConfig(**settings, attn_implementation="eager")
    with pytest.warns(UserWarning, match="'brand_new' has no row; it passes all checks of 'llama'"):
        assert fitting_architecture(model).family == ROWS["llama"]
    with pytest.warns(UserWarning, match="brand_new"):
        found = fc.node_effects(spliced_model(model), random_task(), "relp")
    assert torch.equal(found.features("mlp_1"), expected.features("mlp_1"))
    scaled: Any = model
    scaled.model.layers[0].register_forward_hook(lambda _, __, y: y * 1.1)
    with pytest.raises(fc.InputError, match="'brand_new' is not supported"):
        fitting_architecture(model)
