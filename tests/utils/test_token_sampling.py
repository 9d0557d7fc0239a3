"""Samplers over a token store: shares of labels, no sample twice, what is left out, frequencies."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.compression import Compression
from utils.token_sampling import DECAY, LEAST, SAMPLERS, even_quotas, sample
from utils.token_store import TokenStore

SETTINGS = Compression(2, 1, 0)
LABELS = st.lists(st.integers(0, 6), max_size=40)


def store_of(labels, seed=0):
    store = TokenStore(SETTINGS, seed=seed, block_rows=16)
    store.add(torch.zeros(len(labels), 2, 1), None, torch.tensor(labels, dtype=torch.int64))
    return store


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(labels=LABELS, n=st.integers(0, 45), excluded=st.sets(st.integers(0, 39)), seed=st.integers(0, 9))
def test_slots_are_different_not_excluded_and_as_many_as_there_can_be(sampler, labels, n, excluded, seed):
    store = store_of(labels, seed)
    excluded = sorted(slot for slot in excluded if slot < len(labels))
    slots = sample(store, n, sampler, torch.tensor(excluded, dtype=torch.int64))
    assert slots.dtype == torch.int64
    assert len(slots) == min(n, len(labels) - len(excluded))
    assert len(set(slots.tolist())) == len(slots)
    assert not set(slots.tolist()) & set(excluded)
    assert all(0 <= slot < len(labels) for slot in slots.tolist())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(labels=LABELS.filter(len), n=st.integers(1, 45), excluded=st.sets(st.integers(0, 39)), seed=st.integers(0, 9))
def test_labels_have_shares_as_equal_as_their_samples_allow(labels, n, excluded, seed):
    store = store_of(labels, seed)
    excluded = {slot for slot in excluded if slot < len(labels)}
    slots = sample(store, n, "class-balanced", torch.tensor(sorted(excluded), dtype=torch.int64))
    there = torch.tensor([label for slot, label in enumerate(labels) if slot not in excluded], dtype=torch.int64)
    sizes, drawn = there.bincount(minlength=7), store.labels_at(slots).bincount(minlength=7)
    assert int((drawn > 0).sum()) == min(n, int((sizes > 0).sum()))
    assert (drawn <= sizes).all()
    # Who has samples left has at most one less than anyone else.
    for label in range(7):
        if 0 < drawn[label] < sizes[label]:
            assert drawn[label] >= drawn.max() - 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(0, 20), max_size=8), total=st.integers(0, 80))
def test_quotas_sum_to_what_there_is_and_the_first_get_the_remainder(sizes, total):
    quotas = even_quotas(sizes, total)
    assert sum(quotas) == min(total, sum(sizes))
    open_ones = [quota for quota, size in zip(quotas, sizes, strict=True) if quota < size]
    assert all(quota <= size for quota, size in zip(quotas, sizes, strict=True))
    assert open_ones == sorted(open_ones, reverse=True)
    assert not open_ones or max(quotas) - min(open_ones) <= 1


def test_quotas_of_a_worked_example():
    assert even_quotas([9, 9, 9], 7) == [3, 2, 2]
    assert even_quotas([1, 9, 4], 12) == [1, 7, 4]
    assert even_quotas([2, 2], 9) == [2, 2]
    assert even_quotas([], 3) == []


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_draws_the_same_and_goes_on_doing_so_after_its_state_was_put_back(sampler):
    labels = [i * i % 7 for i in range(60)]
    first, second = store_of(labels), store_of(labels)
    assert torch.equal(sample(first, 10, sampler), sample(second, 10, sampler))
    third = store_of([], seed=3)
    third.load_state_dict(first.state_dict())
    expected = [sample(first, 10, sampler).tolist() for _ in range(4)]
    assert [sample(third, 10, sampler).tolist() for _ in range(4)] == expected
    if sampler != "fifo":
        assert len(set(map(tuple, expected))) > 1


def test_the_newest_come_in_order_of_arrival():
    store = store_of([0] * 10)
    assert sample(store, 4, "fifo").tolist() == [6, 7, 8, 9]
    assert sample(store, 4, "fifo", torch.tensor([9, 7])).tolist() == [4, 5, 6, 8]


def test_every_label_and_every_sample_of_a_label_is_drawn_equally_often():
    # 4 labels with 1, 2, 5 and 12 samples.
    labels = [0, 1, 1, 2, 2, 2, 2, 2, *[3] * 12]
    store, n_rounds = store_of(labels), 3000
    counts = torch.zeros(len(labels))
    for _ in range(n_rounds):
        counts[sample(store, 2, "class-balanced")] += 1
    by_label = torch.zeros(4).index_add(0, store.labels, counts) / n_rounds
    torch.testing.assert_close(by_label, torch.full((4,), 0.5), atol=0.04, rtol=0)
    expected = 0.5 / torch.tensor([1.0, 2, 5, 12])[store.labels]
    torch.testing.assert_close(counts / n_rounds, expected, atol=0.04, rtol=0)


def test_the_remainder_goes_to_random_labels():
    store, counts = store_of([0] * 9 + [1] * 9 + [2] * 9), torch.zeros(3)
    for _ in range(600):
        counts[store.labels_at(sample(store, 4, "class-balanced")).bincount(minlength=3).argmax()] += 1
    torch.testing.assert_close(counts / 600, torch.full((3,), 1 / 3), atol=0.07, rtol=0)


def test_uniform_draws_every_sample_equally_often_at_every_position():
    store, counts = store_of([0] * 8), torch.zeros(3, 8)
    for _ in range(2000):
        slots = sample(store, 3, "uniform", torch.tensor([5]))
        counts[torch.arange(3), slots] += 1
    expected = torch.full((3, 8), 1 / 7).index_fill(1, torch.tensor([5]), 0)
    torch.testing.assert_close(counts / 2000, expected, atol=0.04, rtol=0)


def test_samples_used_often_are_drawn_less_down_to_a_floor():
    store = store_of([0, 0, 0])
    # 0.99^69 is about a half; 0.99^2000 is far below the floor.
    for slot, n in enumerate((0, 69, 2000)):
        store.count_uses(torch.full((n,), slot))
    counts, n_rounds = torch.zeros(3), 4000
    uses = store.uses.all().clone()
    for _ in range(n_rounds):
        slot = int(sample(store, 1, "frequency-weighted"))
        counts[slot] += 1
        store.uses.blocks[0][:3] = uses
    weights = torch.tensor([1, DECAY**69, LEAST])
    torch.testing.assert_close(counts / n_rounds, weights / weights.sum(), atol=0.025, rtol=0)
    assert counts[2] > 10


def test_draws_count_as_uses_for_the_sampler_that_counts():
    store = store_of([0] * 6)
    for _ in range(3):
        sample(store, 2, "uniform")
    assert not store.uses.all().any()
    slots = sample(store, 4, "frequency-weighted")
    assert store.uses.all().tolist() == [int(slot in slots.tolist()) for slot in range(6)]


def test_a_draw_takes_as_long_from_a_large_store_as_from_a_small_one():
    def fastest(store, sampler):
        times = []
        for _ in range(30):
            began = time.perf_counter()
            sample(store, 31, sampler)
            times.append(time.perf_counter() - began)
        return sorted(times)[3]

    small, large = store_of([i % 20 for i in range(100)]), store_of([i % 20 for i in range(50_000)])
    for sampler in ("class-balanced", "uniform", "fifo"):
        assert fastest(large, sampler) < 4 * fastest(small, sampler)


def test_what_cannot_be_drawn_is_refused():
    store = store_of([0, 1])
    with pytest.raises(ValueError, match="did you mean class-balanced"):
        sample(store, 1, "class_balance")
    with pytest.raises(ValueError, match="-1 samples"):
        sample(store, -1)
    with pytest.raises(IndexError, match="first 2"):
        sample(store, 1, exclude=torch.tensor([7]))
