"""Learning without forgetting: what the network said before a task is what it should still say after it."""

from __future__ import annotations

import copy
from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.task_heads import TaskHeads, add_warm_up_args
from utils.args import from_zero, positive_number, true_or_false
from utils.errors import UsageError
from utils.losses import softened_cross_entropy, teacher_bounded_loss


class LwF(TaskHeads):
    """L = L_new + lambda_o (kd_out D_out + kd_feat |f - f'|^2), with ' for the network as it was before the task.

    No past sample is kept: the old network answers for the samples of the present task. --lwf_target recorded shows it
    the sample as it is, whatever augmentation the new one sees, as if its answers had been written down before the
    task; online shows both the same view. Answers written down after the warm-up would be the same, since nothing that
    gives them moves in it.

    On score streams L_new is the stream's loss and D_out = |g - g'|^2, or the teacher-bounded error, or with a
    distribution head the cross-entropy of the distributions softened by T = --softmax_temp. On class streams the
    outputs of a task's classes are its head: L_new is the loss over the new head (--lwf_ce new) or over all classes
    seen, D_out the softened cross-entropy of each old head (--lwf_kd per_task) or of all of them as one (concat).
    Old heads learn with the rest, or stay as they are (--train_old_heads False).

    The first --warmup_epochs of every later task train the head alone, with L_new, the rest of the network as it is.

    The paper and its frameworks differ in these choices: --model_config paper, mammoth, pycil or facil sets them
    (configs/models/lwf.yaml). What is logged as `drift` is the distillation term above its value where the old network
    would stand, 0 where nothing is forgotten.

    Source: Z. Li, D. Hoiem, Learning without forgetting, TPAMI 40(12), 2018. Distilled features: Y.-M. Li et
    al., Continual action assessment via task-consistent score-discriminative feature distribution modeling, TCSVT
    2024.
    """

    NAME = "lwf"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]
    ONE_CLASS = "needs --lwf_ce all --lwf_kd concat"

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        TaskHeads.get_parser(parser)
        add_warm_up_args(parser)
        add = parser.add_argument_group("lwf").add_argument
        add("--lambda_o", "--alpha", type=from_zero, default=1.0, help="weight of what the old network said")
        add("--kd_out", type=from_zero, default=1.0, help="weight of its outputs")
        add("--kd_feat", type=from_zero, default=0.0, help="weight of its features")
        add("--softmax_temp", type=positive_number, default=2.0, help="temperature that softens distributions")
        add("--lwf_target", choices=["recorded", "online"], default="recorded", help="old outputs: clean or same view")
        add("--lwf_reg", choices=["squared", "teacher_bounded"], default="squared", help="distance between scores")
        add("--lwf_margin", type=float, default=0.0, help="teacher_bounded: how much better than the old network to be")
        add("--lwf_ce", choices=["new", "all"], default="new", help="classes: loss over the new or all seen classes")
        add("--lwf_kd", choices=["per_task", "concat"], default="per_task", help="classes: old heads apart or as one")
        add("--train_old_heads", type=true_or_false, default=True, help="classes: old heads learn with the rest")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        if self.is_score and self.net.num_outputs > 1 and args.lwf_reg == "teacher_bounded":
            raise UsageError("--lwf_reg teacher_bounded compares scores; this head predicts a distribution")
        self.old_net = copy.deepcopy(self.net).requires_grad_(False).eval()

    @property
    def compares_heads(self) -> bool:
        return (self.args.lwf_ce, self.args.lwf_kd) == ("all", "concat")

    @property
    def trains_old_heads(self) -> bool:
        return self.args.train_old_heads

    def begin_task(self, dataset: ContinualDataset) -> None:
        super().begin_task(dataset)
        self.old_net.load_state_dict(self.net.state_dict())

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs, features = self.outputs_and_features(inputs)
        loss = self.new_loss(outputs, labels)
        if self.current_task > 0 and not self.is_warm_up:
            seen = inputs if self.args.lwf_target == "online" else self.normalization_transform(not_aug_inputs)
            with torch.no_grad():
                old_outputs, old_features = self.old_net(seen, returnt="both")
                least = self.args.kd_out * self.output_distance(old_outputs, old_outputs, labels)
            distance = self.args.kd_out * self.output_distance(outputs, old_outputs, labels)
            distance = distance + self.args.kd_feat * F.mse_loss(features, old_features)
            self.log(loss_new=loss, loss_distillation=distance, drift=distance - least)
            loss = loss + self.args.lambda_o * distance
        return self.step(loss)

    def new_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """L_new."""
        if self.is_score or self.args.lwf_ce == "new" or self.is_warm_up:
            return super().new_loss(outputs, labels)
        return self.loss(outputs[:, : self.n_seen_classes], labels)

    def output_distance(self, outputs: Tensor, old_outputs: Tensor, labels: Tensor) -> Tensor:
        """D_out."""
        temperature = self.args.softmax_temp
        if self.is_score and outputs.shape[1] == 1:
            if self.args.lwf_reg == "teacher_bounded":
                return teacher_bounded_loss(outputs, old_outputs, labels, self.args.lwf_margin)
            return F.mse_loss(outputs, old_outputs)
        if self.is_score:
            return softened_cross_entropy(outputs, old_outputs, temperature)
        heads = sorted({self.get_offsets(task) for task in range(self.current_task)})
        if self.args.lwf_kd == "concat":
            heads = [(0, heads[-1][1])]
        distances = [softened_cross_entropy(outputs[:, a:b], old_outputs[:, a:b], temperature) for a, b in heads]
        return torch.stack(distances).sum()
