"""Generation with interventions: with and without a cache, in padded batches, streamed, and on the model itself."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

import featcircuits as fc
from featcircuits.interventions.edited import edit_of
from featcircuits.interventions.intervention import interventions_of
from featcircuits.interventions.named import named
from featcircuits.interventions.parts import parts_of
from featcircuits.interventions.plan import planned
from featcircuits.interventions.where import Frame
from featcircuits.model.sites import Site
from featcircuits.model.tokens import Tokens
from featcircuits.splicing.spliced import SplicedModel
from tests.test_cli import Command, command
from tests.tiny import EAGER_ONLY, FAMILIES, VOCABULARY, n_hooks, random_task, spliced_model, tiny_model

__all__ = ["command"]

PROMPTS = [[3, 1, 4, 1, 5, 9], [2, 7], [8, 2, 8, 4]]
EDITS = ["resid_0/3@-1=4", "mlp_1/5@generated+3", "resid_1/7*2", "resid_0/error@1:3*0.5", "attn_1@0<other:attn_1@-1"]
OTHER = {"other": [6, 6, 6]}


def model_of(family: str, kind: str = "relu") -> SplicedModel:
    """Float32 with sdpa, since eager attention in float64 computes NaN behind left padding."""
    model = tiny_model(family, dtype=torch.float32)
    if family not in EAGER_ONLY:
        model.set_attn_implementation("sdpa")
    return spliced_model(model, kind, ["mlp_1", "resid_0", "resid_1"])


def ids_of(found: Any) -> list[tuple[int, ...]]:
    return [one.ids for one in found.continuations]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_interventions_the_text_is_the_bare_models(family: str) -> None:
    spliced = model_of(family)
    tokens = Tokens.pad(PROMPTS, 0, "left")
    settings = {"max_new_tokens": 6, "pad_token_id": 0}
    bare: Any = spliced.model.generate
    greedy = bare(input_ids=tokens.ids, attention_mask=tokens.mask, do_sample=False, **settings)
    assert ids_of(fc.generate(spliced, PROMPTS, max_new_tokens=6)) == [tuple(row[6:]) for row in greedy.tolist()]
    torch.manual_seed(5)
    drawn = bare(input_ids=tokens.ids, attention_mask=tokens.mask, do_sample=True, temperature=1.5, **settings)
    found = fc.generate(spliced, PROMPTS, max_new_tokens=6, temperature=1.5, seed=5)
    assert ids_of(found) == [tuple(row[6:]) for row in drawn.tolist()]
    assert n_hooks(spliced.model) == 0


@pytest.mark.parametrize("kind", ["relu", "layer_norm", "skip_transcoder"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_generation_is_that_without_a_cache_and_of_each_prompt_alone(family: str, kind: str) -> None:
    spliced = model_of(family, kind)
    found = fc.generate(spliced, PROMPTS, EDITS, runs=OTHER, max_new_tokens=7)
    assert ids_of(found) == ids_of(fc.generate(spliced, PROMPTS, EDITS, runs=OTHER, max_new_tokens=7, use_cache=False))
    for row, prompt in enumerate(PROMPTS):
        alone = fc.generate(spliced, [prompt], EDITS, runs=OTHER, max_new_tokens=7)
        assert ids_of(alone)[0] == ids_of(found)[row]
    assert ids_of(found) == by_hand(spliced, EDITS, 7)
    assert ids_of(found) != ids_of(fc.generate(spliced, PROMPTS, max_new_tokens=7))
    assert n_hooks(spliced.model) == 0


def by_hand(spliced: SplicedModel, edits: list[str], steps: int) -> list[tuple[int, ...]]:
    """Each step a forward pass of the whole text, with the edits where they belong."""
    rows = []
    for prompt in PROMPTS:
        names = named(spliced, runs=OTHER)
        first = fc.Task.from_tokens([prompt], None, [1], metric="probability")
        plan = planned(spliced, first, [edit for edit in edits if "generated" not in edit], names, 1)
        later = [edit for edit in edits if "generated" in edit]
        given, ids = plan.given(first.batch([0]), plan.parts), list(prompt)
        for _ in range(steps):
            tokens = Tokens.pad([ids], 0)
            frame = Frame.of(tokens)._replace(lengths=torch.tensor([len(prompt)]))
            parts = (*plan.parts, *_parts(spliced, later))
            with torch.no_grad():
                edit = edit_of(plan.spliced, parts, frame, given)
                logits = plan.spliced.run_reading(tokens, edit, answers_only=True)
            ids.append(int(logits[0].argmax()))
        rows.append(tuple(ids[len(prompt) :]))
    return rows


def _parts(spliced: SplicedModel, edits: list[str]) -> Any:
    return parts_of(spliced, interventions_of(edits), named(spliced))


def test_values_probabilities_and_the_metric_are_those_of_the_step() -> None:
    spliced, task = model_of("gpt2"), random_task(2, 4)
    found = fc.generate(spliced, task, ["resid_0/3@generated=4"], max_new_tokens=4, watch=["resid_1/5"])
    site = Site.parse("resid_1")
    for number, one in enumerate(found.continuations):
        ids = [*task.examples[number].clean]
        logits, seen = spliced.record(Tokens.pad([ids], 0), [site])
        value = spliced.dictionaries[site].encode(seen[site])[0, -1, 5].item()
        assert one.values["resid_1/5"][0] == pytest.approx(value, abs=1e-5)
        assert one.probabilities[0] == pytest.approx(logits[0].softmax(-1)[one.ids[0]].item(), rel=1e-4)
        right, wrong = task.examples[number].clean_answers[0], task.examples[number].corrupted_answers[0]
        assert one.metric[0] == pytest.approx((logits[0, right] - logits[0, wrong]).item(), abs=1e-4)
        assert len(one.metric) == len(one.probabilities) == len(one.tokens) == 4


def test_the_stream_is_the_text_and_an_interruption_leaves_nothing() -> None:
    spliced = model_of("gpt2")
    pieces: list[tuple[str, ...]] = []
    found = fc.generate(spliced, PROMPTS, EDITS, runs=OTHER, max_new_tokens=4, stream=pieces.append)
    texts = list(accumulate((piece[1] for piece in pieces), str.__add__))[-1]
    assert texts.strip() == found.texts[1]
    calls: list[tuple[str, ...]] = []

    def stop(piece: tuple[str, ...]) -> None:
        calls.append(piece)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fc.generate(spliced, PROMPTS, EDITS, runs=OTHER, max_new_tokens=9, stream=stop)
    assert len(calls) == 2
    assert n_hooks(spliced.model) == 0
    assert not spliced.model._forward_pre_hooks


def test_random_numbers_of_others_are_not_disturbed() -> None:
    spliced = model_of("gpt2")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = fc.generate(spliced, PROMPTS, max_new_tokens=4, temperature=2.0, seed=1)
    assert torch.equal(torch.rand(2), expected)
    assert ids_of(first) == ids_of(fc.generate(spliced, PROMPTS, max_new_tokens=4, temperature=2.0, seed=1))
    assert ids_of(first) != ids_of(fc.generate(spliced, PROMPTS, max_new_tokens=4, temperature=2.0, seed=2))


def test_beams_are_edited_too() -> None:
    spliced = model_of("llama")
    found = fc.generate(spliced, PROMPTS, EDITS, runs=OTHER, max_new_tokens=5, num_beams=3)
    for row, prompt in enumerate(PROMPTS):
        alone = fc.generate(spliced, [prompt], EDITS, runs=OTHER, max_new_tokens=5, num_beams=3)
        assert ids_of(alone)[0] == ids_of(found)[row]
    assert ids_of(found) != ids_of(fc.generate(spliced, PROMPTS, max_new_tokens=5, num_beams=3))


def test_back_patching_moves_a_late_state_to_an_early_place_of_the_prompt() -> None:
    """The state of layer 2's output goes to layer 0's; one that goes to its own place changes nothing."""
    spliced = model_of("gpt2")
    plain = ids_of(fc.generate(spliced, PROMPTS, max_new_tokens=5))
    assert ids_of(fc.generate(spliced, PROMPTS, ["resid_1@-1<resid_1@-1"], max_new_tokens=5)) == plain
    assert ids_of(fc.generate(spliced, PROMPTS, ["resid_0@-1<resid_2@-1"], max_new_tokens=5)) != plain


# --- on the model itself


@pytest.mark.parametrize("family", FAMILIES)
def test_a_steered_model_is_edited_whoever_runs_it(family: str) -> None:
    spliced = model_of(family)
    tokens = Tokens.pad(PROMPTS, 0, "left")
    with fc.steered(spliced, EDITS, runs=OTHER) as model:
        assert model is spliced.model
        bare: Any = model.generate
        found = bare(
            input_ids=tokens.ids, attention_mask=tokens.mask, max_new_tokens=7, do_sample=False, pad_token_id=0
        )
        single = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    assert n_hooks(spliced.model) == 0
    assert [tuple(row[6:]) for row in found.tolist()] == ids_of(
        fc.generate(spliced, PROMPTS, EDITS, runs=OTHER, max_new_tokens=7)
    )
    kept = [edit for edit in EDITS if "generated" not in edit]
    task = fc.Task.from_tokens([PROMPTS[0]], None, [1], metric="probability")
    expected = fc.intervene(spliced, task, kept, runs=OTHER, controls=0, tokens=VOCABULARY).examples[0]
    for token in expected.tokens:
        assert single[token.id].item() == pytest.approx(token.logit_after, abs=1e-4)


def test_a_steered_model_leaves_nothing_behind_and_can_be_trained() -> None:
    spliced = model_of("gpt2")
    ids = torch.tensor([PROMPTS[0]])
    before = spliced.model(ids).logits
    with pytest.raises(ZeroDivisionError), fc.steered(spliced, "resid_0/3@all=4"):
        raise ZeroDivisionError
    assert torch.equal(spliced.model(ids).logits, before)
    with fc.steered(spliced, "resid_1/decoder:3*0") as model:
        loss = model(ids, labels=ids).loss
        loss.backward()
    row = spliced.dictionaries[Site.parse("resid_1")].decoder_rows(torch.tensor([3]))[0]
    gradient = model.get_submodule("transformer.h.1.mlp.c_proj").bias.grad
    assert isinstance(gradient, Tensor)
    assert float(gradient.norm()) > 0
    # what is projected out is not trained: the bias of layer 1's MLP only reaches later layers past the direction
    assert abs(float(gradient @ row)) < 1e-4 * float(gradient.norm() * row.norm())


def test_the_command_prints_both_texts(command: Command, tmp_path: Any) -> None:
    run, out = tmp_path / "run", tmp_path / "text.json"
    assert command("trace", "--nodes", "atp", "--limit", "8", "--keep-nodes", "top=40", "-o", run).code == 0
    found = command(
        "generate", run, "--do", "resid_2/303=0", "--prompt", "the editor that the hunters call",
        "--max-new-tokens", "6", "--watch", "resid_2/303", "-o", out,
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "unedited" in found.out
    assert "edited" in found.out
    assert "resid_2/303" in found.out
    assert out.exists()
