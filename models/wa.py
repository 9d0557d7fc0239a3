"""Weight alignment: the head's weights of new classes are brought to the length of those of past ones."""

from __future__ import annotations

import copy
from argparse import ArgumentParser

import torch
from torch import Tensor, nn

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.exemplar_replay import ExemplarReplay
from utils.args import positive_number, true_or_false
from utils.errors import UsageError
from utils.losses import softened_cross_entropy


class WA(ExemplarReplay):
    """L = (1 - lambda) L_CE + lambda L_KD with lambda = past / seen classes, then the alignment.

    Cross-entropy is over the classes seen, distillation over the past ones, on the same samples. At the end of every
    task but the first the weights of the new classes are multiplied by gamma = mean |w_past| / mean |w_new|; biases
    stay. The paper also keeps the weights positive, so that a longer one means a larger output where features are
    positive; --weight_clip False leaves that out, as PyCIL does.

    Source: B. Zhao et al., Maintaining discrimination and fairness in class incremental learning, CVPR 2020.
    """

    NAME = "wa"
    COMPATIBILITY = ["class-il", "task-il"]
    NEEDS_LINEAR_HEAD = True

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ExemplarReplay.get_parser(parser)
        parser.add_argument("--softmax_temp", type=positive_number, default=2.0, help="temperature of distillation")
        parser.add_argument("--weight_clip", type=true_or_false, default=True, help="no negative weights in the head")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        if type(self.net.classifier) is not nn.Linear:
            raise UsageError(
                f"wa aligns the weights of a linear head, and that of --backbone {args.backbone} is another; take "
                "another backbone, or another method such as bic"
            )
        self.old_net = copy.deepcopy(self.net).requires_grad_(False).eval()

    @property
    def weight(self) -> nn.Parameter:
        """(N_CLASSES, feature_dim) of the head."""
        return self.net.get_parameter("classifier.weight")

    def begin_task(self, dataset: ContinualDataset) -> None:
        super().begin_task(dataset)
        self.old_net.load_state_dict(self.net.state_dict())

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs, past = self.net(inputs)[:, : self.n_seen_classes], self.n_past_classes
        loss = self.loss(outputs, labels)
        if past:
            with torch.no_grad():
                old_outputs = self.old_net(inputs)[:, :past]
            distillation = softened_cross_entropy(outputs[:, :past], old_outputs, self.args.softmax_temp)
            self.log(loss_new=loss, loss_distillation=distillation)
            share = past / self.n_seen_classes
            loss = (1 - share) * loss + share * distillation
        value = self.step(loss)
        if self.args.weight_clip:
            with torch.no_grad():
                self.weight.clamp_(min=0)
        return value

    def end_task(self, dataset: ContinualDataset) -> None:
        super().end_task(dataset)
        if self.n_past_classes:
            self.align()

    @torch.no_grad()
    def align(self) -> None:
        """Multiply the weights of the task's classes by gamma."""
        first, end = self.get_offsets()
        lengths = self.weight.norm(dim=1)
        # Clipped weights may all be zero, and stay so.
        self.weight[first:end] *= lengths[:first].mean() / lengths[first:end].mean().clamp(min=1e-12)
