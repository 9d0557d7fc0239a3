"""How far a tuned model is trusted, label by label, beside the one that it was tuned from."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UsageError

EPSILON = 1e-8


class OnlineClassWeighting(nn.Module):
    """Running accuracies of two models on the samples of each label, every sample measured before it is learnt.

    The first W = floor(1 / (1 - eta)) samples of a label count alike, c <- (n c + s) / (n + 1); from then on the past
    fades, c <- eta c + (1 - eta) s. Grows with the labels, which are numbered from 0.

    Attributes:
        n: (labels,) int64 samples of each label so far.
        right: (2, labels) float64 accuracy of the tuned and of the original model.

    Args:
        eta: 0 <= eta < 1.

    Raises:
        UsageError: eta is out of its range.

    Source: Z. Zhu, Y. Gong, D. Hoiem, Anytime continual learning for open vocabulary classification, ECCV 2024.
    """

    n: Tensor
    right: Tensor

    def __init__(self, eta: float, device: torch.device | str = "cpu") -> None:
        super().__init__()
        if not 0 <= eta < 1:
            raise UsageError(f"--eta {eta}: accuracies are kept with a factor of at least 0 and below 1, such as 0.99")
        self.eta = eta
        self.warm_up = math.floor(1 / (1 - eta) + 1e-9)
        self.n = torch.zeros(0, dtype=torch.int64, device=device)
        self.right = torch.zeros(2, 0, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        return len(self.n)

    def update(self, labels: Tensor, right_tuned: Tensor, right_original: Tensor) -> None:
        """Count samples, those of one label in their order.

        Args:
            labels: (B,) int64.
            right_tuned, right_original: (B,) whether each model named the label, before it learnt from the sample.
        """
        self._grow(int(labels.max()) + 1 if len(labels) else 0)
        found = torch.stack([right_tuned, right_original]).to(self.right)
        order = labels.argsort(stable=True)
        _, counts = labels[order].unique_consecutive(return_counts=True)
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        occurrence = torch.empty_like(order)
        occurrence[order] = torch.arange(len(order), device=order.device) - first
        # The k-th samples of all labels at once: no label is among them twice.
        for k in range(int(counts.max()) if len(labels) else 0):
            chosen = occurrence == k
            of, seen = labels[chosen], self.n[labels[chosen]]
            share = torch.where(seen < self.warm_up, 1 / (seen + 1).double(), 1 - self.eta)
            self.right[:, of] += share * (found[:, chosen] - self.right[:, of])
            self.n[of] += 1

    def alpha(self, positions: Tensor) -> Tensor:
        """(n,) float64 weights of the tuned model, c_t / (c_t + c_o + 1e-8); those of the original are 1 less that.

        Args:
            positions: (n,) labels; 0 is the weight of one that was never counted, such as -1.
        """
        positions = positions.to(self.n.device)
        known = (positions >= 0) & (positions < len(self))
        tuned, original = self.right[:, positions[known]]
        weights = torch.zeros(len(positions), dtype=torch.float64, device=self.n.device)
        weights[known] = tuned / (tuned + original + EPSILON)
        return weights

    def _grow(self, n_labels: int) -> None:
        more = max(n_labels - len(self), 0)
        self.n = torch.cat([self.n, self.n.new_zeros(more)])
        self.right = torch.cat([self.right, self.right.new_zeros(2, more)], dim=1)

    def get_extra_state(self) -> dict[str, Any]:
        return {"n": self.n.clone(), "right": self.right.clone()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.n, self.right = state["n"].to(self.n.device), state["right"].to(self.right.device)


def seen_share(probabilities: Tensor, is_seen: Tensor) -> Tensor:
    """(B, 1) how likely the original model finds it that the label is one of those learnt.

    Args:
        probabilities: (B, n) of the original model over the candidates.
        is_seen: (n,) which candidates were learnt.

    Source: Z. Zhu et al., Continual learning in open-vocabulary classification with complementary memory systems,
    TMLR 2024 (adaptive instance marginalisation, AIM).
    """
    return probabilities[:, is_seen].sum(1, keepdim=True)
