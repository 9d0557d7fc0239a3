"""Which stored samples are learnt from again: samplers over a `TokenStore`, by name.

A sampler takes the store, how many samples are wanted, and slots that must not be drawn; it returns different slots, in
random order unless it says otherwise, fewer than wanted only where the store has no more. It draws from the store's own
generator. "frequency-weighted" takes time by the number of samples stored, the others by those drawn and by labels.

Source: Z. Zhu, Y. Gong, D. Hoiem, Anytime continual learning for open vocabulary classification, ECCV 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from utils.registry import unknown_name_message
from utils.token_store import TokenStore

T = TypeVar("T")
# A sample used n times is drawn with probability proportional to DECAY**n, and at least LEAST.
DECAY, LEAST = 0.99, 0.01


def sample(store: TokenStore, n: int, sampler: str = "class-balanced", exclude: Tensor | None = None) -> Tensor:
    """Draw from a store.

    Args:
        store: to draw from.
        n: slots wanted.
        sampler: a key of `SAMPLERS`.
        exclude: slots that must not be drawn, such as those of the samples just stored.

    Returns:
        (at most n,) int64 slots on the CPU, all different.

    Raises:
        ValueError: a negative number of slots or an unknown sampler.
    """
    if n < 0:
        raise ValueError(f"{n} samples cannot be drawn")
    if sampler not in SAMPLERS:
        raise ValueError(unknown_name_message("sampler", sampler, SAMPLERS))
    return SAMPLERS[sampler](store, n, exclude)


def class_balanced(store: TokenStore, n: int, exclude: Tensor | None = None) -> Tensor:
    """min(n, labels) labels, each as often as every other: the remainder is one more for a random part of them.

    A label with fewer samples than its share gives all it has, the others give more in turn.
    """
    left_out = _by_label(store, exclude)
    sizes = {label: len(slots) - len(left_out.get(label, ())) for label, slots in store.slots_of.items()}
    labels = [label for label, size in sizes.items() if size]
    labels = distinct(labels, min(n, len(labels)), store)
    quotas = even_quotas([sizes[label] for label in labels], n)
    drawn = [
        slot
        for label, quota in zip(labels, quotas, strict=True)
        for slot in distinct(store.slots_of[label], quota, store, left_out.get(label, ()))
    ]
    return torch.tensor(distinct(drawn, len(drawn), store), dtype=torch.int64)


def uniform(store: TokenStore, n: int, exclude: Tensor | None = None) -> Tensor:
    """All samples alike."""
    return torch.tensor(distinct(range(len(store)), n, store, _unique(exclude)), dtype=torch.int64)


def fifo(store: TokenStore, n: int, exclude: Tensor | None = None) -> Tensor:
    """The newest samples, oldest of them first."""
    left_out = set(_unique(exclude))
    newest = range(len(store) - 1, max(len(store) - n - len(left_out), 0) - 1, -1)
    slots = [slot for slot in newest if slot not in left_out][:n]
    return torch.tensor(slots[::-1], dtype=torch.int64)


def frequency_weighted(store: TokenStore, n: int, exclude: Tensor | None = None) -> Tensor:
    """Samples with p ~ max(0.99^uses, 0.01), one after the other without replacement; what is drawn counts as used."""
    uses = store.uses.all()
    weights = (DECAY ** uses.double()).clamp(min=LEAST)
    # The first of exponential clocks with these rates: Efraimidis and Spirakis, Weighted random sampling, 2006.
    clocks = torch.empty(len(weights), dtype=torch.float64).exponential_(generator=store.generator) / weights
    left_out = _unique(exclude)
    clocks[left_out] = torch.inf
    slots = clocks.topk(min(n, len(store) - len(left_out)), largest=False).indices
    store.count_uses(slots)
    return slots


SAMPLERS: dict[str, Callable[[TokenStore, int, Tensor | None], Tensor]] = {
    "class-balanced": class_balanced,
    "uniform": uniform,
    "fifo": fifo,
    "frequency-weighted": frequency_weighted,
}


def even_quotas(sizes: Sequence[int], total: int) -> list[int]:
    """Shares of a total that are as equal as the sizes allow, what does not divide evenly going to the first.

    Args:
        sizes: the most that each can give.
        total: all that is wanted; less where the sizes sum to less.
    """
    quotas = [0] * len(sizes)
    while total and (short := [i for i, size in enumerate(sizes) if quotas[i] < size]):
        each = max(total // len(short), 1)
        for i in short[:total]:
            more = min(each, sizes[i] - quotas[i])
            quotas[i] += more
            total -= more
    return quotas


def distinct(values: Sequence[T], n: int, store: TokenStore, exclude: Sequence[T] = ()) -> list[T]:
    """min(n, all there are) values at different positions, none of them in `exclude`; uniform, in random order.

    Time by n and the number of excluded, not by how many values there are: the first steps of a Fisher-Yates shuffle
    that keeps only what has moved.
    """
    n = min(n, len(values) - len(exclude))
    n_steps = n + len(exclude)
    left_out, moved, drawn = set(exclude), dict[int, int](), list[T]()
    for i, u in enumerate(torch.rand(n_steps, generator=store.generator, dtype=torch.float64).tolist()):
        j = i + int(u * (len(values) - i))
        value = values[moved.get(j, j)]
        moved[j] = moved.get(i, i)
        if value not in left_out:
            drawn.append(value)
    return drawn[:n]


def _unique(exclude: Tensor | None) -> list[int]:
    return [] if exclude is None else exclude.unique().tolist()


def _by_label(store: TokenStore, exclude: Tensor | None) -> dict[int, list[int]]:
    slots = _unique(exclude)
    found: dict[int, list[int]] = {}
    for slot, label in zip(slots, store.labels_at(torch.tensor(slots, dtype=torch.int64)).tolist(), strict=True):
        found.setdefault(label, []).append(slot)
    return found
