"""Base of the score streams whose samples are videos: frames in folders, video files, or features of them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.utils.annotations import Performance, check_performances
from datasets.utils.augment import (
    CenterCrop,
    CenterFrames,
    Denormalize,
    Normalize,
    Operation,
    RandomCrop,
    RandomFrames,
    RandomHorizontalFlip,
    ReverseChannels,
    Scale,
    ToFloat,
)
from datasets.utils.clips import Clip, ClipSource, FrameIndex
from datasets.utils.continual_dataset import Samples
from datasets.utils.features import check_feature_folder, feature_path, feature_shape, read_features
from datasets.utils.score_dataset import ScoreDataset
from datasets.utils.sources import Source
from utils.args import not_negative, positive, true_or_false
from utils.errors import DataError, UsageError

# (mean, standard deviation) of pixels in [0, 1], RGB.
PIXEL_SCALES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "kinetics": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    "signed": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
# C3D's files want 0-255 in the order blue, green, red, less this.
C3D_MEAN = (90.0, 98.0, 102.0)


class VideoScoreDataset(ScoreDataset):
    """A score stream over videos. A subclass reads its annotations and says where the frames of a performance are.

    Clips are (3, T, height, width) uint8, decoded on demand or once into `--clip_cache`; training crops at random,
    flips and shifts in time (all frames of a clip alike), testing takes the middle. With `--features` no video is
    read: samples are (width, windows) features that scripts/extract_features.py wrote.

    Attributes:
        N_FRAMES: frames of a clip, the default of --clip_frames.
        TEMPORAL_SHIFT: how far training moves a clip in time, as published.
        FRAME_FOLDERS: where below the root releases put frames; "" for the root itself.
        HOW_TO_GET: one sentence on where the data comes from and how its folder looks.
    """

    TAKES_FEATURES = True
    N_FRAMES = 103
    TEMPORAL_SHIFT = 0
    FRAME_FOLDERS: tuple[str, ...] = ("",)
    HOW_TO_GET: str

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ScoreDataset.get_parser(parser)
        group = parser.add_argument_group("video")
        add = group.add_argument
        add("--clip_frames", type=positive, help="frames of a clip (default: the data set's)")
        add("--frame_height", type=positive, default=128, help="frames are resized to this ...")
        add("--frame_width", type=positive, default=171, help="... by this")
        add("--crop", type=positive, default=112, help="side of the square cut out of a frame")
        add(
            "--pixel_scale",
            choices=[*PIXEL_SCALES, "c3d"],
            default="imagenet",
            help="what the backbone's weights expect: imagenet or kinetics statistics, signed [-1, 1], c3d 0-255 BGR",
        )
        add("--temporal_shift", type=not_negative, help="frames a training clip may move in time (default: published)")
        add("--load_truncated", type=true_or_false, default=False, help="take what a truncated frame still shows")
        add("--clip_cache", help="folder for decoded clips: each is decoded once, for all runs")
        add("--feature_windows", type=positive, help="windows a sample, evenly spread (default: the first file's)")
        return parser

    # What a subclass says

    def read_annotations(self) -> list[Performance]:
        """All performances, for training and testing.

        Raises:
            DataError: the annotation files are missing or broken.
        """
        raise NotImplementedError

    def locate(self, performance: Performance, index: FrameIndex, margin: int) -> Clip:
        """Where the frames of a performance are.

        Args:
            index: of the folder that holds the frames.
            margin: frames wanted on both sides of the clip, for a temporal shift.

        Raises:
            DataError: frames are missing.
        """
        raise NotImplementedError

    @property
    def root(self) -> Path:
        """Folder of the data set."""
        return data_root(self.NAME, self.args)

    @property
    def frame_root(self) -> Path:
        """Folder below which the frames are: the first of FRAME_FOLDERS that there is, else the root."""
        candidates = [self.root / folder for folder in self.FRAME_FOLDERS]
        return next((each for each in candidates if each.is_dir()), self.root)

    # What follows from it

    @property
    def performances(self) -> list[Performance]:
        if self._performances is None:
            self._performances = self.read_annotations()
            check_performances(self._performances, self.NAME)
        return self._performances

    _performances: list[Performance] | None = None

    def group_names(self) -> list[str]:
        return sorted({each.group for each in self.performances})

    @property
    def n_clip_frames(self) -> int:
        return getattr(self.args, "clip_frames", None) or self.N_FRAMES

    @property
    def shift(self) -> int:
        """Largest temporal shift of training, in frames of a clip; the published one is for clips of N_FRAMES."""
        published = self.TEMPORAL_SHIFT if self.n_clip_frames == self.N_FRAMES else 0
        shift = getattr(self.args, "temporal_shift", None)
        return published if shift is None else shift

    @property
    def uses_features(self) -> bool:
        """Whether samples are extracted features rather than videos."""
        return bool(getattr(self.args, "features", None))

    def feature_files(self) -> list[Path]:
        """Feature files of the stream, of which the first has the width that all should have."""
        check_feature_folder(Path(self.args.features), self.NAME)
        return list(map(self.feature_file, self.performances))

    def feature_file(self, performance: Performance) -> Path:
        return feature_path(Path(self.args.features), performance.name)

    @property
    def input_shape(self) -> tuple[int, ...]:
        if not self.uses_features:
            return (3, self.n_clip_frames, self._crop, self._crop)
        if self._feature_shape is None:
            windows = getattr(self.args, "feature_windows", None)
            self._feature_shape = feature_shape(self.feature_files(), windows, self._skips, self.NAME)
        return self._feature_shape

    _feature_shape: tuple[int, int] | None = None

    @property
    def _crop(self) -> int:
        crop, size = getattr(self.args, "crop", 112), self.frame_size
        if crop > min(size):
            raise UsageError(f"--crop {crop} does not fit into frames of {size[0]}x{size[1]}")
        return crop

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) to which frames are resized."""
        return getattr(self.args, "frame_height", 128), getattr(self.args, "frame_width", 171)

    def load_samples(self) -> Samples:
        # Listing the folders of broadcasts takes long: once for both parts.
        index = None if self.uses_features else self.frame_index()
        parts: dict[str, list[Performance]] = {}
        sources: dict[str, Source] = {}
        problems: list[str] = []
        for part in ("train", "test"):
            wanted = [each for each in self.performances if each.part == part]
            if index is None:
                sources[part], kept, left_out = self._open_features(wanted)
            else:
                margin = self.shift if part == "train" else 0
                clips, kept, left_out = self.locate_all(wanted, index, margin)
                sources[part] = self._open_clips(clips, margin)
            parts[part] = [wanted[position] for position in kept]
            problems += left_out
        self._check_complete(problems, parts)

        def values(part: str, name: str) -> np.ndarray:
            return np.asarray([getattr(each, name) for each in parts[part]])

        known = all(each.difficulty == each.difficulty for part in parts.values() for each in part)
        if self.uses_difficulty and not known:
            raise DataError(f"{self.NAME}: --use_difficulty, but not every sample has a degree of difficulty")
        return Samples(
            train=sources["train"],
            test=sources["test"],
            train_targets=values("train", "score").astype(np.float64),
            test_targets=values("test", "score").astype(np.float64),
            train_groups=values("train", "group"),
            test_groups=values("test", "group"),
            train_difficulty=values("train", "difficulty").astype(np.float64) if known else None,
            test_difficulty=values("test", "difficulty").astype(np.float64) if known else None,
            problems=problems,
        )

    def frame_index(self) -> FrameIndex:
        """The files below `frame_root`.

        Raises:
            DataError: there is no such folder.
        """
        if not self.frame_root.is_dir():
            raise DataError(f"{self.NAME}: no folder {self.frame_root}. {self.HOW_TO_GET}")
        return FrameIndex(self.frame_root)

    def locate_all(
        self, performances: Sequence[Performance], index: FrameIndex, margin: int = 0
    ) -> tuple[list[Clip], list[int], list[str]]:
        """(clips, positions of the performances whose frames are there, messages about the others)."""
        clips, kept, problems = [], [], []
        for position, performance in enumerate(performances):
            try:
                clips.append(self.locate(performance, index, margin))
                kept.append(position)
            except DataError as error:
                problems.append(str(error))
        return clips, kept, problems

    @property
    def place_options(self) -> str:
        """The options that say which samples there are and where."""
        return f"--data_root {self.root}"

    @property
    def _skips(self) -> bool:
        return bool(getattr(self.args, "skip_corrupt", False))

    def _check_complete(self, problems: list[str], parts: dict[str, list[Performance]]) -> None:
        if not problems:
            return
        n, first = len(self.performances), problems[0].removeprefix(f"{self.NAME}: ").removesuffix(".")
        if not self._skips:
            leave_out = "" if "--skip_corrupt" in first else ", or leave such samples out with --skip_corrupt 1"
            raise DataError(
                f"{self.NAME}: {len(problems)} of {n} samples are not complete, the first is {first}. "
                f"scripts/check_data.py --dataset {self.NAME} {self.place_options} lists them; complete the data"
                f"{leave_out}"
            )
        for part, kept in parts.items():
            if not kept:
                raise DataError(f"{self.NAME}: no {part}ing sample of {n} is complete: {first}. {self.HOW_TO_GET}")

    def _open_features(self, performances: list[Performance]) -> tuple[Source, list[int], list[str]]:
        width, windows = self.input_shape
        return read_features(list(map(self.feature_file, performances)), (width, windows), self._skips, self.NAME)

    def _open_clips(self, clips: list[Clip], margin: int) -> Source:
        cache = getattr(self.args, "clip_cache", None)
        return ClipSource(
            clips,
            self.frame_size,
            skip_corrupt=self._skips,
            load_truncated=bool(getattr(self.args, "load_truncated", False)),
            cache=Path(cache) if cache else None,
            n_frames=self.n_clip_frames + 2 * margin,
        )

    def augmentations(self) -> Sequence[Operation]:
        if self.uses_features:
            return ()
        shift = (RandomFrames(self.n_clip_frames),) if self.shift else ()
        return (*shift, RandomCrop(self._crop), RandomHorizontalFlip())

    def normalization(self) -> Sequence[Operation]:
        if self.uses_features:
            return ()
        return (CenterFrames(self.n_clip_frames), CenterCrop(self._crop), ToFloat(), *self._pixels())

    def denormalization(self) -> Sequence[Operation]:
        if self.uses_features:
            return ()
        if self._scale_name == "c3d":
            return (Denormalize(C3D_MEAN, (1.0, 1.0, 1.0)), Scale(1 / 255), ReverseChannels())
        return (Denormalize(*PIXEL_SCALES[self._scale_name]),)

    def _pixels(self) -> Sequence[Operation]:
        if self._scale_name == "c3d":
            return (ReverseChannels(), Scale(255), Normalize(C3D_MEAN, (1.0, 1.0, 1.0)))
        return (Normalize(*PIXEL_SCALES[self._scale_name]),)

    @property
    def _scale_name(self) -> str:
        return getattr(self.args, "pixel_scale", "imagenet")


def data_root(name: str, args: Namespace) -> Path:
    """`--data_root`, by default the stream's name below `--base_path`."""
    return Path(getattr(args, "data_root", None) or Path(getattr(args, "base_path", None) or "data") / name)
