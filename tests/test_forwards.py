"""Models whose hooks would not run are refused by every estimator, before and after loading; wrappers come off."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers
from torch import Tensor, nn

import featcircuits as fc
from featcircuits.model.architecture import architecture_of
from featcircuits.propagation import propagation, secants
from tests.tiny import VOCABULARY, WIDTH, random_task, spliced_model, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SITES = ["embed", "attn_1", "mlp_1", "resid_1"]


def eagerly(function: Any) -> Any:
    """Compiled by no compiler of this machine."""
    return torch.compile(function, backend="eager")


# compiled


def a_block(model: Any) -> None:
    model.model.layers[1].compile(backend="eager")


def an_activation(model: Any) -> None:
    model.model.layers[1].mlp.act_fn.compile(backend="eager")


def an_mlps_forward(model: Any) -> None:
    model.model.layers[1].mlp.forward = eagerly(model.model.layers[1].mlp.forward)


def the_whole_forward(model: Any) -> None:
    model.forward = eagerly(model.forward)


def a_module_in_its_place(model: Any) -> None:
    model.model.layers[0].self_attn = eagerly(model.model.layers[0].self_attn)


def the_whole_model(model: Any) -> None:
    model.compile(backend="eager")


def a_helper(model: Any) -> None:
    model.model.layers[0].mlp.helper = eagerly(lambda x: x)


COMPILED = [
    (a_block, r"module 'model.layers.1' is compiled \(module.compile\(\)\)"),
    (an_activation, r"module 'model.layers.1.mlp.act_fn' is compiled"),
    (an_mlps_forward, r"module 'model.layers.1.mlp' is compiled \(torch.compile\(module.forward\)\)"),
    (the_whole_forward, r"the model \(LlamaForCausalLM\) is compiled"),
    (a_module_in_its_place, r"module 'model.layers.0.self_attn' is compiled \(torch.compile\(module\)\)"),
    (the_whole_model, r"the model \(LlamaForCausalLM\) is compiled"),
    (a_helper, r"module 'model.layers.0.mlp' is compiled \(torch.compile\(module.helper\)\)"),
]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(("change", "message"), COMPILED)
def test_what_is_compiled_is_named_wherever_it_stands(change: Callable[[Any], None], message: str, check: bool) -> None:
    model = tiny_model("llama")
    change(model)
    with pytest.raises(fc.InputError, match=rf"{message}.* would ignore hooks; load the model without torch.compile"):
        fc.load(model, {"embed": fc.dictionaries.identity(WIDTH)}, check=check)
    for context in (propagation(model), secants(model, architecture_of(model))):
        with pytest.raises(fc.InputError, match=message), context:
            pass


def test_a_compiled_class_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = tiny_model("llama")
    kind = type(model.model.layers[0].mlp)
    monkeypatch.setattr(kind, "forward", eagerly(kind.forward))
    with pytest.raises(fc.InputError, match=r"layers.0.mlp' is compiled \(torch.compile\(LlamaMLP.forward\)\)"):
        spliced_model(model)


def test_a_scripted_module_is_named() -> None:
    model: Any = tiny_model("llama")
    model.model.layers[1].mlp.act_fn = torch.jit.script(nn.SiLU())
    with pytest.raises(fc.InputError, match=r"layers.1.mlp.act_fn' is compiled \(torch.jit\)"):
        spliced_model(model)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda model: torch.compile(nn.DataParallel(model))])
def test_a_wrapper_that_changes_nothing_comes_off(wrap: Callable[[Any], Any]) -> None:
    model, task = tiny_model("llama"), random_task(2, 4)
    found, expected = spliced_model(wrap(model)), spliced_model(model)
    assert found.model is model
    for estimator in ("secant", "exact"):
        one, other = (fc.node_effects(spliced, task, estimator) for spliced in (found, expected))
        assert torch.equal(one.features("resid_1"), other.features("resid_1"))


# replaced


def fused(mlp: Any) -> Callable[[Tensor], Tensor]:
    """The same numbers from the inner modules' own forwards."""
    return lambda x: mlp.down_proj.forward(mlp.act_fn.forward(mlp.gate_proj.forward(x)) * mlp.up_proj.forward(x))


def a_fused_mlp(model: Any) -> None:
    mlp = model.model.layers[1].mlp
    mlp.forward = fused(mlp)


def a_norm_by_its_forward(model: Any) -> None:
    """A block that calls all of its modules but one."""
    layer = model.model.layers[2]
    norm = layer.post_attention_layernorm

    class Unseen:
        forward = staticmethod(norm.forward)

    def forward(hidden_states: Tensor, **options: Any) -> Tensor:
        attended = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **options)[0]
        middle = hidden_states + attended
        return middle + layer.mlp(Unseen.forward(middle))

    layer.forward = forward


