"""Which samples a memory keeps: slots of the online strategies, indices of the exemplar selections."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datasets.utils.scenarios import grade_incremental_official
from utils.buffer import Buffer
from utils.registry import ROOT
from utils.selection import (
    NEED_FEATURES,
    SELECTIONS,
    STRATEGIES,
    Request,
    herding,
    kmeans,
    ordered_uniform,
    ordered_uniform_ranks,
    reservoir_of,
    select,
)


def make_request(capacity: int, n_stored: int, n_new: int, labels: Tensor | None, n_seen: int | None = None) -> Request:
    total = n_stored + n_new
    return Request(
        capacity=capacity,
        n_stored=n_stored,
        n_seen=n_stored if n_seen is None else n_seen,
        n_new=n_new,
        generator=torch.Generator().manual_seed(0),
        examples=lambda: torch.randn(total, 3, generator=torch.Generator().manual_seed(1)),
        labels=lambda: labels,
        keys=torch.rand(total, generator=torch.Generator().manual_seed(2)),
    )


def stream(strategy: str, capacity: int, labels: Tensor, sizes: list[int], seed: int = 0) -> list[int]:
    """Positions in the stream of what is stored after offering it in batches of the given sizes, in slot order."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(sum(sizes), generator=torch.Generator().manual_seed(seed + 1))
    stored: list[int] = []
    seen = 0
    for size in sizes:
        offered = torch.tensor([*stored, *range(seen, seen + size)], dtype=torch.long)
        request = Request(
            capacity,
            len(stored),
            seen,
            size,
            generator,
            examples=lambda offered=offered: labels[offered].view(-1, 1),
            labels=lambda offered=offered: labels[offered],
            keys=keys[offered],
        )
        for position, slot in enumerate(STRATEGIES[strategy](request).tolist(), seen):
            if slot == len(stored):
                stored.append(position)
            elif slot >= 0:
                stored[slot] = position
        seen += size
    return stored


# All strategies


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    capacity=st.integers(0, 8),
    filled=st.integers(0, 8),
    more_seen=st.integers(0, 20),
    n_new=st.integers(0, 20),
    seed=st.integers(0, 99),
)
def test_every_strategy_gives_one_valid_slot_per_sample_and_leaves_no_hole(
    strategy, capacity, filled, more_seen, n_new, seed
):
    n_stored = min(capacity, filled)
    n_seen = n_stored + (more_seen if n_stored == capacity else 0)
    labels = torch.randint(4, (n_stored + n_new,), generator=torch.Generator().manual_seed(seed))
    slots = STRATEGIES[strategy](make_request(capacity, n_stored, n_new, labels, n_seen))
    assert slots.shape == (n_new,)
    assert slots.dtype == torch.int64
    assert all(-1 <= slot < capacity for slot in slots.tolist())
    used = {*range(n_stored), *(slot for slot in slots.tolist() if slot >= 0)}
    assert used == set(range(min(capacity, n_stored + n_new)))


@pytest.mark.parametrize("strategy", ["class-balanced", "ordered-uniform"])
def test_strategies_that_choose_by_label_say_that_they_need_labels_and_keep_the_buffer_usable(strategy):
    buffer = Buffer(4, sample_selection_strategy=strategy)
    with pytest.raises(ValueError, match="labels="):
        buffer.add_data(torch.zeros(3, 2))
    buffer.add_data(torch.zeros(3, 2), labels=torch.zeros(3))
    assert len(buffer) == 3


@pytest.mark.parametrize("strategy", ["reservoir", "ring", "fill", "herding"])
def test_strategies_that_ignore_labels_work_without(strategy):
    assert sorted(STRATEGIES[strategy](make_request(4, 0, 3, None)).tolist()) == [0, 1, 2]


# Reservoir


@pytest.mark.parametrize("sizes", [[3], [1, 1, 1], [2, 1]], ids=["one batch", "one by one", "mixed"])
def test_a_reservoir_of_one_keeps_each_of_three_samples_equally_often(sizes):
    kept = [stream("reservoir", 1, torch.zeros(3), sizes, seed)[0] for seed in range(3000)]
    # 1000 expected, standard deviation 25.8.
    assert all(abs(count - 1000) < 130 for count in np.bincount(kept, minlength=3))


