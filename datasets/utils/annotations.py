"""What annotation files say about judged performances, checked before anything is made of it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from utils.errors import DataError

# What plain values and NumPy arrays are made of in pickles of any age; Python 2 has no bytes and no builtins.
SAFE = {
    ("builtins", "set"),
    ("__builtin__", "set"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


@dataclass(frozen=True)
class Performance:
    """One judged performance.

    Attributes:
        name: unique within the data set; names the clip in messages, caches and feature files ("01-13").
        score: as judged.
        part: "train" or "test".
        group: sport, dive type, apparatus, person ...; "" if the data set has none.
        difficulty: degree of difficulty, NaN if there is none.
        source: where the annotation stands, for messages ("train.csv, row 7").
        place: what the data set needs to find the frames.
    """

    name: str
    score: float
    part: str
    group: str = ""
    difficulty: float = math.nan
    source: str = ""
    place: dict[str, Any] = field(default_factory=dict, compare=False)


def check_performances(performances: Sequence[Performance], stream: str) -> None:
    """Refuse what cannot be learnt from.

    Raises:
        DataError: two samples with one name, a name that would lead out of a folder of features, or a score or degree
            of difficulty that is no number; the file and row of each are given. No sample at all for training or
            testing.
    """
    seen: dict[str, Performance] = {}
    for each in performances:
        if not math.isfinite(each.score):
            raise DataError(f"{stream}: {each.source}: the score of {each.name} is {each.score}, not a finite number")
        if math.isinf(each.difficulty) or each.difficulty <= 0:
            raise DataError(
                f"{stream}: {each.source}: the degree of difficulty of {each.name} is {each.difficulty}, not above 0"
            )
        if PurePosixPath(each.name).as_posix() != each.name or {"..", ""} & set(each.name.split("/")):
            raise DataError(
                f"{stream}: {each.source}: '{each.name}' cannot name files: it must be a relative path without '..'"
            )
        if each.name in seen:
            raise DataError(
                f"{stream}: two samples are called {each.name}: {seen[each.name].source} and {each.source}; "
                "every sample needs a name of its own"
            )
        seen[each.name] = each
    for part in ("train", "test"):
        if not any(each.part == part for each in performances):
            raise DataError(f"{stream}: the annotations list no sample for {part}ing")


def read_pickle(path: Path, stream: str) -> Any:
    """The plain values and NumPy arrays of a pickled annotation file; nothing in it is executed.

    Raises:
        DataError: it is missing, damaged, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            # Arrays that Python 2 pickled are text here, of which NumPy wants the bytes back.
            return _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"{stream}: no annotation file {path}") from error
    except Exception as error:  # a damaged pickle raises almost any exception
        raise DataError(f"{stream}: cannot read {path}: {type(error).__name__}: {error}") from error


def read_split(path: Path, stream: str) -> list[Any]:
    """What a pickled split file lists, in its order.

    Raises:
        DataError: it cannot be read, or holds no list; the order of a set differs from one process to the next.
    """
    keys = read_pickle(path, stream)
    if not isinstance(keys, list | tuple | np.ndarray):
        raise DataError(f"{stream}: {path} holds no list of samples but a {type(keys).__name__}")
    return list(keys)


def listed_pairs(annotations: Any, path: Path, split: Path, stream: str) -> list[tuple[tuple[str, str], Any, str]]:
    """The (event, instance) pairs that a split file lists, each with its annotation and where it is listed.

    Raises:
        DataError: a pair has no annotation, or the file lists something else; file and row are named.
    """
    if not isinstance(annotations, dict):
        raise DataError(f"{stream}: {path} holds no annotations by (event, instance) but {type(annotations).__name__}")
    # Releases write the number of an instance as an integer in one file and as text in another.
    by_name = {tuple(map(_text, key)): facts for key, facts in annotations.items() if isinstance(key, tuple)}
    listed = []
    for row, key in enumerate(read_split(split, stream), 1):
        if not isinstance(key, tuple | list) or len(key) != 2:
            raise DataError(f"{stream}: {split}, row {row}: {key!r} is not an (event, instance) pair")
        event, instance = map(_text, key)
        if (event, instance) not in by_name:
            raise DataError(
                f"{stream}: {split}, row {row}: {path.name} knows no clip {(event, instance)}; the two files do not "
                "belong together"
            )
        listed.append(((event, instance), by_name[event, instance], f"{split.name}, row {row}"))
    return listed


def _text(part: Any) -> str:
    return part.decode() if isinstance(part, bytes) else str(part)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in SAFE:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, where plain values and arrays are expected")


def find_file(root: Path, names: Sequence[str], stream: str, hint: str) -> Path:
    """The first of `names` that exists below `root`, in the root itself or where releases put annotations.

    Raises:
        DataError: none of them does; `hint` says how to get the data.
    """
    folders = (root, root / "info", root / "annotations", root / "Annotations")
    for name in names:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    raise DataError(f"{stream}: no {' or '.join(names)} in {root}. {hint}")
