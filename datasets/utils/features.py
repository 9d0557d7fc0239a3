"""Pre-extracted features of clips as a source, so that everything after the backbone runs on a CPU in minutes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from datasets.utils.frame_sampling import spread
from datasets.utils.sources import TensorSource
from utils.errors import DataError


def feature_path(root: Path, name: str) -> Path:
    """The feature file of a sample."""
    return root / f"{name}.npy"


def check_feature_folder(root: Path, stream: str) -> None:
    """Refuse a folder without feature files.

    Raises:
        DataError: there is no such folder, or no feature file in it.
    """
    if not root.is_dir():
        raise DataError(f"{stream}: --features {root} is no folder; scripts/extract_features.py writes one")
    if next(root.rglob("*.npy"), None) is None:
        raise DataError(f"{stream}: no .npy file in --features {root}; scripts/extract_features.py writes them")


def feature_shape(paths: Iterable[Path], n_windows: int | None, skip_corrupt: bool, stream: str) -> tuple[int, int]:
    """(width, windows) of the first of some feature files; the windows are `n_windows` if that is given.

    Args:
        skip_corrupt: take the first that can be read.

    Raises:
        DataError: it is no feature file, or none of them is.
    """
    first_error: DataError | None = None
    for path in paths:
        try:
            found, width = _read(path, stream).shape
            return width, n_windows or found
        except DataError as error:
            if not skip_corrupt:
                raise
            first_error = first_error or error
    raise first_error or DataError(f"{stream}: there is no feature file")


def read_features(
    paths: Sequence[Path], shape: tuple[int, int], skip_corrupt: bool, stream: str
) -> tuple[TensorSource, list[int], list[str]]:
    """Read feature files into memory.

    Args:
        paths: .npy files with float arrays (windows, width) or (width,), one a sample.
        shape: (width, windows) of every sample; of files with other numbers of windows, evenly spread ones are taken.
        skip_corrupt: leave out samples whose file is missing or broken.

    Returns:
        (source of (width, windows) float32 samples, positions in `paths` of those kept, messages about the others).

    Raises:
        DataError: a file is missing, is no array of finite numbers, or has features of another width.
    """
    width, n_windows = shape
    kept, arrays, problems = [], [], []
    for position, path in enumerate(paths):
        try:
            array = _read(path, stream)
            if array.shape[1] != width:
                raise DataError(f"{stream}: {path} has features of width {array.shape[1]}, others have {width}")
        except DataError as error:
            if not skip_corrupt:
                raise
            problems.append(str(error))
            continue
        kept.append(position)
        arrays.append(array[spread(len(array), n_windows)].T)
    if not arrays:
        raise DataError(f"{problems[0]}; none of the {len(paths)} feature files could be read")
    return TensorSource(torch.from_numpy(np.stack(arrays))), kept, problems


def _read(path: Path, stream: str) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(
            f"{stream}: no feature file {path}; write it with scripts/extract_features.py, or leave such samples out "
            "with --skip_corrupt 1"
        ) from error
    except Exception as error:  # numpy meets a damaged file with almost any exception
        raise DataError(f"{stream}: cannot read {path}: {type(error).__name__}: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim not in (1, 2) or not array.size:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise DataError(f"{stream}: {path} holds {found}, not (windows, width) floats")
    with np.errstate(over="ignore"):
        array = np.atleast_2d(array).astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{stream}: {path} holds values that are not finite in single precision")
    return array