@pytest.mark.parametrize("size", [60, 7, 1], ids=["one batch", "batches of 7", "one by one"])
def test_a_reservoir_keeps_early_and_late_samples_equally_often_however_they_are_batched(size):
    n_trials, n, capacity = 400, 60, 6
    sizes = [size] * (n // size) + ([n % size] if n % size else [])
    kept = np.concatenate([stream("reservoir", capacity, torch.zeros(n), sizes, seed) for seed in range(n_trials)])
    assert len(kept) == n_trials * capacity
    thirds = np.bincount(kept // 20, minlength=3)
    # 800 expected of each third, standard deviation below 23.1.
    assert all(abs(count - 800) < 115 for count in thirds)
    assert set(kept) == set(range(n))


def test_a_reservoir_takes_all_until_it_is_full():
    assert stream("reservoir", 5, torch.zeros(5), [2, 3]) == [0, 1, 2, 3, 4]


# Ring and fill


def test_a_ring_replaces_the_oldest_first():
    assert stream("ring", 3, torch.zeros(8), [2, 2, 1]) == [3, 4, 2]


def test_a_ring_offered_more_than_it_holds_ends_with_the_newest():
    assert stream("ring", 3, torch.zeros(8), [8]) == [6, 7, 5]


def test_fill_keeps_the_first_and_then_nothing():
    assert stream("fill", 3, torch.zeros(8), [2, 4, 2]) == [0, 1, 2]


# Class-balanced


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 99))
def test_class_balanced_counts_differ_by_at_most_one_unless_a_class_has_no_more(labels, capacity, seed):
    labels = torch.tensor(labels)
    kept = stream("class-balanced", capacity, labels, [len(labels)], seed)
    supply, counts = labels.bincount(minlength=5), labels[kept].bincount(minlength=5)
    for count, available in zip(counts.tolist(), supply.tolist(), strict=True):
        assert count == available or count >= counts.max() - 1


def test_class_balanced_stays_even_while_classes_arrive_one_after_another():
    labels = torch.arange(5).repeat_interleave(30)
    for n_classes in range(1, 6):
        kept = stream("class-balanced", 12, labels, [10] * (3 * n_classes))
        counts = labels[kept].bincount(minlength=n_classes)
        assert counts.sum() == 12
        assert counts.max() - counts.min() <= 1


def test_class_balanced_gives_a_single_rare_sample_a_place():
    labels = torch.tensor([0] * 50 + [1])
    assert 50 in stream("class-balanced", 4, labels, [25, 26])


def test_class_balanced_draws_the_members_of_a_class_at_random():
    labels = torch.zeros(10, dtype=torch.long)
    kept = np.concatenate([stream("class-balanced", 2, labels, [10], seed) for seed in range(1000)])
    # 200 expected of each, standard deviation 12.6.
    assert all(abs(count - 200) < 70 for count in np.bincount(kept, minlength=10))


def test_class_balanced_keeps_early_and_late_samples_of_a_class_equally_often():
    labels = torch.zeros(300, dtype=torch.long)
    kept = np.concatenate([stream("class-balanced", 5, labels, [1] * 300, seed) for seed in range(60)])
    # Uniform over 0..299: mean 149.5, standard deviation of the mean of 300 draws 5.
    assert abs(kept.mean() - 149.5) < 25


# Ordered uniform


def test_ordered_uniform_by_hand():
    scores = torch.tensor([50.0, 10, 90, 70, 30, 20, 80, 60, 40])  # ranks 0..8 are 10, 20, ..., 90
    assert scores[ordered_uniform(scores, 3)].tolist() == [10, 50, 90]
    assert scores[ordered_uniform(scores, 5)].tolist() == [10, 30, 50, 70, 90]
    assert scores[ordered_uniform(scores, 4)].tolist() == [10, 40, 60, 90]  # ranks 0, 2.67, 5.33, 8
    assert scores[ordered_uniform(scores, 2)].tolist() == [10, 90]


def test_ordered_uniform_of_one_is_the_median_and_of_none_is_nothing():
    scores = torch.tensor([5.0, 1, 9, 3, 7])
    assert scores[ordered_uniform(scores, 1)].tolist() == [5]
    assert ordered_uniform(scores, 0).tolist() == []
    assert ordered_uniform(torch.empty(0), 3).tolist() == []
    assert ordered_uniform(torch.empty(0), 1).tolist() == []


def test_ordered_uniform_keeps_the_order_of_arrival_of_equal_scores():
    assert ordered_uniform(torch.tensor([2.0, 1, 2, 1]), 4).tolist() == [1, 3, 0, 2]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(-50, 50), max_size=60), st.integers(0, 70))
def test_ordered_uniform_takes_distinct_samples_in_ascending_order_with_both_ends(values, m):
    scores = torch.tensor(values, dtype=torch.float32)
    chosen = ordered_uniform(scores, m)
    assert len(set(chosen.tolist())) == min(m, len(values))
    picked = scores[chosen].tolist()
    assert picked == sorted(picked)
    if len(picked) > 1:
        assert (picked[0], picked[-1]) == (min(values), max(values))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(2, 500), st.integers(2, 500))
def test_ordered_uniform_strides_differ_by_at_most_one(n, m):
    strides = np.diff(ordered_uniform_ranks(n, m))
    assert strides.min() >= 1
    assert strides.max() - strides.min() <= 1


