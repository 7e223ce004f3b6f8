"""The subspace-illusion diagnostics on planted cases, and on models."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import featcircuits as fc
from featcircuits.checks.directions import along, outside, ratio, row_part
from featcircuits.checks.illusion import MESSAGE, Illusion, Limits, illusion
from featcircuits.dictionaries import relu
from featcircuits.model.nodes import Node
from featcircuits.model.sites import Site
from featcircuits.splicing.spliced import SplicedModel
from tests.tiny import FAMILIES, LAYERS, WIDTH, made_linear, n_hooks, random_task, spliced_model, tiny_model, tolerance


class Planted(NamedTuple):
    """A linear reader of hidden activations, a direction, and what the table says of patching it."""

    hidden: Tensor
    """[example, unit] of the data"""
    reader: Tensor
    direction: Tensor
    full: float
    null_energy: float
    flagged: bool


def toy(weak: float, direction: list[float], full: float, null_energy: float, flagged: bool) -> Planted:
    """Three units: the concept unread, a reader that never moves, the concept read (weakly)."""
    x = torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None]
    hidden = x * torch.tensor([1.0, 0.0, weak], dtype=torch.float64)
    reader = torch.tensor([0.0, 2.0, 1.0], dtype=torch.float64)
    return Planted(hidden, reader, torch.tensor(direction, dtype=torch.float64), full, null_energy, flagged)


def wide(illusory: bool) -> Planted:
    """64 units: a concept written along one direction, read along another at a right angle but for 0.14."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64))[0]
    reader, other = basis[:, 0], basis[:, 1]
    overlap = 0.14
    concept = overlap * reader + (1 - overlap**2) ** 0.5 * other
    strength = torch.randn(256, 1, generator=generator, dtype=torch.float64)
    noise = 0.5 * torch.randn(256, 64, generator=generator, dtype=torch.float64)
    hidden = strength * concept + noise - (noise @ concept)[:, None] * concept - (noise @ reader)[:, None] * reader
    direction = other + reader if illusory else concept
    return Planted(hidden, reader, direction, 4.0 if illusory else 1.0, 0.5 if illusory else 0.98, illusory)


CASES = {
    "toy, illusory": toy(1.0, [1, 1, 0], 1.0, 0.6, True),
    "toy, true": toy(1.0, [0, 0, 1], 1.0, 0.8, False),
    "weak unit, illusory": toy(0.1, [1, 1, 0], 10.0, 0.6, True),
    "weak unit, true": toy(0.1, [0, 0, 1], 1.0, 0.8, False),
    "64 units, illusory": wide(True),
    "64 units, true": wide(False),
}


