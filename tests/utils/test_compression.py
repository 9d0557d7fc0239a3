"""Compressed tokens: byte counts, worked examples, exactness at full rank, what quantising costs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.compression import (
    Compression,
    class_token_weights,
    compress,
    decompress,
    dequantise,
    fit_basis,
    principal_components,
    quantise,
)
from utils.errors import DataError

TOKENS, DIM = 50, 768


@pytest.fixture(scope="module")
def tokens():
    """Four images whose tokens have a mean, a few strong directions, and noise."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return normal(4, 1, DIM) + normal(4, TOKENS, 6) @ normal(4, 6, DIM) / 2 + normal(4, TOKENS, DIM) / 2


@pytest.fixture(scope="module")
def weights():
    attention = torch.rand(4, TOKENS, generator=torch.Generator().manual_seed(1)).softmax(1)
    return class_token_weights(attention)


def round_trip(tokens, weights, **options):
    chosen = Compression(tokens.shape[1], tokens.shape[2], **options)
    codes = compress(tokens, weights, chosen)
    assert codes.shape == (len(tokens), chosen.n_bytes)
    assert codes.dtype == torch.uint8
    return decompress(codes, chosen)


# Bytes


@pytest.mark.parametrize(
    ("components", "bytes_8", "bytes_16", "bytes_32"),
    [
        (1, 2_002, 3_588, 6_344),
        (2, 2_828, 5_232, 9_616),
        (3, 3_654, 6_876, 12_888),
        (5, 5_306, 10_164, 19_432),
        (8, 7_784, 15_096, 29_248),
        (10, 9_436, 18_384, 35_792),
        (16, 14_392, 28_248, 55_424),
        (25, 21_826, 43_044, 84_872),
        (49, 41_650, 82_500, 163_400),
    ],
)
def test_bytes_of_a_sample_are_those_of_the_published_layout(components, bytes_8, bytes_16, bytes_32):
    for bits, expected in ((8, bytes_8), (16, bytes_16), (32, bytes_32)):
        assert Compression(TOKENS, DIM, components, bits).n_bytes == expected


def test_ranges_of_components_take_fewer_bytes():
    assert Compression(TOKENS, DIM, 5, 8, ranges="component").n_bytes == 4_946
    assert Compression(TOKENS, DIM, 5, 16, ranges="component").n_bytes == 9_804
    assert Compression(TOKENS, DIM, 5, 32, ranges="component") != Compression(TOKENS, DIM, 5, 32)
    assert Compression(TOKENS, DIM, 5, 32, ranges="component").n_bytes == 19_432


def test_shared_components_cost_a_sample_nothing_and_may_be_more_than_its_tokens():
    assert Compression(TOKENS, DIM, 5, 8, mode="shared").n_bytes == 50 * 5 + 8 * 50
    assert Compression(TOKENS, DIM, 100, 16, mode="shared", ranges="component").n_bytes == 2 * 50 * 100 + 8 * 100


def test_without_compression_a_sample_is_its_float32_tokens(tokens):
    plain = Compression(TOKENS, DIM, 0)
    assert plain.n_bytes == 153_600
    same = (Compression(TOKENS, DIM, None, 16), Compression(TOKENS, DIM, 7, 8, mode="none", ranges="component"))
    assert same == (plain, plain)
    assert torch.equal(round_trip(tokens, None, components=0), tokens)


# Weighted principal components


