"""Corruption of unpaired prompts: counterparts and noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import featcircuits as fc
from featcircuits.model.sites import EMBED
from featcircuits.tasks.corruption import Noise, symmetric_replacement
from featcircuits.tasks.task import Task
from tests.tiny import FAMILIES, n_hooks, random_task, spliced_model, tiny_model, tolerance, traced

MODEL = Path(__file__).parents[1] / "saes" / "grammar-4l" / "model"


def unpaired(count: int = 4, length: int = 5) -> Task:
    task = random_task(count, length)
    return Task.from_tokens(
        [e.clean for e in task.examples], None, [e.clean_answers for e in task.examples],
        [e.corrupted_answers for e in task.examples], keep_wrong=True,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_patching_the_whole_last_stream_is_the_noised_run(family: str) -> None:
    model, task = tiny_model(family), unpaired()
    spliced = fc.load(model, {"resid_2": fc.dictionaries.whole(16)})
    effects = fc.node_effects(spliced, task, "exact", baseline="noise")
    assert torch.allclose(effects.error("resid_2")[:, -1], effects.total_effect, rtol=10 * tolerance(family))
    assert effects.total_effect.abs().max() > 0.1
    assert n_hooks(model) == 0


def test_noise_is_the_examples_own_whatever_its_batch() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), unpaired(5)
    together, apart = (
        fc.node_effects(spliced, task, "atp", baseline=Noise(seed=3), batch_size=size) for size in (5, 2)
    )
    assert torch.allclose(together.features("mlp_1"), apart.features("mlp_1"), rtol=1e-9)
    other = fc.node_effects(spliced, task, "atp", baseline=Noise(seed=4))
    assert (other.features("mlp_1") - together.features("mlp_1")).abs().max() > 1e-3
    noise = Noise()
    x = torch.ones(5, 5, 16, dtype=torch.float64) * torch.linspace(-1, 1, 16, dtype=torch.float64)
    drawn = noise.of(task, task.batch(range(5)), x)
    alone = noise.of(task, task.batch([3]), x[3:4])
    assert torch.allclose(drawn[3], alone[0])


def test_noise_has_the_asked_for_size_and_spares_padding() -> None:
    examples = (*random_task(20, 40, seed=1).examples, *random_task(1, 3, seed=2).examples)
    task = Task(examples, aggregate="sum")
    x = 0.5 * torch.randn(21, 40, 16, dtype=torch.float64)
    drawn = Noise(scale=2.0).of(task, task.batch(range(21)), x)
    for row in range(20):
        assert drawn[row].std().item() == pytest.approx(2.0 * x[row].std().item(), rel=0.15)
    assert abs(drawn[:20].mean().item()) < 0.05
    assert drawn[20, 3:].abs().max() == 0
    assert drawn[20, :3].abs().min() > 0


def test_noise_can_keep_to_a_role() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    folder = MODEL.parent
    task = Task.from_jsonl(folder / "tasks" / "gender_train.jsonl", tokenizer, aggregate="role").take(6)
    spliced = fc.load(suite=str(folder))
    effects = fc.node_effects(spliced, task, "atp", baseline=Noise(role="name"))
    embed = effects.means("embed")
    places = {task.places[number] for number in embed.place[embed.mean != 0].tolist()}
    assert places == {"name"}
    with pytest.raises(fc.InputError, match="has no role 'subject'; it has name"):
        fc.node_effects(spliced, task, "atp", baseline=Noise(role="subject"))
    with pytest.raises(fc.InputError, match="needs a task with aggregate='role'"):
        fc.node_effects(spliced, task.with_options(aggregate="sum"), "atp", baseline=Noise(role="name"))
    with pytest.raises(fc.InputError, match="it must be above 0"):
        Noise(scale=0)


def test_edges_and_circuits_take_noise() -> None:
    spliced, task = spliced_model(tiny_model("gpt2")), unpaired()
    circuit = traced(spliced, task, nodes="atp", baseline="noise", keep_nodes="top=20")
    assert circuit.n_edges > 0
    assert "noise" in circuit.manifest["settings"]["baseline"]
    effects = fc.node_effects(spliced, task, "atp", baseline="noise")
    sums: dict[fc.Node, float] = {}
    for source, _, value in fc.edge_effects(spliced, task, effects, node_threshold=0.0).edges():
        sums[source] = sums.get(source, 0.0) + value
    for node, effect, _ in effects.nodes():
        assert sums[node] == pytest.approx(effect, rel=1e-6, abs=1e-9)


def test_words_are_replaced_by_their_counterparts() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    text = "When Mary and James drove to the farm, Mary passed a ticket to"
    ids = tokenizer(text)["input_ids"]
    mary, james = (tokenizer.convert_tokens_to_ids(name) for name in ("Mary", "James"))
    task = Task.from_tokens([ids], None, [james], metric="log_probability")
    (example,) = symmetric_replacement(task, tokenizer, [("Mary", "James")]).examples
    assert example.corrupted is not None
    assert tokenizer.decode(example.corrupted) == tokenizer.decode(
        tokenizer("When James and Mary drove to the farm, James passed a ticket to")["input_ids"]
    )
    assert (example.clean_answers, example.corrupted_answers) == ((james,), (mary,))
    back = symmetric_replacement(
        Task.from_tokens([example.corrupted], None, [mary], metric="log_probability"), tokenizer, [("James", "Mary")]
    )
    assert back.examples[0].corrupted == tuple(ids)


def test_replacements_that_do_not_fit_are_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer("The dentist that the sailor follows")["input_ids"]
    task = Task.from_tokens([ids], None, [5], metric="log_probability")
    for words, message in (
        ([("dentist", "relative that")], "'dentist' has 1 tokens and 'relative that'"),
        ([("Mary", "James")], "example 1: the prompt holds none of the words"),
        ([("dentist", "sailor"), ("dentist", "farm")], "is in two couples"),
    ):
        with pytest.raises(fc.InputError, match=message):
            symmetric_replacement(task, tokenizer, words)


def test_only_the_embedding_is_noised() -> None:
    spliced, task = spliced_model(tiny_model("llama"), sites=["resid_2"]), unpaired()
    bare = fc.node_effects(spliced, task, "exact", baseline="noise")
    both = fc.node_effects(
        spliced_model(tiny_model("llama"), sites=["embed", "resid_2"]), task, "exact", baseline="noise"
    )
    assert EMBED in both.sites
    assert torch.allclose(bare.total_effect, both.total_effect, rtol=tolerance("llama"))


@pytest.mark.parametrize("couple", [("Mary", "Zorp"), ("Zorp", "Mary"), ("Zorp", "Blarp"), ("", "")])
def test_words_outside_the_vocabulary_are_not_replaced(couple: tuple[str, str]) -> None:
    """Any unknown word of a prompt would become the other of the couple."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer("Flurb saw Mary")["input_ids"]
    task = Task.from_tokens([ids], None, [5], metric="log_probability")
    with pytest.raises(fc.InputError, match="is not in the tokenizer's vocabulary"):
        fc.symmetric_replacement(task, tokenizer, [couple])
