"""Reptile: a share of the way."""

import pytest
import torch
from torch import nn

from utils.reptile import reptile


def test_a_share_of_the_way_is_kept():
    theta = nn.Parameter(torch.tensor([1.0, -2.0]))
    with reptile([theta], 0.25):
        theta.data += torch.tensor([4.0, 8.0])
    assert theta.tolist() == [2.0, 0.0]


@pytest.mark.parametrize(("share", "wanted"), [(1.0, 0.1), (0.0, 0.7)])
def test_all_or_nothing_is_exact(share, wanted):
    theta = nn.Parameter(torch.tensor([0.7]))
    with reptile([theta], share):
        theta.data.fill_(0.1)
    assert theta.item() == torch.tensor(wanted).item()


def test_blocks_nest():
    theta = nn.Parameter(torch.zeros(1))
    with reptile([theta], 0.5):
        for _ in range(3):
            with reptile([theta], 0.5):
                theta.data += 4
    assert theta.item() == 3.0  # three times half of 4, and half of that


def test_parameters_stay_the_same_objects_and_trainable():
    theta = nn.Parameter(torch.zeros(2))
    with reptile(iter([theta]), 0.5):
        theta.sum().backward()
        theta.data -= theta.grad
    assert theta.requires_grad
    assert theta.tolist() == [-0.5, -0.5]


def test_an_exception_leaves_the_parameters_where_they_are():
    theta = nn.Parameter(torch.zeros(1))

    def learn_and_fail():
        with reptile([theta], 0.5):
            theta.data += 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        learn_and_fail()
    assert theta.item() == 1