def a_head_by_its_weight(model: Any) -> None:
    def forward(input_ids: Tensor, **options: Any) -> Any:
        hidden = model.model(input_ids=input_ids, **options).last_hidden_state
        return transformers.modeling_outputs.CausalLMOutputWithPast(logits=hidden @ model.lm_head.weight.T)  # type: ignore[arg-type]

    model.forward = forward


def an_activation_as_a_function(model: Any) -> None:
    """Only one factor of the product is seen."""
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda x: mlp.down_proj(nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x))


REPLACED = [
    (a_fused_mlp, r"gate_1 .*does not call the module.*'model.layers.1.mlp' has a forward"),
    (a_norm_by_its_forward, r"2.post_attention_layernorm: .*does not call.*layers.2' has a forward"),
    (a_head_by_its_weight, r"lm_head: .*does not call the module.*The model has a forward"),
    (an_activation_as_a_function, r"activation_0 .*does not call the module.*layers.0.mlp' has a forward"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REPLACED)
def test_a_forward_that_goes_around_modules_is_named(change: Callable[[Any], None], message: str) -> None:
    model = tiny_model("llama")
    change(model)
    with pytest.raises(fc.InputError, match=message):
        spliced_model(model)


def test_a_replaced_forward_that_calls_its_modules_is_used() -> None:
    """As those of hub kernels."""
    model: Any = tiny_model("llama")
    expected = fc.node_effects(spliced_model(tiny_model("llama")), random_task(2, 4), "secant")
    for layer in model.model.layers:
        mlp, norm = layer.mlp, layer.input_layernorm
        mlp.forward = types.MethodType(lambda mlp, x: mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)), mlp)
        norm.forward = types.MethodType(type(norm).forward, norm)
    found = fc.node_effects(spliced_model(model), random_task(2, 4), "secant")
    assert torch.equal(found.features("resid_0"), expected.features("resid_0"))


# after loading


def an_mlp_of_another_kind(model: Any) -> None:
    model.model.layers[1].mlp.act_fn = nn.Softplus()


AFTER = [
    (a_block, r"module 'model.layers.1': it was compiled"),
    (an_activation, r"module 'model.layers.1.mlp.act_fn': it was compiled"),
    (an_mlps_forward, r"module 'model.layers.1.mlp': its forward was replaced"),
    (the_whole_forward, r"module 'LlamaForCausalLM': its forward was replaced"),
    (a_module_in_its_place, r"module 'model.layers.0': modules in it were replaced"),
    (the_whole_model, r"module 'LlamaForCausalLM': it was compiled"),
    (a_fused_mlp, r"module 'model.layers.1.mlp': its forward was replaced"),
    (a_norm_by_its_forward, r"module 'model.layers.2': its forward was replaced"),
    (a_head_by_its_weight, r"module 'LlamaForCausalLM': its forward was replaced"),
    (an_mlp_of_another_kind, r"module 'model.layers.1.mlp': modules in it were replaced"),
]


@pytest.mark.parametrize(("change", "message"), AFTER)
def test_a_change_after_loading_is_named_by_every_method(change: Callable[[Any], None], message: str) -> None:
    spliced, task = spliced_model(tiny_model("llama"), sites=SITES), random_task(2, 4)
    effects = fc.node_effects(spliced, task, "atp")
    circuit = fc.trace(spliced, task, keep_nodes="top=5", keep_edges="top=5", check_fit=False).circuit
    change(spliced.model)
    message = rf"changed after it was loaded: {message}\. Call fc.load with the changed model"
    for estimator in ("exact", "atp", "ig", "relp", "secant", "atp-qk"):
        with pytest.raises(fc.InputError, match=message):
            fc.node_effects(spliced, task, estimator)
    with pytest.raises(fc.InputError, match=message):
        fc.edge_effects(spliced, task, effects, node_threshold=0.0)
    with pytest.raises(fc.InputError, match=message):
        fc.evaluate(spliced, circuit, task)
    with pytest.raises(fc.InputError, match=message):
        fc.node_effects(spliced.only(spliced.sites[:1]), task, "atp")


def test_a_class_that_was_changed_after_loading_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spliced: Any = spliced_model(tiny_model("llama"), sites=SITES)
    monkeypatch.setattr(type(spliced.model.model.layers[0].mlp), "forward", lambda self, x: x)
    with pytest.raises(fc.InputError, match=r"module 'model.layers.0.mlp': its forward was replaced"):
        fc.node_effects(spliced, random_task(2, 4), "exact")


