"""UI-PRMD deep squat: judged rehabilitation movements, real data that the repository ships."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from datasets.utils.augment import Denormalize, Normalize, Operation
from datasets.utils.continual_dataset import Samples
from datasets.utils.scenarios import every_nth
from datasets.utils.score_dataset import ScoreDataset
from datasets.utils.sources import TensorSource
from utils.errors import DataError

FILE = Path(__file__).parent / "data" / "uiprmd" / "deep_squat.npz"
N_STEPS = 60
# Of the training samples.
MEAN, STD = (-0.1953, -0.0467, -0.0363, -0.1382), (0.2170, 0.1882, 0.2403, 0.2020)


class UIPRMD(ScoreDataset):
    """180 deep squats (90 correct, 90 not): 4 angle components over 240 frames, quality score in 0.530-0.961.

    The components are joint angles of a Vicon system reduced by an autoencoder, here averaged to 60 time steps. Of the
    repetitions sorted by score every fourth is for testing: 135 train, 45 test (the subjects are not known, so one
    person's repetitions may be in both). Groups are the two kinds of repetition.

    Source: A. Vakanski et al., A data set of human body movements for physical rehabilitation exercises, Data 3(1),
    2018; scores and reduction: Y. Liao, A. Vakanski, M. Xian, A deep learning framework for assessing physical
    rehabilitation exercises, IEEE TNSRE 28(2), 2020.
    """

    NAME = "uiprmd"
    N_TASKS = 5
    SCORE_RANGE = (0.5, 1.0)
    HAS_GROUPS = True
    TEST_SHOTS = 5

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (4, N_STEPS)

    def group_names(self) -> list[str]:
        return ["correct", "incorrect"]

    def load_samples(self) -> Samples:
        if not FILE.exists():
            raise DataError(f"{FILE} is missing; it is part of the repository: git checkout -- datasets/data")
        with np.load(FILE) as file:
            steps = file["sequences"].reshape(-1, N_STEPS, 240 // N_STEPS, 4).mean(axis=2)
            sequences = torch.from_numpy(steps).transpose(1, 2).contiguous()
            scores = file["score"].astype(np.float64)
            kinds = np.where(file["correct"] == 1, "correct", "incorrect")
        train, test = every_nth(scores, n=4, offset=2)
        return Samples(
            train=TensorSource(sequences[torch.from_numpy(train)]),
            test=TensorSource(sequences[torch.from_numpy(test)]),
            train_targets=scores[train],
            test_targets=scores[test],
            train_groups=kinds[train],
            test_groups=kinds[test],
        )

    def normalization(self) -> Sequence[Operation]:
        return (Normalize(MEAN, STD),)

    def denormalization(self) -> Sequence[Operation]:
        return (Denormalize(MEAN, STD),)
