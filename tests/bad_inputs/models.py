"""Models that are none, whose hooks would not run, or that changed; devices and dtypes that there are not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from torch import nn

import featcircuits as fc
from featcircuits.dictionaries import identity
from tests.bad_inputs.case import Case, command
from tests.test_forwards import (
    HookedTransformer,
    PeftModelForCausalLM,
    a_block,
    a_fused_mlp,
    a_norm_by_its_forward,
    an_activation,
    an_mlp_of_another_kind,
    encoder_decoder,
    the_whole_forward,
)
from tests.test_loading import model_in
from tests.tiny import WIDTH, random_task, spliced_model, tiny_model

DICTIONARIES = {"embed": identity(WIDTH)}


def loaded(change: Any) -> None:
    """After the change, which returns another model or changes this one."""
    model = tiny_model("llama")
    fc.load(change(model) or model, DICTIONARIES)


def changed_later(change: Any) -> None:
    spliced = spliced_model(tiny_model("llama"), sites=["embed"])
    change(spliced.model)
    fc.node_effects(spliced, random_task(2, 4), "atp")


def in_folder(content: str) -> None:
    Path("model").mkdir()
    Path(f"model/{content}").write_text("{}", encoding="utf-8")
    fc.load("model", DICTIONARIES)


def pickled() -> None:
    folder = model_in(Path("model"))
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    fc.load(folder, DICTIONARIES)


def unknown_family(_: Any) -> Any:
    config = transformers.OPTConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, ffn_dim=24, num_attention_heads=2, word_embed_proj_dim=16
    )
    return transformers.AutoModelForCausalLM.from_config(config)


def not_a_number(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan


def scripted(model: Any) -> None:
    model.model.layers[1].mlp.act_fn = torch.jit.script(nn.SiLU())


def placed(**options: Any) -> None:
    with patch("torch.cuda.is_available", lambda: False):
        fc.load(tiny_model("llama"), DICTIONARIES, **options)


WRONG: dict[str, Any] = {
    "a model wrapped by PEFT": PeftModelForCausalLM,
    "a model of TransformerLens": lambda _: HookedTransformer(),
    "a model with an encoder": lambda _: encoder_decoder(),
    "a model without its head": lambda model: model.model,
    "a dictionary of Python in place of a model": lambda model: {"model": model},
    "a config in place of a model": lambda model: model.config,
    "a number in place of a model": lambda _: 3,
    "a model of a family that is not supported": unknown_family,
    "a model with a weight that is no number": not_a_number,
    "a block that `torch.compile` changed": a_block,
    "an activation that `torch.compile` changed": an_activation,
    "a model whose forward is compiled": the_whole_forward,
    "a module that TorchScript compiled": scripted,
    "an MLP whose forward goes around its modules": a_fused_mlp,
    "a block that calls a norm's forward directly": a_norm_by_its_forward,
}

LATER: dict[str, Any] = {
    "a block that is compiled after the model was loaded": a_block,
    "an MLP that is fused after the model was loaded": a_fused_mlp,
    "an activation that is exchanged after the model was loaded": an_mlp_of_another_kind,
}

PLACES: dict[str, dict[str, Any]] = {
    '`device="gpu"`': {"device": "gpu"},
    '`device="cuda"` where there is no GPU': {"device": "cuda"},
    '`device="meta"`': {"device": "meta"},
    '`dtype="float23"`': {"dtype": "float23"},
    "`dtype=torch.int8`": {"dtype": torch.int8},
}

CASES = [
    *(Case(tried, partial(loaded, change)) for tried, change in WRONG.items()),
    *(Case(tried, partial(changed_later, change)) for tried, change in LATER.items()),
    *(Case(tried, partial(placed, **options)) for tried, options in PLACES.items()),
    Case("a folder without a model", partial(in_folder, "readme.txt")),
    Case("a folder of a PEFT adapter", partial(in_folder, "adapter_config.json")),
    Case("a model that is a pickle", pickled),
    Case("dictionaries without a model", lambda: fc.load(None, DICTIONARIES)),
    Case("an unknown dtype, on the command line", partial(command, "trace", "--dtype", "int3")),
    Case("a model's folder that holds none, on the command line", partial(command, "trace", "--model", ".")),
]
