"""Interventions as text, and the laws of edited runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import featcircuits as fc
from featcircuits.interventions.edited import Run
from featcircuits.interventions.exchange import (
    from_circuit_tracer,
    from_neuronpedia,
    to_circuit_tracer,
    to_neuronpedia,
)
from featcircuits.interventions.how import Ablate, Add, Scale, Set, Take
from featcircuits.interventions.intervention import (
    HELD,
    Intervention,
    interventions_of,
    load_interventions,
    save_interventions,
)
from featcircuits.interventions.named import named
from featcircuits.interventions.parts import random_like
from featcircuits.interventions.plan import planned
from featcircuits.interventions.what import Direction, Group
from featcircuits.interventions.where import WORDS, Slice
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import FAMILIES, KINDS, LAYERS, n_hooks, random_task, spliced_model, tiny_model, tolerance

TEXTS = (
    "resid_2/303@5=0", "resid_2/303@subject*2", "group:number@all+4", "resid_9@-1<resid_15@-1", "resid_2/303@5=mean",
    "resid_2/303=1e+22", "resid_2/error@2:5<corrupted", "resid_2/303@5<@3+4", "mlp_2/303@5=0:held=direct",
    "resid_2/random:303:7@active+-4.5", "resid_5/decoder:resid_2/303@generated+1", "resid_2/vector:joy@all+1",
    "resid_9@-1<paris:resid_15@-1", "resid_2/303@a=b=0", "resid_2/303@5<paris", "embed/3@:-1=0", "resid_2/303@<bos>=0",
    "attn_z_1/7@other*0.25:held=attention+norms", "resid_2/encoder:3@1:=0",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_read_and_written_again(text: str) -> None:
    one = Intervention.parse(text)
    assert str(one) == text
    assert Intervention.from_json(one.to_json()) == one


NAMES = st.text("abcdefgh_ ", min_size=1, max_size=8).map(str.strip).filter(bool)
NUMBERS = st.floats(-1e20, 1e20, allow_nan=False)
PLACES = st.one_of(
    st.integers(-99, 99),
    st.builds(Slice, st.none() | st.integers(-9, 9), st.none() | st.integers(-9, 9)),
    st.sampled_from(WORDS),
    NAMES,
)
SITES = st.builds(Site, st.integers(0, 30), st.sampled_from(["attn_z", "attn", "mlp", "resid"]))
FEATURES = st.builds(Node, SITES, st.integers(0, 10**6), st.none())
WHATS = st.one_of(
    FEATURES,
    st.builds(Node, SITES, st.none(), st.none()),
    SITES,
    st.builds(Group, NAMES),
    st.builds(Direction, SITES, st.sampled_from(["decoder", "encoder"]), FEATURES),
    st.builds(Direction, SITES, st.just("random"), FEATURES, st.integers(0, 99)),
    st.builds(Direction, SITES, st.just("vector"), NAMES),
)
HOWS = st.one_of(
    st.builds(Set, NUMBERS),
    st.builds(Add, NUMBERS),
    st.builds(Scale, NUMBERS),
    st.builds(Ablate, st.sampled_from(["zero", "mean", "paired", "resample"])),
    st.builds(Take, NAMES, st.none() | SITES, st.none() | PLACES, st.floats(-9, 9)),
    st.builds(Take, st.just(""), SITES, st.none() | PLACES),
)


@settings(max_examples=300, deadline=None)
@given(one=st.builds(Intervention, WHATS, HOWS, st.none() | PLACES, st.sampled_from(HELD)))
def test_text_and_json_say_all_of_an_intervention(one: Intervention) -> None:
    assert Intervention.parse(str(one)) == one
    assert Intervention.from_json(one.to_json()) == one


def test_a_file_of_interventions_is_read_again(tmp_path: Path) -> None:
    given = interventions_of([text for text in TEXTS if "held" not in text])
    save_interventions(tmp_path / "acts.json", given)
    assert load_interventions(tmp_path / "acts.json") == given


def test_tuples_of_circuit_tracer_and_back() -> None:
    tuples: list[Any] = [(1, 5, 3, 2.0), (0, slice(2, 4), 3, 0.0), (2, slice(3, None), 7, 1.5)]
    read = from_circuit_tracer(tuples, freeze_attention=False)
    assert [str(one) for one in read] == ["mlp_1/3@5=2", "mlp_0/3@2:4=0", "mlp_2/7@3:=1.5", "mlp_2/7@generated=1.5"]
    assert to_circuit_tracer(read) == tuples
    held = [from_circuit_tracer(tuples, **mode)[0].held for mode in ({}, {"constrained": True})]
    assert held == ["attention", "direct"]
    for wrong in ("mlp_1/error@2=0", "mlp_1/3@2+1", "mlp_1/3@subject=1", "group:a=0"):
        with pytest.raises(fc.InputError, match="circuit-tracer"):
            to_circuit_tracer([wrong])


def test_a_steering_request_of_neuronpedia_and_back() -> None:
    texts = ["mlp_1/3@5=0", "mlp_1/3@4<@2+4", "mlp_2/1@generated<@3+-2", "mlp_0/9@generated=0"]
    request = to_neuronpedia(texts, modelId="gemma-2-2b", prompt="The capital", nTokens=10)
    assert request["prompt"] == "The capital"
    assert request["features"][1] == {
        "layer": 1, "index": 3, "token_active_position": 2, "steer_position": 4, "steer_generated_tokens": False,
        "delta": 4.0, "ablate": False,
    }  # fmt: skip
    assert [str(one) for one in from_neuronpedia(request)] == texts
    assert to_neuronpedia(["mlp_1/3@5+4"])["features"][0]["token_active_position"] == 5
    for wrong in ("mlp_1/3@5*2", "mlp_1/3@-1=0", "resid_1@5<resid_2@5", "mlp_1/3@generated+1"):
        with pytest.raises(fc.InputError, match="steering request"):
            to_neuronpedia([wrong])


# --- edited runs


def edited(
    spliced: SplicedModel, task: fc.Task, *texts: str | Intervention, **names: Any
) -> tuple[Run, Run, SplicedModel]:
    """(unedited, edited) run of a task's prompts, and the model with all sites of the interventions."""
    plan = planned(spliced, task, texts, named(spliced, **names), len(task))
    batch = task.nth_batch(len(task), 0)
    values = plan.given(batch, plan.parts)
    with plan.runs(batch) as runs:
        found = runs.run(plan.parts, values)
    assert n_hooks(spliced.model) == 0
    return runs.unedited, found, plan.spliced


