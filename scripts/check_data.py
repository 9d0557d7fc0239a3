"""Walk a data set and report what is missing, unreadable or too short.

    python scripts/check_data.py --dataset mtl-aqa --data_root DIR
    python scripts/check_data.py --dataset aqa7 --data_root DIR --sport all --out problems.csv
    python scripts/check_data.py --dataset mtl-aqa --data_root DIR --decode False      # only whether files are there

Options of the stream (main.py --dataset NAME --help) are taken too. Exit code 0: complete; 3: something is wrong.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Before torch is imported: see main.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tqdm import tqdm

from datasets import get_dataset
from datasets.utils.clips import Clip, read_frame
from datasets.utils.continual_dataset import ContinualDataset
from datasets.utils.features import read_features
from datasets.utils.recordings import MissingFramesError, TooShortError
from datasets.utils.video_dataset import VideoScoreDataset
from datasets.utils.video_files import read_video
from utils.args import parse_args, positive, true_or_false
from utils.conf import n_cores
from utils.errors import DataError, RunError, run_script
from utils.files import write_text

KINDS = ("missing", "unreadable", "too short")
N_SHOWN = 10


@dataclass(frozen=True)
class Problem:
    """What is wrong with one sample, or one file of it."""

    kind: str
    sample: str
    message: str


def check_clip(clip: Clip, size: tuple[int, int], decode: bool, load_truncated: bool) -> list[Problem]:
    """Problems of one clip's files."""
    if clip.video is not None:
        try:
            if decode:
                read_video(clip.video, clip.numbers, size, load_truncated)
        except DataError as error:
            return [Problem("unreadable", clip.name, str(error))]
        return []
    problems = []
    for path in dict.fromkeys(clip.frames):
        if not path.is_file():
            problems.append(Problem("missing", clip.name, str(path)))
        elif path.stat().st_size == 0:
            problems.append(Problem("unreadable", clip.name, f"{path} is empty"))
        elif decode:
            try:
                read_frame(path, size, load_truncated)
            except DataError as error:
                problems.append(Problem("unreadable", clip.name, f"{path}: {error.__cause__ or error}"))
    return problems


def absent_frames(name: str, error: DataError) -> list[Problem]:
    """What a clip that cannot be located lacks: one problem a frame, or one for all after the end of a recording."""
    if isinstance(error, MissingFramesError) and not isinstance(error, TooShortError):
        return [Problem("missing", name, f"the frame {path} is missing") for path in error.missing]
    kind = "too short" if isinstance(error, TooShortError) else "missing"
    return [Problem(kind, name, str(error).removeprefix(f"{name}: "))]


def check_videos(dataset: VideoScoreDataset, decode: bool, at_once: int) -> Iterator[list[Problem]]:
    """Problems of every sample, one list a sample."""
    index = dataset.frame_index()
    clips: list[Clip] = []
    absent: list[list[Problem]] = []
    for performance in dataset.performances:
        try:
            clip, problems = dataset.locate(performance, index, dataset.shift if performance.part == "train" else 0), []
        except DataError as error:
            rest = error.rest if isinstance(error, MissingFramesError) else None
            clip, problems = rest or Clip(performance.name), absent_frames(performance.name, error)
        clips.append(clip)
        absent.append(problems)
    check = partial(check_clip, size=dataset.frame_size, decode=decode, load_truncated=dataset.args.load_truncated)
    # A Ctrl-C reaches every process; the others are ended by this one.
    with ProcessPoolExecutor(at_once, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        for missing, unreadable in zip(absent, pool.map(check, clips), strict=True):
            yield missing + unreadable


def check_features(dataset: VideoScoreDataset) -> Iterator[list[Problem]]:
    """As `check_videos`, of feature files."""
    width, windows = dataset.input_shape
    for each in dataset.performances:
        path = dataset.feature_file(each)
        try:
            read_features([path], (width, windows), False, dataset.NAME)
            yield []
        except DataError as error:
            yield [Problem("unreadable" if path.exists() else "missing", each.name, str(error))]


def check_other(dataset: ContinualDataset) -> Iterator[list[Problem]]:
    """Problems that a stream without videos meets while it is read."""
    samples = dataset.samples
    for problem in samples.problems:
        yield [Problem("unreadable", "", problem)]
    for _ in range(len(samples.train_targets) + len(samples.test_targets)):
        yield []


def summary(counts: Counter[str], n_samples: int, n_affected: int, stream: str) -> str:
    """The counts as text."""
    lines = [f"{stream}: {n_samples} samples, {n_samples - n_affected} complete, {n_affected} not"]
    lines += [f"  {kind}: {counts[kind]}" for kind in KINDS if counts[kind]]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--decode", type=true_or_false, default=True, help="read every frame, not only its name")
    parser.add_argument("--at_once", type=positive, default=n_cores(), help="processes that read")
    parser.add_argument("--out", type=Path, help="CSV file for the list of all problems")
    own, rest = parser.parse_known_args(argv)
    try:
        args = parse_args(["--model", "sgd", "--data_source", "full", *rest])
        args.skip_corrupt = True
        dataset = get_dataset(args)
        if not isinstance(dataset, VideoScoreDataset):
            results, total = check_other(dataset), None
        elif dataset.uses_features:
            results, total = check_features(dataset), len(dataset.performances)
        else:
            results, total = check_videos(dataset, own.decode, own.at_once), len(dataset.performances)
        found = list(tqdm(results, total=total, unit=" samples", disable=not sys.stderr.isatty()))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    problems = [problem for each in found for problem in each]
    counts = Counter(problem.kind for problem in problems)
    for kind in KINDS:
        shown = [problem for problem in problems if problem.kind == kind]
        for problem in shown[:N_SHOWN]:
            print(f"{kind}: {problem.sample}: {problem.message}" if problem.sample else f"{kind}: {problem.message}")
        if len(shown) > N_SHOWN:
            print(f"{kind}: ... and {len(shown) - N_SHOWN} more{'' if own.out else '; --out FILE lists them'}")
    if own.out:
        write_list(own.out, problems)
    print(summary(counts, len(found), sum(map(bool, found)), dataset.NAME))
    return DataError.exit_code if problems else 0


def write_list(path: Path, problems: Sequence[Problem]) -> None:
    """All problems as CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["kind", "sample", "message"])
    writer.writerows((problem.kind, problem.sample, problem.message) for problem in problems)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    sys.exit(run_script(main))
