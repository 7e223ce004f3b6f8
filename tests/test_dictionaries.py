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
from featcircuits.dictionaries import (
    Dictionary,
    identity,
    jumprelu,
    relu,
    topk,
)
from featcircuits.dictionaries.affine import check_numbers
from featcircuits.dictionaries.decomposition import decoded, of_nothing
from featcircuits.dictionaries.offloaded import offloaded
from featcircuits.model.fingerprints import fingerprint_of
from featcircuits.sources import load_source
from tests.kinds import KINDS, MATRICES, activations, dictionary, weights
from tests.tiny import WIDTH, tiny_model

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def on_random_dictionaries(test: Callable[..., None]) -> Callable[..., None]:
    """Every kind, over shapes (also fewer features than dimensions) and seeds."""
    over_shapes = given(
        width=st.integers(1, 7), n_features=st.integers(1, 12), rows=st.integers(1, 4), seed=st.integers(0, 10**6)
    )
    return pytest.mark.parametrize("kind", KINDS)(settings(max_examples=15, deadline=None)(over_shapes(test)))


# what encode and decode promise


@on_random_dictionaries
def test_features_and_error_give_the_activation_back(
    kind: str, width: int, n_features: int, rows: int, seed: int
) -> None:
    """For a batch [prompt, slot, width] as for a single vector, and each token on its own."""
    d = dictionary(kind, width, n_features, seed)
    x = activations(rows, d.read_width, seed)
    explained = activations(rows, d.width, seed + 1) if d.transcodes else x
    features = d.encode(x)
    assert features.shape == (rows, d.n_features)
    error = explained - written(d, x)
    torch.testing.assert_close(written(d, x) + error, explained, **CLOSE)
    torch.testing.assert_close(d.encode(x[None])[0], features, **CLOSE)
    torch.testing.assert_close(d.encode(x[0]), features[0], **CLOSE)
    torch.testing.assert_close(written(d, x[None])[0], written(d, x), **CLOSE)
    torch.testing.assert_close(written(d, x[0]), written(d, x)[0], **CLOSE)


def written(d: Dictionary, x: Tensor) -> Tensor:
    """Everything that comes of x but the error."""
    decoded, bypass = d.decode(d.encode(x), d.statistics(x)), d.bypass(x)
    assert (bypass is not None) == d.has_bypass
    return decoded if bypass is None else decoded + bypass


def scale(d: Dictionary, x: Tensor) -> Tensor | float:
    statistics = d.statistics(x)
    return 1.0 if statistics is None else statistics.scale


@on_random_dictionaries
def test_decoding_is_affine(kind: str, width: int, n_features: int, rows: int, seed: int) -> None:
    """Moving features moves the reconstruction by their decoder rows, whatever the features were."""
    d = dictionary(kind, width, n_features, seed)
    x = activations(rows, d.read_width, seed)
    features, statistics = d.encode(x), d.statistics(x)
    change = activations(rows, d.n_features, seed + 1)
    moved = d.decode(features + change, statistics)
    added = d.decode_change(change) * scale(d, x)
    torch.testing.assert_close(d.decode(features, statistics) + added, moved, **CLOSE)
    torch.testing.assert_close(d.decode_change(change), change @ d.decoder_rows(torch.arange(d.n_features)), **CLOSE)


@on_random_dictionaries
def test_few_active_features_decode_as_all_do(kind: str, width: int, n_features: int, rows: int, seed: int) -> None:
    """From none to all of them active: by their rows alone, or by the product."""
    d = dictionary(kind, width, n_features, seed)
    x = activations(rows, d.read_width, seed)
    generator = torch.Generator().manual_seed(seed)
    features = activations(rows, d.n_features, seed + 1)
    for share in (0.0, 0.05, 0.5, 1.0):
        some = features * (torch.rand(features.shape, generator=generator) < share)
        torch.testing.assert_close(decoded(d, some, x), d.decode(some, d.statistics(x)), **CLOSE)
    none = d.decode(torch.zeros_like(features), d.statistics(x))
    torch.testing.assert_close(of_nothing(d, x).expand_as(none), none, **CLOSE)


# the linear algebra that attribution uses, against autograd