def largest_gap(scores: Tensor, chosen: Tensor) -> float:
    return float(scores[chosen].sort().values.diff().max())


def test_ordered_uniform_covers_an_unsorted_list_as_well_as_the_sorted_one():
    # MAGR's released code mixed up ranks and positions, so that its choice from a shuffled list was a random one (D1).
    generator = torch.Generator().manual_seed(0)
    scores = (100 * torch.rand(959, generator=generator)).sort().values
    shuffled = scores[torch.randperm(959, generator=generator)]
    by_chance = [largest_gap(scores, torch.randperm(959, generator=generator)[:10]) for _ in range(50)]
    gap = largest_gap(shuffled, ordered_uniform(shuffled, 10))
    assert gap == largest_gap(scores, ordered_uniform(scores, 10))
    assert gap == largest_gap(scores, torch.from_numpy(np.rint(np.linspace(0, 958, 10)).astype(int)))
    assert gap < min(by_chance)


def largest_share_between(n: int, ranks: np.ndarray) -> float:
    """Percent of n sorted samples in the widest gap between chosen ranks, or before the first or after the last."""
    return 100 * float(np.diff([0, *np.sort(ranks), n - 1]).max()) / (n - 1)


@pytest.mark.data
def test_ordered_uniform_covers_the_base_session_of_mtl_aqa(shared_data):
    annotations, *lists = (
        pickle.loads((shared_data / f"mtl_aqa_{name}.pkl").read_bytes())
        for name in ("final_annotations_dict_with_dive_number", "train_split_0", "test_split_0")
    )
    train, test = (np.array([annotations[video, clip]["final_score"] for video, clip in keys]) for keys in lists)
    scores = torch.from_numpy(train[grade_incremental_official(train, test, 5, fewshot=True).train[0]])
    assert len(scores) == 959
    chosen = ordered_uniform(scores, 10)
    by_rank = scores.sort(stable=True).values
    assert scores[chosen].tolist() == by_rank[[0, 106, 213, 319, 426, 532, 639, 745, 852, 958]].tolist()
    assert largest_share_between(959, scores.argsort(stable=True).argsort()[chosen].numpy()) < 12
    by_chance = [
        largest_share_between(959, torch.randperm(959, generator=torch.Generator().manual_seed(seed))[:10].numpy())
        for seed in range(200)
    ]
    assert 25 < np.mean(by_chance) < 30


def test_ordered_uniform_slots_in_one_batch_store_what_ordered_uniform_chooses():
    scores = torch.rand(30, generator=torch.Generator().manual_seed(2))
    assert sorted(stream("ordered-uniform", 7, scores, [30])) == sorted(ordered_uniform(scores, 7).tolist())


def test_ordered_uniform_slots_keep_the_extremes_of_all_that_was_seen():
    scores = torch.rand(60, generator=torch.Generator().manual_seed(3))
    kept = scores[stream("ordered-uniform", 5, scores, [4] * 15)]
    assert kept.min() == scores.min()
    assert kept.max() == scores.max()


# Herding


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 15), st.integers(1, 4), st.integers(0, 18), st.integers(0, 999))
def test_every_step_of_herding_is_the_best_that_a_plain_loop_finds(n, dim, m, seed):
    features = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    chosen = herding(features, m).tolist()
    assert len(set(chosen)) == len(chosen) == min(m, n)
    for step, pick in enumerate(chosen):
        distances = {
            i: float((features.mean(0) - features[[*chosen[:step], i]].mean(0)).norm())
            for i in range(n)
            if i not in chosen[:step]
        }
        # Equally good ones exist: of two samples both are as far from their mean.
        assert distances[pick] == pytest.approx(min(distances.values()), abs=1e-12)


def test_herding_by_hand():
    # The mean is 3: 3 itself, then 2 (running mean 2.5, nearest), then 4 (running mean 3).
    assert herding(torch.tensor([[0.0], [2.0], [3.0], [4.0], [6.0]]), 1).tolist() == [2]
    assert sorted(herding(torch.tensor([[0.0], [2.0], [3.0], [4.0], [6.0]]), 3).tolist()) == [1, 2, 3]


def test_herding_never_takes_a_sample_twice_even_if_all_are_alike():
    assert sorted(herding(torch.ones(5, 2), 5).tolist()) == [0, 1, 2, 3, 4]


def test_herding_slots_in_one_batch_store_what_herding_chooses():
    values = torch.rand(20, generator=torch.Generator().manual_seed(4))
    assert sorted(stream("herding", 6, values, [20])) == sorted(herding(values.view(-1, 1), 6).tolist())


# k-means


