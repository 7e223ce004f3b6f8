"""Interventions: texts, sites, features, places, values and names that do not exist or do not go together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import featcircuits as fc
from featcircuits.interventions.exchange import from_circuit_tracer, from_neuronpedia, to_circuit_tracer
from featcircuits.interventions.intervention import Intervention, load_interventions
from featcircuits.interventions.named import named
from featcircuits.interventions.plan import planned
from tests.bad_inputs.case import Case, command
from tests.bad_inputs.shared import run_in, tiny

TEXTS = {
    "an intervention without a change": "resid_2/303@5",
    "an intervention of a word": "make it sing",
    "an intervention at no place": "resid_1/3@=0",
    "an intervention with an unknown ablation": "resid_1/3@5=median",
    "an intervention with a number in words": "resid_1/3@5*two",
    "an intervention that holds something unknown": "resid_1/3@2=0:held=mlps",
    "an unknown kind of direction": "resid_1/rows:3+1",
    "an intervention on an unknown site": "stream_1/3@2=0",
}

ON_A_MODEL: dict[str, tuple[list[str], dict[str, Any]]] = {
    "an intervention at a site without a dictionary": (["mlp_1/3@2=0"], {}),
    "an intervention on a feature that the dictionary lacks": (["resid_1/99@2=0"], {}),
    "an intervention on a layer that the model lacks": (["resid_7@2<resid_1@2"], {}),
    "an intervention at a position that the prompts lack": (["resid_1/3@9=0"], {}),
    "an intervention at a slice that is empty": (["resid_1/3@9:12=0"], {}),
    "an intervention at an unknown role": (["resid_1/3@subject=0"], {}),
    "an intervention on generated tokens where none are generated": (["resid_1/3@generated=0"], {}),
    "a negative value of a feature that is never negative": (["resid_1/3@2=-4"], {}),
    "a negative multiple of a feature that is never negative": (["resid_1/3@2*-1"], {}),
    "an error that is set to a number": (["resid_1/error@2=4"], {}),
    "a number added to a whole site": (["resid_1@2+4"], {}),
    "an error where it is active": (["resid_1/error@active=0"], {}),
    "a feature that is changed twice at a token": (["resid_1/3@2=0", "resid_1/3@all*2"], {}),
    "a feature that is changed within a site that is changed": (["resid_1/3@2=0", "resid_1@2<resid_2@2"], {}),
    "interventions that hold different things": (["resid_1/3@2=0", "resid_1/4@2=0:held=direct"], {}),
    "no interventions": ([], {}),
    "an unknown group": (["group:number=0"], {"groups": {"numbers": ["resid_1/3@2"]}}),
    "groups that share a node": (["group:a=0"], {"groups": {"a": ["resid_1/3"], "b": ["resid_1/3", "resid_1/4"]}}),
    "a group without nodes": (["group:a=0"], {"groups": {"a": []}}),
    "a group whose name means something else": (["group:a=0"], {"groups": {"a@b": ["resid_1/3"]}}),
    "an unknown vector": (["resid_1/vector:joy+1"], {}),
    "a vector of another width": (["resid_1/vector:joy+1"], {"vectors": {"joy": [1.0, 2.0]}}),
    "a vector of zeros": (["resid_1/vector:joy+1"], {"vectors": {"joy": [0.0] * 16}}),
    "an unknown prompt to take values from": (["resid_1/3@2<paris"], {}),
    "a feature that is taken from another site": (["resid_1/3@2<resid_2@2"], {}),
    "three tokens that take the values of two": (["resid_1@1:4<resid_0@0:2"], {}),
}


def on_a_model(texts: list[str], names: dict[str, Any]) -> None:
    model, task = tiny().model, tiny().task
    plan = planned(model, task, texts, named(model, **names), len(task))
    plan.given(task.nth_batch(len(task), 0), plan.parts)


def of_a_file(text: str) -> None:
    Path("acts.json").write_text(text, encoding="utf-8")
    load_interventions("acts.json")


def of_prompts(prompts: Any, **options: Any) -> None:
    fc.intervene(tiny().model, prompts, "resid_1/3@2=0", **options)


def on_the_command_line(*arguments: str) -> None:
    run_in()
    command("intervene", "run", *arguments)


def generated_on_the_command_line(*arguments: str) -> None:
    run_in()
    command("generate", "run", *arguments)


def with_groups(text: str) -> None:
    Path("groups.json").write_text(text, encoding="utf-8")
    on_the_command_line("--do", "group:a=0", "--groups", "groups.json")


ASKED: dict[str, dict[str, Any]] = {
    "an estimator without edges for downstream nodes": {"estimator": "exact", "downstream": ["resid_2/3@4"]},
    "an error as a downstream node": {"downstream": ["resid_2/error@4"]},
    "a downstream node that the suite lacks": {"downstream": ["mlp_1/3@4"]},
    "an unknown estimator for a prediction": {"estimator": "guess"},
    "a million controls": {"controls": 10**6},
}

GENERATED: dict[str, dict[str, Any]] = {
    "a text to generate with patterns held": {"interventions": "resid_1/3@2=0:held=attention"},
    "a text to generate with an ablation to a mean": {"interventions": "resid_1/3@2=mean"},
    "generated tokens that take the values of the corrupted prompt": {"interventions": "resid_1/3@all<corrupted"},
    "a text to generate at a position that the prompt lacks": {"interventions": "resid_1/3@3=0"},
    "more tokens than the model has positions": {"max_new_tokens": 64},
    "no tokens to generate": {"max_new_tokens": 0},
    "a temperature below 0": {"temperature": -1.0},
    "a watched feature at a position": {"watch": ["resid_1/3@2"]},
    "watched features while beams grow": {"watch": ["resid_1/3"], "num_beams": 2},
}

STEERED = {
    "a steered model at a role": "resid_1/3@subject=0",
    "a steered model with the values of its own prompts": "resid_1@0<resid_2@1",
    "a steered model with several tokens of another prompt": "resid_1@0:2<other:@0:2",
    "a steered model without interventions": [],
}


def with_steered(interventions: Any) -> None:
    with fc.steered(tiny().model, interventions, runs={"other": [1, 2, 3]}):
        raise AssertionError


LINES = {
    "`featcircuits intervene run` without an intervention": (),
    "`featcircuits intervene run --do make-it-sing`": ("--do", "make-it-sing"),
    "`featcircuits intervene run --do resid_1/3@2=0 --source paris`": ("--do", "resid_1/3@2=0", "--source", "paris"),
    "`featcircuits intervene run` with a task and a prompt": (
        "--do", "resid_1/3@2=0", "--task", "ioi", "--prompt", "the boy"
    ),
    "`featcircuits intervene run --vectors joy.pt`": ("--do", "resid_1/vector:joy+1", "--vectors", "joy.pt"),
}  # fmt: skip


def tasks_of(*names: str) -> dict[str, fc.Task]:
    return dict.fromkeys(names, tiny().task)


READOUTS: dict[str, Callable[[], Any]] = {
    "back-patching from a layer that the model lacks": lambda: fc.back_patch(tiny().model, tiny().task, sources=[9]),
    "back-patching to later layers alone": lambda: fc.back_patch(tiny().model, tiny().task, sources=[0], targets=[1]),
    "back-patching of one prompt": lambda: fc.back_patch(tiny().model, tiny().task.take(1)),
    "back-patching without layers": lambda: fc.back_patch(tiny().model, tiny().task, targets=[]),
    "a patchscope of nothing": lambda: fc.patchscope(tiny().model, [1, 2, 3], [], [4, 5]),
    "a patchscope of an error": lambda: fc.patchscope(tiny().model, [1, 2, 3], ["resid_1/error"], [4, 5]),
    "a patchscope of a token that the prompt lacks": lambda: fc.patchscope(
        tiny().model, [1, 2, 3], ["resid_1"], [4, 5], place=3
    ),
    "a patchscope into a token that the other prompt lacks": lambda: fc.patchscope(
        tiny().model, [1, 2, 3], ["resid_1"], [4, 5], placeholder=7
    ),
    "a steering vector inside the attention": lambda: fc.vector_effect(
        tiny().model, tiny().task, "attn_z_1", [1.0] * 16
    ),
    "sinking a head that the model lacks": lambda: fc.sink_heads(tiny().model, tiny().task, [(1, 99)]),
    "sinking no heads": lambda: fc.sink_heads(tiny().model, tiny().task, []),
    "sinking a share above 1": lambda: fc.sink_heads(tiny().model, tiny().task, [(1, 0)], share=1.5),
    "selectivity of one circuit": lambda: fc.selectivity(tiny().model, {"a": tiny().circuit}, tasks_of("a")),
    "selectivity of circuits and tasks by other names": lambda: fc.selectivity(
        tiny().model, {"a": tiny().circuit, "b": tiny().circuit}, tasks_of("a", "c")
    ),
    "effects on two answer sets where one is missing": lambda: fc.promote_suppress(
        tiny().model, fc.Task.from_tokens([[1, 2]], None, [3], metric="log_probability"), "atp"
    ),
}

CASES = [
    *(Case(tried, action) for tried, action in READOUTS.items()),
    *(Case(tried, lambda options=options: of_prompts(tiny().task, **options)) for tried, options in ASKED.items()),
    *(Case(tried, partial(on_the_command_line, *line)) for tried, line in LINES.items()),
    *(
        Case(tried, lambda options=options: fc.generate(tiny().model, [[1, 2, 3]], **options))
        for tried, options in GENERATED.items()
    ),
    *(Case(tried, partial(with_steered, given)) for tried, given in STEERED.items()),
    Case("`featcircuits generate run` without a prompt", partial(generated_on_the_command_line, "--do", "resid_1/3=0")),
    Case("no prompts to intervene on", partial(of_prompts, [])),
    Case("a prompt as text for a model without a tokenizer", partial(of_prompts, "the boy")),
    Case("a prompt with a token that the model lacks", partial(of_prompts, [[1, 2, 99]])),
    Case("a file of groups that is none", partial(with_groups, "{}")),
    Case("a file with a group without a name", partial(
        with_groups, '{"format": "featcircuits-groups", "version": 1, "groups": [{"nodes": ["resid_1/3"]}]}'
    )),
    Case("a file with a group twice", partial(with_groups, (
        '{"format": "featcircuits-groups", "version": 1, "groups": [{"name": "a", "nodes": ["resid_1/3"]}, '
        '{"name": "a", "nodes": ["resid_1/4"]}]}'
    ))),
    *(Case(f"{tried}, `{text}`", partial(Intervention.parse, text)) for tried, text in TEXTS.items()),
    *(Case(tried, partial(on_a_model, *given)) for tried, given in ON_A_MODEL.items()),
    Case("a file of interventions that is none", partial(of_a_file, "[]")),
    Case("a file with an intervention that lacks a field", partial(
        of_a_file, '{"format": "featcircuits-interventions", "version": 1, "interventions": [{"what": "resid_1/3"}]}'
    )),
    Case("a tuple of circuit-tracer with three numbers", partial(from_circuit_tracer, [(1, 2, 3)])),
    Case("an addition as a tuple of circuit-tracer", partial(to_circuit_tracer, ["mlp_1/3@2+4"])),
    Case("a steering request with a delta and ablate", partial(from_neuronpedia, {"features": [
        {"layer": 1, "index": 3, "steer_position": 2, "delta": 4, "ablate": True}
    ]})),
]  # fmt: skip
