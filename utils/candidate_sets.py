"""Which texts a flexible classifier is asked to choose among, and whose images count: pure functions of labels.

Data sets are given as the texts of their classes, in the order of `dataset.evaluation_sets()`: those of the stream
(targets) first, then held-out ones. The same text in two data sets is one candidate.

Definitions: Z. Zhu et al., Anytime continual learning for open vocabulary classification, ECCV 2024, and Z. Zhu et al.,
Continual learning in open-vocabulary classification with complementary memory systems, TMLR 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.utils.scenarios import first_per_class
from utils.errors import UsageError

Texts = Sequence[Sequence[str]]
N_GROUPS, N_NOVEL, IMAGES_PER_LABEL = 5, 100, 100


@dataclass(frozen=True)
class Scored:
    """The images of one data set that a group of candidates is scored on.

    Attributes:
        position: of the data set, targets first.
        labels: ascending positions of its classes whose images count.
        per_label: only the first so many images of each of them; None for all.
    """

    position: int
    labels: list[int]
    per_label: int | None = None

    def chosen(self, labels: ArrayLike) -> NDArray[np.int64]:
        """Positions, ascending, of the images that count.

        Args:
            labels: (n,) positions of the classes of all images of the data set, in their order.
        """
        labels = np.asarray(labels)
        chosen = np.flatnonzero(np.isin(labels, self.labels))
        if self.per_label is None:
            return chosen
        return chosen[first_per_class(labels[chosen], self.per_label)]


@dataclass(frozen=True)
class Candidates:
    """One question: the texts to choose among, each once, and the images it is asked about.

    Attributes:
        texts: candidates.
        targets: what is scored of the target data sets.
        novel: what is scored of the held-out data sets.
    """

    texts: list[str]
    targets: list[Scored]
    novel: list[Scored] = field(default_factory=list)


def distinct(texts: Texts) -> list[str]:
    """All texts in order of their first appearance."""
    return list(dict.fromkeys(text for part in texts for text in part))


def union(targets: Texts) -> list[Candidates]:
    """One group: every target text. Score: mean over the target data sets of their accuracies.

    Raises:
        UsageError: there is no text.
    """
    texts = _some(distinct(targets))
    return [Candidates(texts, [Scored(i, list(range(len(part)))) for i, part in enumerate(targets)])]


def union_zero_shot(targets: Texts, held_out: Texts, seed: int = 0, n_novel: int = N_NOVEL) -> list[Candidates]:
    """One group: every target text and `n_novel` others of held-out data sets, drawn at random; all if there are fewer.

    A held-out text that is a target's too is no novel one. Score: mean of (mean over the target data sets of their
    accuracies, accuracy on all images of the novel labels together).

    Raises:
        UsageError: there is no text.
    """
    [group] = union(targets)
    drawn = _novel(targets, held_out, n_novel, np.random.default_rng(seed))
    return [Candidates(group.texts + drawn, group.targets, _scored(held_out, drawn, None, len(targets)))]


def mix(targets: Texts, seed: int = 0, n_groups: int = N_GROUPS) -> list[Candidates]:
    """The target texts in random order, cut into groups as equal as possible; 100 images of each label at most.

    Score: mean over groups of the accuracy on all images of the group together. The authors' code makes groups of equal
    size and drops the labels that are left over (4 of 1,034); here every label is in one group.

    Raises:
        UsageError: there are fewer texts than groups.
    """
    texts = _some(distinct(targets), n_groups)
    order = np.random.default_rng(seed).permutation(len(texts))
    groups = [[texts[i] for i in part] for part in np.array_split(order, n_groups)]
    return [Candidates(group, _scored(targets, group, IMAGES_PER_LABEL)) for group in groups]


def mix_zero_shot(
    targets: Texts, held_out: Texts, seed: int = 0, n_groups: int = N_GROUPS, n_novel: int = N_NOVEL
) -> list[Candidates]:
    """The groups of `mix`, each with `n_novel` texts of held-out data sets of its own to distract; all if fewer.

    Score: as of `mix`; held-out images do not count. The authors' code adds as many novel labels as the group has, the
    same to all groups.

    Raises:
        UsageError: there are fewer target texts than groups.
    """
    draw = np.random.default_rng([seed, 1])
    return [
        Candidates(group.texts + _novel(targets, held_out, n_novel, draw), group.targets)
        for group in mix(targets, seed, n_groups)
    ]


def _novel(targets: Texts, held_out: Texts, n: int, draw: np.random.Generator) -> list[str]:
    known = {*distinct(targets)}
    pool = [text for text in distinct(held_out) if text not in known]
    return [pool[i] for i in draw.permutation(len(pool))[:n]]


def _scored(sets: Texts, wanted: Sequence[str], per_label: int | None, first: int = 0) -> list[Scored]:
    """The classes of every data set that have one of the texts; data sets without any are left out."""
    chosen = {*wanted}
    labels = [[i for i, text in enumerate(part) if text in chosen] for part in sets]
    return [Scored(first + i, part, per_label) for i, part in enumerate(labels) if part]


def _some(texts: list[str], n: int = 1) -> list[str]:
    if len(texts) < n:
        raise UsageError(f"{len(texts)} labels cannot make {n} groups of candidates; evaluate data sets with more")
    return texts
