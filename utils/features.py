"""Features of the samples of a task."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backbone import ContinualBackbone
from datasets.utils.loader import TaskData


@torch.no_grad()
def extract_features(
    net: ContinualBackbone,
    data: TaskData,
    positions: Tensor,
    transform: Callable[[Tensor], Tensor],
    batch_size: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Features of samples of a task, as the network sees them in its present mode.

    Args:
        positions: (n,) of the samples in the task. One that cannot be read is left out.
        transform: raw batch -> network input.

    Returns:
        (m, feature_dim) features and (m,) targets on the device, m <= n, in the order of `positions`.
    """
    features, targets = [torch.empty(0, net.feature_dim, device=device)], [torch.as_tensor(data.targets)[:0].to(device)]
    for part in positions.split(batch_size):
        raw, found, *_ = data[part.tolist()]
        if len(raw):
            features.append(net(transform(raw.to(device)), returnt="features"))
            targets.append(found.to(device))
    return torch.cat(features), torch.cat(targets)
