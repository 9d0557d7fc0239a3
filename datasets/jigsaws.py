"""JIGSAWS: judged surgical skill from the kinematics of a surgical robot."""

from __future__ import annotations

import warnings
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from datasets.utils.augment import Normalize, Operation
from datasets.utils.continual_dataset import Samples
from datasets.utils.scenarios import every_nth
from datasets.utils.score_dataset import ScoreDataset
from datasets.utils.sequences import average_bins
from datasets.utils.sources import TensorSource
from utils.errors import DataError

TASKS = ("knot_tying", "needle_passing", "suturing")
USERS = "BCDEFGHI"
N_CHANNELS = 76
N_STEPS = 128
N_FOLDS = 4
PACKED = "jigsaws_kinematics_10hz.npz"


class JIGSAWS(ScoreDataset):
    """102 or 103 trials of three tasks by eight surgeons: 76 kinematic variables, global rating score (GRS) 6-30.

    `--data_root DIR` (default BASE_PATH/JIGSAWS) holds the official tree, `<Task>/kinematics/AllGestures/<trial>.txt`
    and `<Task>/meta_file_<Task>.txt`, or the file jigsaws_kinematics_10hz.npz with every third sample of it (arrays
    frames, offsets, trial, grs). Trials are averaged to 128 steps and standardised by the statistics of the training
    trials. Groups are the three tasks.

    Source: Y. Gao et al., The JHU-ISI Gesture and Skill Assessment Working Set (JIGSAWS), M2CAI 2014.
    """

    NAME = "jigsaws"
    N_TASKS = 5
    SCORE_RANGE = (6.0, 30.0)
    HAS_GROUPS = True
    TEST_SHOTS = 3

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ScoreDataset.get_parser(parser)
        group = parser.add_argument_group("jigsaws")
        group.add_argument("--surgical_task", choices=[*TASKS, "all"], default="all", help="one task, or all three")
        group.add_argument("--fold", type=int, choices=range(N_FOLDS), default=0, help="which quarter is for testing")
        group.add_argument(
            "--split_by",
            choices=["trial", "user"],
            default="trial",
            help="trial: every fourth trial by score; user: two surgeons that training never sees (much harder)",
        )
        return parser

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (N_CHANNELS, N_STEPS)

    def group_names(self) -> list[str]:
        wanted = getattr(self.args, "surgical_task", "all")
        return list(TASKS) if wanted == "all" else [wanted]

    def load_samples(self) -> Samples:
        root = Path(self.args.data_root or Path(self.args.base_path) / "JIGSAWS")
        packed, problems = root / PACKED, []
        if packed.exists():
            trials, recordings, scores = _read_packed(packed)
        else:
            trials, recordings, scores, missing = _read_tree(root)
            if missing and not self.args.skip_corrupt:
                raise DataError(f"{missing[0]} ({len(missing)} such trials); leave them out with --skip_corrupt 1")
            problems = missing
        names = np.asarray([trial.rsplit("_", 1)[0].lower() for trial in trials])
        kept = np.flatnonzero(np.isin(names, self.group_names()))
        if not len(kept):
            raise DataError(f"jigsaws: no trial of {', '.join(self.group_names())} in {root}")
        data = np.stack([average_bins(recordings[i], N_STEPS).T for i in kept]).astype(np.float32)
        scores, names = scores[kept], names[kept]
        users = np.asarray([trials[i].rsplit("_", 1)[1][0] for i in kept])
        fold = getattr(self.args, "fold", 0)
        if getattr(self.args, "split_by", "trial") == "user":
            held = np.isin(users, list(USERS[2 * fold : 2 * fold + 2]))
            train, test = np.flatnonzero(~held), np.flatnonzero(held)
        else:
            train, test = every_nth(scores, n=N_FOLDS, offset=fold)
        mean = data[train].mean(axis=(0, 2))
        std = np.maximum(data[train].std(axis=(0, 2)), 1e-6)
        standardise = Normalize(torch.from_numpy(mean), torch.from_numpy(std))
        sequences = standardise(torch.from_numpy(data))
        return Samples(
            train=TensorSource(sequences[torch.from_numpy(train)]),
            test=TensorSource(sequences[torch.from_numpy(test)]),
            train_targets=scores[train],
            test_targets=scores[test],
            train_groups=names[train],
            test_groups=names[test],
            problems=problems,
        )

    def normalization(self) -> Sequence[Operation]:
        return ()


def _read_packed(path: Path) -> tuple[list[str], list[np.ndarray], np.ndarray]:
    try:
        with np.load(path) as file:
            frames, offsets = file["frames"], file["offsets"]
            trials, scores = file["trial"].tolist(), file["grs"].astype(np.float64)
    except Exception as error:  # numpy meets a damaged file with almost any exception
        raise DataError(f"jigsaws: cannot read {path}: {type(error).__name__}: {error}") from error
    if frames.ndim != 2 or frames.shape[1] != N_CHANNELS or not np.isfinite(frames).all():
        raise DataError(f"jigsaws: {path}: frames {frames.shape} are not rows of {N_CHANNELS} finite numbers")
    if offsets[0] != 0 or offsets[-1] != len(frames) or (np.diff(offsets) < 1).any() or not np.isfinite(scores).all():
        raise DataError(f"jigsaws: {path}: offsets or scores do not fit the {len(frames)} frames")
    recordings = [frames[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    if not len(recordings) == len(trials) == len(scores):
        raise DataError(f"jigsaws: {path} has {len(recordings)} recordings, {len(trials)} trials, {len(scores)} scores")
    return trials, recordings, scores


def _read_tree(root: Path) -> tuple[list[str], list[np.ndarray], np.ndarray, list[str]]:
    trials, recordings, scores, missing = [], [], [], []
    for task in ("Knot_Tying", "Needle_Passing", "Suturing"):
        meta = root / task / f"meta_file_{task}.txt"
        if not meta.exists():
            raise DataError(
                f"jigsaws: {root} holds neither {PACKED} nor {meta.relative_to(root)}. Request JIGSAWS from Johns "
                "Hopkins University, unpack it and name its folder with --data_root"
            )
        try:
            ratings = meta.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"jigsaws: cannot read {meta}: {error}") from error
        for number, line in enumerate(ratings, 1):
            words = line.split()
            if not words:
                continue
            try:
                trial, score = words[0], float(words[2])
                if not JIGSAWS.SCORE_RANGE[0] <= score <= JIGSAWS.SCORE_RANGE[1]:
                    raise ValueError(f"a global rating score lies between 6 and 30, not at {score}")
            except (IndexError, ValueError) as error:
                raise DataError(
                    f"jigsaws: {meta}, line {number}: expected trial, skill, score, found '{line}'"
                ) from error
            path = root / task / "kinematics" / "AllGestures" / f"{trial}.txt"
            if not path.exists():
                # The official release rates this one but has no kinematics of it.
                if trial != "Suturing_G001":
                    missing.append(f"jigsaws: {path} is missing")
                continue
            try:
                with warnings.catch_warnings(action="ignore"):  # numpy warns of an empty file, reported below
                    recording = np.loadtxt(path, ndmin=2)
            except (OSError, ValueError) as error:
                missing.append(f"jigsaws: {path}: {error}")
                continue
            if recording.shape[1:] != (N_CHANNELS,) or not np.isfinite(recording).all():
                missing.append(f"jigsaws: {path}: {recording.shape} is not rows of {N_CHANNELS} finite numbers")
                continue
            trials.append(trial)
            recordings.append(recording)
            scores.append(score)
    return trials, recordings, np.asarray(scores), missing
