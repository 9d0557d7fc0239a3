"""MAGR++: adapt the features, then rectify what is stored, then the regressor, one after the other."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.projected_replay import ProjectedReplay
from utils.args import from_zero, positive_number, true_or_false
from utils.errors import UsageError
from utils.layer_rates import depth_graded
from utils.phases import phase_starts
from utils.stages import DISTANCES, find_stage, map_distance, stage_index


class MAGRpp(ProjectedReplay):
    """Layer-adaptive fine-tuning and asynchronous feature rectification (Zhou et al., MAGR++, arXiv:2510.06842).

    The first session learns as MAGR's. The steps of every later one are divided into three phases; what a phase does
    not name is frozen, batch-norm statistics of the features included:

    | phase | trains | loss |
    |---|---|---|
    | A | features f, deep layers faster (and head g with --adapt_head) | L_D + lambda_R L_R + lambda_S L_S |
    | B | projector p | lambda_P L_P + lambda_R L_R of [p(stored); p(f'(x))], joint matrix only |
    | BC | projector p, head g | L_D + L_M + lambda_P L_P + lambda_R L_R, MAGR's equation 1 with f frozen |

    L_S is the distance of a shallow intermediate map to that of the network before the session, f'; the other terms are
    in models/utils/projected_replay.py. The optimiser's moments start anew with every phase. Its rates do not:
    --lr_scheduler goes over the session as a whole.

    After the paper's abstract and figure, and the released code where these are silent. As there, phases begin after 20
    and 35 of 50 epochs. Unlike there, they do so at any number of epochs; phase A learns the scores, where the code's
    loss is a divergence of L_S alone; and rates are those of the run's configuration.
    """

    NAME = "magrpp"
    COMPATIBILITY = ["grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ProjectedReplay.get_parser(parser)
        add = parser.add_argument_group("phases of magr++").add_argument
        add("--phase_b", type=float, default=0.4, help="share of a session's steps after which phase B begins")
        add("--phase_bc", type=float, default=0.7, help="share of a session's steps after which phase BC begins")
        add("--adapt_head", type=true_or_false, default=False, help="phase A trains the head too")
        add("--layer_decay", type=positive_number, default=0.75, help="rate of a layer, times that of the next deeper")
        add("--lambda_s", type=from_zero, default=1.0, help="weight of the stabiliser L_S")
        add("--stabilizer_stage", default="0.33", help="map that L_S holds: name, number from 0, or share of the depth")
        add("--stabilizer_distance", choices=DISTANCES, default="mse", help="L_S: squared or Jensen-Shannon")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        if not 0 <= args.phase_b <= args.phase_bc <= 1:
            raise UsageError(f"--phase_b {args.phase_b:g} --phase_bc {args.phase_bc:g}: 0 <= phase_b <= phase_bc <= 1")
        self.stage = find_stage(self.net, args.stabilizer_stage)
        self.phase = ""

    def get_extra_state(self) -> dict[str, Any]:
        return super().get_extra_state() | {"phase": self.phase}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.phase = state["phase"]

    def get_parameters(self) -> list[dict[str, Any]]:
        # The same groups in every phase: frozen parameters have no gradient and are left alone by every optimiser.
        if self.current_task == 0:
            return [{"params": list(self.net.parameters())}]
        return [
            *depth_graded(self.net, self.args.lr * self.args.backbone_lr_scale, self.args.layer_decay),
            {"params": self.net.head_parameters()},
            {"params": list(self.projector.parameters()), "weight_decay": 0.0},
        ]

    def begin_task(self, dataset: ContinualDataset) -> None:
        self.phase = ""

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        if self.current_task == 0:
            return self.step(self.first_objective(inputs, labels))
        phase = self.due_phase()
        if phase != self.phase:
            self.enter(phase)
        if phase == "A":
            return self.step(self.adaptation(inputs, labels))
        # Dropout and batch statistics of the features would blur what the projector and the head are to learn.
        self.net.eval()
        self.net.classifier.train()
        with torch.no_grad():
            features = self.net(inputs, returnt="features")
        if phase == "B":
            return self.step(self.rectification(inputs, labels, features))
        return self.step(self.objective(inputs, labels, features))

    def due_phase(self) -> str:
        """The phase that the next step belongs to."""
        n_batches = self.dataset.n_batches
        # A phase with nothing to train leaves its share to the next.
        share_b = self.args.phase_b if self.args.adapt_head or self.net.trunk_parameters() else 0.0
        share_bc = self.args.phase_bc if self.projects else share_b
        b, bc = phase_starts(n_batches * self.dataset.get_epochs(), share_b, share_bc)
        step = n_batches * self.task_epoch + self.epoch_iteration
        return "A" if step < b else "B" if step < bc else "BC"

    def enter(self, phase: str) -> None:
        """Freeze what the phase does not train and forget the optimiser's moments."""
        self.phase = phase
        for parameter in self.net.trunk_parameters():
            parameter.requires_grad_(phase == "A")
        for parameter in self.net.head_parameters():
            parameter.requires_grad_(phase == "BC" or (phase == "A" and self.args.adapt_head))
        self.projector.requires_grad_(phase != "A")
        self.opt.state.clear()

    def adaptation(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Phase A."""
        features, maps = self.net.feature_maps(inputs)
        with torch.no_grad():
            _, old_maps = self.old_net.feature_maps(inputs)
        loss = self.loss(self.net.classifier(features), labels)
        graph = self.regularize(features, labels, n_old=0)
        stage = stage_index(self.stage, len(maps))
        distance = map_distance(maps[stage], old_maps[stage], self.args.stabilizer_distance)
        self.log(loss_d=loss, loss_r=graph, loss_s=distance)
        return loss + self.args.lambda_r * graph + self.args.lambda_s * distance

    def rectification(self, inputs: Tensor, labels: Tensor, features: Tensor) -> Tensor:
        """Phase B."""
        projected = self.projected(inputs)
        alignment = F.mse_loss(projected, features)
        if not self.buffer.is_empty():
            replayed, replayed_labels = self.replay()
            projected, labels = torch.cat([replayed, projected]), torch.cat([replayed_labels, labels])
        graph = self.regularize(projected, labels, n_old=0)
        self.log(loss_p=alignment, loss_r=graph)
        return self.args.lambda_p * alignment + self.args.lambda_r * graph

    def end_task(self, dataset: ContinualDataset) -> None:
        self.net.requires_grad_(True)
        self.projector.requires_grad_(True)
        super().end_task(dataset)
