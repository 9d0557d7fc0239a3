"""What each task of a stream contains: pure functions from arrays (labels, scores, groups) to index lists.

No file, no tensor, no hidden randomness: the same arrays and seed give the same tasks on every machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.errors import DataError, UsageError
from utils.selection import ordered_uniform_ranks

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Indices of the training and test samples of every task, in the order in which the tasks arrive.

    Attributes:
        train, test: one index array per task.
        names: one word per task for tables, e.g. "base", "grade 3", "suturing".
    """

    train: list[Indices]
    test: list[Indices]
    names: list[str]

    def reordered(self, order: Sequence[int]) -> Split:
        """The same tasks in another order; `order[i]` is the present position of the task that comes i-th."""
        return Split([self.train[i] for i in order], [self.test[i] for i in order], [self.names[i] for i in order])


def seeded(seed: int) -> np.random.Generator:
    """NumPy generator whose stream is fixed across NumPy versions that keep PCG64."""
    return np.random.Generator(np.random.PCG64(seed))


# Class-incremental


def class_order(n_classes: int, permute: bool = False, custom: Sequence[int] | None = None, seed: int = 0) -> Indices:
    """Order in which classes arrive: position i of the result is the original label of the i-th class.

    Raises:
        UsageError: `custom` is not a permutation of 0..n_classes-1.
    """
    if custom is not None:
        _check_order(custom, range(n_classes), "--custom_class_order", "classes")
        return np.asarray(custom, dtype=np.int64)
    order = np.arange(n_classes)
    return seeded(seed).permutation(order) if permute else order


def _check_order(given: Sequence[int], known: range, option: str, what: str) -> None:
    counts = Counter(given)
    wrong = {
        "missing": [number for number in known if number not in counts],
        "more than once": [number for number, n in counts.items() if n > 1],
        "unknown": [number for number in counts if number not in known],
    }
    found = "; ".join(f"{name}: {', '.join(map(str, numbers))}" for name, numbers in wrong.items() if numbers)
    if found:
        raise UsageError(f"{option} must name each of the {what} {known.start}..{known.stop - 1} once; {found}")


def class_incremental(labels: ArrayLike, classes_per_task: Sequence[int]) -> list[Indices]:
    """Task t holds the samples of its classes: the first classes_per_task[0] labels, then the next, and so on.

    Args:
        labels: (n,) labels in order of arrival of their classes.
        classes_per_task: number of classes of every task.
    """
    labels = np.asarray(labels)
    edges = np.concatenate([[0], np.cumsum(classes_per_task)])
    return [np.flatnonzero((labels >= low) & (labels < high)) for low, high in zip(edges[:-1], edges[1:], strict=True)]


# Percent of all samples that seven tasks bring: 2, 4, 8, 16, 32, 64 and 100 percent so far.
DATA_SHARES = (2, 2, 4, 8, 16, 32, 36)


def data_incremental(labels: ArrayLike, n_tasks: int = len(DATA_SHARES), seed: int = 0) -> list[Indices]:
    """Tasks that share all classes: each brings another random part of the samples, drawn evenly from every class.

    Seven tasks bring 2, 2, 4, 8, 16, 32 and 36 percent, any other number of them equal parts. The first has a sample of
    every class at least, every other one sample at least.

    Args:
        labels: (n,) of the samples.

    Raises:
        DataError: there are too few samples for that.

    Source of the shares: Z. Zhu et al., Anytime continual learning for open vocabulary classification, ECCV 2024.
    """
    labels = np.asarray(labels)
    n, n_classes = len(labels), len(np.unique(labels))
    if n < n_classes + n_tasks - 1:
        raise DataError(
            f"--increment data: {n} training samples of {n_classes} classes are too few for {n_tasks} tasks; choose "
            "fewer with --n_tasks"
        )
    shuffled = seeded(seed).permutation(n)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    # Which share of its class comes before a sample; those of equal share in the order of the shuffle.
    before = (np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)) / np.repeat(counts, counts)
    order = by_class[np.lexsort((np.argsort(shuffled)[by_class], before))]
    percent = DATA_SHARES if n_tasks == len(DATA_SHARES) else np.full(n_tasks, 100 / n_tasks)
    ends = np.rint(np.cumsum(percent) * n / 100).astype(np.int64)
    ends = np.maximum(ends, n_classes + np.arange(n_tasks))
    return [np.sort(part) for part in np.split(order, ends[:-1])]


