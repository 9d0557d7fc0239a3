"""Divergences between rows of log-probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of every row, in nats.

    Args:
        log_p, log_q: (N, K) logarithms of probabilities, finite; what log_softmax gives.

    Returns:
        (N,).
    """
    return (log_p.exp() * (log_p - log_q)).sum(1)


def js_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of every row, in nats: between 0 and log 2, symmetric.

    1/2 KL(p || m) + 1/2 KL(q || m) with m = (p + q) / 2, in log space throughout (Lin, IEEE TIT 37(1), 1991). Arguments
    and result as in `kl_divergence`.
    """
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (kl_divergence(log_p, log_m) + kl_divergence(log_q, log_m)) / 2
