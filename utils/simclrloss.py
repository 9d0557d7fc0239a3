"""Supervised contrastive loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SupConLoss(nn.Module):
    """Pulls the views of samples of one class together and apart from all others; without labels, SimCLR's loss.

    -T/T_base mean over anchors i and mean over positives p of log(exp(z_i.z_p/T) / sum_{a != i} exp(z_i.z_a/T)).

    Args:
        temperature: T.
        contrast_mode: which views are anchors, "all" or the first "one".
        base_temperature: T_base.
        reduction: "mean", "sum", or "none" (one value for each anchor).

    Source: P. Khosla et al., Supervised contrastive learning, NeurIPS 2020, equation 2.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        contrast_mode: str = "all",
        base_temperature: float = 0.07,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if contrast_mode not in ("all", "one") or reduction not in ("mean", "sum", "none"):
            raise ValueError(f"contrast_mode is all or one, reduction mean, sum or none: {contrast_mode}, {reduction}")
        self.temperature, self.base_temperature = temperature, base_temperature
        self.contrast_mode, self.reduction = contrast_mode, reduction

    def forward(self, features: Tensor, labels: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            features: (B, views, ...), of unit length.
            labels: (B,) classes; without them and a mask the views of one sample are the positives.
            mask: (B, B) which samples are positives of which.
        """
        n, views = features.shape[:2]
        if mask is None:
            group = torch.arange(n, device=features.device) if labels is None else labels.view(-1).to(features.device)
            mask = group[:, None] == group[None]
        stacked = features.flatten(2).transpose(0, 1).flatten(0, 1)
        n_anchors = n * views if self.contrast_mode == "all" else n
        logits = stacked[:n_anchors] @ stacked.T / self.temperature
        itself = torch.eye(n * views, dtype=torch.bool, device=logits.device)[:n_anchors]
        positives = mask.bool().repeat(n_anchors // n, views) & ~itself
        log_p = F.log_softmax(logits.masked_fill(itself, -torch.inf), dim=1).masked_fill(~positives, 0)
        loss = -log_p.sum(1) / positives.sum(1).clamp(min=1) * (self.temperature / self.base_temperature)
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()
