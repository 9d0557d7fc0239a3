"""State in plain attributes: what of it is noticed, what a checkpoint can hold, and what comes back."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from utils.plain_state import PlainState


class Method(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.device = nn.Linear(2, 3), torch.device("cpu")
        self.count, self.seen, self.tensor, self.array = 0, [1], torch.zeros(2), np.zeros(2)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)


@pytest.fixture
def method():
    return Method()


def step(method):
    method.net(torch.ones(1, 2)).sum().backward()
    method.optimizer.step()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: setattr(m, "count", 1), "count"),
        (lambda m: m.seen.append(2), "seen"),
        (lambda m: m.tensor.add_(1), "tensor"),
        (lambda m: setattr(m, "tensor", torch.zeros(2)), "tensor"),
        (lambda m: m.array.__setitem__(0, 1), "array"),
        (lambda m: setattr(m, "new", {"a": (1, None)}), "new"),
    ],
)
def test_an_attribute_that_changed_is_kept_and_no_other(method, change, name):
    plain = PlainState(method)
    assert plain.changed(method) == ({}, [])
    change(method)
    values, lost = plain.changed(method)
    assert [*values] == [name]
    assert not lost


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (step, "optimizer"),
        (lambda m: setattr(m, "file", object()), "file"),
        (lambda m: setattr(m, "other", nn.Linear(2, 4)), "other"),
        (lambda m: m.register_buffer("late", torch.zeros(1)), "late"),
        (lambda m: setattr(m, "weight", nn.Parameter(torch.zeros(1))), "weight"),
    ],
)
def test_what_no_checkpoint_can_hold_is_named(method, change, name):
    plain = PlainState(method)
    change(method)
    assert plain.changed(method) == ({}, [name])


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1.5,
        "text",
        (1, [2, (3,)]),
        {"a": [1], 2: (None,)},
        torch.arange(3),
        np.arange(3),
        np.array([True, False]),
        np.float32(0.5),
    ],
)
def test_values_come_back_as_they_were(method, value):
    plain = PlainState(method)
    method.kept = value
    values, lost = plain.changed(method)
    assert not lost
    other = Method()
    plain.restore(other, values, [])
    if isinstance(value, torch.Tensor | np.ndarray):
        assert type(other.kept) is type(value)
        assert other.kept.dtype == value.dtype
        assert (other.kept == value).all()
    else:
        assert other.kept == value
        assert isinstance(other.kept, tuple) == isinstance(value, tuple)


def test_a_copy_of_the_network_comes_back_as_one_of_its_own(method):
    plain = PlainState(method)
    method.old = copy.deepcopy(method.net)
    assert plain.changed(method) == ({}, [])
    assert plain.copies(method) == ["old"]
    other = Method()
    plain.restore(other, {}, ["old"])
    assert other.old is not other.net
    assert torch.equal(other.old.weight, other.net.weight)
