"""Which texts a flexible classifier chooses among, whose images count, and the figures of several data sets."""

import math

import numpy as np
import pytest

from utils.candidate_sets import Candidates, Scored, distinct, mix, mix_zero_shot, union, union_zero_shot
from utils.errors import UsageError
from utils.metrics import mtil_figures, target_and_novel

TARGETS = [["bridge", "cat", "dog"], ["airport", "bridge"]]
HELD_OUT = [["dotted", "cat", "striped"], ["dotted", "zigzag"]]


def many(prefix: str, n: int) -> list[str]:
    return [f"{prefix} {i}" for i in range(n)]


def test_the_union_has_every_target_text_once_and_scores_every_class_of_every_target_data_set() -> None:
    [group] = union(TARGETS)
    assert group.texts == ["bridge", "cat", "dog", "airport"]
    assert group.targets == [Scored(0, [0, 1, 2]), Scored(1, [0, 1])]
    assert group.novel == []


def test_the_union_of_the_published_data_sets_shares_nine_of_its_texts() -> None:
    sizes = (100, 397, 10, 37, 102, 100, 196, 101)
    sets = [many(f"set {i}", size) for i, size in enumerate(sizes)]
    for shared in range(9):
        sets[1][shared] = sets[0][shared]
    assert len(union(sets)[0].texts) == 1034


def test_zero_shot_labels_beside_the_union_are_held_out_texts_that_no_target_has() -> None:
    [group] = union_zero_shot(TARGETS, HELD_OUT, n_novel=100)
    assert group.texts[:4] == union(TARGETS)[0].texts
    assert sorted(group.texts[4:]) == ["dotted", "striped", "zigzag"]
    assert group.targets == union(TARGETS)[0].targets
    # A text of both held-out data sets is scored on the images of both; a target's text on those of none.
    assert group.novel == [Scored(2, [0, 2]), Scored(3, [0, 1])]


def test_only_the_drawn_zero_shot_labels_are_candidates_and_scored() -> None:
    held_out = [many("novel", 300), many("other", 50)]
    [group] = union_zero_shot(TARGETS, held_out, seed=3)
    drawn = group.texts[4:]
    assert len(drawn) == len({*drawn}) == 100
    scored = [held_out[part.position - 2][label] for part in group.novel for label in part.labels]
    assert sorted(scored) == sorted(drawn)
    assert all(part.labels == sorted(part.labels) and part.per_label is None for part in group.novel)
    assert union_zero_shot(TARGETS, held_out, seed=3) == [group]
    assert union_zero_shot(TARGETS, held_out, seed=4)[0].texts != group.texts


def test_every_label_is_in_one_of_five_groups_whose_sizes_differ_by_one_at_most() -> None:
    targets = [many("a", 700), many("b", 334)]
    groups = mix(targets)
    assert [len(group.texts) for group in groups] == [207, 207, 207, 207, 206]
    assert sorted(text for group in groups for text in group.texts) == sorted(distinct(targets))
    assert groups[0].texts != distinct(targets)[:207]
    assert mix(targets) == groups != mix(targets, seed=1)


def test_a_group_is_scored_on_a_hundred_images_of_each_of_its_labels_in_every_data_set_that_has_it() -> None:
    for group in mix(TARGETS, n_groups=4):
        [text] = group.texts
        expected = {"bridge": [(0, 0), (1, 1)], "cat": [(0, 1)], "dog": [(0, 2)], "airport": [(1, 0)]}[text]
        assert group.targets == [Scored(position, [label], 100) for position, label in expected]


def test_distractors_are_held_out_texts_drawn_for_each_group_and_never_scored() -> None:
    targets, held_out = [many("a", 20)], [many("novel", 300)]
    groups, plain = mix_zero_shot(targets, held_out, seed=5), mix(targets, seed=5)
    for group, without in zip(groups, plain, strict=True):
        assert group.texts[:4] == without.texts
        assert len({*group.texts[4:]}) == len(group.texts[4:]) == 100
        assert {*group.texts[4:]} <= {*held_out[0]}
        assert group.targets == without.targets
        assert group.novel == []
    assert {*groups[0].texts[4:]} != {*groups[1].texts[4:]}
    assert mix_zero_shot(targets, held_out, seed=5) == groups
    assert [len(group.texts) for group in mix_zero_shot(targets, [["x", "a 1"]], n_novel=9)] == [5] * 5


def test_the_first_images_of_each_label_count_up_to_the_limit() -> None:
    labels = [2, 0, 2, 1, 2, 0, 0, 2]
    assert Scored(0, [0, 2]).chosen(labels).tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert Scored(0, [0, 2], 2).chosen(labels).tolist() == [0, 1, 2, 5]
    assert Scored(0, [3], 2).chosen(labels).tolist() == []


@pytest.mark.parametrize(("sets", "n_groups"), [([], 1), ([[]], 1), (TARGETS, 5)])
def test_too_few_labels_are_refused(sets: list[list[str]], n_groups: int) -> None:
    with pytest.raises(UsageError, match=r"\d labels cannot make"):
        mix(sets, n_groups=n_groups)
    if n_groups == 1:
        with pytest.raises(UsageError, match="0 labels"):
            union(sets)


def test_groups_compare_by_what_they_hold() -> None:
    assert Candidates(["a"], []) == Candidates(["a"], [], [])


def test_transfer_average_and_last_of_three_data_sets() -> None:
    accuracies = [[90, 40, 60], [80, 95, 50], [70, 85, 99]]
    figures = mtil_figures(accuracies)
    # Before they were learnt: the second had 40, the third 60 and 50.
    assert figures["transfer"] == pytest.approx((40 + 55) / 2)
    assert figures["average"] == pytest.approx((240 + 220 + 209) / 9)
    assert figures["last"] == pytest.approx((70 + 85 + 99) / 3)


def test_a_single_data_set_has_nothing_to_transfer_to() -> None:
    figures = mtil_figures([[80]])
    assert math.isnan(figures["transfer"])
    assert (figures["average"], figures["last"]) == (80, 80)


@pytest.mark.parametrize("results", [[], [[1, 2]], [[1], [2]]])
def test_a_matrix_that_is_not_square_is_refused(results: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="one row is needed for each data set"):
        mtil_figures(results)


def test_targets_and_held_out_data_sets_have_means_of_their_own() -> None:
    assert target_and_novel([10, 20, 60], [False, False, True]) == (15, 60)
    target, novel = target_and_novel(np.array([10.0, 20]), [False, False])
    assert target == 15
    assert math.isnan(novel)