def run_with(spliced: SplicedModel, task: fc.Task, activations: Mapping[Site, Tensor]) -> Tensor:
    """The logits of a task's prompts with these activations in place of the model's."""
    with torch.no_grad():
        tokens = task.nth_batch(len(task), 0).clean
        return spliced.run(tokens, lambda site, _: activations[site], sites=list(activations), answers_only=True)


def close(found: Tensor, expected: Tensor, margin: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=margin, atol=margin)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_full_cut_at_its_corrupted_values_is_the_corrupted_run(family: str) -> None:
    spliced, task = spliced_model(tiny_model(family)), random_task(2, 4)
    site = f"resid_{LAYERS - 2}"
    cut = [f"{site}/{feature}<corrupted" for feature in (*range(24), "error")]
    corrupted, _ = spliced.record(task.nth_batch(2, 0).corrupted, [])  # type: ignore[arg-type]
    before, after, _ = edited(spliced, task, *cut)
    close(after.logits, corrupted, 1e-5 if tolerance(family) > 1e-8 else 1e-9)
    assert not torch.allclose(before.logits, corrupted)
    _, ablated, _ = edited(spliced, task, f"{site}=paired")
    close(ablated.logits, corrupted, 1e-5 if tolerance(family) > 1e-8 else 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_cut_is_the_corrupted_run_with_every_kind_of_dictionary(kind: str) -> None:
    """Transcoders' bypasses are no nodes: they pass on what arrives, so the cut is where nothing is passed by."""
    sites = ["embed", "mlp_1", "resid_1"]
    spliced, task = spliced_model(tiny_model("gpt2"), kind, sites), random_task(2, 4)
    nodes = [f"resid_1/{feature}" for feature in (*range(24), "error")]
    if kind == "skip_sae":  # the bypass of the site's own activation is fed by the cut itself
        return
    corrupted, _ = spliced.record(task.nth_batch(2, 0).corrupted, [])  # type: ignore[arg-type]
    _, after, _ = edited(spliced, task, *[f"{node}<corrupted" for node in nodes])
    close(after.logits, corrupted)
    _, grouped, _ = edited(spliced, task, "group:all<corrupted", groups={"all": nodes})
    close(grouped.logits, corrupted)


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("family", FAMILIES)
def test_own_values_change_not_a_bit(family: str, held: str) -> None:
    spliced, task = spliced_model(tiny_model(family), sites=["mlp_0", "resid_1"]), random_task(2, 4)
    one, site = task.take(1), Site.parse("resid_1")
    _, seen = spliced.record(one.nth_batch(1, 0).clean)
    own = spliced.dictionaries[site].encode(seen[site])[0, 2]
    texts = [f"resid_1/{feature}@2={value!r}" for feature, value in enumerate(own.tolist())]
    extra = [
        "resid_1/error@2*1",
        "mlp_0/3@0*1",
        "mlp_0@3<mlp_0@3",
        "resid_1/error@3<@3",
        "embed<embed@:",
        "mlp_0/1@2+0",
    ]
    before, after, _ = edited(spliced, one, *(f"{text}:held={held}" for text in (*texts, *extra)))
    assert torch.equal(before.logits, after.logits)


def test_an_edit_is_the_change_times_the_decoder_row_and_the_error_stays() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    for text, new in (("=2.5", lambda f: f * 0 + 2.5), ("+1.5", lambda f: f + 1.5), ("*3", lambda f: 3 * f)):
        before, after, _ = edited(spliced, task, f"resid_0/3@2{text}")
        site = Site.parse("resid_0")
        x, dictionary = before.arrived[site].x, spliced.dictionaries[site]
        old = dictionary.encode(x)[:, 2, 3]
        move = torch.zeros_like(x)
        move[:, 2] = (new(old) - old)[:, None] * dictionary.decoder_rows(torch.tensor([3]))
        close(after.logits, run_with(spliced, task, {site: x + move}), 1e-12)


@pytest.mark.parametrize("kind", ["relu", "transcoder", "layer_norm"])
def test_edits_compose_in_forward_order(kind: str) -> None:
    """The second edit starts from the value that the first has left: twice it is not twice the unedited value."""
    spliced, task = spliced_model(tiny_model("llama"), kind, ["mlp_0", "mlp_1", "resid_1"]), random_task(2, 4)
    early, late = Site.parse("mlp_0"), Site.parse("mlp_1")
    before, first, _ = edited(spliced, task, "mlp_0/2@1+3")
    _, both, _ = edited(spliced, task, "mlp_1/5*2", "mlp_0/2@1+3")

    def move(run: Run, site: Site, feature: int, step: Tensor) -> Tensor:
        read, dictionary = run.arrived[site].read, spliced.dictionaries[site]
        statistics = dictionary.statistics(read)
        step = step if statistics is None else step * statistics.scale[..., 0]
        return run.arrived[site].x + step[..., None] * dictionary.decoder_rows(torch.tensor([feature]))

    three = torch.zeros(2, 4, dtype=torch.float64)
    three[:, 1] = 3
    value = spliced.dictionaries[late].encode(first.arrived[late].read)[..., 5]
    by_hand = {early: move(before, early, 2, three), late: move(first, late, 5, value)}
    close(both.logits, run_with(spliced, task, by_hand))
    assert not torch.allclose(both.logits, first.logits)


def test_directions_and_sites() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0", "resid_1"]), random_task(2, 4)
    plus, row = edited(spliced, task, "resid_0/3@2+1.5")[1], edited(spliced, task, "resid_0/decoder:3@2+1.5")[1]
    close(row.logits, plus.logits)
    vector = spliced.dictionaries["resid_0"].decoder_rows(torch.tensor([3]))[0]  # type: ignore[index]
    named_one = edited(spliced, task, "resid_0/vector:mine@2+1.5", vectors={"mine": vector})[1]
    close(named_one.logits, plus.logits)
    # a direction that is set to 0 is projected out, and at a site without a dictionary too
    _, after, _ = edited(spliced, task, "mlp_1/vector:mine=0", "mlp_2=0", vectors={"mine": vector})
    unit = vector / vector.norm()

    def edit(site: Site, x: Tensor) -> Tensor:
        return x * 0 if site.layer == 2 else x - (x @ unit)[..., None] * unit

    with torch.no_grad():
        logits = spliced.run(
            task.nth_batch(2, 0).clean, edit, sites=[Site.parse("mlp_1"), Site.parse("mlp_2")], answers_only=True
        )
    close(after.logits, logits)
    drawn = random_like(vector, 3)
    close(drawn.norm(), vector.norm())
    assert (drawn @ vector).abs() < vector.norm() ** 2


def test_values_come_from_other_sites_places_and_prompts() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0", "resid_1"]), random_task(2, 5)
    batch = task.nth_batch(2, 0)
    wanted = [Site.parse(name) for name in ("resid_0", "resid_1", "resid_2")]
    _, seen = spliced.record(batch.clean, wanted)
    prompt = [3, 1, 4, 1, 5]
    _, other = spliced.record(fc.Task.from_tokens([prompt], None, [1], metric="probability").batch([0]).clean, wanted)

    def by_hand(site: str, slots: Any, value: Tensor) -> Tensor:
        x = seen[Site.parse(site)].clone()
        x[:, slots] = value
        return run_with(spliced, task, {Site.parse(site): x})

    late, early = seen[Site.parse("resid_2")], Site.parse("resid_0")
    back = edited(spliced, task, "resid_0@-1<resid_2@-1")[1]
    close(back.logits, by_hand("resid_0", -1, late[:, -1]))
    shifted = edited(spliced, task, "resid_0@1:3<resid_2@2:4")[1]
    close(shifted.logits, by_hand("resid_0", slice(1, 3), late[:, 2:4]))
    spread = edited(spliced, task, "resid_0<resid_2@1")[1]
    close(spread.logits, by_hand("resid_0", slice(None), late[:, 1:2]))
    patched = edited(spliced, task, "resid_0@2<paris:resid_2@-1", runs={"paris": prompt})[1]
    close(patched.logits, by_hand("resid_0", 2, other[Site.parse("resid_2")][:, -1]))
    dictionary = spliced.dictionaries[early]
    f = dictionary.encode(seen[early])[..., 7]
    moved = seen[early].clone()
    moved[:, 4] += (f[:, 1] + 2 - f[:, 4])[:, None] * dictionary.decoder_rows(torch.tensor([7]))
    plus = edited(spliced, task, "resid_0/7@4<@1+2")[1]
    close(plus.logits, by_hand("resid_0", slice(None), moved))


@pytest.mark.parametrize("side", ["left", "right"])
def test_places_are_those_of_each_prompt_wherever_the_padding_is(side: str) -> None:
    spliced = spliced_model(tiny_model("gpt2", dtype=torch.float32), sites=["resid_0"])
    short, long = random_task(1, 4, seed=1), random_task(1, 7, seed=2)
    both = fc.Task((*short.examples, *long.examples), aggregate="sum", padding_side=side)
    for text in ("resid_0/3@-1+5", "resid_0/3@1:-1+5", "resid_0/3+5", "resid_0@-2<resid_1@0", "resid_0/3@active*3"):
        together = edited(spliced, both, text)[1].logits
        for row, alone in enumerate((short, long)):
            close(together[row], edited(spliced, alone, text)[1].logits[0], 1e-4)


def test_only_active_features_are_changed_where_it_says_active() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["resid_0"]), random_task(2, 5)
    before, after, _ = edited(spliced, task, "resid_0/3@active=2")
    active = spliced.dictionaries["resid_0"].encode(before.arrived[Site.parse("resid_0")].x)[..., 3] > 0  # type: ignore[index]
    assert bool(active.any())
    assert not bool(active.all())
    example, slot = (active.nonzero()[0]).tolist()
    single = edited(
        spliced, task.only([example]), *[f"resid_0/3@{at}=2" for at in active[example].nonzero()[:, 0].tolist()]
    )[1]
    close(after.logits[example], single.logits[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_held_patterns_and_norms_make_the_rest_linear(family: str) -> None:
    """Two edits together change a later reading by the sum of what each changes, if MLPs are held with the nodes."""
    model = tiny_model(family)
    spliced, task = spliced_model(model, "transcoder", ["mlp_0", "mlp_1", "mlp_2"]), random_task(2, 4)
    texts = ["mlp_0/2@1+3", "mlp_0/7@0+2", "mlp_1/5@2+4"]
    site = Site.parse("mlp_2")

    def reading(*some: str, held: str) -> Tensor:
        before, after, _ = edited(spliced, task, *(f"{text}:held={held}" for text in some))
        return after.arrived[site].read - before.arrived[site].read

    for held, linear in (("direct", True), ("attention", False), ("nothing", False)):
        joint, alone = reading(*texts, held=held), sum(reading(text, held=held) for text in texts)
        assert isinstance(alone, Tensor)
        if linear:
            close(joint, alone, 10 * tolerance(family))
        else:
            assert not torch.allclose(joint, alone, rtol=1e-3)


def test_a_broken_edit_leaves_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), random_task(2, 4)
    plan = planned(spliced, task, "resid_1/3@2=4:held=direct", named(spliced), 2)
    batch = task.nth_batch(2, 0)

    def broken(*_: Any) -> Tensor:
        raise RuntimeError("broken")

    def run() -> None:
        with plan.runs(batch) as runs:
            runs.run(plan.parts, plan.given(batch, plan.parts))

    monkeypatch.setattr("featcircuits.interventions.edited.moved", broken)
    with pytest.raises(RuntimeError, match="broken"):
        run()
    assert n_hooks(spliced.model) == 0
