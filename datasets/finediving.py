"""FineDiving: judged dives with step annotations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from datasets.utils.annotations import Performance, find_file, listed_pairs, read_pickle
from datasets.utils.clips import Clip, FrameIndex
from datasets.utils.dives import DIVE_GROUPS, group_of_dive_number
from datasets.utils.recordings import Recording
from datasets.utils.video_dataset import VideoScoreDataset
from utils.errors import DataError


class FineDiving(VideoScoreDataset):
    """3000 dives, 2251 train and 749 test (J. Xu et al., FineDiving, CVPR 2022). Every dive has a folder of its own.

    A clip is 103 frames spread over the dive. Groups are the kinds of dive, from the dive number. No score range is
    published: the training scores' is taken.
    """

    NAME = "finediving"
    N_TASKS = 5
    EXECUTION_RANGE = (0.0, 30.0)
    HAS_GROUPS = True
    HAS_DIFFICULTY = True
    FRAME_FOLDERS = ("FINADiving_MTL_256s", "frames", "")
    HOW_TO_GET = (
        "Request FineDiving from its authors and lay it out as DIR/FINADiving_MTL_256s/<event>/<instance>/<frame>.jpg, "
        "DIR/fine-grained_annotation_aqa.pkl, DIR/{train,test}_split.pkl (or the three files in DIR/Annotations)"
    )

    def read_annotations(self) -> list[Performance]:
        path = find_file(self.root, ("fine-grained_annotation_aqa.pkl",), self.NAME, self.HOW_TO_GET)
        annotations = read_pickle(path, self.NAME)
        performances = []
        for part in ("train", "test"):
            split = find_file(self.root, (f"{part}_split.pkl",), self.NAME, self.HOW_TO_GET)
            for (event, instance), facts, source in listed_pairs(annotations, path, split, self.NAME):
                performances.append(_performance(event, instance, facts, part, source, self.NAME))
        return performances

    def group_names(self) -> list[str]:
        found = {each.group for each in self.performances}
        return [name for name in DIVE_GROUPS if name in found]

    def locate(self, performance: Performance, index: FrameIndex, margin: int) -> Clip:
        recording = Recording(index, performance.place["folder"], performance.name)
        # The official code rounds the numbers of the frames down; rounding their positions would differ now and then.
        numbers = np.linspace(recording.first_number, recording.last_number, self.n_clip_frames).astype(np.int64)
        first, last = np.repeat(numbers[:1], margin), np.repeat(numbers[-1:], margin)
        return recording.clip_of_numbers(np.concatenate([first, numbers, last]))


def _performance(event: str, instance: str, facts: Any, part: str, source: str, stream: str) -> Performance:
    try:
        number, score, difficulty = str(facts[0]), float(facts[1]), facts[2]
        return Performance(
            name=f"{event}/{instance}",
            score=score,
            part=part,
            group=group_of_dive_number(number),
            difficulty=math.nan if difficulty is None else float(difficulty),
            source=source,
            place={"folder": f"{event}/{instance}"},
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"{stream}: {source}: the annotation of {(event, instance)} is not (dive number, score, difficulty, ...): "
            f"{error}"
        ) from error
