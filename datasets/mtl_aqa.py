"""MTL-AQA: judged dives from 16 events, cut out of broadcasts."""

from __future__ import annotations

from pathlib import Path

from datasets.utils.annotations import Performance, find_file, read_pickle
from datasets.utils.clips import Clip, FrameIndex
from datasets.utils.dives import DIVE_GROUPS, listed_dives
from datasets.utils.frame_sampling import ending_at, spread
from datasets.utils.recordings import Recording
from datasets.utils.video_dataset import VideoScoreDataset
from utils.errors import UsageError


class MTLAQA(VideoScoreDataset):
    """1412 dives (1059 train, 353 test), final scores 0-104.5 (P. Parmar, B. Morris, What and how well you performed?,
    CVPR 2019).

    A clip is the 103 frames up to the annotated last one (MAGR, section 1.2 of its supplement: the start is not used).
    Training moves it by up to 3 frames. Groups are the kinds of dive: forward, back, reverse, inward, twisting,
    armstand.
    """

    NAME = "mtl-aqa"
    N_TASKS = 5
    SCORE_RANGE = (0.0, 104.5)
    EXECUTION_RANGE = (0.0, 30.0)
    HAS_GROUPS = True
    HAS_DIFFICULTY = True
    TEMPORAL_SHIFT = 3
    FRAME_FOLDERS = ("", "frames", "new/new_total_frames_256s", "new_total_frames_256s", "whole_videos_frames")
    ANNOTATIONS: tuple[str, ...] = ("final_annotations_dict_with_dive_number.pkl", "final_annotations_dict.pkl")
    SPLITS: dict[str, tuple[str, ...]] = {"train": ("train_split_0.pkl",), "test": ("test_split_0.pkl",)}
    NOT_ANNOTATED: frozenset[tuple[int, int]] = frozenset()
    HOW_TO_GET = (
        "Get annotations and split 0 from the MTL-AQA repository, extract all frames of every video (ffmpeg -i VIDEO "
        "-qscale:v 2 DIR/01/%08d.jpg), and lay them out as DIR/<video:02d>/00000001.jpg ..., "
        "DIR/final_annotations_dict_with_dive_number.pkl, DIR/{train,test}_split_0.pkl"
    )

    @property
    def frame_root(self) -> Path:
        videos = {f"{each.place['video']:02d}" for each in self.performances}
        candidates = [self.root / folder for folder in self.FRAME_FOLDERS]
        return next(
            (each for each in candidates if any(path.stem in videos for path in each.glob("[0-9]*"))), self.root
        )

    def read_annotations(self) -> list[Performance]:
        path = find_file(self.root, self.ANNOTATIONS, self.NAME, self.HOW_TO_GET)
        splits = {part: find_file(self.root, names, self.NAME, self.HOW_TO_GET) for part, names in self.SPLITS.items()}
        return listed_dives(read_pickle(path, self.NAME), path, splits, self.NOT_ANNOTATED, self.NAME)

    def group_names(self) -> list[str]:
        found = {each.group for each in self.performances}
        return [name for name in DIVE_GROUPS if name in found]

    def locate(self, performance: Performance, index: FrameIndex, margin: int) -> Clip:
        place = performance.place
        if margin and self.n_clip_frames != self.N_FRAMES:
            raise UsageError(
                f"--temporal_shift {margin}: a clip of {self.n_clip_frames} of {self.N_FRAMES} frames cannot move by "
                "single frames; leave out --clip_frames or --temporal_shift"
            )
        recording = Recording(index, f"{place['video']:02d}", performance.name)
        # One beyond the recording is an error for the clip itself; only the margin may repeat the last frame.
        end = max(recording.last_number, place["end"])
        numbers = ending_at(place["end"], self.N_FRAMES, first=1, margin=margin, end=end)
        chosen = slice(None) if margin else spread(self.N_FRAMES, self.n_clip_frames)
        return recording.clip_of_numbers(numbers[chosen])