@on_random_dictionaries
def test_projections_are_gradients_of_decoding(kind: str, width: int, n_features: int, rows: int, seed: int) -> None:
    d = dictionary(kind, width, n_features, seed)
    x = activations(rows, d.read_width, seed)
    features = d.encode(x).detach().requires_grad_()
    gradient = activations(rows, d.width, seed + 2)
    (expected,) = torch.autograd.grad((gradient * d.decode(features, d.statistics(x))).sum(), features)
    for row, ids in picked(rows, d.n_features, seed):
        torch.testing.assert_close(d.gradient_at(gradient * scale(d, x), row, ids), expected[row, ids], **CLOSE)


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
    """Pulled back through the normalisation; and a feature that is not active has no gradient at all."""
    d = dictionary(kind, width, n_features, seed)
    every = d.encoder_rows(torch.arange(d.n_features))
    for x in activations(rows, d.read_width, seed):
        active = d.is_active(d.encode(x))
        assert active.dtype == torch.bool
        jacobian = torch.autograd.functional.jacobian(d.encode, x)
        expected = d.pull(x.expand(d.n_features, -1), every * active[:, None])
        torch.testing.assert_close(jacobian, expected, **CLOSE)


@on_random_dictionaries
def test_the_bypass_is_linear_and_pulls_gradients_back(
    kind: str, width: int, n_features: int, rows: int, seed: int
) -> None:
    d = dictionary(kind, width, n_features, seed)
    x = activations(rows, d.read_width, seed).requires_grad_()
    gradient = activations(rows, d.width, seed + 2)
    bypass, pulled = d.bypass(x), d.pull_bypass(gradient)
    assert (bypass is not None) == (pulled is not None) == (kind == "skip transcoder")
    if bypass is not None and pulled is not None:
        torch.testing.assert_close(pulled, torch.autograd.grad((bypass * gradient).sum(), x)[0], **CLOSE)
        torch.testing.assert_close(d.bypass(2 * x), 2 * bypass, **CLOSE)


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
    x = torch.zeros(d.read_width, dtype=torch.float64)
    assert d.encode(x).shape == (d.n_features,)
    assert written(d, x).shape == (d.width,)
    assert d.decoder_rows(torch.arange(2)).shape == (2, d.width)
    assert d.encoder_rows(torch.arange(2)).shape == (2, d.read_width)


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
    x = activations(4, d.read_width, seed=1)
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
    again = load_source(saved(tmp_path, dict(d.tensors())))
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
        load_source(path)
    assert f"{path}: holds the tensors {sorted(tensors)}" in str(caught.value)
    assert "threshold" in str(caught.value)


def test_a_bad_tensor_is_refused_with_its_file(tmp_path: Path) -> None:
    path = saved(tmp_path, {**weights(5, 9, seed=0), "b_enc": torch.full((9,), torch.nan)})
    with pytest.raises(fc.InputError) as caught:
        load_source(path)
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
    x = activations(rows, d.read_width, seed)
    gradient = activations(rows, d.width, seed + 2)
    features, statistics = d.encode(x), d.statistics(x)
    assert (elsewhere.read_width, elsewhere.transcodes) == (d.read_width, d.transcodes)
    assert torch.equal(elsewhere.encode(x), features)
    assert torch.equal(elsewhere.decode(features, elsewhere.statistics(x)), d.decode(features, statistics))
    torch.testing.assert_close(written(elsewhere, x), written(d, x), **CLOSE)
    torch.testing.assert_close(elsewhere.pull(x, x), d.pull(x, x), **CLOSE)
    torch.testing.assert_close(elsewhere.pull_bypass(gradient), d.pull_bypass(gradient), **CLOSE)
    assert torch.equal(elsewhere.decode_change(features), d.decode_change(features))
    assert torch.equal(elsewhere.is_active(features), d.is_active(features))
    for row, ids in picked(rows, d.n_features, seed):
        change = activations(1, len(row), seed)[0] if len(row) else torch.zeros(0, dtype=torch.float64)
        torch.testing.assert_close(elsewhere.write(change, row, ids, rows), d.write(change, row, ids, rows), **CLOSE)
        torch.testing.assert_close(
            elsewhere.gradient_at(gradient, row, ids), d.gradient_at(gradient, row, ids), **CLOSE
        )
        torch.testing.assert_close(elsewhere.decoder_rows(ids), d.decoder_rows(ids), **CLOSE)
        torch.testing.assert_close(elsewhere.encoder_rows(ids), d.encoder_rows(ids), **CLOSE)
    assert fingerprint_of(elsewhere.tensors().items()) == fingerprint_of(d.tensors().items())
    assert len(reads) > 8
