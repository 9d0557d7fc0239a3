"""The memory of compressed tokens: what it gives back, how it grows, what a checkpoint holds."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
import torch

from utils.compression import Compression, class_token_weights, compress, decompress, fit_basis
from utils.errors import DataError, StorageError
from utils.token_sampling import sample
from utils.token_store import TokenStore

TOKENS, DIM = 6, 8
SETTINGS = Compression(TOKENS, DIM, 3)


def images(n, seed=0, n_labels=3):
    """Tokens, attention and labels."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(n, TOKENS, DIM, generator=generator)
    attention = torch.randn(n, TOKENS, generator=generator).softmax(1)
    return tokens, attention, torch.randint(n_labels, (n,), generator=generator)


def filled(n=20, settings=SETTINGS, block_rows=7):
    store = TokenStore(settings, block_rows=block_rows)
    store.add(*images(n))
    return store


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("mode", ["image", "shared", "none"])
def test_nothing_is_drawn_from_a_store_that_is_empty(mode):
    store = TokenStore(Compression(TOKENS, DIM, 3, mode=mode))
    tokens, labels = store.get(sample(store, 4, "class-balanced"))
    assert tokens.shape == (0, TOKENS, DIM)
    assert labels.shape == (0,)


@pytest.mark.parametrize("sizes", [[20], [1] * 20, [7, 7, 6], [3, 11, 0, 6]])
def test_samples_come_back_with_their_labels_whatever_the_batches_and_blocks(sizes):
    tokens, attention, labels = images(20)
    expected = decompress(compress(tokens, class_token_weights(attention), SETTINGS), SETTINGS)
    store, start = TokenStore(SETTINGS, block_rows=7), 0
    for size in sizes:
        part = slice(start, start + size)
        slots = store.add(tokens[part], attention[part], labels[part])
        assert slots.tolist() == list(range(start, start + size))
        start += size
    assert len(store) == 20
    assert torch.equal(store.labels, labels)
    order = torch.tensor([19, 0, 7, 6, 6, 13])
    found, found_labels = store.get(order)
    torch.testing.assert_close(found, expected[order], atol=0.05, rtol=0)
    assert torch.equal(found_labels, labels[order])
    assert store.get(torch.tensor([], dtype=torch.int64))[0].shape == (0, TOKENS, DIM)
    for label, slots in store.slots_of.items():
        assert list(slots) == (labels == label).nonzero().view(-1).tolist()
    assert store.n_per_label == {label: int((labels == label).sum()) for label in dict.fromkeys(labels.tolist())}


def test_weights_are_those_of_the_class_token_rule():
    tokens, attention, labels = images(4)
    settings = Compression(TOKENS, DIM, 1, 32)
    store = TokenStore(settings)
    store.add(tokens, attention, labels)
    expected = decompress(compress(tokens, class_token_weights(attention), settings), settings)
    assert torch.equal(store.get(torch.arange(4))[0], expected)
    assert not torch.equal(decompress(compress(tokens, attention, settings), settings), expected)


def test_without_compression_tokens_come_back_as_they_were():
    tokens, _, labels = images(5)
    store = TokenStore(Compression(TOKENS, DIM, 0), block_rows=2)
    store.add(tokens, None, labels)
    assert torch.equal(store.get(torch.arange(5))[0], tokens)


def test_bytes_are_those_of_the_blocks():
    store = TokenStore(SETTINGS, block_rows=7)
    assert store.n_bytes == 0
    store.add(*images(1))
    one_block = 7 * (SETTINGS.n_bytes + 8 + 4)
    assert store.n_bytes == one_block + 8
    store.add(*images(7))
    assert store.n_bytes == 2 * one_block + 8 * 8


