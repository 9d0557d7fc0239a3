"""A head whose outputs are cosines between features and learnt directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineHead(nn.Module):
    """(B, feature_dim) -> (B, n_outputs): scale * similarity, with a learnt scale that starts at 1.

    With one direction for each class the similarity is the cosine (Hou et al., LUCIR, CVPR 2019, equation 2). With
    several, the proxies of a class, it is the mean of their cosines with the softmax of the same cosines as weights
    (local similarity classifier; Douillard et al., PODNet, ECCV 2020, equation 6).

    Attributes:
        weight: (n_outputs, n_proxies, feature_dim) directions, of any length.
        scale: of all outputs.
    """

    def __init__(self, feature_dim: int, n_outputs: int, n_proxies: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_outputs, n_proxies, feature_dim))
        nn.init.kaiming_normal_(self.weight.view(-1, feature_dim), nonlinearity="linear")
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * self.similarity(features)

    def similarity(self, features: Tensor) -> Tensor:
        """(B, n_outputs), between -1 and 1."""
        return local_similarity(features, self.weight)

    @torch.no_grad()
    def imprint(self, output: int, directions: Tensor, n_past: int) -> None:
        """Let (n, feature_dim) directions be the first n proxies of an output, as long as those of past ones are.

        Args:
            n_past: outputs in use, the first ones.
        """
        length = self.weight[:n_past].norm(dim=2).mean()
        self.weight[output, : len(directions)] = length * F.normalize(directions, dim=1)


def local_similarity(features: Tensor, weight: Tensor) -> Tensor:
    """(B, n_outputs) similarities of a `CosineHead` between features (B, feature_dim) and directions
    (n_outputs, n_proxies, feature_dim)."""
    directions = F.normalize(weight, dim=2).flatten(0, 1)
    cosines = (F.normalize(features, dim=1) @ directions.T).unflatten(1, weight.shape[:2])
    return (cosines.softmax(2) * cosines).sum(2)
