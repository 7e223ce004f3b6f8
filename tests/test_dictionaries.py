"""Every kind of dictionary: its algebra against autograd, its files, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import featcircuits as fc
from featcircuits.dictionaries import Dictionary, identity, jumprelu, load_dictionary, relu, topk
from featcircuits.dictionaries.base import check_numbers
from featcircuits.dictionaries.offloaded import offloaded
from featcircuits.manifest import fingerprint_of
from tests.tiny import WIDTH, tiny_model

KINDS = ("relu", "jumprelu", "topk", "identity")
MATRICES = ("W_enc", "b_enc", "W_dec", "b_dec")
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def weights(width: int, n_features: int, seed: int) -> dict[str, Tensor]:
    """Encoder and decoder that have nothing to do with each other: the error is large."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((width, n_features), (n_features,), (n_features, width), (width,))
    drawn = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return dict(zip(MATRICES, drawn, strict=True))


def dictionary(kind: str, width: int = 5, n_features: int = 9, seed: int = 0) -> Dictionary:
    if kind == "identity":
        return identity(width).to("cpu", torch.float64)
    matrices = weights(width, n_features, seed)
    if kind == "jumprelu":
        # thresholds below 0 as well: the features must stay positive there
        return jumprelu(**matrices, threshold=matrices["b_enc"].flip(0))
    if kind == "topk":
        return topk(**matrices, k=1 + seed % n_features)
    return relu(**matrices)


def activations(rows: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64)


def on_random_dictionaries(test: Callable[..., None]) -> Callable[..., None]:
    """Every kind, over shapes (also fewer features than dimensions) and seeds."""
    drawn = given(
        width=st.integers(1, 7), n_features=st.integers(1, 12), rows=st.integers(1, 4), seed=st.integers(0, 10**6)
    )
    return pytest.mark.parametrize("kind", KINDS)(settings(max_examples=30, deadline=None)(drawn(test)))


# what encode and decode promise


@on_random_dictionaries
def test_features_and_error_give_the_activation_back(
    kind: str, width: int, n_features: int, rows: int, seed: int
) -> None:
    """For a batch [prompt, slot, width] as for a single vector, and each token on its own."""
    d = dictionary(kind, width, n_features, seed)
    x = activations(rows, width, seed)
    features = d.encode(x)
    assert features.shape == (rows, d.n_features)
    error = x - d.decode(features)
    torch.testing.assert_close(d.decode(features) + error, x, **CLOSE)
    torch.testing.assert_close(d.encode(x[None])[0], features, **CLOSE)
    torch.testing.assert_close(d.encode(x[0]), features[0], **CLOSE)


@on_random_dictionaries
def test_decoding_is_affine(kind: str, width: int, n_features: int, rows: int, seed: int) -> None:
    """Moving features moves the reconstruction by their decoder rows, whatever the features were."""
    d = dictionary(kind, width, n_features, seed)
    features = d.encode(activations(rows, width, seed))
    change = activations(rows, d.n_features, seed + 1)
    moved = d.decode(features + change)
    torch.testing.assert_close(d.decode(features) + d.decode_change(change), moved, **CLOSE)
    torch.testing.assert_close(d.decode_change(change), change @ d.decoder_rows(torch.arange(d.n_features)), **CLOSE)


def by_hand(kind: str, w: dict[str, Tensor], x: Tensor, threshold: Tensor, k: int) -> list[float]:
    """The features of one vector from the definitions, number by number."""
    pre = [sum(x[i] * w["W_enc"][i, j] for i in range(len(x))) + w["b_enc"][j] for j in range(len(w["b_enc"]))]
    values = [float(value) for value in pre]
    if kind == "jumprelu":
        return [v if v > t and v > 0 else 0.0 for v, t in zip(values, threshold.tolist(), strict=True)]
    least = sorted(values, reverse=True)[k - 1] if kind == "topk" else 0.0
    return [v if v > 0 and v >= least else 0.0 for v in values]


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk"])
def test_features_by_hand(kind: str) -> None:
    w = weights(5, 9, seed=3)
    threshold = torch.linspace(-1, 2, 9, dtype=torch.float64)
    extra = {"jumprelu": {"threshold": threshold}, "topk": {"k": 2}}.get(kind, {})
    d = {"relu": relu, "jumprelu": jumprelu, "topk": topk}[kind](**w, **extra)
    for x in activations(20, 5, seed=3):
        assert d.encode(x).tolist() == pytest.approx(by_hand(kind, w, x, threshold, k=2))


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


