"""Classifiers that normalise what they compare."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.args import positive, positive_number
from utils.errors import UsageError

HEADS = ("linear", "cosine", "causal")


def add_class_head_args(parser: ArgumentParser) -> None:
    """For streams of classes."""
    add = parser.add_argument_group("head").add_argument
    add("--cls_head", choices=HEADS, help="head of the network (default: what loss and second stage need, or its own)")
    add("--tde_heads", type=positive, default=2, help="causal: parts that features and weights are divided into")
    add("--tde_tau", type=positive_number, default=16.0, help="causal: factor on the outputs")
    add("--tde_gamma", type=float, default=1 / 32, help="causal: added to the length of a weight vector")
    add("--tde_mu", type=float, default=0.9, help="causal: what of the direction of the features stays each step")


def head_wishes(args: Namespace) -> list[tuple[str, str]]:
    """(option, head) for each of --cls_head, --cls_loss and --stage2 that asks for one of `HEADS`."""
    chosen, stage = getattr(args, "cls_head", None), getattr(args, "stage2", None)
    wishes = [(f"--cls_head {chosen}", chosen)] if chosen is not None else []
    if getattr(args, "cls_loss", None) == "ldam":
        wishes.append(("--cls_loss ldam", "cosine"))
    if stage is not None:
        wishes.append((f"--stage2 {stage}", "causal" if stage == "tde" else "linear"))
    return wishes


def wanted_head(args: Namespace) -> str | None:
    """The one of `HEADS` that --cls_head, --cls_loss and --stage2 ask for; None where they leave it to the network.

    Raises:
        UsageError: they ask for different heads.
    """
    wishes = head_wishes(args)
    for what, head in wishes[1:]:
        if head != wishes[0][1]:
            raise UsageError(
                f"{what} needs a {head} head, {wishes[0][0]} a {wishes[0][1]} one: leave out one of the two"
            )
    return wishes[0][1] if wishes else None


def class_head(args: Namespace, net: Any) -> nn.Module | None:
    """The head that --cls_head, --cls_loss and --stage2 ask for; None where the network's own is right.

    Args:
        net: its `feature_dim` and `num_outputs` are those of the head.

    Raises:
        UsageError: they ask for different heads, or the features do not divide into --tde_heads.
    """
    chosen = wanted_head(args)
    if chosen == "cosine":
        return NormalisedLinear(net.feature_dim, net.num_outputs, args.ldam_scale)
    if chosen == "causal":
        if net.feature_dim % args.tde_heads:
            raise UsageError(f"--tde_heads {args.tde_heads} does not divide the {net.feature_dim} features")
        return CausalHead(net.feature_dim, net.num_outputs, args.tde_heads, args.tde_tau, args.tde_gamma, args.tde_mu)
    return None


class NormalisedLinear(nn.Linear):
    """(B, feature_dim) -> (B, n_classes) cosines between features and weight vectors, times `scale`.

    The factor is here and not in a loss, so that whoever softens, stores or compares outputs has logits.
    """

    def __init__(self, feature_dim: int, n_classes: int, scale: float) -> None:
        super().__init__(feature_dim, n_classes, bias=False)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


class CausalHead(nn.Linear):
    """(B, feature_dim) -> (B, n_classes) outputs of the de-confounded classifier, K heads on parts of the features.

        z_c = tau / K sum_k w_c^k . x^k / ((|w_c^k| + gamma) |x^k|)

    In training it follows the direction in which the features drift, e <- mu e + mean of the batch, which
    `effect` takes out of them.

    Source: K. Tang et al., Long-tailed classification by keeping the good and removing the bad momentum causal effect,
    NeurIPS 2020, equations 4 to 8.
    """

    drift: Tensor

    def __init__(self, feature_dim: int, n_classes: int, n_heads: int, tau: float, gamma: float, mu: float) -> None:
        super().__init__(feature_dim, n_classes, bias=False)
        self.n_heads, self.tau, self.gamma, self.mu = n_heads, tau, gamma, mu
        self.register_buffer("drift", torch.zeros(feature_dim))

    def forward(self, features: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.drift.mul_(self.mu).add_(features.detach().mean(0))
        return self._compare(self._parts(features))

    def effect(self, features: Tensor, alpha: float) -> Tensor:
        """Outputs without the indirect effect of the drift: x^k / |x^k| - alpha cos(x^k, e^k) e^k / |e^k| for x^k."""
        parts, drift = self._parts(features), self._parts(self.drift[None])
        return self._compare(parts - alpha * (parts * drift).sum(2, keepdim=True) * drift)

    def _parts(self, rows: Tensor) -> Tensor:
        """(n, feature_dim) -> (n, K, feature_dim / K) of length 1."""
        return F.normalize(rows.view(len(rows), self.n_heads, -1), dim=2)

    def _compare(self, parts: Tensor) -> Tensor:
        weights = self.weight.view(len(self.weight), self.n_heads, -1)
        weights = weights / (weights.norm(dim=2, keepdim=True) + self.gamma)
        return self.tau / self.n_heads * torch.einsum("bkd,ckd->bc", parts, weights)
