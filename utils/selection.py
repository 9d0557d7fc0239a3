"""Which samples a memory keeps.

Online strategies decide slot by slot while a stream goes by: they take a `Request` and return one slot for each new
sample, -1 for a sample that is not kept. Exemplar selections choose m of n samples at once and return their indices;
`select_by_class` applies them class by class. None of them loops over samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.conf import randomness_apart


@dataclass
class Request:
    """What an online strategy may look at.

    Attributes:
        capacity: number of slots.
        n_stored: slots in use, the first ones.
        n_seen: samples offered before this batch.
        n_new: samples in this batch.
        generator: CPU generator for every draw.
        examples, labels: stored samples followed by the new ones, (n_stored + n_new, ...); labels may be None.
        keys: (n_stored + n_new,) a random number that each sample got when it arrived and keeps; zeros for
            strategies outside `NEED_KEYS`.
    """

    capacity: int
    n_stored: int
    n_seen: int
    n_new: int
    generator: torch.Generator
    examples: Callable[[], Tensor]
    labels: Callable[[], Tensor | None]
    keys: Tensor


def reservoir(request: Request) -> Tensor:
    """Every sample of the stream is kept with the same probability (Vitter, ACM TOMS 1985, algorithm R)."""
    position = request.n_seen + torch.arange(request.n_new)
    draw = torch.rand(request.n_new, generator=request.generator, dtype=torch.float64)
    slots = torch.where(position < request.capacity, position, (draw * (position + 1)).long())
    return torch.where(slots < request.capacity, slots, -1)


def ring(request: Request) -> Tensor:
    """First in, first out: the newest samples replace the oldest."""
    if not request.capacity:
        return torch.full((request.n_new,), -1)
    return (request.n_seen + torch.arange(request.n_new)) % request.capacity


def fill(request: Request) -> Tensor:
    """Keep what comes until the slots are full, then nothing more."""
    slots = request.n_stored + torch.arange(request.n_new)
    return torch.where(slots < request.capacity, slots, -1)


def class_balanced(request: Request) -> Tensor:
    """As even a number of slots for each class as its samples allow; of each class a uniform subset of all it had.

    The samples of a class with the smallest random keys stay. A key never changes, so old and new ones have the same
    chance (the aim of class-balancing reservoir sampling, Chrysakis & Moens, ICML 2020).
    """
    order = request.keys.argsort(stable=True)
    _, classes = _labels(request)[order].unique(return_inverse=True)
    by_class = classes.argsort(stable=True)
    counts = classes.bincount()
    rank = torch.empty_like(classes)
    rank[by_class] = torch.arange(len(classes)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    # Taking the samples in order of their rank within their class fills the slots class by class, in rounds.
    kept = order[rank.argsort(stable=True)[: request.capacity]]
    return _slots_of(kept, request)


def ordered_uniform_slots(request: Request) -> Tensor:
    """Keep `ordered_uniform` of the stored and the new samples together.

    Meant for offering a session's samples at once: offered batch by batch, early samples lose at every batch.
    """
    labels = _labels(request)
    return _slots_of(ordered_uniform(labels, min(request.capacity, len(labels))), request)


def herding_slots(request: Request) -> Tensor:
    """Keep `herding` of the stored and the new examples together; as for ordered-uniform, offer a session at once."""
    examples = request.examples()
    return _slots_of(
        herding(
            examples.view(len(examples), *examples.shape[1:] or (1,)).flatten(1).float().cpu(),
            min(request.capacity, len(examples)),
        ),
        request,
    )


def ordered_uniform(scores: Tensor, m: int) -> Tensor:
    """Ordered uniform sampling (MAGR, Zhou et al., ECCV 2024): sort by score, take m at an even stride, ends included.

    Of the 959 samples of MTL-AQA's base session, the widest gap that ten leave uncovered is less than 12 percent of the
    ranks, where random ones leave 27 on average: percent of ranks, not points of the score.

    Args:
        scores: (n,) real values; equal scores keep their order of arrival.
        m: how many; all n if m >= n.

    Returns:
        (min(m, n),) indices into `scores`, in ascending order of score: ranks round(linspace(0, n-1, m)).
    """
    order = scores.detach().cpu().double().view(-1).argsort(stable=True)
    return order[torch.from_numpy(ordered_uniform_ranks(len(order), m))]


def ordered_uniform_ranks(n: int, m: int) -> NDArray[np.int64]:
    """The ranks that ordered uniform sampling takes of n sorted samples: all if m >= n, the median if m is 1."""
    if m == 1 and n:
        return np.asarray([(n - 1) // 2])
    return np.rint(np.linspace(0, n - 1, min(m, n))).astype(np.int64)


def herding(features: Tensor, m: int) -> Tensor:
    """Herding selection (Welling, ICML 2009; iCaRL, algorithm 4): greedily keep the running mean at the mean.

    Args:
        features: (n, d).
        m: how many; at most n.

    Returns:
        (min(m, n),) indices in order of importance.
    """
    target = features.mean(0)
    total = torch.zeros_like(target)
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen: list[Tensor] = []
    for step in range(min(m, len(features))):
        distance = (target - (total + features) / (step + 1)).square().sum(1)
        best = distance.masked_fill(~free, float("inf")).argmin()
        total = total + features[best]
        free[best] = False
        chosen.append(best)
    return torch.stack(chosen).cpu() if chosen else torch.empty(0, dtype=torch.long)


def kmeans(features: Tensor, m: int) -> Tensor:
    """The sample of each of m clusters that is nearest to the mean of the cluster (k-means, the best of 10 starts).

    Args:
        features: (n, d).
        m: how many.

    Returns:
        (min(m, n),) distinct indices. If fewer than m samples differ, the first of the others fill the places left.
    """
    # The import may draw from the global generators, and does so once in a process.
    with randomness_apart(0):
        from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    points = features.detach().cpu().double().numpy()
    n_clusters = min(m, len(np.unique(points, axis=0)))
    if not n_clusters:
        return torch.empty(0, dtype=torch.long)
    # Several threads would add up the means in an order that differs from run to run.
    with threadpool_limits(1):
        fitted = KMeans(n_clusters, n_init=10, random_state=0).fit(points)
    distances = np.linalg.norm(points - fitted.cluster_centers_[fitted.labels_], axis=1)
    order = np.lexsort((distances, fitted.labels_))
    nearest = order[np.unique(fitted.labels_[order], return_index=True)[1]]
    others = np.setdiff1d(np.arange(len(points)), nearest)
    return torch.from_numpy(np.concatenate([nearest, others[: min(m, len(points)) - len(nearest)]]))


def reservoir_of(n: int, m: int, generator: torch.Generator) -> Tensor:
    """(min(m, n),) indices of n samples that a `reservoir` of m holds after they went by in order."""
    offered = Request(m, 0, 0, n, generator, lambda: torch.empty(n), lambda: None, torch.zeros(n))
    content = torch.full((m + 1,), -1).scatter_reduce(0, reservoir(offered) + 1, torch.arange(n), "amax")
    return content[1 : min(m, n) + 1]


def select(strategy: str, features: Tensor | None, scores: Tensor, m: int, generator: torch.Generator) -> Tensor:
    """Choose what a memory keeps of the n samples of a session.

    Args:
        strategy: of `SELECTIONS`. "ordered-uniform" looks at the scores; "herding" and "kmeans" look at the features;
            "random" and "reservoir" draw; "first" takes the first in the order of the data set.
        features: (n, d); None will do for strategies outside `NEED_FEATURES`.
        scores: (n,) scores or labels.
        m: how many.
        generator: CPU generator for every draw.

    Returns:
        (min(m, n),) distinct indices.

    Raises:
        ValueError: unknown strategy, or one that needs features and has none.
    """
    if strategy not in SELECTIONS:
        raise ValueError(f"unknown selection '{strategy}'; known: {', '.join(SELECTIONS)}")
    if features is None and strategy in NEED_FEATURES:
        raise ValueError(f"the {strategy} selection chooses by features: pass them")
    return SELECTIONS[strategy](features, scores, m, generator)


def select_by_class(
    strategy: str, features: Tensor | None, labels: Tensor, m: int, generator: torch.Generator
) -> Tensor:
    """Choose what a memory keeps of the n samples of a session of classes: `select` within each, `even_places` of them.

    Args:
        strategy: of `CLASS_SELECTIONS`.
        features, m, generator: as of `select`.
        labels: (n,) classes.

    Returns:
        (min(m, n),) distinct indices, class by class.

    Raises:
        ValueError: a strategy that goes by scores, or as of `select`.
    """
    if strategy in SELECTIONS and strategy not in CLASS_SELECTIONS:
        raise ValueError(f"the {strategy} selection goes by scores; for classes: {', '.join(CLASS_SELECTIONS)}")
    _, classes, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    chosen = [torch.empty(0, dtype=torch.long)]
    for label, places in enumerate(even_places(counts, m).tolist()):
        members = (classes == label).nonzero().view(-1)
        own = None if features is None else features[members.to(features.device)]
        chosen.append(members[select(strategy, own, classes[members], places, generator)])
    return torch.cat(chosen)


def even_places(counts: Tensor, m: int) -> Tensor:
    """(C,) places of each class in a memory of m, given out in rounds, one to each class that has samples left.

    They differ by at most one unless a class has no more samples; what does not divide evenly the first classes take.

    Args:
        counts: (C,) samples of each class.
        m: places altogether.
    """
    has_left = torch.arange(min(m, max(counts.tolist(), default=0)))[:, None] < counts
    is_within = has_left.flatten().cumsum(0).view_as(has_left) <= m
    return (has_left & is_within).sum(0)


def _labels(request: Request) -> Tensor:
    labels = request.labels()
    assert labels is not None, "Buffer.add_data insists on labels for the strategies of NEED_LABELS"
    return labels.detach().cpu().view(-1)


def _slots_of(kept: Tensor, request: Request) -> Tensor:
    """Slots for the new samples when `kept` of stored and new samples stay: first free slots, then given-up ones."""
    stays = torch.zeros(request.n_stored + request.n_new, dtype=torch.bool)
    stays[kept] = True
    given_up = (~stays[: request.n_stored]).nonzero().view(-1)
    free = torch.cat([torch.arange(request.n_stored, request.capacity), given_up])
    slots = torch.full((request.n_new,), -1)
    new = stays[request.n_stored :].nonzero().view(-1)
    slots[new] = free[: len(new)]
    return slots


NEED_LABELS = ("class-balanced", "ordered-uniform")
NEED_KEYS = ("class-balanced",)
STRATEGIES: dict[str, Callable[[Request], Tensor]] = {
    "reservoir": reservoir,
    "ring": ring,
    "fill": fill,
    "class-balanced": class_balanced,
    "ordered-uniform": ordered_uniform_slots,
    "herding": herding_slots,
}
NEED_FEATURES = ("herding", "kmeans")
SELECTIONS: dict[str, Callable[[Any, Tensor, int, torch.Generator], Tensor]] = {
    "ordered-uniform": lambda features, scores, m, generator: ordered_uniform(scores, m),
    "random": lambda features, scores, m, generator: torch.randperm(len(scores), generator=generator)[:m],
    "herding": lambda features, scores, m, generator: herding(features, m),
    "reservoir": lambda features, scores, m, generator: reservoir_of(len(scores), m, generator),
    "kmeans": lambda features, scores, m, generator: kmeans(features, m),
    "first": lambda features, scores, m, generator: torch.arange(len(scores))[:m],
}
# Those that do not take labels for amounts.
CLASS_SELECTIONS = tuple(name for name in SELECTIONS if name != "ordered-uniform")
