"""Any judged videos or features of the user's own, from one CSV file."""

from __future__ import annotations

import csv
import math
import re
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np

from datasets.utils.annotations import Performance
from datasets.utils.clips import Clip, FrameIndex
from datasets.utils.frame_sampling import Numbers, spread, uniform_windows
from datasets.utils.recordings import Recording, TooShortError
from datasets.utils.video_dataset import VideoScoreDataset
from utils.errors import DataError, UsageError
from utils.registry import nearest

REQUIRED = ("id", "score", "split")
PLACES = ("frames", "video", "features")
COLUMNS = (*REQUIRED, *PLACES, "start", "end", "difficulty", "group")
# Other names of columns, as `_plain` gives them.
SPELLINGS = {
    "sample_id": "id",
    **dict.fromkeys(("frame_folder", "frame_dir", "frame_path"), "frames"),
    **dict.fromkeys(("video_file", "video_path"), "video"),
    **dict.fromkeys(("feature_file", "feature_path"), "features"),
    **{"start_frame": "start", "end_frame": "end"},
}
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SAMPLINGS = ("spread", "windows", "end")


class AQAManifest(VideoScoreDataset):
    """What the rows of `--manifest FILE` (default: DATA_ROOT/manifest.csv) name: data that only comes on request, such
    as JDM-MSA or KIMORE, and one's own.

    Columns: id (unique), score, split (train or test), and one of frames (folder of images), video (file) or features
    (.npy file, (windows, width)); where wanted start and end (first and last frame of the performance, counted from 0,
    both included), difficulty, group. SPELLINGS has other names for them; capitals do not matter, nor whether a space,
    a hyphen or an underscore stands between words. Paths are relative to the folder of the CSV file. Scores are scaled
    by `--score_range`, by default that of the training samples.
    """

    NAME = "aqa-manifest"
    N_TASKS = 5
    HAS_GROUPS = True
    HAS_DIFFICULTY = True
    TEST_SHOTS = 10
    HOW_TO_GET = "Write a CSV file with the columns id, frames (or video, or features), score, split; see --help"

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        VideoScoreDataset.get_parser(parser)
        group = parser.add_argument_group("manifest")
        group.add_argument("--manifest", help="CSV file of the samples (default: manifest.csv in DATA_ROOT)")
        group.add_argument(
            "--clip_sampling",
            choices=SAMPLINGS,
            default="spread",
            help="frames of a clip: spread over the performance, in windows of 16 spread over it (with --window_stride "
            "16), or its last ones",
        )
        return parser

    @property
    def manifest(self) -> Path:
        given = getattr(self.args, "manifest", None)
        return Path(given) if given else self.root / "manifest.csv"

    @property
    def frame_root(self) -> Path:
        return self.manifest.parent

    @property
    def uses_features(self) -> bool:
        return super().uses_features or "features" in self.performances[0].place

    @property
    def place_options(self) -> str:
        return f"--manifest {self.manifest}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        # --features DIR brings its own backbone; what a manifest names is known only when it is read.
        if self.uses_features and getattr(self.args, "sources", {}).get("backbone", "").startswith("configs/datasets"):
            raise UsageError(
                f"aqa-manifest: {self.manifest} names features, which --backbone {self.args.backbone} does not take; "
                "add --backbone clip-features --num_workers 0"
            )
        return super().input_shape

    def feature_files(self) -> list[Path]:
        return super().feature_files() if super().uses_features else list(map(self.feature_file, self.performances))

    def feature_file(self, performance: Performance) -> Path:
        if super().uses_features:
            return super().feature_file(performance)
        return self.manifest.parent / performance.place["features"]

    def group_names(self) -> list[str]:
        names = super().group_names()
        if "" in names:
            source = next(each.source for each in self.performances if not each.group)
            raise DataError(f"aqa-manifest: --tasks_by group, but {source} has no group")
        return names

    def read_annotations(self) -> list[Performance]:
        path = self.manifest
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, skipinitialspace=True)
                header = list(reader.fieldnames or [])
                columns = [SPELLINGS.get(_plain(name), _plain(name)) for name in header]
                _check_columns(columns, header, path)
                reader.fieldnames = columns
                performances = [_performance(row, f"{path.name}, row {reader.line_num}") for row in reader]
        except FileNotFoundError as error:
            raise DataError(f"aqa-manifest: no file {path}. {self.HOW_TO_GET}") from error
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"aqa-manifest: cannot read {path}: {error}") from error
        for part in ("train", "test"):
            if not any(each.part == part for each in performances):
                raise DataError(f"aqa-manifest: no row of {path} has the split {part}")
        kinds = {kind for each in performances for kind in PLACES if kind in each.place}
        if "features" in kinds and len(kinds) > 1:
            raise DataError(f"aqa-manifest: {path} names features in some rows and videos in others; keep to one")
        return performances

    def locate(self, performance: Performance, index: FrameIndex, margin: int) -> Clip:
        place = performance.place
        recording = Recording(index, str(place.get("frames") or place.get("video")), performance.name)
        n = len(recording)
        start, end = place.get("start", 0), place.get("end", n - 1)
        if end < start:
            raise DataError(
                f"aqa-manifest: {performance.source}: {performance.name} ends at frame {end} and starts at {start}"
            )
        if not 0 <= start <= end < n:
            kind = TooShortError if 0 <= start <= end else DataError
            raise kind(
                f"aqa-manifest: {performance.source}: frames {start} to {end} of {performance.name}, whose recording "
                f"has {n} frames (0 to {n - 1})"
            )
        how = getattr(self.args, "clip_sampling", "spread")
        if margin and how != "end":
            raise UsageError(f"--temporal_shift {margin}: --clip_sampling {how} covers the whole performance")
        positions = start + self._sample(how, end - start + 1)
        low, high = np.arange(positions[0] - margin, positions[0]), np.arange(positions[-1], positions[-1] + margin) + 1
        return recording.clip(np.concatenate([low, positions, high]).clip(0, n - 1))

    def _sample(self, how: str, n: int) -> Numbers:
        m = self.n_clip_frames
        if how == "end":
            return np.arange(n - m, n).clip(0)
        if how == "spread":
            return spread(n, m)
        window = min(16, m)
        if m % window:
            raise UsageError(f"--clip_frames {m}: --clip_sampling windows takes multiples of 16")
        return uniform_windows(n, m // window, window)


def _plain(name: str) -> str:
    """In small letters, with underscores between words."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _check_columns(columns: list[str], header: list[str], path: Path) -> None:
    """Refuse a manifest by its columns; `header`: as the file spells them."""
    missing = [name for name in REQUIRED if name not in columns]
    if missing or not set(PLACES) & set(columns):
        wanted = ", ".join([*missing, *([] if set(PLACES) & set(columns) else ["one of " + ", ".join(PLACES)])])
        raise DataError(f"aqa-manifest: {path} lacks {wanted}; its first line must name the columns, it has: {header}")
    for name in COLUMNS:
        spelt = [repr(own) for own, column in zip(header, columns, strict=True) if column == name]
        if len(spelt) > 1:
            raise DataError(f"aqa-manifest: {path} names a column twice: {', '.join(spelt)} are all '{name}'; keep one")
    for name in filter(None, columns):
        # A table may have columns of its own (heart rate, age), so only what looks like a slip is one.
        absent = [each for each in COLUMNS if each not in columns]
        close = [] if name in COLUMNS else nearest(name, absent, n=1, cutoff=0.7)
        if close:
            raise DataError(f"aqa-manifest: {path}: unknown column '{name}'; did you mean {close[0]}?")


def _performance(row: dict[str, Any], source: str) -> Performance:
    # DictReader puts what has no column under None.
    if any(row.get(None) or ()):  # type: ignore[call-overload]
        raise DataError(f"aqa-manifest: {source} has more cells than there are columns; quote cells that hold commas")
    cells = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str) and name in COLUMNS}
    name, part = cells["id"], PARTS.get(cells["split"].lower())
    if not name:
        raise DataError(f"aqa-manifest: {source}: the id is empty")
    if part is None:
        raise DataError(f"aqa-manifest: {source}: split is '{cells['split']}', neither train nor test")
    place: dict[str, Any] = {kind: cells[kind] for kind in PLACES if cells.get(kind)}
    if len(place) != 1:
        raise DataError(f"aqa-manifest: {source}: give one of {', '.join(PLACES)}, not {', '.join(place) or 'none'}")
    for limit in ("start", "end"):
        if cells.get(limit):
            number = _number(cells[limit], limit, source)
            if not number.is_integer():
                raise DataError(f"aqa-manifest: {source}: {limit} is '{cells[limit]}', not a frame number")
            place[limit] = int(number)
    difficulty = _number(cells["difficulty"], "difficulty", source) if cells.get("difficulty") else math.nan
    score = _number(cells["score"], "score", source)
    return Performance(name, score, part, cells.get("group", ""), difficulty, source, place)


def _number(text: str, column: str, source: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"aqa-manifest: {source}: {column} is '{text}', not a number") from error