def test_weighted_components_of_a_worked_example():
    x = torch.tensor([[[2.0, 0], [0, 0], [0, 1]]])
    weights = torch.tensor([[0.5, 0.25, 0.25]])
    components, coefficients, mean = principal_components(x, weights, 2)
    np.testing.assert_allclose(mean[0], [1, 0.25])
    covariance = torch.einsum("n,ni,nj->ij", weights[0], x[0] - mean, x[0] - mean)
    np.testing.assert_allclose(covariance, [[1, -0.25], [-0.25, 0.1875]])
    # Two of two dimensions: the components diagonalise the covariance.
    np.testing.assert_allclose(components[0] @ covariance @ components[0].T, np.diag([1.070761, 0.116739]), atol=1e-6)
    np.testing.assert_allclose(components[0, 0], [0.962200, -0.272343], atol=1e-6)
    np.testing.assert_allclose(coefficients[0, :, 0], [1.030286, -0.894114, -1.166458], atol=1e-6)
    restored = round_trip(x, weights, components=1, bits=32)
    expected = [[1.991341, -0.030591], [0.139683, 0.493506], [-0.122366, 0.567677]]
    np.testing.assert_allclose(restored[0], expected, atol=1e-6)
    # The weighted squared error is the eigenvalue left out; weights that do not sum to 1 are divided by their sum.
    assert (weights[0] * (restored - x)[0].square().sum(1)).sum().item() == pytest.approx(0.116739, abs=1e-6)
    torch.testing.assert_close(round_trip(x, 8 * weights, components=1, bits=32), restored)


def test_tokens_of_full_rank_come_back_exactly(tokens, weights):
    assert tokens.abs().max() > 5
    for given_weights, weighting in ((weights, True), (None, False)):
        restored = round_trip(tokens, given_weights, components=49, bits=32, weighting=weighting)
        assert (restored - tokens).abs().max() < 1e-4


def test_gram_matrix_gives_what_a_singular_value_decomposition_gives(tokens, weights):
    for k in (1, 5, 16):
        restored = round_trip(tokens, weights, components=k, bits=32)
        for x, w, found in zip(
            tokens.double(), (weights / weights.sum(1, keepdim=True)).double(), restored, strict=True
        ):
            mean = w @ x
            right = torch.linalg.svd(w.sqrt()[:, None] * (x - mean), full_matrices=False)[2][:k]
            assert ((x - mean) @ right.T @ right + mean - found).abs().max() < 2e-4


def test_without_weighting_components_are_those_of_scikit_learn(tokens):
    from sklearn.decomposition import PCA

    components, coefficients, mean = principal_components(tokens, None, 5)
    components = components.numpy()
    for i, x in enumerate(tokens.numpy()):
        reference = PCA(5, svd_solver="full").fit(x)
        assert np.abs(components[i] @ reference.components_.T) == pytest.approx(np.eye(5), abs=1e-4)
        np.testing.assert_allclose(mean[i], reference.mean_, atol=1e-6)
        np.testing.assert_allclose(coefficients[i].abs(), np.abs(reference.transform(x)), atol=1e-3)
    restored = round_trip(tokens, None, components=5, bits=32, weighting=False)
    again = PCA(5, svd_solver="full").fit(tokens[0].numpy())
    expected = again.inverse_transform(again.transform(tokens[0].numpy()))
    np.testing.assert_allclose(restored[0], expected, atol=2e-4)


def test_components_are_orthonormal_and_their_largest_entry_is_positive(tokens, weights):
    components, _, _ = principal_components(tokens, weights, 49)
    np.testing.assert_allclose(components @ components.mT, np.broadcast_to(np.eye(49), (4, 49, 49)), atol=5e-5)
    assert (components.gather(2, components.abs().argmax(2, keepdim=True)) > 0).all()


def test_directions_that_do_not_exist_are_zeros_and_tokens_of_lower_rank_come_back(weights):
    generator = torch.Generator().manual_seed(2)
    x = 3 + torch.randn(4, TOKENS, 2, generator=generator) @ torch.randn(4, 2, DIM, generator=generator)
    components, coefficients, _ = principal_components(x, weights, 5)
    assert (components[:, :2].norm(dim=2) - 1).abs().max() < 1e-5
    restored = round_trip(x, weights, components=5, bits=32)
    assert (restored - x).abs().max() < 2e-5
    constant = torch.full((1, TOKENS, DIM), 0.3)
    components, coefficients, _ = principal_components(constant, None, 5)
    assert not components.any()
    assert not coefficients.any()
    assert torch.equal(round_trip(constant, weights[:1], components=5).round(decimals=6), constant)