def blobs(n_blobs: int, per_blob: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features in well separated blobs, in random order, and the blob of each."""
    generator = torch.Generator().manual_seed(seed)
    blob = torch.arange(n_blobs).repeat_interleave(per_blob)[torch.randperm(n_blobs * per_blob, generator=generator)]
    return 100 * torch.eye(n_blobs)[blob] + torch.randn(len(blob), n_blobs, generator=generator), blob


@pytest.mark.parametrize("n_blobs", [1, 2, 5])
def test_kmeans_takes_from_every_blob_the_sample_nearest_to_its_mean(n_blobs):
    features, blob = blobs(n_blobs, 12)
    chosen = kmeans(features, n_blobs)
    assert sorted(blob[chosen].tolist()) == list(range(n_blobs))
    for index in chosen.tolist():
        members = (blob == blob[index]).nonzero().view(-1)
        distance = (features[members] - features[members].mean(0)).norm(dim=1)
        assert members[distance.argmin()] == index


def test_kmeans_of_fewer_different_samples_than_asked_for_fills_up():
    features = torch.tensor([[0.0], [5.0], [0.0], [5.0], [9.0], [0.0]])
    for m in range(7):
        chosen = kmeans(features, m).tolist()
        assert len(set(chosen)) == len(chosen) == m
        assert len(set(features[chosen].view(-1).tolist())) == min(m, 3)
    assert sorted(kmeans(torch.ones(4, 3), 4).tolist()) == [0, 1, 2, 3]


def test_kmeans_gives_the_same_samples_every_time():
    features = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kmeans(features, 7), kmeans(features, 7))


# What a session stores


@pytest.mark.parametrize("strategy", SELECTIONS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(n=st.integers(0, 12), m=st.integers(0, 14), seed=st.integers(0, 99), ties=st.booleans())
def test_every_selection_gives_as_many_distinct_samples_as_asked_for_or_all(strategy, n, m, seed, ties):
    generator = torch.Generator().manual_seed(seed)
    features, scores = torch.randn(n, 3, generator=generator), torch.rand(n, generator=generator)
    if ties:
        features, scores = features.round(), scores.round()
    chosen = select(strategy, features, scores, m, generator)
    assert chosen.dtype == torch.int64
    assert chosen.device.type == "cpu"
    assert len(set(chosen.tolist())) == len(chosen) == min(m, n)
    assert set(chosen.tolist()) <= set(range(n))


def test_selections_are_the_functions_of_their_names():
    generator = torch.Generator().manual_seed(0)
    features, scores = torch.randn(30, 3, generator=generator), torch.rand(30, generator=generator)

    def chosen(strategy, features=features):
        return select(strategy, features, scores, 7, torch.Generator().manual_seed(1))

    assert torch.equal(chosen("ordered-uniform", None), ordered_uniform(scores, 7))
    assert torch.equal(chosen("herding"), herding(features, 7))
    assert torch.equal(chosen("kmeans"), kmeans(features, 7))
    assert torch.equal(chosen("random", None), torch.randperm(30, generator=torch.Generator().manual_seed(1))[:7])
    assert torch.equal(chosen("reservoir", None), reservoir_of(30, 7, torch.Generator().manual_seed(1)))
    assert chosen("first", None).tolist() == list(range(7))


def test_the_reservoir_of_a_session_is_what_a_buffer_of_that_size_ends_with():
    buffer = Buffer(7, seed=3)
    buffer.add_data(torch.arange(50))
    assert torch.equal(reservoir_of(50, 7, torch.Generator().manual_seed(3)), buffer.get_all_data()[0])


def test_every_sample_has_the_same_chance_in_the_reservoir_of_a_session():
    kept = torch.cat([reservoir_of(10, 3, torch.Generator().manual_seed(seed)) for seed in range(2000)])
    # 600 expected of each, standard deviation 20.5.
    assert ((kept.bincount(minlength=10) - 600).abs() < 100).all()


def test_a_selection_by_features_insists_on_them_and_an_unknown_one_is_refused():
    for strategy in NEED_FEATURES:
        with pytest.raises(ValueError, match="by features"):
            select(strategy, None, torch.zeros(3), 2, torch.Generator())
    with pytest.raises(ValueError, match="ordered-uniform, random"):
        select("best", None, torch.zeros(3), 2, torch.Generator())


@pytest.mark.parametrize("use", ["kmeans(torch.rand(8, 2), 2)", "get_dataset(args).samples"])
def test_what_is_imported_on_demand_takes_nothing_from_the_generators_of_a_run(use):
    code = (
        "import random, torch; from datasets import get_dataset; from utils.args import parse_args\n"
        "from utils.selection import kmeans; args = parse_args(['--model', 'sgd', '--dataset', 'seq-digits'])\n"
        f"state = random.getstate(); {use}; assert random.getstate() == state"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
