"""Relevance patching: the rules against a slow, obvious re-implementation, and what they must leave alone."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import featcircuits as fc
import featcircuits.propagation
from featcircuits.model.architecture import architecture_of
from featcircuits.model.sites import EMBED, Site, all_sites, resid
from featcircuits.model.tokens import Tokens
from featcircuits.propagation import RULES as RULES_THERE_ARE
from featcircuits.propagation import propagation, rule_names
from featcircuits.propagation.attention_kernels import around_attention
from featcircuits.propagation.carry import carry
from featcircuits.propagation.rules import entered
from featcircuits.splicing.gradients import gradients
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import (
    EAGER_ONLY,
    FAMILIES,
    LAYERS,
    made_linear,
    n_hooks,
    random_task,
    spliced_model,
    tiny_model,
    tolerance,
)

TOKENS = Tokens.pad([[5, 9, 3, 7, 1], [8, 2, 6, 20, 4]], 0)
RULES = [
    "default", "with_ah", "gradient", "gim", "attnlrp", "ln", "identity", "identity_exact", "half", "ah", "soft",
    "matmul", "ln+half+ah", "matmul+soft",
]  # fmt: skip


# The rules written out: modules of this file in place of the model's own, all in float64.


class Norm(nn.Module):
    """LayerNorm, RMSNorm or Gemma's RMSNorm, with the scale held or not."""

    def __init__(self, norm: Any, held: bool) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, getattr(norm, "bias", None)
        self.eps = getattr(norm, "variance_epsilon", None) or norm.eps
        self.centred = isinstance(norm, nn.LayerNorm) or getattr(norm, "centred", False)
        self.from_one = "Gemma" in type(norm).__name__ or getattr(norm, "from_one", False)
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        scale = 1 / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
        gain = 1 + self.weight if self.from_one else self.weight
        y = x * (scale.detach() if self.held else scale) * gain
        return y if self.bias is None else y + self.bias


class HeldRatio(nn.Module):
    def __init__(self, activation: nn.Module, stabilised: bool) -> None:
        super().__init__()
        self.activation, self.stabilised = activation, stabilised

    def forward(self, z: Tensor) -> Tensor:
        moved = z + (torch.where(z == 0, 1.0, 0.0) + z.sign()) * 1e-6 if self.stabilised else z
        return moved * (self.activation(z) / moved).detach()


class HalvedProduct(nn.Module):
    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self.mlp, "gate_up_proj"):  # Phi-3's two projections are one
            gate, up = self.mlp.gate_up_proj(x).chunk(2, dim=-1)
            product = self.mlp.activation_fn(gate) * up
        else:
            product = self.mlp.act_fn(self.mlp.gate_proj(x)) * self.mlp.up_proj(x)
        return self.mlp.down_proj(product / 2 + (product / 2).detach())


class SoftBackward(torch.autograd.Function):
    """Softmax that goes back through itself at temperature 2."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        ctx.save_for_backward((scores / 2).softmax(-1))
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (soft,) = ctx.saved_tensors
        return soft * (gradients[0] - (soft * gradients[0]).sum(-1, keepdim=True))


def shared(x: Tensor, share: float) -> Tensor:
    """Only so much of x has a gradient."""
    return x * share + (x * (1 - share)).detach()


def attention64(rules: frozenset[str]) -> Callable[..., tuple[Tensor, Tensor]]:
    half = 0.5 if "matmul" in rules else 1.0

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float | None = None,
        softcap: float | None = None, **_: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = shared(query, half) @ shared(key, half).transpose(2, 3)
        scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        scores = scores + attention_mask[..., : key.shape[-2]]
        pattern = SoftBackward.apply(scores) if "soft" in rules else scores.softmax(-1)
        pattern = pattern.detach() if "ah" in rules else pattern
        return (shared(pattern, half) @ shared(value, half)).transpose(1, 2), pattern

    return attend


def gpt_neo_attention64(attention: Any, rules: frozenset[str]) -> Callable[..., tuple[Tensor, Tensor]]:
    """GPT-Neo's own estimator: no scale, and a window in local layers."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        slots = query.shape[2]
        seen = slots if attention.attention_type == "global" else attention.config.window_size
        near = torch.ones(slots, slots, dtype=torch.bool).triu(1 - seen)
        output, pattern = attention64(rules)(attention, query, key, value, mask.masked_fill(~near, -torch.inf), 1.0)
        return output.transpose(1, 2), pattern

    return attend


ATTENTION_RULES = [frozenset(some) for some in ((), ("ah",), ("soft",), ("matmul",), ("soft", "matmul"))]


def kernel_name(rules: frozenset[str]) -> str:
    return "_".join(["kernel64", *sorted(rules)])


