"""The tree of embeddings: how it grows, who answers, and that nothing is lost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from utils.embedding_tree import EmbeddingTree, two_means


def unit(n, dim=6, seed=0):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def grown(capacity=10, n=60, batch=7):
    """A tree that was fed batches, and what it was fed."""
    tree, embeddings, labels = EmbeddingTree(6, capacity, ridge=0.1), unit(n), torch.arange(n) % 4
    for x, y in zip(embeddings.split(batch), labels.split(batch), strict=True):
        tree.add(x, y)
        tree.fit(tree.route(x), unit(4, seed=1), steps=2)
    return tree, embeddings, labels


def test_leaves_hold_no_more_than_they_may_and_every_sample_once_where_it_is_looked_for():
    tree, embeddings, labels = grown()
    assert len(tree) == 60
    assert tree.n_bytes == 60 * (6 * 4 + 8)
    assert len(tree.leaves) >= 6
    assert max(len(leaf.labels) for leaf in tree.leaves) <= 10
    homes = tree.route(embeddings)
    for number, leaf in enumerate(tree.leaves):
        assert len(leaf.labels) > 0
        mine = homes == number
        assert torch.equal(leaf.embeddings, embeddings[mine])
        assert torch.equal(leaf.labels, labels[mine])


def test_a_first_batch_far_above_the_capacity_is_split_until_it_fits():
    tree = EmbeddingTree(6, 3, ridge=0.1)
    tree.add(unit(50), torch.zeros(50, dtype=torch.int64))
    assert max(len(leaf.labels) for leaf in tree.leaves) <= 3
    assert len(tree) == 50


def test_samples_that_are_all_the_same_stay_in_one_leaf():
    tree = EmbeddingTree(6, 3, ridge=0.1)
    tree.add(unit(1).expand(8, 6), torch.arange(8) % 2)
    assert [len(leaf.labels) for leaf in tree.leaves] == [8]


def test_two_means_separates_two_clouds_and_its_centres_are_their_means():
    near, far = unit(20) * 0.1, unit(10, seed=1) * 0.1 + 5
    points = torch.cat([near, far])[torch.randperm(30, generator=torch.Generator().manual_seed(2))]
    centres, right = two_means(points)
    sides = {tuple(points[side].mean(0).tolist()) for side in (right, ~right)}
    assert sorted([int(right.sum()), int((~right).sum())]) == [10, 20]
    assert {tuple(centre.tolist()) for centre in centres} == sides


def test_leaves_of_the_nearest_samples_of_the_candidates_answer_by_similarity():
    tree, embeddings, labels = grown()
    asked, candidates, k, scale = unit(5, seed=3), torch.tensor([3, 1]), 4, 8.0
    expected = torch.zeros(5, 2)
    among = torch.isin(labels, candidates).nonzero().flatten()
    homes = tree.route(embeddings)
    for i, x in enumerate(asked):
        similarities = embeddings[among] @ x
        nearest = similarities.argsort(descending=True)[:k]
        for slot, share in zip(among[nearest], (scale * similarities[nearest]).softmax(0), strict=True):
            leaf = tree.leaves[homes[slot]]
            known = [c for c in candidates.tolist() if c in leaf.classes.tolist()]
            rows = [leaf.classes.tolist().index(c) for c in known]
            answer = (leaf.weights[rows] @ x).softmax(0)
            for c, p in zip(known, answer, strict=True):
                expected[i, candidates.tolist().index(c)] += share * p
    found = tree.probabilities(asked, candidates, k, scale)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(1), torch.ones(5))


def test_more_neighbours_than_there_are_samples_are_all_of_them():
    tree, *_ = grown(n=8)
    found = tree.probabilities(unit(3, seed=3), torch.arange(4), k=50, scale=8.0)
    torch.testing.assert_close(found.sum(1), torch.ones(3))


def test_only_leaves_that_are_named_learn_and_each_knows_its_own_labels():
    tree, *_ = grown()
    before = [leaf.weights for leaf in tree.leaves]
    tree.fit(torch.tensor([2, 2]), unit(4, seed=1), steps=1)
    assert [i for i, leaf in enumerate(tree.leaves) if leaf.weights is not before[i]] == [2]
    assert torch.equal(tree.leaves[2].classes, tree.leaves[2].labels.unique())


def test_loss_is_the_mean_over_the_batch_of_its_leaves():
    tree, *_ = grown()
    losses = []
    for number in (0, 1):
        tree.fit(torch.tensor([number]), unit(4, seed=1), steps=1)
        leaf = tree.leaves[number]
        rows = torch.searchsorted(leaf.classes, leaf.labels)
        losses.append(F.cross_entropy(leaf.embeddings @ leaf.weights.T, rows).item())
    expected = (losses[0] + 3 * losses[1]) / 4
    assert tree.fit(torch.tensor([1, 0, 1, 1]), unit(4, seed=1), steps=1) == pytest.approx(expected, rel=1e-5)


def test_an_empty_tree_takes_back_the_state_and_earlier_states_stay_as_they_were():
    tree, embeddings, _ = grown()
    state = tree.get_extra_state()
    branches, n = state["branches"].clone(), [len(leaf["labels"]) for leaf in state["leaves"]]
    other = EmbeddingTree(6, 10, ridge=0.1)
    other.set_extra_state(state)
    for each in (tree, other):
        each.add(unit(30, seed=5), torch.arange(30) % 4)
    assert torch.equal(tree.route(embeddings), other.route(embeddings))
    assert torch.equal(state["branches"], branches)
    assert [len(leaf["labels"]) for leaf in state["leaves"]] == n