def first_per_class(labels: ArrayLike, per_class: int) -> Indices:
    """Indices, ascending, of the first `per_class` samples of every class."""
    labels = np.asarray(labels)
    by_class = np.argsort(labels, kind="stable")
    counts = np.unique(labels, return_counts=True)[1]
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[rank < per_class])


# Grade-incremental: the score axis cut into grades


def grade_boundaries(scores: ArrayLike, n_grades: int) -> NDArray[np.float64]:
    """(n_grades + 1,) quantiles of the scores at 0, 1/n, ..., 1 (linear interpolation), MAGR's grade edges.

    Raises:
        DataError: there are no scores, or one is not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not scores.size or not np.isfinite(scores).all():
        raise DataError(f"cannot cut {scores.size} scores into grades: every sample needs a finite score")
    return np.percentile(scores, np.linspace(0, 100, n_grades + 1))


def assign_grades(scores: ArrayLike, boundaries: ArrayLike) -> Indices:
    """Grade k of every score: boundaries[k] <= score < boundaries[k+1]; scores outside go to the end grades."""
    inner = np.asarray(boundaries, dtype=np.float64)[1:-1]
    return np.searchsorted(inner, np.asarray(scores, dtype=np.float64), side="right")


def ordered_uniform_indices(scores: ArrayLike, m: int) -> Indices:
    """Positions of m samples at an even stride through the sorted scores, both ends included; all if m >= n."""
    order = np.argsort(np.asarray(scores), kind="stable")
    return order[ordered_uniform_ranks(len(order), m)]


def grade_incremental(
    train_scores: ArrayLike,
    test_scores: ArrayLike,
    n_grades: int,
    fewshot: bool = False,
    train_shots: int = 20,
    test_shots: int = 20,
) -> Split:
    """Grade-incremental tasks, the default protocol: grades are quantiles of the TRAINING scores alone.

    Full protocol: task k is grade k. Few-shot: see `with_base_session`.
    """
    boundaries = grade_boundaries(train_scores, n_grades)
    parts = []
    for scores in (train_scores, test_scores):
        scores = np.asarray(scores, dtype=np.float64)
        if not np.isfinite(scores).all():
            raise DataError("cannot sort samples into grades: every one needs a finite score")
        grades = assign_grades(scores, boundaries)
        parts.append([np.flatnonzero(grades == k) for k in range(n_grades)])
    split = Split(parts[0], parts[1], _grade_names(n_grades))
    return with_base_session(split, train_scores, test_scores, train_shots, test_shots) if fewshot else split


def with_base_session(
    split: Split, train_scores: ArrayLike, test_scores: ArrayLike, train_shots: int, test_shots: int
) -> Split:
    """The few-shot protocol: a base session comes first, then a few samples of each task.

    `train_shots` and `test_shots` samples of every task, spread evenly over its scores, are what the task keeps;
    everything else is the base session. A task with fewer than twice the shots gives half of its samples, so that the
    base session always has samples of every task.
    """
    parts = []
    for tasks, scores, shots in ((split.train, train_scores, train_shots), (split.test, test_scores, test_shots)):
        scores = np.asarray(scores, dtype=np.float64)
        kept = [m[ordered_uniform_indices(scores[m], min(shots, (len(m) + 1) // 2))] for m in tasks]
        parts.append([np.setdiff1d(np.concatenate(tasks), np.concatenate(kept)), *kept])
    return Split(parts[0], parts[1], ["base", *split.names])


def grade_incremental_official(
    train_scores: ArrayLike,
    test_scores: ArrayLike,
    n_grades: int,
    fewshot: bool = False,
    train_shots: int = 20,
    test_shots: int = 20,
    stride: str = "floor",
) -> Split:
    """Grade-incremental tasks exactly as MAGR's released code cuts them, for comparison with published numbers.

    Its quirks: the grade edges use train AND test scores; in the few-shot protocol the picks are i * floor(n / m)
    ("floor": MTL-AQA, FineDiving), which never reach the top of a grade, or int(i * n / m) ("exact": AQA-7); a grade
    with no more samples than shots gives all but its first to the session.

    Args:
        stride: "floor" or "exact".
    """
    train_scores, test_scores = np.asarray(train_scores, np.float64), np.asarray(test_scores, np.float64)
    boundaries = grade_boundaries(np.concatenate([train_scores, test_scores]), n_grades)
    parts = []
    for scores, shots in ((train_scores, train_shots), (test_scores, test_shots)):
        grades = assign_grades(scores, boundaries)
        members = [np.flatnonzero(grades == k) for k in range(n_grades)]
        if fewshot:
            members = [_official_shots(m[np.argsort(scores[m], kind="stable")], shots, stride) for m in members]
            members = [_rest(len(scores), members), *members]
        parts.append(members)
    return Split(parts[0], parts[1], (["base"] if fewshot else []) + _grade_names(n_grades))


def _official_shots(ordered: Indices, shots: int, stride: str) -> Indices:
    n = len(ordered)
    if n <= shots:
        return ordered[1:]
    picks = np.arange(shots)
    return ordered[picks * (n // shots) if stride == "floor" else picks * n // shots]


def _rest(n: int, taken: list[Indices]) -> Indices:
    return np.setdiff1d(np.arange(n), np.concatenate(taken))


def _grade_names(n_grades: int) -> list[str]:
    return [f"grade {k + 1}" for k in range(n_grades)]


# Group-incremental


def group_incremental(train_groups: ArrayLike, test_groups: ArrayLike, names: Sequence[str] | None = None) -> Split:
    """One task for each group (sport, exercise, person), in alphabetical order or in the order of `names`."""
    train_groups, test_groups = np.asarray(train_groups), np.asarray(test_groups)
    names = list(names) if names is not None else sorted({*train_groups.tolist(), *test_groups.tolist()})
    return Split(
        [np.flatnonzero(train_groups == name) for name in names],
        [np.flatnonzero(test_groups == name) for name in names],
        [str(name) for name in names],
    )


def merge_tasks(split: Split, n_tasks: int) -> Split:
    """Unite neighbouring tasks so that `n_tasks` are left, with as even a number of training samples as that allows.

    Raises:
        UsageError: there are fewer tasks than that.
    """
    n = len(split.names)
    if n < n_tasks:
        raise UsageError(f"--n_tasks {n_tasks}: there are only {n} groups to make tasks of")
    total = np.cumsum([0, *map(len, split.train)])
    edges = [0]
    for k in range(1, n_tasks):
        # At least one group for each task before and after this edge.
        allowed = np.arange(edges[-1] + 1, n - n_tasks + k + 1)
        edges.append(int(allowed[np.abs(total[allowed] - total[-1] * k / n_tasks).argmin()]))
    parts = list(zip(edges, [*edges[1:], n], strict=True))
    return Split(
        [np.sort(np.concatenate(split.train[a:b])) for a, b in parts],
        [np.sort(np.concatenate(split.test[a:b])) for a, b in parts],
        ["+".join(split.names[a:b]) for a, b in parts],
    )


# Order, hold-out, checks


def task_order(
    n_tasks: int, order: str = "ascending", custom: Sequence[int] | None = None, seed: int = 0, base: bool = False
) -> list[int]:
    """Positions of the tasks in order of arrival.

    Args:
        order: "ascending", "descending" or "random" (drawn from `seed`).
        custom: explicit list of task numbers counted from 1, as in `--custom_task_order 3,1,2`; overrides `order`.
        base: the first task is a base session; it stays first and is not counted in `custom`.

    Raises:
        UsageError: `custom` does not name every task once, or `order` is unknown.
    """
    first = int(base)
    movable = list(range(first, n_tasks))
    if custom is not None:
        _check_order(custom, range(1, len(movable) + 1), "--custom_task_order", "tasks")
        arranged = [movable[i - 1] for i in custom]
    elif order == "ascending":
        arranged = movable
    elif order == "descending":
        arranged = movable[::-1]
    elif order == "random":
        arranged = [movable[i] for i in seeded(seed).permutation(len(movable))]
    else:
        raise UsageError(f"--task_order {order}: choose ascending, descending or random")
    return [*range(first), *arranged]


def hold_out(train: Indices, targets: ArrayLike, percent: float, seed: int) -> tuple[Indices, Indices]:
    """Divide a task's training samples into training and validation, spread evenly over its targets.

    Args:
        train: indices of the task's samples.
        targets: (n,) labels or scores of ALL samples, indexed by `train`.
        percent: share that goes to validation, 0 < percent < 100.

    Returns:
        (training indices, validation indices), each ascending, neither empty.

    Raises:
        DataError: the task is too small to divide.
    """
    n_held = round(len(train) * percent / 100)
    if not 0 < n_held < len(train):
        raise DataError(
            f"--validation {percent:g} leaves nothing to train on or to validate with: the task has {len(train)}"
        )
    shuffled = seeded(seed).permutation(train)
    ordered = shuffled[np.argsort(np.asarray(targets)[shuffled], kind="stable")]
    held = np.zeros(len(train), dtype=bool)
    held[((np.arange(n_held) + 0.5) * len(train) / n_held).astype(np.int64)] = True
    return np.sort(ordered[~held]), np.sort(ordered[held])


def hold_out_by_class(train: Indices, labels: ArrayLike, percent: float, seed: int) -> tuple[Indices, Indices]:
    """Divide a task's training samples into training and validation, of every class its share, at least one sample.

    A class of one sample is for training. As in X. Liu et al., Long-tailed class incremental learning, ECCV 2022.

    Args:
        train: indices of the task's samples.
        labels: (n,) of ALL samples, indexed by `train`.
        percent: share that goes to validation, 0 < percent < 100.

    Returns:
        (training indices, validation indices), each ascending, neither empty.

    Raises:
        DataError: no class has two samples.
    """
    shuffled = seeded(seed).permutation(train)
    labels = np.asarray(labels)[shuffled]
    held = np.zeros(len(train), dtype=bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        held[places[: min(max(round(len(places) * percent / 100), 1), len(places) - 1)]] = True
    if not held.any():
        raise DataError(f"--validation {percent:g}: no class of the task has a second sample to validate with")
    return np.sort(shuffled[~held]), np.sort(shuffled[held])


def every_nth(targets: ArrayLike, n: int, offset: int) -> tuple[Indices, Indices]:
    """A fixed train and test split: sort by target, every n-th sample from `offset` on is for testing.

    Returns:
        (training indices, test indices), each ascending.
    """
    order = np.argsort(np.asarray(targets), kind="stable")
    test = np.zeros(len(order), dtype=bool)
    test[order[offset::n]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def check_tasks(split: Split, stream: str) -> None:
    """Refuse a split that cannot be learnt from or evaluated.

    Raises:
        DataError: a task has no training or no test sample; its name and the remedy are given.
    """
    for kind, parts in (("training", split.train), ("test", split.test)):
        empty = [name for name, part in zip(split.names, parts, strict=True) if not len(part)]
        if empty:
            raise DataError(
                f"{stream}: no {kind} sample in {', '.join(empty)}; choose fewer tasks (--n_tasks), fewer shots, or "
                "check that the data set is complete"
            )
