"""Gradients as vectors: taking them, changing them, handing the change to a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

# Gradients of a large network are multiplied in pieces of this many entries, in double precision.
PIECE = 2**20


def trained_parameters(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen, in the network's order: what the vectors of this file are made of."""
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def flat_gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """(P,) gradient of a scalar, zero where it does not depend on a parameter; the graph of the loss is used up."""
    parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    # A layer whose inputs have their channels last may give the gradient of its weights in that layout too.
    return torch.cat([part.reshape(-1) for part in parts])


def with_gradient(value: Tensor, parameters: Sequence[nn.Parameter], gradient: Tensor) -> Tensor:
    """A scalar that equals `value` and has a gradient of our choosing, so that a step takes it as it takes any loss.

    Args:
        value: scalar; what leads to it is not differentiated.
        parameters: of P entries altogether.
        gradient: (P,). If it is not finite, neither is the result.
    """
    position = parameters_to_vector(parameters)
    return value.detach() + gradient.detach() @ (position - position.detach())


def mean_squared_gradient(
    net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> Tensor:
    """Mean over samples of the squared gradient of each sample's own loss.

    With a negative log-likelihood as the loss this is the diagonal of the empirical Fisher information. One backward
    pass a sample: the square of a batch's mean gradient would be another thing.

    Args:
        net: in the mode it is to be measured in; with batch statistics samples would not be on their own.
        loss: loss(outputs, labels) of a batch of one.
        batches: (inputs, labels), at least one sample.

    Returns:
        (P,), of the parameters that are trained.
    """
    parameters = trained_parameters(net)
    total, n = torch.zeros_like(parameters_to_vector(parameters)), 0
    for inputs, labels in batches:
        for sample, label in zip(inputs.split(1), labels.split(1), strict=True):
            total += flat_gradient(loss(net(sample), label), parameters).square()
        n += len(labels)
    return total / n


def project_gradient(gradient: Tensor, constraints: Tensor, margin: float = 0.0) -> Tensor:
    """The vector nearest to g that makes no acute angle with the descent of any other gradient.

    With rows G of the constraints: g~ = g + G'v, v = argmin 1/2 v'GG'v + g'G'v subject to v >= margin. With a margin of
    0 that is the dual of min |g~ - g| subject to G g~ >= 0; a margin biases towards descending the constraints too.

    The objective is 1/2 |G'v + g|^2 up to a constant. Put u = v - margin: min |G'u - b|, u >= 0, b = -(g + margin G'1),
    which non-negative least squares solves exactly; only lengths and angles enter, so G' and b are replaced by T + 1
    short vectors that have the same.

    Args:
        gradient: (P,), finite.
        constraints: (T, P), finite; linearly dependent or zero rows are allowed.
        margin: smallest weight of every constraint, 0 or more.

    Source: D. Lopez-Paz, M. Ranzato, Gradient episodic memory for continual learning, NeurIPS 2017, section 3.
    """
    target = -(gradient + margin * constraints.sum(0))
    pieces = torch.cat([constraints, target[None]]).split(PIECE, dim=1)
    products = torch.stack([piece.double() @ piece.double().T for piece in pieces]).sum(0).cpu().numpy()
    lengths = np.sqrt(products.diagonal())
    # The sign of u does not change with the length of a row, and rows of one length are told from rounding.
    lengths = np.where(lengths > 0, lengths, 1.0)
    values, vectors = np.linalg.eigh(products / np.outer(lengths, lengths))
    short = np.sqrt(values.clip(min=0))[:, None] * vectors.T
    solution, _ = nnls(short[:, :-1], short[:, -1], maxiter=100 * len(short))
    weights = solution * lengths[-1] / lengths[:-1] + margin
    return gradient + torch.from_numpy(weights).to(gradient) @ constraints
