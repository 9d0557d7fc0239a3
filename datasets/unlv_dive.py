"""UNLV-Dive: the dives of 10 m platform finals that became AQA-7's diving and a part of MTL-AQA."""

from __future__ import annotations

from datasets.mtl_aqa import MTLAQA


class UNLVDive(MTLAQA):
    """370 dives, 300 train and 70 test (P. Parmar, B. Morris, Learning to score Olympic events, CVPRW 2017), split 4.

    Frames and annotations lie as those of MTL-AQA, whose videos 1 to 3 these are. The official split lists one clip,
    video 1 clip 64, that the official annotations lack: it is left out, which leaves 299 for training.
    """

    NAME = "unlv-dive"
    SCORE_RANGE = (21.6, 102.6)
    OFFICIAL_STRIDE = "exact"
    TEST_SHOTS = 10
    TEMPORAL_SHIFT = 0
    ANNOTATIONS = ("final_annotations_dict.pkl", "final_annotations_dict_with_dive_number.pkl")
    SPLITS = {"train": ("train_split_370_4.pkl",), "test": ("test_split_370_4.pkl",)}
    NOT_ANNOTATED = frozenset({(1, 64)})
    HOW_TO_GET = (
        "Get annotations and split 4 of UNLV-Dive from the MTL-AQA repository, extract all frames of videos 1 to 3, "
        "and lay them out as DIR/<video:02d>/00000001.jpg ..., DIR/final_annotations_dict.pkl, "
        "DIR/{train,test}_split_370_4.pkl. The same dives as AQA-7 packs them are --dataset aqa7 --sport diving"
    )
