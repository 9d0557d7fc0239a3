"""Projectors between two feature spaces of the same size."""

from __future__ import annotations

from torch import Tensor, nn

PROJECTORS = ("residual", "plain", "none")


class ResidualProjector(nn.Module):
    """p(h) = h + MLP(h), MAGR's manifold projector (Zhou et al., ECCV 2024).

    Args:
        dim: size of the features, (B, dim) in and out.
        hidden: units of the hidden layer.
        zero_init: start as the exact identity, by a last layer of zeros.
        final_relu: the released code's extra ReLU, after which features can only grow.
    """

    def __init__(self, dim: int, hidden: int = 256, zero_init: bool = True, final_relu: bool = False) -> None:
        super().__init__()
        last = nn.Linear(hidden, dim)
        if zero_init:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.residual = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), last)
        if final_relu:
            self.residual.append(nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        return features + self.residual(features)


def make_projector(
    kind: str, dim: int, hidden: int = 256, zero_init: bool = True, final_relu: bool = False
) -> nn.Module:
    """A projector (B, dim) -> (B, dim).

    Args:
        kind: "residual", h + MLP(h); "plain", MLP(h), which cannot start as the identity; "none", h itself.
        hidden, zero_init, final_relu: of `ResidualProjector`; of these "plain" uses `hidden`.

    Raises:
        ValueError: unknown kind.
    """
    if kind == "residual":
        return ResidualProjector(dim, hidden, zero_init, final_relu)
    if kind == "plain":
        return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"projector must be one of {', '.join(PROJECTORS)}, not {kind!r}")