def test_a_gram_matrix_in_float32_loses_less_than_8_bit_codes_do(tokens, weights):
    generator = torch.Generator().manual_seed(5)
    low_rank = 3 + torch.randn(4, TOKENS, 2, generator=generator) @ torch.randn(4, 2, DIM, generator=generator)
    for x in (tokens, low_rank, torch.full((4, TOKENS, DIM), 0.3)):
        restored = []
        for dtype in (torch.float32, torch.float64):
            components, coefficients, mean = principal_components(x, weights, 5, dtype)
            assert components.dtype == torch.float32
            restored.append(coefficients @ components + mean.unsqueeze(1))
        torch.testing.assert_close(*restored, atol=5e-4, rtol=0)


def test_tokens_that_are_looked_at_come_back_better():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, TOKENS, DIM, generator=generator)
    attention = torch.full((1, TOKENS), 0.001)
    attention[0, 7] = 0.9
    for bits in (8, 32):
        weighted = round_trip(x, class_token_weights(attention), components=3, bits=bits)
        alike = round_trip(x, None, components=3, bits=bits, weighting=False)
        error = (weighted - x)[0].norm(dim=1) / (alike - x)[0].norm(dim=1)
        assert error[[0, 7]].max() < 0.05
        assert error[1:7].mean() > 1


def test_the_class_token_weighs_1_beside_the_attention_of_the_patches():
    attention = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.25, 0.75]])
    expected = torch.tensor([[1, 0.3, 0.2], [1, 0.25, 0.75]]) / torch.tensor([[1.5], [2.0]])
    torch.testing.assert_close(class_token_weights(attention), expected)
    assert attention[0, 0] == 0.5


def test_a_batch_gives_what_its_images_give_alone(tokens, weights):
    chosen = Compression(TOKENS, DIM)
    together = decompress(compress(tokens, weights, chosen), chosen)
    for i in range(len(tokens)):
        alone = decompress(compress(tokens[i : i + 1], weights[i : i + 1], chosen), chosen)
        torch.testing.assert_close(together[i : i + 1], alone, atol=0.01, rtol=0)
    assert compress(tokens[:0], weights[:0], chosen).shape == (0, chosen.n_bytes)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("ranges", ["token", "component"])
@pytest.mark.parametrize(("mode", "components"), [("image", 1), ("image", 5), ("shared", 9)])
@pytest.mark.parametrize("n", [1, 4])
def test_every_layout_restores_what_it_should(tokens, weights, bits, ranges, mode, components, n):
    chosen = Compression(TOKENS, DIM, components, bits, ranges=ranges, mode=mode, n_fit=4)
    exact = Compression(TOKENS, DIM, components, 32, mode=mode, n_fit=4)
    basis = fit_basis(tokens, weights, chosen) if mode == "shared" else None
    expected = decompress(compress(tokens[:n], weights[:n], exact, basis), exact, basis)
    found = decompress(compress(tokens[:n], weights[:n], chosen, basis), chosen, basis)
    assert (found - expected).abs().max() < {8: 0.15, 16: 6e-4, 32: 1e-6}[bits]


# Quantising


def test_four_numbers_are_exact_in_8_bit_codes():
    codes, low, high = quantise(torch.tensor([[0.0, 1, 2, 3]]), 8)
    assert codes.tolist() == [[0, 85, 170, 255]]
    assert dequantise(codes, low, high).tolist() == [[0, 1, 2, 3]]