@pytest.mark.parametrize("k", [0, -1, 10])
def test_topk_of_an_impossible_number_is_refused(k: int) -> None:
    with pytest.raises(fc.InputError, match=f"k is {k}, but must lie between 1 and the 9 features"):
        topk(**weights(5, 9, seed=0), k=k)


def test_jumprelu_is_closed_at_its_threshold() -> None:
    """z > threshold, as published: at the threshold itself the feature is off."""
    d = jumprelu(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), torch.tensor([0.5, 0.5, -1.0]))
    assert d.encode(torch.tensor([0.5, 0.75, -0.5])).tolist() == [0.0, 0.75, 0.0]


# the linear algebra that attribution uses, against autograd


@on_random_dictionaries
def test_projections_are_gradients_of_decoding(kind: str, width: int, n_features: int, rows: int, seed: int) -> None:
    d = dictionary(kind, width, n_features, seed)
    features = d.encode(activations(rows, width, seed)).detach().requires_grad_()
    gradient = activations(rows, width, seed + 2)
    (expected,) = torch.autograd.grad((gradient * d.decode(features)).sum(), features)
    for row, ids in picked(rows, d.n_features, seed):
        torch.testing.assert_close(d.gradient_at(gradient, row, ids), expected[row, ids], **CLOSE)


