"""Learning without forgetting in CLIP's space."""

from __future__ import annotations

import copy
from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.open_vocabulary import OpenVocabularyModel
from models.utils.tuned_clip import TunedClip
from utils.args import from_zero, positive_number
from utils.losses import softened_cross_entropy


class ClipLwF(TunedClip):
    """L = L_new + lambda_o D, D the softened cross-entropy to the answers of the model before the task.

    Old and new model see the same sample of the current task, and answer among the labels met before the task; in the
    first task there are none. L_new goes over all labels met.

    Source: Z. Li, D. Hoiem, Learning without forgetting, TPAMI 40(12), 2018; on CLIP as in the comparisons of Z. Zheng
    et al., Preventing zero-shot transfer degradation in continual learning of vision-language models, ICCV 2023.
    """

    NAME = "clip-lwf"
    n_before: Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        OpenVocabularyModel.get_parser(parser)
        add = parser.add_argument_group("clip-lwf").add_argument
        add("--lambda_o", type=from_zero, default=1.0, help="weight of what the old model said")
        add("--softmax_temp", type=positive_number, default=2.0, help="temperature that softens distributions")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.before = copy.deepcopy(self.tuned).requires_grad_(False)
        self.register_buffer("n_before", torch.zeros((), dtype=torch.int64, device=self.device))

    def begin_task(self, dataset: ContinualDataset) -> None:
        self.before.load_state_dict(self.tuned.state_dict())
        self.n_before.fill_(len(self.vocabulary))

    def penalty(self, tokens: Tensor, embeddings: Tensor) -> Tensor | float:
        n_before = int(self.n_before)
        if not n_before:
            return 0.0
        with torch.no_grad():
            old = self.logits_met(F.normalize(self.before(tokens), dim=1))[:, :n_before]
        distance = softened_cross_entropy(self.logits_met(embeddings)[:, :n_before], old, self.args.softmax_temp)
        self.log(loss_distillation=distance)
        return self.args.lambda_o * distance