for some_rules in ATTENTION_RULES:
    ALL_ATTENTION_FUNCTIONS.register(kernel_name(some_rules), attention64(some_rules))
    ALL_MASK_ATTENTION_FUNCTIONS.register(kernel_name(some_rules), eager_mask)


def replaced(model: PreTrainedModel, path: str, module: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def in_float64(model: PreTrainedModel, rules: tuple[str, ...] = ()) -> PreTrainedModel:
    """A copy that computes everything in float64, with the given rules written into its forward."""
    model = copy.deepcopy(model)
    family, held = architecture_of(model).family, set(rules)
    for layer in range(LAYERS):
        for norm in family.norms:
            path = f"{family.layers}.{layer}.{norm}"
            replaced(model, path, Norm(model.get_submodule(path), "ln" in held))
        for norm in family.qk_norms:
            path = f"{family.layers}.{layer}.{norm}"
            replaced(model, path, Norm(model.get_submodule(path), "qk_norms" in held))
        path = f"{family.layers}.{layer}.{family.activation}"
        if held & {"identity", "identity_exact"}:
            replaced(model, path, HeldRatio(model.get_submodule(path), "identity" in held))
        if "half" in held and family.product:
            path = f"{family.layers}.{layer}.mlp"
            replaced(model, path, HalvedProduct(model.get_submodule(path)))
        if family.attention is not None:
            attention: Any = model.get_submodule(f"{family.layers}.{layer}.{family.attention.module}")
            attention._attn = gpt_neo_attention64(attention, frozenset(held))
    replaced(model, family.final_norm, Norm(model.get_submodule(family.final_norm), "ln" in held))
    model.config._attn_implementation = kernel_name(frozenset({"ah", "soft", "matmul"} & held))
    return model


def metric(logits: Tensor) -> Tensor:
    return logits[:, 3] - logits[:, 7]


def coefficients(model: PreTrainedModel, rules: str | tuple[str, ...]) -> dict[Site, Tensor]:
    bare = SplicedModel(model, architecture_of(model), {})
    with propagation(model, rules):
        return gradients(bare, TOKENS, metric, all_sites(LAYERS))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_rules_are_the_slow_obvious_forward(family: str, rules: str) -> None:
    model, names = tiny_model(family), rule_names(rules)
    fast = coefficients(in_float64(model), rules)
    slow = coefficients(in_float64(model, names), ())
    plain = coefficients(in_float64(model), ())
    for site in fast:
        scale = slow[site].abs().max().item()
        torch.testing.assert_close(fast[site], slow[site], rtol=1e-9, atol=1e-9 * scale)
    held_by_one = {"half": architecture_of(model).family.product, "qk_norms": architecture_of(model).family.qk_norms}
    applies = names and any(held_by_one.get(name, True) for name in names)
    assert torch.allclose(fast[EMBED], plain[EMBED], rtol=1e-6) != bool(applies)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f in ("qwen3", "gemma3_text")])
