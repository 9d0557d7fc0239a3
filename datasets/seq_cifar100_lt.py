"""Long-tailed CIFAR-100 as a stream of classes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import numpy as np

from datasets.seq_cifar100 import SequentialCIFAR100
from datasets.utils import scenarios
from utils.conf import derive_seed

ORDERS = ("ordered", "shuffled", "seeded")


class SequentialCIFAR100LT(SequentialCIFAR100):
    """The 10,847 training images of long-tailed CIFAR-100: a first task of 50 classes, then 5 tasks of 10.

    Class sizes fall from 500 to 5 with the original label. --lt_order ordered brings the classes by label, so that
    every task is smaller than the one before; shuffled in the fixed order that the field uses for CIFAR-100
    (permutation of NumPy's older generator with seed 1993); seeded in an order of the run's seed. --permute_classes
    and --custom_class_order override it.

    Source: X. Liu et al., Long-tailed class incremental learning, ECCV 2022.
    """

    NAME = "seq-cifar100-lt"
    N_TASKS = 6
    N_CLASSES_PER_TASK = [50, 10, 10, 10, 10, 10]  # type: ignore[assignment]
    MEAN, STD = (0.5071, 0.4866, 0.4409), (0.2009, 0.1984, 0.2023)
    OPTION_DEFAULTS = {
        "imb_factor": 0.01,
        "base_classes": 50,
        "n_tasks": 5,
        # The second stage of the same paper.
        "stage2_epochs": 30,
        "stage2_lr": 0.1,
        "stage2_last_head": True,
    }

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        SequentialCIFAR100.get_parser(parser)
        parser.add_argument("--lt_order", choices=ORDERS, default="ordered", help="order in which classes arrive")
        return parser

    def arrange_classes(self, args: Namespace) -> np.ndarray:
        if args.permute_classes or args.custom_class_order is not None or args.lt_order == "ordered":
            return super().arrange_classes(args)
        if args.lt_order == "shuffled":
            return np.random.RandomState(1993).permutation(self.N_CLASSES)
        return scenarios.class_order(self.N_CLASSES, permute=True, seed=derive_seed(args.seed, "class order"))
