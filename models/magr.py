"""MAGR: replaying features that are projected to where the network has moved."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from models.utils.projected_replay import ProjectedReplay


class MAGR(ProjectedReplay):
    """Manifold-aligned graph regularisation for continual action quality assessment (Zhou et al., ECCV 2024).

    Equation 1: L = L_D + L_M + lambda_P L_P + lambda_R L_R. The buffer holds features, not samples. A projector p
    learns the step from the previous network's features to the present ones (L_P), replayed features pass through it
    (L_M), and a graph loss arranges old and new features by their scores (L_R). Only net(x) is used at test time. The
    terms are in models/utils/projected_replay.py.

    The defaults are the recommended ones; configs/magr-paper.yaml and configs/magr-released.yaml select the choices
    of the paper and of the authors' code. The rows of the paper's ablation (configs/grids/magr-ablation.yaml):

    | row | options |
    |---|---|
    | without the manifold projector (MP) | --projector none |
    | MP without its residual | --projector plain |
    | without intra- and inter-session graphs (II-GR) | --graph_blocks joint |
    | without the joint graph (J-GR) | --graph_blocks parts |
    | without the graph regulariser (IIJ-GR) | --lambda_r 0 |
    | squared error instead of KL | --graph_divergence mse |
    | without ordered uniform sampling (OUS) | --selection random |
    """

    NAME = "magr"
    COMPATIBILITY = ["grade-il", "group-il"]

    def get_parameters(self) -> list[dict[str, Any]]:
        if self.current_task == 0:
            return [{"params": list(self.net.parameters())}]
        # Weight decay would pull the projector back to the identity, and in the first session kill it.
        return [
            {"params": self.net.trunk_parameters(), "lr": self.args.lr * self.args.backbone_lr_scale},
            {"params": self.net.head_parameters()},
            {"params": list(self.projector.parameters()), "weight_decay": 0.0},
        ]

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        if self.current_task == 0:
            return self.step(self.first_objective(inputs, labels))
        return self.step(self.objective(inputs, labels, self.net(inputs, returnt="features")))
