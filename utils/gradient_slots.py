"""Gradients as vectors, and their projections, as methods written for Mammoth import them from models.gem and agem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from utils.gradients import project_gradient


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


def project(gxy: Tensor, ger: Tensor) -> Tensor:
    """A gradient (P,) without its part along another one, which is not zero.

    Source: A. Chaudhry et al., Efficient lifelong learning with A-GEM, ICLR 2019, equation 11.
    """
    return gxy - torch.dot(gxy, ger) / torch.dot(ger, ger) * ger


@torch.no_grad()
def project2cone2(gradient: Tensor, memories: Tensor, margin: float = 0.5, eps: float = 1e-3) -> None:
    """`utils.gradients.project_gradient`, in place.

    Args:
        gradient: (P, 1), or a view of such a shape; overwritten.
        memories: (P, T) gradients of the past tasks.
        margin: smallest weight of each.
        eps: added to the squared length of each when the weights are chosen.
    """
    # Entries of its own for each past gradient lengthen it, and change none of its products with others.
    longer = torch.cat([memories.T, eps**0.5 * torch.eye(memories.shape[1]).to(memories)], dim=1)
    padded = torch.cat([gradient.view(-1), gradient.new_zeros(memories.shape[1])])
    gradient.copy_(project_gradient(padded, longer, margin)[: len(memories)].view_as(gradient))
