"""Rhythmic Gymnastics: routines with four apparatus."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from datasets.utils.annotations import Performance, find_file
from datasets.utils.long_video_dataset import LongVideoDataset
from datasets.utils.video_dataset import VideoScoreDataset
from utils.errors import DataError

APPARATUS = ("ball", "clubs", "hoop", "ribbon")
SCORES = {"difficulty": 1, "execution": 2, "total": 3}


class RhythmicGymnastics(LongVideoDataset):
    """1000 routines of about 95 seconds, 200 train and 50 test with each of ball, clubs, hoop and ribbon (L. Zeng et
    al., Hybrid dynamic-static context-aware attention network for action assessment in long videos, ACM MM 2020).

    10 windows of 16 frames are spread over each routine, or `--features` are learnt from. Groups are the apparatus.
    Total scores are scaled by 25, as GDLT (A. Xu et al., CVPR 2022) does; the other two scores by the training range.
    """

    NAME = "rg"
    N_TASKS = 4
    HAS_GROUPS = True
    TEST_SHOTS = 10
    FRAME_FOLDERS = ("frames", "videos", "")
    HOW_TO_GET = (
        "Get the annotations of Rhythmic Gymnastics (ACTION-NET) and lay them out as DIR/train.txt, DIR/test.txt, with "
        "DIR/frames/Ball_001/00001.jpg ... or DIR/videos/Ball_001.mp4; or name extracted features with --features"
    )

    def __init__(self, args: Namespace) -> None:
        self.SCORE_RANGE = (0.0, 25.0) if getattr(args, "judged", "total") == "total" else None
        super().__init__(args)

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        VideoScoreDataset.get_parser(parser)
        group = parser.add_argument_group("rhythmic gymnastics")
        group.add_argument("--apparatus", choices=[*APPARATUS, "all"], default="all", help="routines with one, or all")
        group.add_argument("--judged", choices=list(SCORES), default="total", help="which score is learnt")
        return parser

    def group_names(self) -> list[str]:
        wanted = getattr(self.args, "apparatus", "all")
        return list(APPARATUS) if wanted == "all" else [wanted]

    def read_annotations(self) -> list[Performance]:
        column = SCORES[getattr(self.args, "judged", "total")]
        performances = []
        for part in ("train", "test"):
            path = find_file(self.root, (f"{part}.txt",), self.NAME, self.HOW_TO_GET)
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"rg: cannot read {path}: {error}") from error
            for row, line in enumerate(lines, 1):
                words = line.split()
                # The first line names the columns: video, difficulty score, execution score, total score.
                if not words or (row == 1 and words[0].split("_")[0].lower() not in APPARATUS):
                    continue
                try:
                    name, score = words[0], float(words[column])
                    group = name.split("_")[0].lower()
                    if group not in APPARATUS:
                        raise ValueError(f"{name} begins with none of {', '.join(APPARATUS)}")
                except (IndexError, ValueError) as error:
                    raise DataError(
                        f"rg: {path}, row {row}: expected 'Ball_001 difficulty execution total', not '{line}' ({error})"
                    ) from error
                if group in self.group_names():
                    source = f"{path.name}, row {row}"
                    performances.append(Performance(name, score, part, group, source=source, place={"recording": name}))
        return performances