def test_a_hundred_thousand_samples_take_what_the_arena_takes_and_nothing_ever_moves():
    n, batch = 100_000, 500
    settings = Compression(TOKENS, DIM, 3, 8)
    tokens, attention, labels = images(batch, n_labels=50)

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 if Path("/proc/self").exists() else 0

    store = TokenStore(settings)
    store.add(tokens, attention, labels)
    places, before = [], resident()
    for _ in range(1, n // batch):
        store.add(tokens, attention, labels)
        assert [block.data_ptr() for block in store._codes.blocks[: len(places)]] == places
        places = [block.data_ptr() for block in store._codes.blocks]
    assert len(store) == n
    arena = n * (settings.n_bytes + 8 + 4 + 8)
    assert arena <= store.n_bytes <= arena + store.block_rows * (settings.n_bytes + 12)
    assert resident() - before < 1.15 * store.n_bytes + 8e6
    found, found_labels = store.get(torch.tensor([n - 1, 3]))
    assert torch.equal(found_labels, labels[[batch - 1, 3]])
    assert torch.equal(found[1:], store.get(torch.tensor([batch + 3]))[0])


def test_adding_takes_as_long_to_a_large_store_as_to_an_empty_one():
    settings = Compression(TOKENS, DIM, 0)
    tokens, _, labels = images(1)
    many, _, of_many = images(1000)

    def fastest(store):
        times = []
        for _ in range(100):
            began = time.perf_counter()
            store.add(tokens, None, labels)
            times.append(time.perf_counter() - began)
        return sorted(times)[10]

    small, large = TokenStore(settings), TokenStore(settings)
    for _ in range(100):
        large.add(many, None, of_many)
    assert fastest(large) < 3 * fastest(small)


# Shared components


def test_shared_components_are_fitted_to_the_first_samples_and_kept():
    settings = Compression(TOKENS, DIM, 2, 32, mode="shared", n_fit=8)
    tokens, attention, labels = images(20)
    store = TokenStore(settings, block_rows=7)
    for part in torch.arange(20).split(5):
        store.add(tokens[part], attention[part], labels[part])
        if len(store) < 8:
            # As they came, until there are components.
            assert torch.equal(store.get(torch.arange(5))[0], tokens[:5])
            assert store.n_bytes > tokens[:5].nbytes
    weights = class_token_weights(attention)
    basis = fit_basis(tokens[:10], weights[:10], settings)
    expected = decompress(compress(tokens, weights, settings, basis), settings, basis)
    torch.testing.assert_close(store.get(torch.arange(20))[0], expected)
    blocks = 3 * 7 * (settings.n_bytes + 12)
    assert store.n_bytes == blocks + 20 * 8 + 4 * (DIM + 2 * DIM)


# State


@pytest.mark.parametrize("n_before", [0, 3, 14, 20])
@pytest.mark.parametrize(
    "settings",
    [SETTINGS, Compression(TOKENS, DIM, 3, 16, mode="shared", n_fit=10), Compression(TOKENS, DIM, 2, weighting=False)],
    ids=["image", "shared", "unweighted"],
)
def test_a_store_goes_on_from_its_state_as_if_it_had_never_stopped(n_before, settings):
    straight = filled(n_before, settings)
    sample(straight, 5, "frequency-weighted")
    other = TokenStore(settings, seed=1, block_rows=7)
    other.add(*images(2, seed=9))
    other.load_state_dict(through_a_file(straight.state_dict()))
    for store in (straight, other):
        store.add(*images(9, seed=5))
    for name in ("class-balanced", "uniform", "fifo", "frequency-weighted"):
        assert torch.equal(sample(straight, 6, name), sample(other, 6, name))
    assert torch.equal(straight.uses.all(), other.uses.all())
    slots = torch.arange(len(straight))
    for a, b in zip(straight.get(slots), other.get(slots), strict=True):
        assert torch.equal(a, b)
    assert (straight.n_bytes, straight.slots_of) == (other.n_bytes, other.slots_of)


def test_the_state_holds_rows_in_use_only_and_does_not_copy_full_blocks():
    store = filled(17)
    codes = store.state_dict()["_extra_state"]["codes"]
    assert [len(part) for part in codes] == [7, 7, 3]
    assert codes[-1].untyped_storage().nbytes() == 3 * SETTINGS.n_bytes
    assert codes[0].data_ptr() == store._codes.blocks[0].data_ptr()


def test_a_store_written_with_other_settings_is_refused_and_leaves_what_was_there():
    store = filled()
    before = through_a_file(store.state_dict())
    for other, message in (
        (Compression(TOKENS, DIM, 2), r"components 2 \(here 3\)"),
        (Compression(TOKENS, DIM, 3, 16), r"bits 16 \(here 8\)"),
        (Compression(TOKENS, DIM, 3, ranges="component"), r"ranges 'component' \(here 'token'\)"),
        (Compression(TOKENS, DIM, 3, weighting=False), r"weighting False \(here True\)"),
        (Compression(TOKENS + 1, DIM, 3), r"n_tokens 7 \(here 6\)"),
    ):
        with pytest.raises(StorageError, match=message):
            store.load_state_dict(TokenStore(other).state_dict())
    after = store.state_dict()
    assert torch.equal(before["_extra_state"]["labels"], after["_extra_state"]["labels"])
    assert len(store) == 20


def test_seeds_and_stores_have_generators_of_their_own():
    before = torch.get_rng_state()
    first, second = filled(), filled()
    assert torch.equal(sample(first, 5, "uniform"), sample(second, 5, "uniform"))
    third = TokenStore(SETTINGS, seed=1)
    third.add(*images(20))
    assert not torch.equal(sample(filled(), 10, "uniform"), sample(third, 10, "uniform"))
    assert torch.equal(torch.get_rng_state(), before)


# Bad input


def test_a_batch_that_does_not_fit_is_refused_and_leaves_what_was_there():
    store = filled(5)
    tokens, attention, labels = images(2)
    for bad in (
        (tokens[:, 1:], attention[:, 1:], labels),
        (tokens, attention, labels[:1]),
        (tokens, attention, labels.float()),
        (tokens, None, labels),
    ):
        with pytest.raises(ValueError, match="needed"):
            store.add(*bad)
    with pytest.raises(DataError, match="not finite"):
        store.add(tokens * torch.inf, attention, labels)
    waiting = TokenStore(Compression(TOKENS, DIM, 3, mode="shared", n_fit=10))
    with pytest.raises(DataError, match="not finite"):
        waiting.add(tokens * torch.inf, attention, labels)
    assert (len(store), len(store._codes), len(waiting), waiting.n_bytes) == (5, 5, 0, 0)
    with pytest.raises(IndexError, match="first 5"):
        store.get(torch.tensor([5]))
    with pytest.raises(ValueError, match="at least 1 row"):
        TokenStore(SETTINGS, block_rows=0)


@pytest.mark.parametrize(
    ("settings", "rows"),
    [(Compression(50, 768), 4096), (Compression(197, 768, 0), 55), (Compression(5000, 2000, 0), 1)],
)
def test_a_block_of_large_samples_has_few_of_them(settings, rows):
    assert TokenStore(settings).block_rows == rows
