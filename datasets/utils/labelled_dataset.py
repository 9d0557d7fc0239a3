"""Base of the streams whose tasks are made of labelled images, whether they bring new classes or not."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils import long_tail, scenarios
from datasets.utils.continual_dataset import ContinualDataset
from utils.args import positive, share
from utils.class_heads import add_class_head_args, head_wishes, wanted_head
from utils.class_losses import ClassLoss, add_class_loss_args, check_class_loss
from utils.errors import UsageError
from utils.second_stage import add_second_stage_args, check_second_stage, stage_of

if TYPE_CHECKING:
    from models.utils.continual_model import ContinualModel


class LabelledDataset(ContinualDataset):
    """How many samples of each class are trained on, and by what loss, head and second stage classes are learnt.

    With --imb_factor the training data has a long tail: class i of the original order, not of that of arrival, keeps a
    share of its samples (`long_tail.class_sizes`), the same samples with every seed. Test data stays as it is.
    """

    # As in Mammoth, whose figures on classes people compare with.
    OPTION_DEFAULTS = {"offer_epochs": "every"}

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        parser.add_argument(
            "--max_samples_per_class", type=positive, help="train on the first N images of every class (default: all)"
        )
        add = parser.add_argument_group("long tail").add_argument
        add(
            "--imb_factor",
            type=long_tail.imbalance,
            help="training samples of the smallest class over those of the largest, or the inverse: 0.01 or 100 "
            "(default: all samples of every class)",
        )
        add("--imb_type", choices=long_tail.PROFILES, default="exp", help="how the classes get smaller")
        add("--imb_step_frac", type=share, default=0.5, help="step: share of the classes that are small")
        add_class_loss_args(parser)
        add_class_head_args(parser)
        add_second_stage_args(parser)
        return parser

    @classmethod
    def check_options(cls, args: Namespace) -> None:
        super().check_options(args)
        check_class_loss(args)
        wanted_head(args)
        if getattr(args, "model", None):
            from models import get_model_class

            method = get_model_class(args)
            check_second_stage(args, method)
            _check_own_parts(args, method)

    def kept_samples(self, targets: np.ndarray) -> np.ndarray | None:
        """Positions of the training samples that --max_samples_per_class and --imb_factor leave; None if all."""
        limit, ratio = (getattr(self.args, name, None) for name in ("max_samples_per_class", "imb_factor"))
        if not limit and ratio is None:
            return None
        keep = scenarios.first_per_class(targets, limit) if limit else np.arange(len(targets))
        if ratio is None:
            return keep
        largest = np.bincount(targets[keep]).max()
        sizes = long_tail.class_sizes(largest, self.N_CLASSES, self.args.imb_type, ratio, self.args.imb_step_frac)
        return keep[long_tail.subsample(targets[keep], sizes)]

    @property
    def class_names(self) -> list[str]:
        return self.samples.names

    def convert_targets(self, targets: np.ndarray, difficulty: np.ndarray | None = None) -> Tensor:
        return torch.from_numpy(targets)

    @property
    def cls_num_list(self) -> list[int]:
        """Training samples of every class over all tasks, in order of arrival."""
        labels = self.convert_targets(self.training_targets[np.concatenate(self.split.train)])
        return np.bincount(labels, minlength=self.N_CLASSES).tolist()

    @property
    def is_long_tailed(self) -> bool:
        """Whether training data was made unequal in size by class."""
        return getattr(self.args, "imb_factor", None) is not None

    def get_loss(self) -> Callable[..., Tensor]:
        if getattr(self.args, "cls_loss", "ce") == "ce" and getattr(self.args, "drw_epoch", None) is None:
            return F.cross_entropy
        return ClassLoss(self.args, self.N_CLASSES, self.get_offsets, self.device)


def _check_own_parts(args: Namespace, method: type[ContinualModel]) -> None:
    """Refuse a loss or a head that the method would replace by its own, and a loss that its head does not fit."""
    parts: dict[str, dict[str, str | None]] = {
        "loss": {"cls_loss": "ce", "drw_epoch": None},
        "head": {"cls_head": None, "stage2": None},
    }
    for part, options in parts.items():
        given = [name for name, without in options.items() if getattr(args, name, without) != without]
        own = getattr(method, f"OWN_{part.upper()}")
        if given == ["stage2"] and isinstance(own, type) and stage_of(args.stage2, own):
            continue
        if given and own:
            raise UsageError(
                f"--{given[0]} {getattr(args, given[0])}: {args.model} has a {part} of its own; leave it out"
            )
    wish = next((option for option, head in head_wishes(args) if head != "linear"), None)
    if wish and method.NEEDS_LINEAR_HEAD:
        raise UsageError(
            f"{wish}: {args.model} aligns the lengths of weight vectors, which the head that this asks for divides by; "
            "leave it out, or take --cls_loss cb, logit-adjust or balanced-softmax, or --stage2 crt, tau-norm or lws"
        )
    if getattr(args, "cls_loss", "ce") == "ldam" and method.OWN_HEAD:
        raise UsageError(
            f"--cls_loss ldam: its margins are for cosines times --ldam_scale, and {args.model} has a head of its own "
            "with another factor; take another loss, such as cb, logit-adjust or balanced-softmax"
        )
