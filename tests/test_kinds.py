"""What each kind of dictionary computes, against its definition number by number."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import featcircuits as fc
from featcircuits.dictionaries import (
    ConstantNorm,
    Dictionary,
    LayerNorm,
    abstopk,
    gated,
    groupmax,
    jumprelu,
    relu,
    topk,
)
from featcircuits.model.fingerprints import fingerprint_of
from tests.kinds import KINDS, activations, dictionary, drawn, weights

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def by_hand(kind: str, w: dict[str, Tensor], x: Tensor, threshold: Tensor, k: int) -> list[float]:
    """The features of one vector from the definitions, number by number."""
    pre = [sum(x[i] * w["W_enc"][i, j] for i in range(len(x))) + w["b_enc"][j] for j in range(len(w["b_enc"]))]
    values = [float(value) for value in pre]
    thresholds = threshold.tolist()
    if kind == "jumprelu":
        return [v if v > t and v > 0 else 0.0 for v, t in zip(values, thresholds, strict=True)]
    if kind == "jumprelu without relu":
        return [v if v > t else 0.0 for v, t in zip(values, thresholds, strict=True)]
    if kind == "abstopk":
        return [v if abs(v) >= sorted(map(abs, values), reverse=True)[k - 1] else 0.0 for v in values]
    if kind == "groupmax":
        size = len(values) // k
        return [v if v > 0 and v == max(values[i // size * size :][:size]) else 0.0 for i, v in enumerate(values)]
    least = sorted(values, reverse=True)[k - 1] if kind.startswith("topk") else 0.0
    return [v if (v > 0 or kind == "topk without relu") and v >= least else 0.0 for v in values]


BY_HAND = {
    "relu": relu,
    "jumprelu": jumprelu,
    "jumprelu without relu": partial(jumprelu, rectified=False),
    "topk": topk,
    "topk without relu": partial(topk, rectified=False),
    "abstopk": abstopk,
    "groupmax": groupmax,
}


@pytest.mark.parametrize("k", [3, 9])
@pytest.mark.parametrize("kind", BY_HAND)
def test_features_by_hand(kind: str, k: int) -> None:
    w = weights(5, 9, seed=3)
    threshold = torch.linspace(-1, 2, 9, dtype=torch.float64)
    extra = {"threshold": threshold} if kind.startswith("jump") else {} if kind == "relu" else {"k": k}
    d = BY_HAND[kind](**w, **extra)
    for x in activations(20, 5, seed=3):
        assert d.encode(x).tolist() == pytest.approx(by_hand(kind, w, x, threshold, k))


def test_gated_features_by_hand() -> None:
    """The gate is closed at 0, and a negative magnitude behind an open gate is 0."""
    gate, r_mag, b_mag = (torch.tensor(values) for values in ([0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.5, 0.0, -2.0]))
    d = gated(torch.eye(3), gate, r_mag, b_mag, torch.eye(3), torch.zeros(3))
    assert d.encode(torch.tensor([0.0, 1.0, 1.0])).tolist() == pytest.approx([0.0, math.e, 0.0])
    assert d.encode(torch.tensor([1.0, -1.0, 3.0])).tolist() == pytest.approx([1.5, 0.0, 1.0])
    assert d.encoder_rows(torch.arange(3)).diagonal().tolist() == pytest.approx([1.0, math.e, 1.0])


def test_a_centre_and_a_normalisation_come_before_the_encoder() -> None:
    w, centre, x = weights(5, 9, seed=0), drawn(5, seed=1), activations(3, 5, 0)
    d = relu(**w, centre=centre, normalisation=LayerNorm())
    z = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(d.encode(x), ((z - centre) @ w["W_enc"] + w["b_enc"]).relu(), **CLOSE)
    decoded = d.decode(d.encode(x), d.statistics(x))
    plain = d.encode(x) @ w["W_dec"] + w["b_dec"]
    torch.testing.assert_close(decoded, plain * x.std(-1, keepdim=True) + x.mean(-1, keepdim=True), **CLOSE)


@settings(max_examples=50, deadline=None)
@given(width=st.integers(1, 7), n_features=st.integers(1, 12), seed=st.integers(0, 10**6), data=st.data())
def test_topk_keeps_k_features_or_every_positive_one(
    width: int, n_features: int, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, n_features))
    w = weights(width, n_features, seed)
    x = activations(3, width, seed)
    features = topk(**w, k=k).encode(x)
    dense = relu(**w).encode(x)
    assert (features != 0).sum(-1).tolist() == (dense != 0).sum(-1).clamp(max=k).tolist()
    kept = features != 0
    torch.testing.assert_close(features[kept], dense[kept], **CLOSE)
    left_out = dense.masked_fill(kept, 0).amax(-1)
    assert (features.masked_fill(~kept, torch.inf).amin(-1) >= left_out).all()


def test_topk_with_equal_features_keeps_k_of_them() -> None:
    d = topk(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), k=2)
    assert (d.encode(torch.ones(4, 3)) != 0).sum(-1).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("make", [topk, abstopk, groupmax])
@pytest.mark.parametrize("k", [0, -1, 10])
def test_keeping_an_impossible_number_is_refused(make: Callable[..., Dictionary], k: int) -> None:
    with pytest.raises(fc.InputError, match=f"k is {k}, but must be between 1 and the 9 features"):
        make(**weights(5, 9, seed=0), k=k)


def test_groups_must_be_of_equal_size() -> None:
    with pytest.raises(fc.InputError, match="9 features cannot be split into 2 groups of equal size"):
        groupmax(**weights(5, 9, seed=0), k=2)


@pytest.mark.parametrize(("option", "shape"), [("centre", (4,)), ("W_skip", (5, 4)), ("W_skip", (4, 5))])
def test_an_option_of_another_size_is_refused_by_name(option: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(fc.InputError, match=rf"relu dictionary: {option} has shape \[{shape[0]}"):
        relu(**weights(5, 9, seed=0), **{option: torch.zeros(shape)})


def test_jumprelu_is_closed_at_its_threshold() -> None:
    """z > threshold, as published: at the threshold itself the feature is off."""
    d = jumprelu(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), torch.tensor([0.5, 0.5, -1.0]))
    assert d.encode(torch.tensor([0.5, 0.75, -0.5])).tolist() == [0.0, 0.75, 0.0]


# normalisations


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_keeps_nothing_from_encoding(kind: str) -> None:
    """Another activation encoded in between changes nothing, and features of one decode with another's statistics."""
    d = dictionary(kind)
    x, other = activations(4, d.read_width, 0), activations(4, d.read_width, 9)
    features, statistics = d.encode(x), d.statistics(x)
    decoded = d.decode(features, statistics)
    foreign = d.decode(features, d.statistics(other))
    d.encode(other)
    assert torch.equal(d.decode(features, statistics), decoded)
    assert torch.equal(foreign, decoded) == (d.statistics(x) is None)


