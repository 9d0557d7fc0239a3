"""LOGO: artistic swimming routines, judged as a group performance."""

from __future__ import annotations

from datasets.utils.annotations import Performance, find_file, listed_pairs, read_pickle
from datasets.utils.long_video_dataset import LongVideoDataset
from utils.errors import DataError


class LOGO(LongVideoDataset):
    """200 routines, 150 train and 50 test, of 26 events, eight athletes in each (S. Zhang et al., LOGO, CVPR 2023).

    Routines last minutes: 10 windows of 16 frames are spread over each, or `--features` are learnt from. Groups are
    the events. No score range is published: the training scores' is taken.
    """

    NAME = "logo"
    N_TASKS = 5
    HAS_GROUPS = True
    TEST_SHOTS = 5
    FRAME_FOLDERS = ("LOGO Video_result", "Video_result", "frames", "videos", "")
    HOW_TO_GET = (
        "Request LOGO from its authors and lay it out as DIR/frames/<event>/<instance>/<frame>.jpg (or video files "
        "DIR/videos/<event>/<instance>.mp4), DIR/anno_dict.pkl, DIR/train_split3.pkl, DIR/test_split3.pkl"
    )

    def read_annotations(self) -> list[Performance]:
        path = find_file(self.root, ("anno_dict.pkl",), self.NAME, self.HOW_TO_GET)
        annotations = read_pickle(path, self.NAME)
        performances = []
        for part in ("train", "test"):
            split = find_file(self.root, (f"{part}_split3.pkl", f"{part}_split.pkl"), self.NAME, self.HOW_TO_GET)
            for (event, instance), facts, source in listed_pairs(annotations, path, split, self.NAME):
                name = f"{event}/{instance}"
                try:
                    score = float(facts[1])
                except (KeyError, IndexError, TypeError, ValueError) as error:
                    raise DataError(f"logo: {path}: the annotation of {name} is not (type, score, ...)") from error
                performances.append(Performance(name, score, part, event, source=source, place={"recording": name}))
        return performances
