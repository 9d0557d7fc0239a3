"""Distillation where every output is a yes or no of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def distilled_binary_cross_entropy(outputs: Tensor, labels: Tensor, old_outputs: Tensor) -> Tensor:
    """Binary cross-entropy whose targets are the old network's for past classes, and the labels for new ones.

    Args:
        outputs: (B, S) logits of the S classes seen.
        labels: (B,) below S.
        old_outputs: (B, P) logits of the first P classes by the network as it was; with P = 0 all targets are labels.

    Returns:
        Mean over samples and classes.

    Source: S.-A. Rebuffi et al., iCaRL: incremental classifier and representation learning, CVPR 2017, algorithm 3.
    """
    n_past = old_outputs.shape[1]
    new = F.one_hot(labels, outputs.shape[1])[:, n_past:]
    return F.binary_cross_entropy_with_logits(outputs, torch.cat([old_outputs.detach().sigmoid(), new], dim=1))