def picked(rows: int, n_features: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Entries (row, feature): every one in order, some in any order, and none at all."""
    every = torch.arange(rows * n_features)
    some = torch.randperm(rows * n_features, generator=torch.Generator().manual_seed(seed))[:7]
    return [(entries // n_features, entries % n_features) for entries in (every, some, every[:0])]


@on_random_dictionaries
def test_writing_is_decoding_a_few_changes(kind: str, width: int, n_features: int, rows: int, seed: int) -> None:
    d = dictionary(kind, width, n_features, seed)
    for row, ids in picked(rows, d.n_features, seed):
        change = torch.randn(len(row), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        dense = torch.zeros(rows + 1, d.n_features, dtype=torch.float64)
        dense.index_put_((row, ids), change, accumulate=True)
        torch.testing.assert_close(d.write(change, row, ids, rows + 1), d.decode_change(dense), **CLOSE)


@on_random_dictionaries
def test_decoder_rows_are_what_a_feature_writes(kind: str, width: int, n_features: int, rows: int, seed: int) -> None:
    d = dictionary(kind, width, n_features, seed)
    ids = torch.arange(rows + 1) % d.n_features
    jacobian = torch.func.jacrev(d.decode)(torch.zeros(d.n_features, dtype=torch.float64))
    torch.testing.assert_close(d.decoder_rows(ids), jacobian[:, ids].T, **CLOSE)


@on_random_dictionaries
def test_encoder_rows_are_gradients_of_active_features(
    kind: str, width: int, n_features: int, rows: int, seed: int
) -> None:
    """And a feature that is not active has no gradient at all."""
    d = dictionary(kind, width, n_features, seed)
    every = d.encoder_rows(torch.arange(d.n_features))
    for x in activations(rows, width, seed):
        active = d.is_active(d.encode(x))
        assert active.dtype == torch.bool
        jacobian = torch.autograd.functional.jacobian(d.encode, x)
        torch.testing.assert_close(jacobian, every * active[:, None], **CLOSE)


# the identity


def test_the_identity_is_exact_to_the_bit() -> None:
    d = identity(6)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)) * 1e4
    assert torch.equal(d.encode(x), x)
    assert torch.equal(x - d.decode(d.encode(x)), torch.zeros_like(x))
    assert torch.equal(d.decoder_rows(torch.arange(6)), torch.eye(6))
    assert (d.kind, d.width, d.n_features) == ("identity", 6, 6)


def test_an_identity_of_no_width_is_refused() -> None:
    with pytest.raises(fc.InputError, match="width is 0, but must be at least 1"):
        identity(0)


# sizes, types and damage


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_the_matrices(kind: str) -> None:
    d = dictionary(kind, width=5, n_features=9)
    assert (d.kind, d.width, d.n_features) == (kind, 5, 5 if kind == "identity" else 9)


def test_a_dictionary_takes_the_documented_orientation_only() -> None:
    w = weights(5, 9, seed=0)
    assert fc.dictionaries.relu(w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"]).n_features == 9
    for name in ("W_enc", "W_dec"):
        with pytest.raises(fc.InputError, match="has shape"):
            fc.dictionaries.relu(**{**w, name: w[name].T})
    with pytest.raises(fc.InputError, match="has shape"):
        fc.dictionaries.relu(**{**w, "W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T})


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [("b_enc", (8,), [9]), ("b_enc", (1,), [9]), ("W_dec", (5, 9), [9, 5]), ("b_dec", (9,), [5]), ("b_dec", (), [5])],
)
def test_a_wrong_shape_is_refused_by_name_and_sizes(name: str, shape: tuple[int, ...], expected: list[int]) -> None:
    """Also where broadcasting would have let it pass."""
    with pytest.raises(fc.InputError) as caught:
        relu(**{**weights(5, 9, seed=0), name: torch.zeros(shape)})
    message = str(caught.value)
    assert f"relu dictionary: {name} has shape {list(shape)}" in message
    assert f"W_enc [5, 9] asks for {expected}" in message


def test_a_threshold_of_another_size_is_refused() -> None:
    with pytest.raises(fc.InputError, match=r"jumprelu dictionary: threshold has shape \[1\].*asks for \[9\]"):
        jumprelu(**weights(5, 9, seed=0), threshold=torch.zeros(1))


@pytest.mark.parametrize("shape", [(0, 9), (5, 0)])
def test_a_dictionary_without_width_or_features_is_refused(shape: tuple[int, int]) -> None:
    width, n_features = shape
    with pytest.raises(fc.InputError, match=r"W_enc must be \[width, features\]"):
        relu(**weights(width, n_features, seed=0))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", [*MATRICES, "threshold"])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float) -> None:
    w = {**weights(5, 9, seed=0), "threshold": torch.zeros(9, dtype=torch.float64)}
    w[name].view(-1)[3] = value
    with pytest.raises(fc.InputError, match=f"jumprelu dictionary: {name} holds NaN or infinity"):
        check_numbers(jumprelu(**w))
    with pytest.raises(fc.InputError, match=f"{name} holds NaN or infinity"):
        fc.load(tiny_model("gpt2"), {"mlp_0": jumprelu(**_as_wide_as_the_model(w))})


def _as_wide_as_the_model(w: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with their columns or rows repeated."""
    again = -(-WIDTH // 5)
    return {
        **w,
        "W_enc": w["W_enc"].repeat(again, 1)[:WIDTH],
        "W_dec": w["W_dec"].repeat(1, again)[:, :WIDTH],
        "b_dec": w["b_dec"].repeat(again)[:WIDTH],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_another_dtype_is_the_same_dictionary(kind: str) -> None:
    d = dictionary(kind, seed=1)
    x = activations(4, 5, seed=1)
    rounded = d.to("cpu", torch.float32)
    assert rounded.encode(x.float()).dtype == torch.float32
    assert rounded.decoder_rows(torch.tensor([0])).dtype == torch.float32
    assert (rounded.kind, rounded.width, rounded.n_features) == (d.kind, d.width, d.n_features)
    torch.testing.assert_close(rounded.encode(x.float()), d.encode(x).float(), rtol=1e-4, atol=1e-5)


def test_a_moved_dictionary_asks_for_no_gradient() -> None:
    """Weights straight out of a training run would otherwise grow a graph in every forward."""
    w = {name: tensor.requires_grad_() for name, tensor in weights(5, 9, seed=0).items()}
    assert not any(tensor.requires_grad for tensor in relu(**w).to("cpu", torch.float64).tensors().values())


# files


def saved(folder: Path, tensors: dict[str, Tensor]) -> Path:
    path = folder / "dictionary.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_a_file_gives_the_dictionary_back(tmp_path: Path, kind: str) -> None:
    """The tensors that are present say the kind."""
    d = dictionary(kind)
    again = load_dictionary(saved(tmp_path, dict(d.tensors())))
    x = activations(6, 5, seed=2)
    assert again.kind == kind
    assert torch.equal(again.encode(x), d.encode(x))
    assert torch.equal(again.decode(d.encode(x)), d.decode(d.encode(x)))


@pytest.mark.parametrize("change", [{"scale": torch.ones(9)}, {"b_dec": None}])
def test_a_file_with_other_tensors_is_refused(tmp_path: Path, change: dict[str, Tensor | None]) -> None:
    """Never guessed at: a tensor that nobody reads would change what the features are."""
    tensors = {name: tensor for name, tensor in {**weights(5, 9, seed=0), **change}.items() if tensor is not None}
    path = saved(tmp_path, tensors)
    with pytest.raises(fc.InputError) as caught:
        load_dictionary(path)
    assert f"{path}: holds the tensors {sorted(tensors)}" in str(caught.value)
    assert "threshold" in str(caught.value)


def test_a_bad_tensor_is_refused_with_its_file(tmp_path: Path) -> None:
    path = saved(tmp_path, {**weights(5, 9, seed=0), "b_enc": torch.full((9,), torch.nan)})
    with pytest.raises(fc.InputError) as caught:
        load_dictionary(path)
    assert str(caught.value).startswith(f"{path}: relu dictionary: b_enc holds NaN")


def test_the_hash_of_a_topk_dictionary_covers_k() -> None:
    weights = (torch.ones(3, 4), torch.ones(4), torch.ones(4, 3), torch.ones(3))
    one, two = (fingerprint_of(topk(*weights, k).tensors().items()) for k in (1, 2))
    assert one != two


def test_a_matrix_of_another_rank_is_the_one_named() -> None:
    with pytest.raises(fc.InputError, match="W_enc must be"):
        relu(torch.ones(3), torch.ones(3), torch.ones(3, 3), torch.ones(3))
    with pytest.raises(fc.InputError, match="W_enc must be"):
        topk(torch.ones(()), torch.ones(3), torch.ones(3, 3), torch.ones(3), 1)


# weights that stay elsewhere


@on_random_dictionaries
def test_an_offloaded_dictionary_computes_the_same(
    kind: str, width: int, n_features: int, rows: int, seed: int
) -> None:
    d = dictionary(kind, width, n_features, seed)
    reads: list[int] = []

    def read() -> Dictionary:
        reads.append(1)
        return d

    elsewhere = offloaded(read).to("cpu", torch.float64)
    assert isinstance(elsewhere, Dictionary)
    x = activations(rows, width, seed)
    features = d.encode(x)
    assert torch.equal(elsewhere.encode(x), features)
    assert torch.equal(elsewhere.decode(features), d.decode(features))
    assert torch.equal(elsewhere.decode_change(features), d.decode_change(features))
    assert torch.equal(elsewhere.is_active(features), d.is_active(features))
    for row, ids in picked(rows, d.n_features, seed):
        change = activations(1, len(row), seed)[0] if len(row) else torch.zeros(0, dtype=torch.float64)
        torch.testing.assert_close(elsewhere.write(change, row, ids, rows), d.write(change, row, ids, rows), **CLOSE)
        torch.testing.assert_close(elsewhere.gradient_at(x, row, ids), d.gradient_at(x, row, ids), **CLOSE)
        torch.testing.assert_close(elsewhere.decoder_rows(ids), d.decoder_rows(ids), **CLOSE)
        torch.testing.assert_close(elsewhere.encoder_rows(ids), d.encoder_rows(ids), **CLOSE)
    assert fingerprint_of(elsewhere.tensors().items()) == fingerprint_of(d.tensors().items())
    assert len(reads) > 8
