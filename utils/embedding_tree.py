"""A tree of embeddings that splits as it grows, with a linear classifier in every leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.softmax_regression import improved


@dataclass
class Leaf:
    """What lies in a leaf.

    Attributes:
        embeddings: (n, E) in order of arrival.
        labels: (n,) int64.
        classes: (c,) int64 the labels that the classifier knows, ascending.
        weights: (c, E) of the classifier.
    """

    embeddings: Tensor
    labels: Tensor
    classes: Tensor
    weights: Tensor


class EmbeddingTree(nn.Module):
    """Inner nodes have two centres, of which a sample follows the nearer; leaves have samples and a classifier.

    A leaf that holds more than `capacity` samples becomes an inner node with two leaves, by 2-means of its samples.
    Nothing is random. Time per sample does not grow with the number of samples.

    Args:
        dim: E.
        capacity: samples in a leaf, at most; more only of samples that are all the same.
        ridge: pull of classifiers towards the weights that `fit` is given, as of `improved`.
        device: where all of it is.

    Source: Z. Zhu et al., Continual learning in open-vocabulary classification with complementary memory systems, TMLR
    2024, section 3.3.
    """

    def __init__(self, dim: int, capacity: int, ridge: float, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.capacity, self.ridge = capacity, ridge
        # A child is an inner node by its number, or the leaf -1 - child. The root is inner node 0, if there is one.
        self.centres = torch.zeros(0, 2, dim, device=device)
        self.branches = torch.zeros(0, 2, dtype=torch.int64, device=device)
        none = torch.zeros(0, dtype=torch.int64, device=device)
        self.leaves = [Leaf(self.centres[:, 0], none, none, self.centres[:, 0])]

    def __len__(self) -> int:
        return sum(len(leaf.labels) for leaf in self.leaves)

    @property
    def n_bytes(self) -> int:
        """Bytes of the samples: embeddings and labels."""
        return sum(part.nbytes for leaf in self.leaves for part in (leaf.embeddings, leaf.labels))

    def route(self, embeddings: Tensor) -> Tensor:
        """(B,) int64 leaves that (B, E) embeddings lead to."""
        node = embeddings.new_full((len(embeddings),), 0 if len(self.branches) else -1, dtype=torch.int64)
        while (inner := node >= 0).any():
            at = node[inner]
            node[inner] = self.branches[at, nearer_to_second(embeddings[inner], self.centres[at]).long()]
        return -1 - node

    def add(self, embeddings: Tensor, labels: Tensor) -> None:
        """Store (B, E) embeddings with their labels (B,), and split what is full."""
        leaves = self.route(embeddings)
        for number in leaves.unique().tolist():
            leaf, part = self.leaves[number], leaves == number
            leaf.embeddings = torch.cat([leaf.embeddings, embeddings[part]])
            leaf.labels = torch.cat([leaf.labels, labels[part]])
            self._split(number)

    def _split(self, number: int) -> None:
        """Split a leaf, and what comes of it, until none has more than it may."""
        full = [number] if len(self.leaves[number].labels) > self.capacity else []
        while full:
            number = full.pop()
            leaf, new = self.leaves[number], len(self.leaves)
            centres, right = two_means(leaf.embeddings)
            if right.all() or not right.any():
                continue
            # Both go on with the classifier of all, until `fit` makes it their own.
            for side, place in ((~right, number), (right, new)):
                part = Leaf(leaf.embeddings[side], leaf.labels[side], leaf.classes, leaf.weights)
                self.leaves[place : place + 1] = [part]
                full += [place] if len(part.labels) > self.capacity else []
            branches = torch.where(self.branches == -1 - number, len(self.branches), self.branches)
            self.branches = torch.cat([branches, branches.new_tensor([[-1 - number, -1 - new]])])
            self.centres = torch.cat([self.centres, centres[None]])

    def fit(self, leaves: Tensor, text_weights: Tensor, steps: int) -> float:
        """Improve the classifiers of some leaves, on all that lies in them.

        Args:
            leaves: (B,) as `route` gives them.
            text_weights: (labels, E) where the weights of each label begin and what they are pulled towards.
            steps: for every leaf.

        Returns:
            The cross-entropy before, mean over `leaves`.
        """
        total = 0.0
        for number, n in zip(*(values.tolist() for values in leaves.unique(return_counts=True)), strict=True):
            leaf = self.leaves[number]
            classes, rows = leaf.labels.unique(return_inverse=True)
            towards = text_weights[classes]
            weights = towards.clone()
            old = torch.isin(classes, leaf.classes)
            weights[old] = leaf.weights[torch.isin(leaf.classes, classes)]
            leaf.classes = classes
            leaf.weights, loss = improved(weights, towards, leaf.embeddings, rows, self.ridge, steps)
            total += n * loss
        return total / len(leaves)

    def probabilities(self, embeddings: Tensor, candidates: Tensor, k: int, scale: float) -> Tensor:
        """Ask the leaves of the k stored embeddings of the candidates that are nearest.

        A leaf answers by a softmax over those candidates that it knows; it counts by its share in the softmax of scale
        times the similarities of the k.

        Args:
            embeddings: (B, E) unit vectors.
            candidates: (n,) different labels, of which each has a sample stored.

        Returns:
            (B, n) probabilities.
        """
        shares = self._shares(embeddings, candidates, k, scale)
        result = embeddings.new_zeros(len(embeddings), len(candidates))
        for number in shares.any(0).nonzero().flatten().tolist():
            leaf, asked = self.leaves[number], shares[:, number] > 0
            columns, rows = (candidates[:, None] == leaf.classes).nonzero(as_tuple=True)
            answers = (embeddings[asked] @ leaf.weights[rows].T).softmax(1)
            result[asked.nonzero(), columns] += shares[asked, number, None] * answers
        return result

    def _shares(self, embeddings: Tensor, candidates: Tensor, k: int, scale: float) -> Tensor:
        """(B, leaves) how much each leaf counts."""
        similarities = [embeddings.new_zeros(len(embeddings), 0)]
        homes = [candidates.new_zeros(0)]
        for number, leaf in enumerate(self.leaves):
            mine = leaf.embeddings[torch.isin(leaf.labels, candidates)]
            # The k nearest of all are among the k nearest of every leaf.
            similarities.append((embeddings @ mine.T).topk(min(k, len(mine)), dim=1).values)
            homes.append(candidates.new_full((similarities[-1].shape[1],), number))
        nearest, which = torch.cat(similarities, dim=1).topk(min(k, sum(map(len, homes))), dim=1)
        shares = embeddings.new_zeros(len(embeddings), len(self.leaves))
        return shares.scatter_add(1, torch.cat(homes)[which], (scale * nearest).softmax(1))

    def get_extra_state(self) -> dict[str, Any]:
        leaves = [dict(vars(leaf)) for leaf in self.leaves]
        return {"centres": self.centres, "branches": self.branches, "leaves": leaves}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        device = self.centres.device
        self.centres, self.branches = state["centres"].to(device), state["branches"].to(device)
        self.leaves = [Leaf(**{name: value.to(device) for name, value in leaf.items()}) for leaf in state["leaves"]]


def two_means(points: Tensor, steps: int = 20) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm for two clusters; begins with the point farthest from the mean and the one farthest from that.

    Args:
        points: (n, E), at least one.
        steps: at most.

    Returns:
        (2, E) centres and (n,) whether each point is in the second cluster, that is, nearer to its centre. All are in
        the first if they are all the same.
    """
    first = points[(points - points.mean(0)).square().sum(1).argmax()]
    second = points[(points - first).square().sum(1).argmax()]
    centres = torch.stack([first, second])
    right = nearer_to_second(points, centres)
    for _ in range(steps):
        if right.all() or not right.any():
            break
        centres = torch.stack([points[~right].mean(0), points[right].mean(0)])
        before, right = right, nearer_to_second(points, centres)
        if torch.equal(before, right):
            break
    return centres, right


def nearer_to_second(points: Tensor, centres: Tensor) -> Tensor:
    """(n,) bool of points (n, E); centres are (2, E), or (n, 2, E) if every point has its own. No if equally near."""
    return (points[:, None] - centres).square().sum(2).argmin(1).bool()