def test_a_site_that_a_forward_does_not_come_by_is_named() -> None:
    """Without the check, and with a detour that no snapshot shows."""
    model: Any = tiny_model("llama")
    layer, head = model.model.layers[1], model.lm_head
    layer.mlp.forward = fused(layer.mlp)
    a_head_by_its_weight(model)
    spliced = fc.load(model, {"mlp_1": fc.dictionaries.identity(WIDTH)}, check=False)
    with pytest.raises(fc.InputError, match=r"did not reach the hook at the unembedding"):
        fc.node_effects(spliced, random_task(2, 4), "exact")
    model.forward = types.MethodType(type(model).forward, model)
    block = type(layer).forward

    def around(hidden_states: Tensor, **options: Any) -> Tensor:
        called, layer.mlp = layer.mlp, None
        layer._modules["mlp"] = None
        try:
            vars(layer)["mlp"] = lambda x: called.forward(x)
            return block(layer, hidden_states, **options)
        finally:
            del vars(layer)["mlp"]
            layer._modules["mlp"] = called

    layer.forward = around
    spliced = fc.load(model, {"mlp_1": fc.dictionaries.identity(WIDTH)}, check=False)
    with pytest.raises(fc.InputError, match=r"did not reach the hook at mlp_1"):
        fc.node_effects(spliced, random_task(2, 4), "exact")
    assert head is model.lm_head


def test_a_model_that_accelerate_dispatched_after_training_is_used(tmp_path: Path) -> None:
    model = accelerate.cpu_offload(tiny_model("llama"), execution_device=torch.device("cpu"))
    assert any("forward" in vars(module) for module in model.modules())
    found = fc.node_effects(spliced_model(model, sites=SITES), random_task(2, 4), "secant")
    expected = fc.node_effects(spliced_model(tiny_model("llama"), sites=SITES), random_task(2, 4), "secant")
    torch.testing.assert_close(found.features("embed"), expected.features("embed"), rtol=1e-9, atol=1e-12)


# wrapped


class LoraModel(nn.Module):
    """As peft's tuners."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class PeftModelForCausalLM(nn.Module):
    """As peft's: what it does not have is its base model's."""

    def __init__(self, model: nn.Module, learned_prompts: bool = False) -> None:
        super().__init__()
        self.base_model = model if learned_prompts else LoraModel(model)
        self.peft_config: Any = {"default": None}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            inside = super().__getattr__("base_model")
            return getattr(inside.model if isinstance(inside, LoraModel) else inside, name)


class HookedTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cfg, self.blocks = {"n_layers": 1}, nn.ModuleList()


class ModelWithValueHead(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.pretrained_model, self.v_head = model, nn.Linear(WIDTH, 1)


def encoder_decoder() -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    )


@pytest.mark.parametrize(
    ("wrapped", "message"),
    [
        (PeftModelForCausalLM, r"PeftModelForCausalLM is PEFT's .*merge_and_unload\(\), or .*model.base_model.model"),
        (lambda model: torch.compile(PeftModelForCausalLM(model)), r"PeftModelForCausalLM is PEFT's"),
        (lambda model: PeftModelForCausalLM(model, True), r"adds to the input of the model.* pass model.base_model,"),
        (lambda model: HookedTransformer(), r"HookedTransformer is not a transformers model.*AutoModelForCausalLM"),
        (ModelWithValueHead, r"ModelWithValueHead is not .* the transformers model inside it, model.pretrained_model"),
        (lambda model: encoder_decoder(), r"T5ForConditionalGeneration has an encoder and a decoder"),
        (lambda model: model.model, r"LlamaModel is not the causal language model of family 'llama' .*AutoModel"),
        (lambda model: {"model": model}, r"the model is of type dict; give a name, a folder or a loaded"),
        (lambda model: model.config, r"the model is of type LlamaConfig; give a name"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_named_with_the_way_to_the_model(wrapped: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(fc.InputError, match=message):
        fc.load(wrapped(tiny_model("llama")), {"embed": fc.dictionaries.identity(WIDTH)})


def test_what_the_message_names_is_a_model_that_works() -> None:
    model = tiny_model("llama")
    for inside in (PeftModelForCausalLM(model).base_model.model, PeftModelForCausalLM(model, True).base_model):
        assert spliced_model(inside).model is model  # type: ignore[arg-type]


def test_an_adapters_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(fc.InputError, match=r"it holds a PEFT adapter and no model; .*merge_and_unload\(\) returns"):
        fc.load(tmp_path, {"embed": fc.dictionaries.identity(WIDTH)})


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("AutoModelForCausalLM", r"^model '.*' could not be loaded: ValueError$"),
        ("AutoTokenizer", r"^the tokenizer of model '.*' could not be loaded: ValueError$"),
    ],
)
def test_an_error_without_words_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, message: str
) -> None:
    (tmp_path / "config.json").write_text("{}")

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError

    monkeypatch.setattr(getattr(transformers, part), "from_pretrained", fail)
    tokenizer = None if part == "AutoTokenizer" else object()
    with pytest.raises(fc.InputError, match=message):
        fc.load(tmp_path, {"embed": fc.dictionaries.identity(WIDTH)}, tokenizer=tokenizer)
