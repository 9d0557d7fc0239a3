"""A stream without tasks: digits that turn slowly while one class after the other gives way to the next."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import numpy as np

from datasets.utils import scenarios
from datasets.utils.continual_dataset import Samples
from datasets.utils.image_changes import TurnedSource, equal_angles, turning_pairs
from datasets.utils.image_sets import DigitImages, MNISTImages
from datasets.utils.labelled_dataset import LabelledDataset
from datasets.utils.scenarios import Split
from utils.args import positive
from utils.conf import derive_seed
from utils.errors import UsageError


class Turning(LabelledDataset):
    """Digits 0 to 8, two neighbouring ones at a time, in three rounds; nothing tells a method when a digit is replaced.

    The stream is one task, in a fixed order: `begin_task` and `end_task` are called once, before and after all of it.
    Every image is shown once, at an angle that grows from 0 to 360 degrees over the stream, so digits come back
    looking otherwise. Test images are turned by evenly spread angles. A 9 is a turned 6 and left out.

    Source: the protocol of MNIST-360, P. Buzzega et al., Dark experience for general continual learning, NeurIPS 2020,
    section 4.1, which says that angles increase; by how much is ours.
    """

    SETTING = "general-continual"
    N_TASKS = 1
    N_CLASSES = 9
    SHUFFLED = False
    INTERPOLATION: str

    def __init__(self, args: Namespace) -> None:
        if (getattr(args, "n_tasks", None) or 1) != 1:
            raise UsageError(f"--n_tasks {args.n_tasks}: {self.NAME} is one stream without tasks; leave --n_tasks out")
        self.N_CLASSES_PER_TASK = self.N_CLASSES
        super().__init__(args)

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        LabelledDataset.get_parser(parser)
        parser.add_argument("--rounds", type=positive, default=3, help="how often every pair of digits comes")
        return parser

    def load_samples(self) -> Samples:
        samples = super().load_samples()
        labels = samples.train_targets
        chosen = np.flatnonzero(labels < self.N_CLASSES)
        keep = self.kept_samples(labels[chosen])
        chosen = chosen if keep is None else chosen[keep]
        seed = derive_seed(getattr(self.args, "seed", 0), "pairs")
        order, degrees = turning_pairs(labels[chosen], self.N_CLASSES, self.args.rounds, seed)
        order = chosen[order]
        tested = np.flatnonzero(samples.test_targets < self.N_CLASSES)
        test_degrees = np.zeros(len(tested))
        for label in range(self.N_CLASSES):
            of_class = samples.test_targets[tested] == label
            test_degrees[of_class] = equal_angles(int(of_class.sum()))
        return Samples(
            train=TurnedSource(samples.train, order, degrees, self.INTERPOLATION),
            test=TurnedSource(samples.test, tested, test_degrees, self.INTERPOLATION),
            train_targets=labels[order],
            test_targets=samples.test_targets[tested],
            names=samples.names[: self.N_CLASSES],
        )

    def make_split(self, samples: Samples) -> Split:
        scenarios.task_order(1, custom=getattr(self.args, "custom_task_order", None))
        return Split([np.arange(len(samples.train))], [np.arange(len(samples.test))], ["stream"])


class MNIST360(Turning, MNISTImages):
    """MNIST-360 from MNIST's files."""

    NAME = "mnist-360"


class Digits360(Turning, DigitImages):
    """The same protocol on scikit-learn's digits; nothing to download."""

    NAME = "digits-360"
