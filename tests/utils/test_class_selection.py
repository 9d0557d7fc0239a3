"""What a session of classes keeps: even places for its classes, a selection within each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.selection import CLASS_SELECTIONS, NEED_FEATURES, SELECTIONS, even_places, herding, kmeans, select_by_class


@pytest.mark.parametrize(
    ("m", "places"),
    [(0, [0, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (4, [2, 1, 1]), (6, [3, 1, 2]), (8, [4, 1, 3]), (99, [5, 1, 3])],
)
def test_places_are_given_out_in_rounds_to_classes_that_have_samples_left(m, places):
    assert even_places(torch.tensor([5, 1, 3]), m).tolist() == places


def test_no_classes_take_no_places():
    assert even_places(torch.empty(0, dtype=torch.long), 3).tolist() == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 40))
def test_places_differ_by_at_most_one_unless_a_class_has_no_more(counts, m):
    places = even_places(torch.tensor(counts), m).tolist()
    assert sum(places) == min(m, sum(counts))
    for place, count in zip(places, counts, strict=True):
        assert place == count or max(places) - 1 <= place < count


def session(sizes=None, seed=0):
    """Features and labels of a session, in random order."""
    generator = torch.Generator().manual_seed(seed)
    classes, counts = zip(*(sizes or {7: 12, 3: 2, 4: 9}).items(), strict=True)
    labels = torch.tensor(classes).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return torch.randn(len(labels), 3, generator=generator), labels


@pytest.mark.parametrize("strategy", CLASS_SELECTIONS)
@pytest.mark.parametrize("m", [0, 1, 8, 23, 40])
def test_every_selection_keeps_as_many_of_each_class_as_it_has_places(strategy, m):
    features, labels = session()
    chosen = select_by_class(strategy, features, labels, m, torch.Generator().manual_seed(0))
    assert chosen.dtype == torch.int64
    assert len(set(chosen.tolist())) == len(chosen) == min(m, 23)
    assert labels[chosen].tolist() == labels[chosen].sort().values.tolist()
    wanted = even_places(torch.tensor([2, 9, 12]), m)
    assert labels[chosen].bincount(minlength=8)[[3, 4, 7]].tolist() == wanted.tolist()


@pytest.mark.parametrize(("strategy", "function"), [("herding", herding), ("kmeans", kmeans)])
def test_selections_by_features_look_at_one_class_at_a_time(strategy, function):
    features, labels = session()
    wanted = []
    for label, places in ((3, 2), (4, 4), (7, 4)):
        members = (labels == label).nonzero().view(-1)
        wanted += members[function(features[members], places)].tolist()
    assert select_by_class(strategy, features, labels, 10, torch.Generator()).tolist() == wanted


def test_the_first_are_those_of_every_class():
    labels = torch.tensor([5, 5, 2, 5, 2, 2])
    assert select_by_class("first", None, labels, 3, torch.Generator()).tolist() == [2, 4, 0]


@pytest.mark.parametrize("strategy", ["random", "reservoir"])
def test_every_sample_of_a_class_has_the_same_chance(strategy):
    labels = torch.arange(12) % 3 + 4
    generator = torch.Generator().manual_seed(0)
    kept = torch.cat([select_by_class(strategy, None, labels, 6, generator) for _ in range(1000)])
    # 500 expected of each, standard deviation 15.8.
    assert ((kept.bincount(minlength=12) - 500).abs() < 90).all()


def test_a_selection_by_scores_is_refused_for_classes_with_those_that_fit():
    assert set(SELECTIONS) - set(CLASS_SELECTIONS) == {"ordered-uniform"}
    with pytest.raises(ValueError, match="scores; for classes: random, herding, reservoir, kmeans, first"):
        select_by_class("ordered-uniform", None, torch.zeros(3), 2, torch.Generator())


def test_features_and_known_names_are_insisted_on():
    for strategy in NEED_FEATURES:
        with pytest.raises(ValueError, match="by features"):
            select_by_class(strategy, None, torch.zeros(3), 2, torch.Generator())
    with pytest.raises(ValueError, match="unknown selection 'best'"):
        select_by_class("best", None, torch.zeros(3), 2, torch.Generator())
