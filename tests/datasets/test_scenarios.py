"""What each task contains, on arrays made by hand and on the real annotations of MTL-AQA and UNLV-Dive."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.utils.scenarios import (
    Split,
    assign_grades,
    check_tasks,
    class_incremental,
    class_order,
    every_nth,
    first_per_class,
    grade_boundaries,
    grade_incremental,
    grade_incremental_official,
    group_incremental,
    hold_out,
    hold_out_by_class,
    merge_tasks,
    ordered_uniform_indices,
    task_order,
    with_base_session,
)
from utils.errors import DataError, UsageError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PROTOCOLS = [grade_incremental, grade_incremental_official]
# Few distinct values, so that ties within and across grades are the rule.
scores_with_ties = st.lists(st.integers(0, 12), min_size=1, max_size=60).map(lambda x: np.array(x, dtype=np.float64))


def sizes(parts: list[np.ndarray]) -> list[int]:
    return [len(part) for part in parts]


def assert_partition(parts: list[np.ndarray], n: int) -> None:
    """Every index once, each part in ascending order where it has to be reproducible."""
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))


def assert_same(one: Split, other: Split) -> None:
    assert one.names == other.names
    for a, b in zip([*one.train, *one.test], [*other.train, *other.test], strict=True):
        np.testing.assert_array_equal(a, b)


# Classes


def test_class_incremental_by_hand():
    parts = class_incremental([0, 3, 1, 2, 0, 4], [2, 1, 2])
    assert [part.tolist() for part in parts] == [[0, 2, 4], [3], [1, 5]]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 9), max_size=50), st.sampled_from([[10], [5, 5], [2, 2, 2, 2, 2], [1, 3, 6], [4, 6]]))
def test_class_incremental_tasks_are_disjoint_complete_and_hold_their_classes(labels, classes_per_task):
    parts = class_incremental(labels, classes_per_task)
    assert_partition(parts, len(labels))
    edges = np.cumsum([0, *classes_per_task])
    for task, part in enumerate(parts):
        assert all(edges[task] <= labels[i] < edges[task + 1] for i in part)


def test_class_order_is_ascending_unless_asked_otherwise():
    assert class_order(5, seed=3).tolist() == [0, 1, 2, 3, 4]
    assert class_order(4, custom=[2, 0, 3, 1], permute=True).tolist() == [2, 0, 3, 1]


def test_a_permuted_class_order_is_a_permutation_that_the_seed_decides():
    orders = [class_order(10, permute=True, seed=seed).tolist() for seed in range(20)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 20
    assert orders[7] == class_order(10, permute=True, seed=7).tolist()


@pytest.mark.parametrize(
    ("custom", "wrong"),
    [
        ([0, 1], "missing: 2"),
        ([0, 1, 1], "missing: 2; more than once: 1"),
        ([1, 2, 3], "missing: 0; unknown: 3"),
        ([0, 1, 2, 3, 3], "more than once: 3; unknown: 3"),
        ([], "missing: 0, 1, 2"),
    ],
)
def test_a_class_order_that_is_no_permutation_is_refused(custom, wrong):
    with pytest.raises(UsageError) as caught:
        class_order(3, custom=custom)
    assert str(caught.value) == f"--custom_class_order must name each of the classes 0..2 once; {wrong}"


def test_first_per_class_by_hand():
    assert first_per_class([1, 0, 1, 1, 0, 2], 2).tolist() == [0, 1, 2, 4, 5]
    assert first_per_class([1, 0, 1], 0).tolist() == []
    assert first_per_class([], 3).tolist() == []


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 10))
def test_first_per_class_equals_a_plain_loop(labels, per_class):
    counts: dict[int, int] = {}
    wanted = []
    for i, label in enumerate(labels):
        counts[label] = counts.get(label, 0) + 1
        if counts[label] <= per_class:
            wanted.append(i)
    assert first_per_class(labels, per_class).tolist() == wanted


# Grades


def test_grade_boundaries_are_quantiles_with_linear_interpolation():
    assert grade_boundaries([0, 10, 20, 30, 40], 4).tolist() == [0, 10, 20, 30, 40]
    assert grade_boundaries([40, 0, 10], 4).tolist() == [0, 5, 10, 25, 40]


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [1.0, float("inf")]], ids=["none", "nan", "infinite"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scores_that_cannot_be_cut_are_refused(protocol, scores):
    with pytest.raises(DataError, match=f"cannot cut {len(scores)} scores into grades"):
        grade_boundaries(scores, 2)
    with pytest.raises(DataError, match="finite score"):
        protocol(scores, [], 2)


def test_assign_grades_puts_a_score_on_an_edge_into_the_higher_grade_and_the_maximum_into_the_last():
    boundaries = [0, 10, 20, 30]
    assert assign_grades([0, 9.9, 10, 19.9, 20, 30], boundaries).tolist() == [0, 0, 1, 1, 2, 2]
    assert assign_grades([-5, 99], boundaries).tolist() == [0, 2]


def test_the_full_protocol_by_hand():
    split = grade_incremental([50, 10, 40, 20, 30, 60], [5, 45, 35, 100], 3)
    # Quantiles of 10..60 at thirds: 26.67 and 43.33.
    assert [part.tolist() for part in split.train] == [[1, 3], [2, 4], [0, 5]]
    assert [part.tolist() for part in split.test] == [[0], [2], [1, 3]]
    assert split.names == ["grade 1", "grade 2", "grade 3"]


def test_the_fewshot_protocol_by_hand():
    split = grade_incremental(np.arange(20), np.arange(20) + 0.4, 2, fewshot=True, train_shots=3, test_shots=2)
    # Grades 0..9 and 10..19: ranks 0, 4 (4.5 to even) and 9 of each for training, 0 and 9 for testing.
    assert [part.tolist() for part in split.train[1:]] == [[0, 4, 9], [10, 14, 19]]
    assert split.train[0].tolist() == [1, 2, 3, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 18]
    assert [part.tolist() for part in split.test[1:]] == [[0, 9], [10, 19]]
    assert split.names == ["base", "grade 1", "grade 2"]


def test_the_official_fewshot_protocol_by_hand():
    scores = np.arange(20.0)
    floor = grade_incremental_official(scores, scores, 2, fewshot=True, train_shots=4, test_shots=3, stride="floor")
    assert [part.tolist() for part in floor.train[1:]] == [[0, 2, 4, 6], [10, 12, 14, 16]]
    assert [part.tolist() for part in floor.test[1:]] == [[0, 3, 6], [10, 13, 16]]
    exact = grade_incremental_official(scores, scores, 2, fewshot=True, train_shots=4, test_shots=3, stride="exact")
    assert [part.tolist() for part in exact.train[1:]] == [[0, 2, 5, 7], [10, 12, 15, 17]]
    assert [part.tolist() for part in exact.test[1:]] == [[0, 3, 6], [10, 13, 16]]


def test_exact_official_picks_are_rounded_down_from_exact_quotients():
    """15 * (164 / 20) is 122.99999999999999 in floating point."""
    scores = np.arange(164.0)
    split = grade_incremental_official(scores, scores, 1, fewshot=True, train_shots=20, test_shots=20, stride="exact")
    assert split.train[1].tolist() == [i * 164 // 20 for i in range(20)]
    assert split.train[1][15] == 123


def test_the_official_protocol_moves_the_lowest_of_a_small_grade_to_the_base():
    split = grade_incremental_official([3, 1, 2, 6, 5, 4], [1, 6], 2, fewshot=True, train_shots=3, test_shots=3)
    assert [part.tolist() for part in split.train] == [[1, 5], [2, 0], [4, 3]]
    assert [part.tolist() for part in split.test] == [[0, 1], [], []]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(scores_with_ties, scores_with_ties, st.integers(1, 6), st.booleans(), st.integers(1, 8), st.integers(1, 8))
def test_grade_tasks_are_disjoint_complete_ordered_and_deterministic(
    protocol, train, test, n_grades, fewshot, train_shots, test_shots
):
    def cut() -> Split:
        return protocol(train, test, n_grades, fewshot=fewshot, train_shots=train_shots, test_shots=test_shots)

    split = cut()
    assert len(split.train) == len(split.test) == len(split.names) == n_grades + fewshot
    for parts, scores, shots in ((split.train, train, train_shots), (split.test, test, test_shots)):
        assert_partition(parts, len(scores))
        grades = parts[1:] if fewshot else parts
        occupied = [scores[part] for part in grades if len(part)]
        assert all(low.max() < high.min() for low, high in zip(occupied[:-1], occupied[1:], strict=True))
        if fewshot:
            assert all(len(part) <= shots for part in grades)
    assert_same(split, cut())


@settings(max_examples=50, deadline=None, derandomize=True)
@given(scores_with_ties, scores_with_ties, scores_with_ties, st.booleans())
def test_training_tasks_of_the_default_protocol_do_not_depend_on_test_scores(train, test, other_test, fewshot):
    one = grade_incremental(train, test, 3, fewshot=fewshot, train_shots=4)
    other = grade_incremental(train, 10 * other_test, 3, fewshot=fewshot, train_shots=4)
    for a, b in zip(one.train, other.train, strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_tasks_of_the_official_protocol_do_depend_on_test_scores():
    one = grade_incremental_official(np.arange(10), np.arange(10), 2)
    other = grade_incremental_official(np.arange(10), np.arange(100), 2)
    assert sizes(one.train) != sizes(other.train)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(scores_with_ties, st.integers(1, 5), st.integers(1, 30))
def test_the_base_session_has_samples_of_every_grade_that_has_two(train, n_grades, shots):
    full = grade_incremental(train, train, n_grades)
    base = grade_incremental(train, train, n_grades, fewshot=True, train_shots=shots, test_shots=shots)
    for grade, session in zip(full.train, base.train[1:], strict=True):
        left = np.intersect1d(grade, base.train[0])
        assert len(left) == len(grade) - min(shots, (len(grade) + 1) // 2)
        assert len(left) or len(grade) < 2
        assert set(session) <= set(grade)


def test_default_shots_reach_both_ends_of_their_grade_and_official_ones_miss_the_top():
    scores = np.random.default_rng(0).permutation(100).astype(float)
    default = grade_incremental(scores, scores, 4, fewshot=True, train_shots=10)
    official = grade_incremental_official(scores, scores, 4, fewshot=True, train_shots=10)
    assert [(scores[p].min(), scores[p].max()) for p in default.train[1:]] == [(0, 24), (25, 49), (50, 74), (75, 99)]
    # 25 // 10 is 2: the last pick is rank 18 of 0..24.
    assert [(scores[p].min(), scores[p].max()) for p in official.train[1:]] == [(0, 18), (25, 43), (50, 68), (75, 93)]


def test_ordered_uniform_indices_by_hand():
    scores = np.array([30.0, 10, 50, 20, 40])
    assert scores[ordered_uniform_indices(scores, 3)].tolist() == [10, 30, 50]
    assert scores[ordered_uniform_indices(scores, 9)].tolist() == [10, 20, 30, 40, 50]
    assert ordered_uniform_indices([], 3).tolist() == []
    assert ordered_uniform_indices([7, 7, 7], 2).tolist() == [0, 2]


# Real annotations


def read_scores(annotations: str, *splits: str) -> list[np.ndarray]:
    paths = [DATA / name for name in (annotations, *splits)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        pytest.skip(f"{', '.join(missing)} not found in {DATA}")
    known, *lists = (pickle.loads(path.read_bytes()) for path in paths)
    lists = [[(int(video), int(clip)) for video, clip in keys] for keys in lists]
    return [np.array([known[key]["final_score"] for key in keys if key in known]) for keys in lists]


@pytest.fixture(scope="module")
def mtl_aqa():
    return read_scores(
        "mtl_aqa_final_annotations_dict_with_dive_number.pkl", "mtl_aqa_train_split_0.pkl", "mtl_aqa_test_split_0.pkl"
    )


@pytest.fixture(scope="module")
def unlv_dive():
    return read_scores(
        "unlv_dive_final_annotations_dict.pkl", "unlv_dive_train_split_370_4.pkl", "unlv_dive_test_split_370_4.pkl"
    )


@pytest.mark.data
def test_boundaries_of_mtl_aqa_are_the_published_ones(mtl_aqa):
    train, test = mtl_aqa
    assert (len(train), len(test)) == (1059, 353)
    boundaries = grade_boundaries(np.concatenate([train, test]), 5)
    np.testing.assert_allclose(boundaries, [0, 52.5, 65.1, 72.6, 81.6, 104.5], atol=1e-9)


@pytest.mark.data
def test_the_official_full_protocol_has_the_published_counts_on_mtl_aqa(mtl_aqa):
    split = grade_incremental_official(*mtl_aqa, 5)
    assert sizes(split.train) == [203, 205, 216, 211, 224]
    assert sizes(split.test) == [78, 74, 69, 53, 79]


@pytest.mark.data
def test_the_official_fewshot_protocol_has_the_published_counts_and_ranges_on_mtl_aqa(mtl_aqa):
    train, test = mtl_aqa
    split = grade_incremental_official(train, test, 5, fewshot=True, train_shots=20, test_shots=20, stride="floor")
    assert sizes(split.train) == [959, 20, 20, 20, 20, 20]
    assert sizes(split.test) == [253, 20, 20, 20, 20, 20]
    low_high = [(round(train[part].min(), 2), round(train[part].max(), 2)) for part in split.train[1:]]
    assert low_high == [(0, 51.15), (52.5, 64.35), (65.1, 72.0), (72.6, 80.0), (81.6, 97.2)]
    low_high = [(round(test[part].min(), 2), round(test[part].max(), 2)) for part in split.test[1:]]
    assert low_high == [(0, 46.0), (52.5, 63.0), (65.6, 72.0), (72.6, 78.0), (81.6, 90.75)]
    distinct = [len(np.unique(test[part])) for part in split.test[1:]]
    assert all(12 <= n <= 20 for n in distinct)


@pytest.mark.data
def test_the_default_protocol_divides_mtl_aqa_into_grades_of_training_quantiles(mtl_aqa):
    train, test = mtl_aqa
    full = grade_incremental(train, test, 5)
    edges = np.quantile(train, [0.2, 0.4, 0.6, 0.8])
    for parts, scores in ((full.train, train), (full.test, test)):
        counts = np.histogram(scores, [-np.inf, *edges, np.inf])[0]
        assert sizes(parts) == counts.tolist()
    few = grade_incremental(train, test, 5, fewshot=True)
    assert sizes(few.train) == [959, 20, 20, 20, 20, 20]
    assert sizes(few.test) == [253, 20, 20, 20, 20, 20]
    for grade, session in zip(full.train, few.train[1:], strict=True):
        assert (train[session].min(), train[session].max()) == (train[grade].min(), train[grade].max())
    base_grades = assign_grades(train[few.train[0]], grade_boundaries(train, 5))
    assert np.bincount(base_grades).tolist() == [n - 20 for n in sizes(full.train)]


@pytest.mark.data
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_fewshot_counts_on_unlv_dive(unlv_dive, protocol):
    train, test = unlv_dive
    # 300 and 70 clips, of which the annotation file lacks one.
    assert (len(train), len(test)) == (299, 70)
    stride = {"stride": "exact"} if protocol is grade_incremental_official else {}
    split = protocol(train, test, 5, fewshot=True, train_shots=20, test_shots=10, **stride)
    assert sizes(split.train) == [199, 20, 20, 20, 20, 20]
    full = protocol(train, test, 5)
    for grade, session in zip(sizes(full.test), sizes(split.test[1:]), strict=True):
        small = grade - 1 if protocol is grade_incremental_official else (grade + 1) // 2
        assert session == (min(10, small) if (grade < 20 and not stride) or grade <= 10 else 10)
    assert sum(sizes(split.test)) == 70
    check_tasks(split, "unlv-dive")


# Groups


def test_groups_come_in_alphabetical_order_or_as_named():
    split = group_incremental(["vault", "dive", "vault"], ["dive", "ski"])
    assert split.names == ["dive", "ski", "vault"]
    assert [part.tolist() for part in split.train] == [[1], [], [0, 2]]
    assert [part.tolist() for part in split.test] == [[0], [1], []]
    named = group_incremental(["vault", "dive", "vault"], ["dive", "ski"], ["vault", "dive"])
    assert [part.tolist() for part in named.train] == [[0, 2], [1]]


def of_groups(train: list[int], test: list[int]) -> Split:
    """Groups a, b, ... with so many samples each."""
    names = "abcdefghijkl"[: len(train)]
    return group_incremental(np.repeat([*names], train), np.repeat([*names], test), [*names])


def test_neighbouring_tasks_are_united_to_even_numbers_of_training_samples_by_hand():
    split = of_groups([10, 10, 20, 10, 10], [1, 2, 3, 4, 5])
    assert merge_tasks(split, 5).names == ["a", "b", "c", "d", "e"]
    three = merge_tasks(split, 3)
    assert three.names == ["a+b", "c", "d+e"]
    assert sizes(three.train) == [20, 20, 20]
    assert sizes(three.test) == [3, 3, 9]
    assert three.test[1].tolist() == [3, 4, 5]
    # The last groups are kept for the last tasks, however few samples they have.
    assert merge_tasks(of_groups([1, 1, 50], [1, 1, 1]), 2).names == ["a+b", "c"]
    assert merge_tasks(of_groups([50, 1, 1], [1, 1, 1]), 3).names == ["a", "b", "c"]
    assert merge_tasks(of_groups([50, 1, 1, 1], [1, 1, 1, 1]), 3).names == ["a", "b", "c+d"]


def test_more_tasks_than_groups_are_refused():
    with pytest.raises(UsageError, match="--n_tasks 3: there are only 2 groups"):
        merge_tasks(of_groups([1, 1], [1, 1]), 3)


group_sizes = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(group_sizes, st.data())
def test_united_tasks_hold_every_sample_once_and_neighbours_only_and_none_is_empty(counts, data):
    n_tasks = data.draw(st.integers(1, len(counts)))
    split = of_groups(*map(list, zip(*counts, strict=True)))
    merged = merge_tasks(split, n_tasks)
    assert len(merged.names) == len(merged.train) == len(merged.test) == n_tasks
    assert "+".join(merged.names).split("+") == split.names
    assert all(len(part) for part in [*merged.train, *merged.test])
    for parts, originals in ((merged.train, split.train), (merged.test, split.test)):
        assert_partition(parts, sum(map(len, originals)))
        assert all(part.tolist() == sorted(part) for part in parts)
        by_name = dict(zip(split.names, originals, strict=True))
        for name, part in zip(merged.names, parts, strict=True):
            assert part.tolist() == sorted(np.concatenate([by_name[each] for each in name.split("+")]).tolist())
    assert_same(merged, merge_tasks(split, n_tasks))


@pytest.mark.parametrize("n_groups", range(1, 13))
def test_groups_of_one_size_are_united_as_evenly_as_they_can_be(n_groups):
    for n_tasks in range(1, n_groups + 1):
        merged = merge_tasks(of_groups([7] * n_groups, [1] * n_groups), n_tasks)
        united = [len(name.split("+")) for name in merged.names]
        assert max(united) - min(united) <= 1


# Base sessions


@settings(max_examples=100, deadline=None, derandomize=True)
@given(group_sizes, st.integers(1, 25), st.integers(1, 25), st.integers(0, 99))
def test_a_base_session_holds_the_rest_of_every_task(counts, train_shots, test_shots, seed):
    rng = np.random.default_rng(seed)
    split = of_groups(*map(list, zip(*counts, strict=True)))
    scores = [rng.integers(0, 12, sum(map(len, parts))).astype(float) for parts in (split.train, split.test)]
    few = with_base_session(split, *scores, train_shots, test_shots)
    assert few.names == ["base", *split.names]
    for parts, originals, values, shots in (
        (few.train, split.train, scores[0], train_shots),
        (few.test, split.test, scores[1], test_shots),
    ):
        assert_partition(parts, len(values))
        for task, session in zip(originals, parts[1:], strict=True):
            assert set(session) <= set(task)
            assert len(session) == min(shots, (len(task) + 1) // 2) > 0
            rest = np.intersect1d(task, parts[0])
            assert len(rest) == len(task) - len(session)
            assert len(rest) or len(task) == 1
            # The few span the scores of their task, if they are two.
            if len(session) > 1:
                assert (values[session].min(), values[session].max()) == (values[task].min(), values[task].max())
        if max(map(len, originals)) > 1:
            assert len(parts[0])
    assert_same(few, with_base_session(split, *scores, train_shots, test_shots))


def test_a_base_session_by_hand():
    split = of_groups([5, 1, 4], [3, 1, 2])
    scores = np.array([5.0, 1, 4, 2, 3, 9, 7, 8, 6, 0])
    few = with_base_session(split, scores, np.arange(6.0), 2, 1)
    # Of five the lowest and the highest, the only one, of four the lowest and the highest; of test samples the middle.
    assert [part.tolist() for part in few.train] == [[2, 3, 4, 6, 8], [1, 0], [5], [9, 7]]
    assert [part.tolist() for part in few.test] == [[0, 2, 5], [1], [3], [4]]


# Order


def test_task_orders_by_hand():
    assert task_order(4) == [0, 1, 2, 3]
    assert task_order(4, "descending") == [3, 2, 1, 0]
    assert task_order(4, custom=[3, 1, 4, 2]) == [2, 0, 3, 1]
    assert task_order(4, "descending", custom=[1, 2, 3, 4]) == [0, 1, 2, 3]


def test_a_base_session_stays_first_and_is_not_counted():
    assert task_order(4, "descending", base=True) == [0, 3, 2, 1]
    assert task_order(6, custom=[3, 1, 5, 2, 4], base=True) == [0, 3, 1, 5, 2, 4]
    assert all(task_order(6, "random", seed=seed, base=True)[0] == 0 for seed in range(20))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.sampled_from(["ascending", "descending", "random"]), st.integers(0, 99), st.booleans())
def test_every_order_is_a_permutation_that_the_seed_decides(n_tasks, order, seed, base):
    arranged = task_order(n_tasks, order, seed=seed, base=base)
    assert sorted(arranged) == list(range(n_tasks))
    assert arranged == task_order(n_tasks, order, seed=seed, base=base)


def test_random_orders_differ_between_seeds():
    assert len({tuple(task_order(8, "random", seed=seed)) for seed in range(20)}) == 20


@pytest.mark.parametrize("custom", [[1, 2], [1, 2, 2], [0, 1, 2], [1, 2, 3, 4], []])
def test_a_custom_order_that_does_not_name_every_task_once_is_refused(custom):
    with pytest.raises(UsageError, match=r"--custom_task_order must name each of the tasks 1\.\.3 once"):
        task_order(3, custom=custom)
    with pytest.raises(UsageError, match=r"tasks 1\.\.3 once"):
        task_order(4, custom=custom, base=True)
    with pytest.raises(UsageError, match=r"tasks 1\.\.0 once; unknown: 1"):
        task_order(1, custom=[1], base=True)


def test_an_unknown_order_is_refused():
    with pytest.raises(UsageError, match="choose ascending, descending or random"):
        task_order(3, "sideways")


def test_reordered_moves_samples_and_names_together():
    split = Split([np.array([0]), np.array([1, 2])], [np.array([5]), np.array([6])], ["a", "b"]).reordered([1, 0])
    assert [part.tolist() for part in split.train] == [[1, 2], [0]]
    assert [part.tolist() for part in split.test] == [[6], [5]]
    assert split.names == ["b", "a"]


# Hold-out


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(2, 80), st.floats(1, 99), st.integers(0, 99))
def test_hold_out_divides_in_two_ascending_parts_of_the_right_size_or_refuses(n, percent, seed):
    rng = np.random.default_rng(seed)
    train = np.sort(rng.choice(200, n, replace=False))
    targets = rng.integers(0, 5, 200)
    n_held = round(n * percent / 100)
    if n_held in (0, n):
        with pytest.raises(DataError, match=f"the task has {n}"):
            hold_out(train, targets, percent, seed)
        return
    kept, held = hold_out(train, targets, percent, seed)
    assert len(held) == n_held
    assert kept.tolist() == sorted(kept)
    assert held.tolist() == sorted(held)
    assert sorted([*kept, *held]) == train.tolist()
    # Stratified: every class gives its share, up to rounding.
    for label in range(5):
        in_class = targets[train] == label
        assert abs((targets[held] == label).sum() - in_class.sum() * n_held / n) < 1
    np.testing.assert_array_equal(held, hold_out(train, targets, percent, seed)[1])


def test_hold_out_differs_between_seeds_among_equal_targets():
    held = {tuple(hold_out(np.arange(40), np.zeros(40), 25, seed)[1]) for seed in range(10)}
    assert len(held) == 10


def test_hold_out_by_class_takes_its_share_of_every_class_and_at_least_one_sample():
    labels = np.repeat([0, 1, 2, 3], [50, 14, 2, 1])
    for seed in range(5):
        kept, held = hold_out_by_class(np.arange(67), labels, 10, seed)
        assert_partition([kept, held], 67)
        assert np.bincount(labels[held], minlength=4).tolist() == [5, 1, 1, 0]
    assert len({tuple(hold_out_by_class(np.arange(67), labels, 10, seed)[1]) for seed in range(5)}) == 5


def test_hold_out_by_class_leaves_a_sample_of_every_class_to_train_on():
    labels = np.repeat([4, 7], [3, 2])
    kept, _ = hold_out_by_class(np.arange(5), labels, 99, 0)
    assert sorted(labels[kept]) == [4, 7]


def test_hold_out_by_class_of_single_samples_is_refused():
    with pytest.raises(DataError, match="second sample"):
        hold_out_by_class(np.arange(3), np.arange(3), 50, 0)


def test_hold_out_spreads_over_the_scores():
    scores = np.random.default_rng(0).permutation(100).astype(float)
    _, held = hold_out(np.arange(100), scores, 10, seed=0)
    assert sorted(scores[held]) == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]


@pytest.mark.parametrize(("n", "percent"), [(1, 50), (0, 50), (10, 1), (10, 99)])
def test_hold_out_of_a_task_that_is_too_small_is_refused(n, percent):
    with pytest.raises(DataError, match=f"--validation {percent} leaves nothing"):
        hold_out(np.arange(n), np.zeros(n), percent, 0)


# Fixed split


def test_every_nth_by_hand():
    train, test = every_nth([50, 10, 40, 20, 30, 60, 70], n=3, offset=1)
    assert test.tolist() == [0, 3]  # scores 50 and 20, ranks 4 and 1
    assert train.tolist() == [1, 2, 4, 5, 6]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(scores_with_ties, st.integers(1, 6), st.data())
def test_every_nth_is_a_partition_of_the_right_size(scores, n, data):
    offset = data.draw(st.integers(0, n - 1))
    train, test = every_nth(scores, n, offset)
    assert_partition([train, test], len(scores))
    assert len(test) == len(range(offset, len(scores), n))


# Checks


def test_check_tasks_names_the_empty_tasks_and_the_kind():
    some, none = np.array([0, 1]), np.array([], dtype=np.int64)
    check_tasks(Split([some, some], [some, some], ["grade 1", "grade 2"]), "dives")
    with pytest.raises(DataError, match=r"^dives: no training sample in grade 2;.*--n_tasks"):
        check_tasks(Split([some, none], [some, none], ["grade 1", "grade 2"]), "dives")
    with pytest.raises(DataError, match=r"^dives: no test sample in grade 1, grade 2;"):
        check_tasks(Split([some, some], [none, none], ["grade 1", "grade 2"]), "dives")


def test_more_grades_than_distinct_scores_are_caught_by_check_tasks():
    split = grade_incremental([1.0, 1, 1, 2], [1.0, 2], 4)
    with pytest.raises(DataError, match="no training sample in grade"):
        check_tasks(split, "dives")
