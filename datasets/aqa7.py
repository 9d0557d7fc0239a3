"""AQA-7: six judged sports on video, in the official layout, and the stand-in that replaces absent frames."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.utils.augment import (
    CenterCrop,
    Denormalize,
    Normalize,
    Operation,
    RandomCrop,
    RandomHorizontalFlip,
    ToFloat,
)
from datasets.utils.continual_dataset import Samples
from datasets.utils.rendered_dives import judge, render, sample_dives
from datasets.utils.score_dataset import ScoreDataset
from datasets.utils.sources import ClipSource, TensorSource
from utils.args import positive
from utils.errors import DataError, UsageError

# Position + 1 is the class index of the split files; (lowest, highest) score as published.
SPORTS = {
    "diving": (21.6, 102.6),
    "gym_vault": (12.3, 16.87),
    "ski_big_air": (8.0, 50.0),
    "snowboard_big_air": (8.0, 50.0),
    "sync_diving_3m": (46.2, 104.88),
    "sync_diving_10m": (49.8, 99.36),
}
N_FRAMES = 103
FRAME_SIZE = (128, 171)
CROP = 112
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HOW_TO_GET = (
    "Get the frames from the authors of AQA-7 (Parmar & Morris, WACV 2019) and lay them out as "
    "DIR/<sport>-out/<id:03d>/img_00001.jpg ... img_00103.jpg and DIR/Split_4/split_4_{train,test}_list.mat, "
    "then pass --data_root DIR"
)


class AQA7(ScoreDataset):
    """AQA-7 (P. Parmar, B. Morris, Action Quality Assessment Across Multiple Actions, WACV 2019), 103 frames a clip.

    One sport keeps its own score range; `--sport all` scales every sport to 0-100 by its published range. Groups are
    the sports. Frames are read at 128x171; training crops 112x112 at random and flips, testing crops the centre.
    """

    NAME = "aqa7"
    N_TASKS = 5
    HAS_GROUPS = True
    OFFICIAL_STRIDE = "exact"
    TEST_SHOTS = 10

    def __init__(self, args: Namespace) -> None:
        self.sport = getattr(args, "sport", "diving")
        self.SCORE_RANGE = SPORTS.get(self.sport, (0.0, 100.0))
        super().__init__(args)

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ScoreDataset.get_parser(parser)
        parser.add_argument("--sport", choices=[*SPORTS, "all"], default="diving", help="which of the six sports")
        parser.add_argument(
            "--clip_frames", type=int, default=N_FRAMES, help=f"frames used of each clip's {N_FRAMES}, evenly spread"
        )
        return parser

    @classmethod
    def resolve_name(cls, options: dict[str, Any]) -> str:
        source, root = options.get("data_source", "auto"), _root(options)
        if source == "mini" or (source == "auto" and not options.get("data_root") and not _has_data(root)):
            return AQA7Mini.NAME
        if not _has_data(root):
            raise DataError(f"aqa7: no frames in {root}. {HOW_TO_GET}; --data_source mini asks for the stand-in")
        return cls.NAME

    @classmethod
    def n_groups(cls, args: Namespace) -> int:
        return len(SPORTS) if getattr(args, "sport", "diving") == "all" else 1

    def group_names(self) -> list[str]:
        return list(SPORTS) if self.sport == "all" else [self.sport]

    @property
    def n_clip_frames(self) -> int:
        n_frames = getattr(self.args, "clip_frames", N_FRAMES)
        if not 1 <= n_frames <= N_FRAMES:
            raise UsageError(f"--clip_frames {n_frames}: clips have {N_FRAMES} frames")
        return n_frames

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, self.n_clip_frames, CROP, CROP)

    def load_samples(self) -> Samples:
        root = _root(vars(self.args))
        train, test = (self._read_split(root, part) for part in ("train", "test"))
        return Samples(
            train=train[0],
            test=test[0],
            train_targets=train[1],
            test_targets=test[1],
            train_groups=train[2],
            test_groups=test[2],
        )

    def _read_split(self, root: Path, part: str) -> tuple[ClipSource, np.ndarray, np.ndarray]:
        from scipy.io import loadmat

        path = root / "Split_4" / f"split_4_{part}_list.mat"
        if not path.exists():
            raise DataError(f"aqa7: no split file {path}. {HOW_TO_GET}")
        try:
            rows = np.asarray(loadmat(path)[f"consolidated_{part}_list"], dtype=np.float64)
        except Exception as error:  # scipy meets a damaged file with almost any exception
            raise DataError(
                f"aqa7: {path} holds no matrix consolidated_{part}_list ({error}); restore the file"
            ) from error
        if rows.ndim != 2 or rows.shape[1] != 3:
            raise DataError(f"aqa7: {path}: expected rows of (sport, video, score), found an array of {rows.shape}")
        if not np.isfinite(rows).all():
            raise DataError(f"aqa7: {path}: row {int(np.argwhere(~np.isfinite(rows))[0, 0]) + 1} holds no numbers")
        names = list(SPORTS)
        wanted = range(1, 7) if self.sport == "all" else [names.index(self.sport) + 1]
        rows = rows[np.isin(rows[:, 0], list(wanted))]
        if not len(rows):
            raise DataError(f"aqa7: {path} lists no clip of {self.sport}")
        sports = [names[int(index) - 1] for index in rows[:, 0]]
        folders = [root / f"{sport}-out" / f"{int(video):03d}" for sport, video in zip(sports, rows[:, 1], strict=True)]
        missing = [folder for folder in folders if not folder.is_dir()]
        if missing and not self.args.skip_corrupt:
            raise DataError(
                f"aqa7: {len(missing)} of {len(folders)} clip folders are missing, the first is {missing[0]}. "
                "Complete the data, or leave such clips out with --skip_corrupt 1"
            )
        chosen = np.rint(np.linspace(1, N_FRAMES, self.n_clip_frames)).astype(int)
        clips = [[folder / f"img_{number:05d}.jpg" for number in chosen] for folder in folders]
        scores = rows[:, 2]
        if self.sport == "all":
            low, high = np.array([SPORTS[sport] for sport in sports]).T
            scores = 100 * (scores - low) / (high - low)
        return ClipSource(clips, FRAME_SIZE, bool(self.args.skip_corrupt)), scores, np.asarray(sports)

    def augmentations(self) -> Sequence[Operation]:
        return (RandomHorizontalFlip(), RandomCrop(CROP))

    def normalization(self) -> Sequence[Operation]:
        return (CenterCrop(CROP), ToFloat(), Normalize(MEAN, STD))

    def denormalization(self) -> Sequence[Operation]:
        return (Denormalize(MEAN, STD),)


class AQA7Mini(ScoreDataset):
    """Rendered dives in place of AQA-7 diving where its frames are absent. NOT AQA-7: no figure compares to a paper.

    370 clips (300 train, 70 test, the counts of AQA-7 diving) of 16 frames in which take-off, rotations, body line,
    entry and splash can be seen; the score is a known function of them plus the judges' noise (`rendered_dives`).
    """

    NAME = "aqa7-mini"
    IS_STAND_IN = True
    N_TASKS = 5
    SCORE_RANGE = SPORTS["diving"]
    OFFICIAL_STRIDE = "exact"
    TEST_SHOTS = 10
    SIZE = 56
    NOTICE = (
        "aqa7-mini: rendered dives are used in place of the AQA-7 videos, whose frames were not found; its figures are "
        f"not AQA-7's. {HOW_TO_GET}; --data_source full refuses this stand-in."
    )

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ScoreDataset.get_parser(parser)
        parser.add_argument("--sport", type=_rendered_sport, default="diving", help="the stand-in renders diving only")
        parser.add_argument(
            "--clip_frames", type=positive, default=16, help="frames of a clip; under 12 blur fast turns"
        )
        return parser

    @classmethod
    def resolve_name(cls, options: dict[str, Any]) -> str:
        if options.get("data_source") == "full":
            raise DataError(f"--data_source full asks for the real frames of AQA-7. {HOW_TO_GET} to --dataset aqa7")
        return cls.NAME

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, getattr(self.args, "clip_frames", 16), self.SIZE, self.SIZE)

    def load_samples(self) -> Samples:
        sources, scores = [], []
        for n, seed in ((300, 1), (70, 2)):
            dives = sample_dives(n, seed)
            clips = render(dives, n_frames=self.input_shape[1], size=self.SIZE, seed=seed)
            sources.append(TensorSource(torch.from_numpy(clips).permute(0, 4, 1, 2, 3).contiguous()))
            scores.append(judge(dives, seed).astype(np.float64))
        return Samples(train=sources[0], test=sources[1], train_targets=scores[0], test_targets=scores[1])

    def augmentations(self) -> Sequence[Operation]:
        return (RandomHorizontalFlip(), RandomCrop(self.SIZE, padding=4))

    def normalization(self) -> Sequence[Operation]:
        return (ToFloat(), Normalize(MEAN, STD))

    def denormalization(self) -> Sequence[Operation]:
        return (Denormalize(MEAN, STD),)


def _rendered_sport(name: str) -> str:
    if name != "diving":
        raise ArgumentTypeError(f"there are no frames of {name}, and the stand-in renders diving only. {HOW_TO_GET}")
    return name


def _root(options: dict[str, Any]) -> Path:
    return Path(options.get("data_root") or Path(options.get("base_path") or "data") / "AQA-7")


def _has_data(root: Path) -> bool:
    """Any part of the official layout counts: a broken copy is to be reported, not replaced."""
    return (root / "Split_4").exists() or any((root / f"{sport}-out").exists() for sport in SPORTS)