def test_norms_of_queries_and_keys_are_held_only_when_asked(family: str) -> None:
    model = tiny_model(family)
    held = coefficients(in_float64(model), ("ln", "identity", "half", "qk_norms"))
    slow = coefficients(in_float64(model, ("ln", "identity", "half", "qk_norms")), ())
    default = coefficients(in_float64(model), "default")
    torch.testing.assert_close(held[EMBED], slow[EMBED], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(held[EMBED], default[EMBED])


@pytest.mark.parametrize("family", FAMILIES)
def test_relevance_is_conserved_layer_by_layer_without_biases(family: str) -> None:
    """With the pattern held and no bias, position or final cap, sum(x . c) is the metric at every cut."""
    model = tiny_model(family)
    model.config.final_logit_softcapping = None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "wpe" in name:
                parameter.zero_()
    pure = in_float64(model)
    found = coefficients(pure, ("ln", "identity_exact", "half", "ah"))
    spliced = SplicedModel(pure, architecture_of(pure), {})
    logits, seen = spliced.record(TOKENS, all_sites(LAYERS))
    for site in [EMBED, *(resid(layer) for layer in range(LAYERS))]:
        relevance = (seen[site] * found[site]).sum((1, 2))
        torch.testing.assert_close(relevance, metric(logits), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_forward_values_do_not_change_to_the_last_bit(family: str, dtype: torch.dtype, attention: str) -> None:
    model = tiny_model(family, dtype=dtype)
    if family not in EAGER_ONLY:
        model.set_attn_implementation(attention)
    spliced = spliced_model(model)
    before = spliced.run(TOKENS)
    for rules in ("default", "with_ah", "gim", ("ln", "identity", "half", "qk_norms")):
        with propagation(model, rules):
            assert torch.equal(spliced.run(TOKENS), before)
            with torch.no_grad():
                assert torch.equal(spliced.run(TOKENS), before)
        assert n_hooks(model) == 0
    assert torch.equal(spliced.run(TOKENS), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_hook_is_left_after_an_exception(family: str) -> None:
    model = tiny_model(family)

    def fail() -> None:
        with propagation(model, "with_ah"):
            assert n_hooks(model) > LAYERS
            raise KeyError

    pytest.raises(KeyError, fail)
    assert n_hooks(model) == 0
    broken = tiny_model("gpt2")
    broken.transformer.h[2].ln_1 = nn.Softmax(-1)
    broken.transformer.h[2].ln_1.weight = nn.Parameter(torch.ones(16, dtype=torch.float64))
    with pytest.raises(fc.InputError, match="Softmax is neither a LayerNorm nor an RMSNorm"), propagation(broken):
        pass
    assert n_hooks(broken) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_and_sdpa_give_the_same_coefficients(family: str) -> None:
    if family in EAGER_ONLY:
        pytest.skip("transformers has no sdpa attention for it")
    model = tiny_model(family)
    eager = coefficients(model, "with_ah")
    model.set_attn_implementation("sdpa")
    sdpa = coefficients(model, "with_ah")
    for site in eager:
        torch.testing.assert_close(eager[site], sdpa[site], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_relp_is_exact_on_a_linear_model(family: str) -> None:
    spliced, task = spliced_model(made_linear(tiny_model(family)), "jumprelu"), random_task(3, 5)
    exact = fc.node_effects(spliced, task, estimator="exact")
    # norms and activations are identities here, and a product with 1 is not a product: half of it would be lost
    found = fc.node_effects(spliced, task, estimator="relp:rules=ah")
    for site in spliced.sites:
        scale = exact.features(site).abs().max().item()
        torch.testing.assert_close(found.features(site), exact.features(site), rtol=1e-9, atol=1e-9 * scale)


@given(
    family=st.sampled_from(FAMILIES),
    kind=st.sampled_from(["relu", "jumprelu", "topk"]),
    names=st.lists(st.sampled_from([str(s) for s in all_sites(LAYERS)]), min_size=1, max_size=10, unique=True),
    rules=st.sampled_from(["default", "with_ah", "ln", "gim", "attnlrp"]),
    seed=st.integers(0, 5),
)
@settings(max_examples=30, deadline=None)
def test_outgoing_edges_add_up_to_the_nodes_effect_under_any_rules(
    family: str, kind: str, names: list[str], rules: str, seed: int
) -> None:
    spliced, task = spliced_model(tiny_model(family, seed), kind, names), random_task(2, 4, seed)
    nodes = fc.node_effects(spliced, task, estimator=f"relp:rules={rules}")
    total: dict[object, float] = {}
    for source, _, value in fc.edge_effects(spliced, task, nodes, node_threshold=0.0).edges():
        total[source] = total.get(source, 0.0) + value
    scale = max(abs(mean) for _, mean, _ in nodes.nodes())
    for node, mean, _ in nodes.nodes():
        assert total.get(node, 0.0) == pytest.approx(mean, abs=tolerance(family) * scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rules_of_the_page_pass_back_what_they_say(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "howto" / "rule.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"carry": carry, "entered": entered, "around_attention": around_attention}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    own = {**names["RULES"], "values_halved": names["values_halved"]}
    monkeypatch.setattr(featcircuits.propagation, "RULES", {**RULES_THERE_ARE, **own})
    model = in_float64(tiny_model(family))
    alone, halved = coefficients(model, "values_only"), coefficients(model, "values_only+values_halved")
    last, before = resid(LAYERS - 1), resid(LAYERS - 2)
    torch.testing.assert_close(alone[Site(LAYERS - 1, "attn")], alone[last], rtol=0, atol=0)
    by_attention = alone[before] - alone[last]
    assert by_attention.abs().max() > 1e-3
    torch.testing.assert_close(halved[before] - halved[last], by_attention / 2, rtol=1e-9, atol=1e-12)
    assert n_hooks(model) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_bad_requests_are_refused() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    with pytest.raises(fc.InputError, match="unknown propagation rule 'lnn'; rules: ln, identity"):
        fc.node_effects(spliced, task, estimator="relp:rules=lnn")
    with pytest.raises(fc.InputError, match="exclude each other"):
        rule_names(("identity", "identity_exact"))
    unbounded: Any = tiny_model("gpt2")
    unbounded.transformer.h[0].mlp.act = nn.Softplus()
    with pytest.raises(fc.InputError, match=r"Softplus\(0\) is not 0"):
        fc.node_effects(spliced_model(unbounded), task, estimator="relp")
    compiled = tiny_model("gpt2")
    compiled.transformer.h[1].compile()
    with (
        pytest.raises(fc.InputError, match=r"'transformer.h.1' is compiled .* would ignore hooks"),
        propagation(compiled),
    ):
        pass
