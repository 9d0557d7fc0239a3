"""Labels as training is given them: some wrong, some missing. Pure functions from arrays and a seed to arrays.

Evaluation never sees what is changed here.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datasets.utils.scenarios import Indices, seeded
from utils.errors import UsageError

# Pairs by G. Patrini et al., Making deep neural networks robust to label noise, CVPR 2017, section 5.
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_CONFUSIONS = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
DIGIT_CONFUSIONS = {"2": "7", "3": "8", "7": "1", "5": "6", "6": "5"}
# Of CIFAR-100 each class is mistaken for the next of its superclass, a line here, and the last for the first.
CIFAR100_SUPERCLASSES = [
    line.split()
    for line in """
    beaver dolphin otter seal whale
    aquarium_fish flatfish ray shark trout
    orchid poppy rose sunflower tulip
    bottle bowl can cup plate
    apple mushroom orange pear sweet_pepper
    clock keyboard lamp telephone television
    bed chair couch table wardrobe
    bee beetle butterfly caterpillar cockroach
    bear leopard lion tiger wolf
    bridge castle house road skyscraper
    cloud forest mountain plain sea
    camel cattle chimpanzee elephant kangaroo
    fox porcupine possum raccoon skunk
    crab lobster snail spider worm
    baby boy girl man woman
    crocodile dinosaur lizard snake turtle
    hamster mouse rabbit shrew squirrel
    maple_tree oak_tree palm_tree pine_tree willow_tree
    bicycle bus motorcycle pickup_truck train
    lawn_mower rocket streetcar tank tractor
    """.strip().splitlines()
]
CIFAR100_CONFUSIONS = {
    name: following
    for members in CIFAR100_SUPERCLASSES
    for name, following in zip(members, members[1:] + members[:1], strict=True)
}


def confusions(n_classes: int, names: Sequence[str] = (), known: Mapping[str, str] | None = None) -> dict[int, int]:
    """What each class is mistaken for under asymmetric noise; a class that is not named never is.

    Args:
        names: of the classes in the order of their labels, where the stream has them.
        known: name of a class -> of the one it is mistaken for. By default the published pairs where the classes are
            those of CIFAR-10 or CIFAR-100, else the next label, the first after the last.
    """
    if not known and set(names) == set(CIFAR10):
        known = CIFAR10_CONFUSIONS
    if not known and set(names) == set(CIFAR100_CONFUSIONS):
        known = CIFAR100_CONFUSIONS
    if known:
        at = {name: label for label, name in enumerate(names)}
        return {at[name]: at[taken_for] for name, taken_for in known.items()}
    return {label: (label + 1) % n_classes for label in range(n_classes)}


def symmetric_noise(labels: ArrayLike, n_classes: int, rate: float, seed: int) -> Indices:
    """Change exactly round(rate * n) labels, drawn at random, each to one of the other classes with equal chance.

    Raises:
        UsageError: there is no other class.
    """
    noisy = np.array(labels, dtype=np.int64)
    if n_classes < 2:
        raise UsageError("--label_noise: with a single class no label can be wrong")
    draw = seeded(seed)
    changed = draw.permutation(len(noisy))[: round(rate * len(noisy))]
    noisy[changed] = (noisy[changed] + draw.integers(1, n_classes, len(changed))) % n_classes
    return noisy


def asymmetric_noise(labels: ArrayLike, mistaken_for: dict[int, int], rate: float, seed: int) -> Indices:
    """Change, of each class c in `mistaken_for`, exactly round(rate * n_c) labels to the class it is mistaken for."""
    labels = np.asarray(labels, dtype=np.int64)
    noisy, order = labels.copy(), seeded(seed).permutation(len(labels))
    for true, given in sorted(mistaken_for.items()):
        members = order[labels[order] == true]
        noisy[members[: round(rate * len(members))]] = given
    return noisy


def tasks_by_given_label(tasks: Sequence[Indices], classes: Sequence[ArrayLike], given: ArrayLike) -> list[Indices]:
    """Move samples with a wrong label to the task that brings the class they were given.

    A task so holds nothing but labels of its own classes, whatever the samples show. A sample whose task has the class
    it was given (streams that bring the same classes again) stays.

    Args:
        tasks: sample indices of every task.
        classes: labels that every task brings; each label that is given is among them.
        given: (n,) labels of ALL samples, indexed by the tasks.
    """
    given = np.asarray(given)
    first = {int(label): task for task, labels in reversed(list(enumerate(classes))) for label in np.asarray(labels)}
    stays = [np.isin(given[part], labels) for part, labels in zip(tasks, classes, strict=True)]
    leaving = np.unique(np.concatenate([part[~kept] for part, kept in zip(tasks, stays, strict=True)]))
    target = np.array([first[int(label)] for label in given[leaving]], dtype=np.int64)
    return [
        np.concatenate([part[kept], leaving[target == task]])
        for task, (part, kept) in enumerate(zip(tasks, stays, strict=True))
    ]


def labelled(labels: ArrayLike, share: float, seed: int, by_class: bool = False) -> NDArray[np.bool_]:
    """Which samples of a task keep their label: round(share * n) drawn at random, but at least one.

    A larger share keeps all that a smaller one does.

    Args:
        labels: (n,) of the task.
        by_class: take the share of every class, at least one sample each.
    """
    labels = np.asarray(labels)
    order = seeded(seed).permutation(len(labels))
    kept = np.zeros(len(labels), dtype=bool)
    groups = [order[labels[order] == label] for label in np.unique(labels)] if by_class else [order]
    for members in groups:
        kept[members[: max(round(share * len(members)), 1)]] = True
    return kept


def check_labels(args: Namespace, is_score: bool) -> None:
    """Refuse options on training labels that do not fit the stream or one another.

    Raises:
        UsageError: what does not fit, and what to do.
    """
    noise, rate = getattr(args, "label_noise", None), getattr(args, "noise_rate", None)
    share, by_class = getattr(args, "label_perc", 1.0), getattr(args, "label_perc_by_class", 1.0)
    if is_score and (noise or rate):
        raise UsageError("--label_noise mistakes one class for another, and scores have no classes; leave it out")
    if is_score and by_class < 1:
        raise UsageError("--label_perc_by_class: scores have no classes; use --label_perc")
    if noise and rate is None:
        raise UsageError(f"--label_noise {noise} needs --noise_rate, the share of wrong labels, e.g. 0.2")
    if share < 1 and by_class < 1:
        raise UsageError(
            "--label_perc takes a share of each task, --label_perc_by_class of each class; give one of them"
        )
