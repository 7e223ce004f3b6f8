"""Edges between transcoders with patterns and norms held: matrix products give what backward passes give."""

from __future__ import annotations

import itertools

import pytest
import torch

import featcircuits as fc
from featcircuits.effects import direct
from featcircuits.effects.held import Held
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import FAMILIES, LAYERS, POSITIONS_ADDED, random_task, spliced_model, tiny_model

TRANSCODERS = ["embed", *(f"mlp_{layer}" for layer in range(LAYERS))]


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[Held | None]:
    """What each batch took: matrix products or, for None, backward passes."""
    taken: list[Held | None] = []
    made = direct.held_ways

    def noted(*arguments: object) -> Held | None:
        taken.append(made(*arguments))  # type: ignore[arg-type]
        return taken[-1]

    monkeypatch.setattr(direct, "held_ways", noted)
    return taken


def _edges(spliced: SplicedModel, task: fc.Task, estimator: str = "relp:rules=with_ah") -> fc.EdgeEffects:
    effects = fc.node_effects(spliced, task, estimator, baseline="zero")
    return fc.edge_effects(spliced, task, effects, node_threshold=0.0)


def _assert_equal(found: fc.EdgeEffects, expected: fc.EdgeEffects, tolerance: float) -> None:
    left, right = ({edge[:2]: edge.mean for edge in edges.edges()} for edges in (found, expected))
    largest = max(map(abs, right.values()))
    both = left.keys() | right.keys()
    assert len(both) > 100
    assert max(abs(left.get(key, 0.0) - right.get(key, 0.0)) for key in both) <= tolerance * largest


STREAM = "stream_skip_transcoder"


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *itertools.product(FAMILIES, ["transcoder", "skip_transcoder"]),
        *itertools.product(["gpt2", "gpt_neox_sequential", "llama", "olmo2", "gemma2"], [STREAM]),
    ],
)
def test_edges_are_those_of_backward_passes(
    family: str, kind: str, ways: list[Held | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    spliced = spliced_model(tiny_model(family), kind, TRANSCODERS)
    short, long = random_task(2, 4, seed=1), random_task(2, 7, seed=2)
    # transformers' eager attention computes NaN behind left padding in most float64 models
    for side in ("left", "right") if family in POSITIONS_ADDED else ("right",):
        task = fc.Task((*short.examples, *long.examples), aggregate="sum", padding_side=side, keep_wrong=True)
        found = _edges(spliced, task)
        assert ways
        assert all(way is not None for way in ways)
        with monkeypatch.context() as patch:
            patch.setattr(direct, "held_ways", lambda *_: None)
            # the numbers are float64; some of the model's own parts are float32
            _assert_equal(found, _edges(spliced, task), 1e-7)


def test_targets_go_back_alone_as_together(ways: list[Held | None], monkeypatch: pytest.MonkeyPatch) -> None:
    spliced, task = spliced_model(tiny_model("gemma2"), "transcoder", TRANSCODERS), random_task(2, 6)
    together = _edges(spliced, task)
    monkeypatch.setattr("featcircuits.effects.held._TOGETHER", 1)
    _assert_equal(_edges(spliced, task), together, 1e-12)
    assert None not in ways


@pytest.mark.parametrize(
    ("sites", "rules"),
    [
        (TRANSCODERS, "default"),  # attention is not held
        (TRANSCODERS, "ah"),  # norms are not held
        ([*TRANSCODERS, "resid_1"], "with_ah"),
        ([*TRANSCODERS, "attn_0"], "with_ah"),
        (["embed", "mlp_0", "mlp_2"], "with_ah"),  # an MLP without a transcoder is in between
    ],
)
def test_other_ways_take_backward_passes(sites: list[str], rules: str, ways: list[Held | None]) -> None:
    spliced = spliced_model(tiny_model("llama"), "transcoder", sites)
    _edges(spliced, random_task(2, 5), f"relp:rules={rules}")
    assert not any(ways)


def test_what_does_not_agree_is_not_used(ways: list[Held | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that says that it holds the patterns, and does not, is found by the backward pass."""
    from featcircuits.estimators.relp import RelevancePatching

    monkeypatch.setattr(RelevancePatching, "holds_attention", property(lambda self: True))
    spliced, task = spliced_model(tiny_model("llama"), "transcoder", TRANSCODERS), random_task(2, 5)
    for rules in ("default", "ah"):
        expected = _edges(spliced, task, f"relp:rules={rules}")
        assert ways.pop() is None
        assert len(list(expected.edges())) > 100


def test_a_single_token_has_no_attention_to_hold(ways: list[Held | None]) -> None:
    spliced = spliced_model(tiny_model("llama"), "transcoder", TRANSCODERS)
    task = fc.Task.from_tokens(torch.tensor([[3]]), None, torch.tensor([5]), torch.tensor([7]), keep_wrong=True)
    edges = _edges(spliced, task)
    assert all(way is None for way in ways)
    assert len(list(edges.edges())) > 0