@pytest.mark.parametrize("name", CASES)
def test_planted_directions_are_told_apart(name: str) -> None:
    """Effects as shares of patching the whole hidden state, and which directions are flagged."""
    case = CASES[name]
    x, y = case.hidden, case.hidden.flip(0)
    change = y - x
    full = along(change, case.direction.expand_as(change))
    seen = row_part(case.direction[None], case.reader[None, None]).expand_as(change)
    row, null = along(change, seen), along(change, case.direction - seen)
    # the concept itself moves by a definite amount: compare where it goes one way
    up = (y - x) @ case.hidden[-1] > 0
    effects = [(move @ case.reader)[up] for move in (full, row, null, change)]
    shares = [ratio(effect, effects[3]) for effect in effects[:3]]
    tolerated = 0.15 * case.full if "64" in name else 1e-9
    assert shares[0] == pytest.approx(case.full, abs=tolerated)
    assert shares[1] == pytest.approx(1.0, abs=0.15 if "64" in name else 1e-9)
    assert shares[2] == pytest.approx(0.0, abs=1e-9)
    unit = case.direction / case.direction.norm()
    energy = 1 - float(row_part(unit[None], case.reader[None, None]).square().sum())
    assert energy == pytest.approx(case.null_energy, abs=0.01)
    found = Illusion(
        nodes=(), effect=1.0, ceiling=shares[0], row_ratio=ratio(effects[0], effects[1]), dormancy=0.0,
        outside=outside(x + full, x),
    )  # fmt: skip
    assert bool(found.flags) == case.flagged
    assert (MESSAGE in found.message) == case.flagged
    for number in ("ceiling", "row ratio", "dormancy", "outside"):
        assert number in found.message


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), n_readers=st.integers(1, 9))
def test_a_row_part_is_a_projection_and_is_all_that_readers_see(seed: int, n_readers: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    readers = torch.randn(2, n_readers, 6, generator=generator, dtype=torch.float64)
    part = row_part(direction, readers, cut=1e-9)  # random readers may lie close to a plane
    assert torch.allclose((readers @ part[..., None]), readers @ direction[..., None], atol=1e-9)
    assert torch.allclose(row_part(part, readers, cut=1e-9), part, atol=1e-9)
    assert torch.allclose((part * (direction - part)).sum(-1), torch.zeros(2, dtype=torch.float64), atol=1e-9)
    if n_readers >= 6:
        assert torch.allclose(part, direction, atol=1e-9)


def test_a_ratio_tells_nothing_done_from_everything_done() -> None:
    none, some = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    assert ratio(some, 2 * some) == pytest.approx(0.5)
    assert ratio(some, none) == float("inf")
    assert ratio(none, some) == 0
    assert ratio(none, none) != ratio(none, none)  # NaN


def test_what_nobody_reads_has_no_row_part() -> None:
    assert row_part(torch.ones(1, 3), torch.zeros(1, 2, 3)).abs().max() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_all_nodes_of_a_place_are_the_whole_site(family: str) -> None:
    spliced, task = spliced_model(tiny_model(family)), random_task(3, 4)
    for name in ("embed", "mlp_1", f"resid_{LAYERS - 1}"):
        site = Site.parse(name)
        features = range(spliced.dictionaries[site].n_features)
        everything = [Node(site, feature, place) for feature in (*features, None) for place in range(4)]
        (found,) = illusion(spliced, task, everything, each=False)
        assert found.ceiling == pytest.approx(1, abs=100 * tolerance(family))
        assert "ceiling" not in found.flags
    assert n_hooks(spliced.model) == 0


class Reads(nn.Module):
    """Adds 2 relu(unit 1) + 0.1 unit 2 to unit 5: unit 1 never moves, unit 2 carries the concept."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[..., 5] = 2 * x[..., 1].relu() + 0.1 * x[..., 2]
        return out


def planted_model() -> tuple[SplicedModel, fc.Task]:
    """Feature 0 reads the unread unit 0 and writes units 0 and 1; feature 1 reads and writes unit 2."""
    model = made_linear(tiny_model("gpt2"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        words = model.get_input_embeddings().weight
        assert isinstance(words, Tensor)
        words[2, 0] = words[2, 2] = 1.0
        words[3, 5] = 1.0
    model.get_submodule(f"transformer.h.{LAYERS - 1}").mlp = Reads()
    unit = torch.eye(WIDTH, dtype=torch.float64)
    W_enc = torch.stack([unit[0], unit[2]], dim=1)
    W_dec = torch.stack([(unit[0] + unit[1]) / 2, unit[2]])
    zeros = torch.zeros(2, dtype=torch.float64), torch.zeros(WIDTH, dtype=torch.float64)
    dictionaries = {"resid_1": relu(W_enc, zeros[0], W_dec, zeros[1])}
    task = fc.Task.from_tokens([[9, 1], [8, 1], [7, 1]], [[9, 2], [8, 2], [7, 2]], [4] * 3, [3] * 3)
    return fc.load(model, dictionaries, check=False), task


def test_an_illusory_feature_is_flagged_and_an_honest_one_is_not() -> None:
    spliced, task = planted_model()
    nodes = [Node(Site.parse("resid_1"), feature, 1) for feature in (0, 1)]
    illusory, honest = illusion(spliced, task, nodes)[-2:]
    assert illusory.nodes == (nodes[0],)
    assert illusory.ceiling == pytest.approx(10)
    assert "ceiling" in illusory.flags
    assert illusory.row_ratio == float("inf")  # what the readers see of it never moves: the plainest case
    assert "row ratio" in illusory.flags
    assert illusory.outside == pytest.approx(1 / 16)
    assert "outside" in illusory.flags
    assert MESSAGE in illusory.message
    assert honest.ceiling == pytest.approx(1)
    assert honest.row_ratio == pytest.approx(1)
    assert honest.outside == 0
    assert honest.flags == ()


def test_limits_are_the_callers() -> None:
    spliced, task = planted_model()
    node = Node(Site.parse("resid_1"), 0, 1)
    lenient = Limits(ceiling=20, row_ratio=float("inf"), dormancy=1, outside=1)
    (found,) = illusion(spliced, task, [node], limits=lenient)
    assert found.flags == ()


def test_what_cannot_be_diagnosed_is_refused() -> None:
    spliced, task = spliced_model(tiny_model("gpt2"), sites=["mlp_0"]), random_task(2, 4)
    with pytest.raises(fc.InputError, match="node mlp_1/0@1 does not exist"):
        illusion(spliced, task, [Node(Site.parse("mlp_1"), 0, 1)])
    with pytest.raises(fc.InputError, match="between the prompts of a pair"):
        illusion(spliced, fc.Task.from_tokens([[1, 2]], None, [3], [4]), [])
