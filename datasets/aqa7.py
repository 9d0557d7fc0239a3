"""AQA-7: six judged sports on video, in the official layout, and the stand-in that replaces absent frames."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.utils.annotations import Performance
from datasets.utils.augment import Denormalize, Normalize, Operation, RandomCrop, RandomHorizontalFlip, ToFloat
from datasets.utils.clips import Clip, FrameIndex
from datasets.utils.continual_dataset import Samples
from datasets.utils.frame_sampling import ending_at, spread
from datasets.utils.recordings import Recording
from datasets.utils.rendered_dives import judge, render, sample_dives
from datasets.utils.score_dataset import ScoreDataset
from datasets.utils.sources import TensorSource
from datasets.utils.video_dataset import PIXEL_SCALES, VideoScoreDataset
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
MEAN, STD = PIXEL_SCALES["imagenet"]
HOW_TO_GET = (
    "Get the frames from the authors of AQA-7 (Parmar & Morris, WACV 2019) and lay them out as "
    "DIR/<sport>-out/<id:03d>/img_00001.jpg ... img_00103.jpg and DIR/Split_4/split_4_{train,test}_list.mat, "
    "then pass --data_root DIR"
)


class AQA7(VideoScoreDataset):
    """AQA-7 (P. Parmar, B. Morris, Action Quality Assessment Across Multiple Actions, WACV 2019), 103 frames a clip.

    One sport keeps its own score range; `--sport all` scales every sport to 0-100 by its published range. Groups are
    the sports.
    """

    NAME = "aqa7"
    N_TASKS = 5
    HAS_GROUPS = True
    OFFICIAL_STRIDE = "exact"
    TEST_SHOTS = 10
    N_FRAMES = N_FRAMES
    PUBLISHED_END = 100.0
    HOW_TO_GET = HOW_TO_GET

    def __init__(self, args: Namespace) -> None:
        self.sport = getattr(args, "sport", "diving")
        self.SCORE_RANGE = SPORTS.get(self.sport, (0.0, 100.0))
        super().__init__(args)

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        VideoScoreDataset.get_parser(parser)
        parser.add_argument("--sport", choices=[*SPORTS, "all"], default="diving", help="which of the six sports")
        return parser

    @classmethod
    def check_options(cls, args: Namespace) -> None:
        super().check_options(args)
        if getattr(args, "sport", "") == "all" and getattr(args, "score_scale", "unit") == "raw":
            raise UsageError(
                "--sport all: scores as judged have no common unit, each sport has a range of its own; take "
                "--score_scale published (each from 0 to 100) or unit"
            )

    @classmethod
    def resolve_name(cls, options: dict[str, Any]) -> str:
        source, root = options.get("data_source", "auto"), _root(options)
        if source == "mini" or (source == "auto" and not options.get("data_root") and not _has_data(root)):
            return AQA7Mini.NAME
        if not _has_data(root):
            raise DataError(f"aqa7: no frames in {root}. {HOW_TO_GET}; --data_source mini asks for the stand-in")
        return cls.NAME

    def group_names(self) -> list[str]:
        return list(SPORTS) if self.sport == "all" else [self.sport]

    @property
    def root(self) -> Path:
        return _root(vars(self.args))

    @property
    def n_clip_frames(self) -> int:
        if super().n_clip_frames > N_FRAMES:
            raise UsageError(f"--clip_frames {super().n_clip_frames}: clips have {N_FRAMES} frames")
        return super().n_clip_frames

    def read_annotations(self) -> list[Performance]:
        return [each for part in ("train", "test") for each in self._read_split(part)]

    def locate(self, performance: Performance, index: FrameIndex, margin: int) -> Clip:
        if margin and self.n_clip_frames != N_FRAMES:
            raise UsageError(
                f"--temporal_shift {margin}: a clip of {self.n_clip_frames} of {N_FRAMES} frames cannot move by single "
                "frames; leave out --clip_frames or --temporal_shift"
            )
        recording = Recording(index, performance.place["folder"], performance.name)
        if margin:
            return recording.clip_of_numbers(ending_at(N_FRAMES, N_FRAMES, first=1, margin=margin, end=N_FRAMES))
        return recording.clip_of_numbers(1 + spread(N_FRAMES, self.n_clip_frames))

    def _read_split(self, part: str) -> list[Performance]:
        from scipy.io import loadmat

        path = self.root / "Split_4" / f"split_4_{part}_list.mat"
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
        performances = []
        for row, (number, video, score) in enumerate(rows, 1):
            if number not in range(1, len(names) + 1):
                raise DataError(f"aqa7: {path}: row {row}: there is no sport {number:g}, they count from 1 to 6")
            sport = names[int(number) - 1]
            if self.sport not in ("all", sport):
                continue
            if self.sport == "all":
                low, high = SPORTS[sport]
                score = 100 * (score - low) / (high - low)
            performances.append(
                Performance(
                    name=f"{sport}/{int(video):03d}",
                    score=float(score),
                    part=part,
                    group=sport,
                    source=f"{path.name}, row {row}",
                    place={"folder": f"{sport}-out/{int(video):03d}"},
                )
            )
        if not performances:
            raise DataError(f"aqa7: {path} lists no clip of {self.sport}")
        return performances


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
    PUBLISHED_END = 100.0
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