@pytest.mark.parametrize("normalisation", [LayerNorm(eps=0), ConstantNorm()])
def test_statistics_undo_the_normalisation(normalisation: LayerNorm | ConstantNorm) -> None:
    """Exactly, but for LayerNorm's eps, which the published code adds on the way in only."""
    x = activations(6, 24, 0) * torch.logspace(-1, 3, 6, dtype=torch.float64)[:, None]
    z, (factor, shift) = normalisation(x), normalisation.statistics(x)
    assert factor.shape == shift.shape == (6, 1)
    torch.testing.assert_close(z * factor + shift, x, **CLOSE)
    torch.testing.assert_close(
        z.square().sum(-1),
        torch.full((6,), 23.0 if normalisation.name == "layer_norm" else 24.0).double(),
        rtol=5e-4,
        atol=0,
    )


@pytest.mark.parametrize("normalisation", [LayerNorm(), ConstantNorm()])
def test_a_constant_activation_is_normalised_to_numbers(normalisation: LayerNorm | ConstantNorm) -> None:
    """As under zero ablation."""
    x = torch.zeros(2, 5)
    assert torch.equal(normalisation(x), x)
    assert all(torch.isfinite(part).all() for part in normalisation.statistics(x))


def test_options_are_part_of_the_hash() -> None:
    w = weights(4, 6, seed=0)
    extra = drawn(4, 4, seed=1)
    variants = [
        jumprelu(**w, threshold=w["b_enc"]),
        jumprelu(**w, threshold=w["b_enc"], rectified=False),
        jumprelu(**w, threshold=w["b_enc"], centre=w["b_dec"]),
        jumprelu(**w, threshold=w["b_enc"], W_skip=extra),
        jumprelu(**w, threshold=w["b_enc"], transcodes=True),
        jumprelu(**w, threshold=w["b_enc"], normalisation=LayerNorm()),
        jumprelu(**w, threshold=w["b_enc"], normalisation=ConstantNorm()),
        topk(**w, k=2),
        topk(**w, k=2, rectified=False),
    ]
    assert len({fingerprint_of(d.tensors().items()) for d in variants}) == len(variants)
