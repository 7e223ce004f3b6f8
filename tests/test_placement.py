"""Models as they come: offloaded by accelerate, in bfloat16, with an image tower, with attention of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers
from transformers import PreTrainedModel

import featcircuits as fc
from featcircuits.model.architecture import architecture_of
from featcircuits.model.sites import resid
from featcircuits.model.tokens import Tokens
from featcircuits.propagation.open_attention import attending
from featcircuits.splicing.spliced import Start
from tests.tiny import (
    FAMILIES,
    LAYERS,
    VOCABULARY,
    WIDTH,
    n_hooks,
    random_dictionary,
    random_task,
    spliced_model,
    tiny_model,
    traced,
)

SITES = ["embed", "attn_1", "mlp_1", "resid_1"]


def in_cpu_memory(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def on_disk(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    return accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))


def spread(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """As `device_map` spreads a model: everything on the CPU but the second layer and the head."""
    layers = architecture_of(model).family.layers
    places: dict[str, Any] = {name: "cpu" for name, _ in model.named_parameters() if not name.startswith(layers)}
    places |= {f"{layers}.{layer}": "disk" if layer == 1 else "cpu" for layer in range(LAYERS)}
    places["lm_head.weight"] = "disk"
    places = {name.removesuffix(".weight").removesuffix(".bias"): place for name, place in places.items()}
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


@pytest.mark.parametrize("placed", [in_cpu_memory, on_disk, spread])
@pytest.mark.parametrize("family", ["gpt_neo", "gemma3_text"])
def test_an_offloaded_model_has_the_plain_models_effects(
    family: str, placed: Callable[[PreTrainedModel, Path], PreTrainedModel], tmp_path: Path
) -> None:
    model = placed(tiny_model(family), tmp_path)
    hooks, forwards = n_hooks(model), {name: vars(m).get("forward") for name, m in model.named_modules()}
    plain, spliced = spliced_model(tiny_model(family), sites=SITES), spliced_model(model, sites=SITES)
    assert any(parameter.device.type == "meta" for parameter in model.parameters())
    task = random_task(1, 3)
    for estimator in ("exact", "atp", "relp", "atp-qk"):
        found, expected = (fc.node_effects(of, task, estimator) for of in (spliced, plain))
        for site in plain.sites:
            assert expected.features(site).abs().max() > 0
            torch.testing.assert_close(found.features(site), expected.features(site), rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(found.error(site), expected.error(site), rtol=1e-9, atol=1e-12)
    found, expected = (dict(nodes_and_edges(of, task)) for of in (spliced, plain))
    assert found.keys() == expected.keys()
    assert all(found[edge] == pytest.approx(value, rel=1e-6, abs=1e-9) for edge, value in expected.items())
    assert n_hooks(model) == hooks
    assert {name: vars(m).get("forward") for name, m in model.named_modules()} == forwards


def test_a_model_is_spread_over_all_devices_while_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here that is one device."""
    asked: list[Any] = []
    load = transformers.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained",
        lambda source, **options: [asked.append(options.get("device_map")), load(source, **options)][1],
    )  # fmt: skip
    model, suite = tiny_model("llama", dtype=torch.float32), {"resid_1": random_dictionary()}
    model.save_pretrained(tmp_path)
    whole = fc.load(model, suite)
    spread_out = fc.load(tmp_path, suite, device="auto", tokenizer=object())
    assert asked == ["auto"]
    found, expected = (fc.node_effects(of, random_task(2, 4), "relp").features("resid_1") for of in (spread_out, whole))
    torch.testing.assert_close(found, expected)
    with pytest.raises(fc.InputError, match="spreads a model while it is loaded; give its name or folder"):
        fc.load(model, suite, device="auto")


def nodes_and_edges(spliced: Any, task: fc.Task) -> list[tuple[Any, float]]:
    effects = fc.node_effects(spliced, task, "relp")
    return [((a, b), value) for a, b, value in fc.edge_effects(spliced, task, effects, node_threshold=0.01).edges()]


@pytest.mark.parametrize("placed", [in_cpu_memory, on_disk, spread])
def test_a_partial_forward_of_an_offloaded_model(
    placed: Callable[[PreTrainedModel, Path], PreTrainedModel], tmp_path: Path
) -> None:
    spliced, tokens = spliced_model(placed(tiny_model("llama"), tmp_path)), Tokens.pad([[5, 9, 3], [8, 2, 6]], 0)
    logits, seen = spliced.record(tokens)
    for layer in range(1, LAYERS):
        with torch.no_grad():
            partial = spliced.run(tokens, start=Start(layer, seen[resid(layer - 1)]), answers_only=True)
        assert torch.equal(partial, logits)


def test_an_offloaded_model_is_not_moved(tmp_path: Path) -> None:
    model = on_disk(tiny_model("gpt2"), tmp_path)
    with pytest.raises(fc.InputError, match="leave out device and dtype"):
        fc.load(model, {"embed": fc.dictionaries.identity(WIDTH)}, dtype="float32")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_in_bfloat16_runs_to_its_circuit(family: str) -> None:
    spliced = spliced_model(tiny_model(family, dtype=torch.bfloat16))
    circuit = traced(spliced, random_task(2, 4), keep_nodes="top=20", keep_edges="top=40")
    wide = traced(spliced_model(tiny_model(family)), random_task(2, 4), keep_nodes="top=20", keep_edges="top=40")
    assert 0 < len(circuit.nodes) <= 20
    shared = set(circuit.nodes) & set(wide.nodes)
    assert len(shared) >= len(wide.nodes) // 3


def with_images() -> PreTrainedModel:
    text = tiny_model("gemma3_text")
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text.config.to_dict(), vision_config=vision, mm_tokens_per_image=4, tie_word_embeddings=False,
        image_token_index=VOCABULARY - 1, boi_token_index=VOCABULARY - 2, eoi_token_index=VOCABULARY - 3,
    )  # fmt: skip
    model: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.model.language_model.load_state_dict(text.model.state_dict())  # type: ignore[union-attr]
    model.lm_head.load_state_dict(text.lm_head.state_dict())  # type: ignore[union-attr]
    return model.double().eval()


def test_gemma_3_with_images_has_its_text_models_effects() -> None:
    both, text, task = spliced_model(with_images()), spliced_model(tiny_model("gemma3_text")), random_task(2, 5)
    for estimator in ("exact", "relp", "atp-hop1"):
        found, expected = fc.node_effects(both, task, estimator), fc.node_effects(text, task, estimator)
        for site in text.sites:
            torch.testing.assert_close(found.features(site), expected.features(site), rtol=1e-6, atol=1e-9)


def test_attention_that_cannot_be_laid_open_is_refused() -> None:
    model = tiny_model("gpt_neo")
    spliced = spliced_model(model)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(fc.InputError, match=r"'gpt_neo' cannot be opened .*atp-qk, atp-star and atp-hop1"):
        fc.node_effects(spliced, random_task(1, 3), "atp-qk")
    own: Any = tiny_model("llama")
    own._supports_attention_backend = False
    with pytest.raises(fc.InputError, match=r"LlamaForCausalLM computes attention by itself"), attending(own, print):
        pass
