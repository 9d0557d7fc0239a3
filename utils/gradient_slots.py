"""Gradients of a network in one vector and back, as methods written for Mammoth import them from models.gem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def store_grad(params: Callable[[], Iterable[nn.Parameter]], grads: Tensor, grad_dims: Sequence[int]) -> None:
    """Write the gradients of all parameters into `grads` (P,), zeros where there is none.

    Args:
        params: gives the parameters, e.g. `self.parameters`.
        grads: overwritten.
        grad_dims: numbers of entries of the parameters.
    """
    for slot, parameter in zip(grads.split(list(grad_dims)), params(), strict=True):
        slot.copy_(torch.zeros_like(slot) if parameter.grad is None else parameter.grad.view(-1))


@torch.no_grad()
def overwrite_grad(params: Callable[[], Iterable[nn.Parameter]], newgrad: Tensor, grad_dims: Sequence[int]) -> None:
    """Give the parameters that have a gradient the one in `newgrad` (P,); arguments as in `store_grad`."""
    for slot, parameter in zip(newgrad.split(list(grad_dims)), params(), strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(slot.view_as(parameter))
