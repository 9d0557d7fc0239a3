"""Annotations of dives in the form of the MTL-AQA and UNLV-Dive releases."""

from __future__ import annotations

import math
from collections.abc import Set
from pathlib import Path
from typing import Any

from datasets.utils.annotations import Performance, read_split
from utils.errors import DataError

# Position is the first digit of a dive number, less one.
DIVE_GROUPS = ("forward", "back", "reverse", "inward", "twisting", "armstand")
# Of a dive that neither twists nor starts from an armstand: the annotations' rotation_type.
ROTATIONS = {0: "back", 1: "forward", 2: "inward", 3: "reverse"}


def group_of_dive_number(number: str) -> str:
    """Kind of dive by World Aquatics' dive number ("5253B": twisting).

    Raises:
        ValueError: it is no dive number.
    """
    if not number[:1].isdigit() or not 1 <= int(number[0]) <= len(DIVE_GROUPS):
        raise ValueError(f"'{number}' is no dive number, which begins with a digit from 1 to 6")
    return DIVE_GROUPS[int(number[0]) - 1]


def listed_dives(
    annotations: Any, path: Path, splits: dict[str, Path], not_annotated: Set[tuple[int, int]], stream: str
) -> list[Performance]:
    """The dives that the split files list.

    Args:
        annotations: {(video, clip): {"final_score", "difficulty", "end_frame", "rotation_type", "armstand", "tw_no"}}.
        path: of the annotations, for messages.
        splits: for "train" and "test" the file that lists (video, clip) pairs.
        not_annotated: pairs that the official splits list and the official annotations lack.

    Raises:
        DataError: a split names a clip without annotation, or an annotation lacks a field; file and row are named.
    """
    if not isinstance(annotations, dict):
        raise DataError(f"{stream}: {path} holds no annotations by (video, clip) but a {type(annotations).__name__}")
    dives = []
    for part, split in splits.items():
        for row, key in enumerate(read_split(split, stream), 1):
            source = f"{split.name}, row {row}"
            try:
                video, clip = (int(number) for number in key)
            except (TypeError, ValueError) as error:
                raise DataError(f"{stream}: {split}, row {row}: {key!r} is not a (video, clip) pair") from error
            if (video, clip) in not_annotated:
                continue
            facts = annotations.get((video, clip))
            if facts is None:
                raise DataError(
                    f"{stream}: {split}, row {row}: {path.name} knows no clip {(video, clip)}; the two files do not "
                    "belong together"
                )
            try:
                dives.append(
                    Performance(
                        name=f"{video:02d}-{clip:03d}",
                        score=float(facts["final_score"]),
                        part=part,
                        group=_group(facts),
                        difficulty=float(facts.get("difficulty", math.nan)),
                        source=source,
                        place={"video": video, "end": int(facts["end_frame"])},
                    )
                )
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise DataError(f"{stream}: {path}: clip {(video, clip)}: {type(error).__name__}: {error}") from error
    return dives


def _group(facts: dict[str, Any]) -> str:
    if "dive_number" in facts:
        return group_of_dive_number(str(facts["dive_number"]))
    if int(facts["armstand"]):
        return "armstand"
    return "twisting" if int(facts["tw_no"]) else ROTATIONS[int(facts["rotation_type"])]