def test_codes_round_instead_of_cutting_off():
    codes, _, _ = quantise(torch.tensor([[0.0, 0.4, 0.6, 255]]), 8)
    assert codes.tolist() == [[0, 0, 1, 255]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    row=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    bits=st.sampled_from([8, 16]),
)
def test_a_code_is_at_most_half_a_step_off_and_a_constant_row_exact(row, bits):
    x = torch.tensor([row])
    restored = dequantise(*quantise(x, bits))
    spread = float(x.max() - x.min())
    step = spread / (2**bits - 1)
    rounding = 4 * torch.finfo(torch.float32).eps * float(x.abs().max()) + 1e-12
    assert (restored - x).abs().max() <= step / 2 + rounding
    constant = x[:, :1].expand(1, 5)
    assert torch.equal(dequantise(*quantise(constant, bits)), constant)


def test_what_quantising_costs_is_a_small_part_of_the_variance():
    x = torch.randn(8, TOKENS, DIM, generator=torch.Generator().manual_seed(4))
    x = x * torch.linspace(1, 3, DIM) + torch.linspace(-1, 1, DIM)
    exact = round_trip(x, None, components=5, bits=32, weighting=False)
    for bits, most in ((8, 1e-4), (16, 2e-9)):
        restored = round_trip(x, None, components=5, bits=bits, weighting=False)
        assert (restored - exact).var() / x.var() < most


# Shared components


def test_shared_components_are_those_of_all_tokens_together(tokens, weights):
    from sklearn.decomposition import PCA

    chosen = Compression(TOKENS, DIM, 5, 32, mode="shared", weighting=False)
    basis = fit_basis(tokens, None, chosen)
    reference = PCA(5, svd_solver="full").fit(tokens.flatten(0, 1).numpy())
    restored = decompress(compress(tokens, None, chosen, basis), chosen, basis)
    expected = reference.inverse_transform(reference.transform(tokens.flatten(0, 1).numpy()))
    np.testing.assert_allclose(restored.flatten(0, 1), expected, atol=2e-4)
    weighted = fit_basis(tokens, weights, Compression(TOKENS, DIM, 5, 32, mode="shared"))
    shares = (weights / weights.sum(1, keepdim=True) / len(weights)).flatten()
    torch.testing.assert_close(weighted.mean, shares @ tokens.flatten(0, 1))


def test_shared_components_need_their_basis(tokens):
    chosen = Compression(TOKENS, DIM, 5, mode="shared", weighting=False)
    with pytest.raises(ValueError, match="basis"):
        compress(tokens, None, chosen)
    with pytest.raises(ValueError, match="basis"):
        decompress(torch.zeros(1, chosen.n_bytes, dtype=torch.uint8), chosen)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 51}, "51 components: 50 tokens of size 768 have 1 to 50"),
        ({"components": -1}, "-1 components"),
        ({"bits": 4}, "bits must be one of 8, 16, 32, not 4"),
        ({"ranges": "image"}, "ranges must be one of token, component"),
        ({"mode": "video"}, "mode must be one of image, shared, none"),
        ({"mode": "shared", "components": 769}, "have 1 to 768"),
        ({"mode": "shared", "n_fit": 0}, "at least 1 image"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Compression(TOKENS, DIM, **options)
    with pytest.raises(ValueError, match="have 1 to 3"):
        Compression(8, 3, 4)


def test_tokens_and_codes_that_do_not_fit_are_refused(tokens, weights):
    chosen = Compression(TOKENS, DIM)
    with pytest.raises(ValueError, match=r"\(B, 50, 768\) are needed, not \(4, 49, 768\)"):
        compress(tokens[:, 1:], weights[:, 1:], chosen)
    with pytest.raises(ValueError, match="weights of shape"):
        compress(tokens, None, chosen)
    with pytest.raises(ValueError, match="rows of 5306 bytes"):
        decompress(torch.zeros(2, 4946, dtype=torch.uint8), chosen)
    for bad in (math.nan, math.inf):
        with pytest.raises(DataError, match="not finite"):
            compress(torch.where(torch.arange(DIM) == 3, bad, tokens), weights, chosen)
    for bad in (torch.full_like(weights, math.nan), -weights, 0 * weights):
        with pytest.raises(DataError, match="weights of tokens"):
            compress(tokens, bad, chosen)
