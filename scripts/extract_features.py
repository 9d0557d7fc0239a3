"""Run a backbone over every clip of a video stream once and keep its features, for --features.

    python scripts/extract_features.py --dataset mtl-aqa --data_root DIR --backbone_weights FILE --out FEATURES
    python main.py --model magr --dataset mtl-aqa --data_root DIR --features FEATURES --buffer_size 10

FEATURES/<sample>.npy holds (windows, width) float32, FEATURES/features.json how they were made. Clips are cropped in
the middle and not augmented. What is there already is kept, so an interrupted extraction goes on where it stopped.
Options of the stream and the backbone are taken too; a --clip_cache is shared with runs that learn from the videos.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Before torch is imported: see main.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from tqdm import tqdm

from backbone import ContinualBackbone, get_backbone
from backbone.utils.windows import WindowedBackbone
from datasets import get_dataset
from datasets.utils.annotations import Performance
from datasets.utils.clips import ClipSource, FrameIndex
from datasets.utils.features import feature_path
from datasets.utils.video_dataset import VideoScoreDataset
from utils.args import parse_args
from utils.conf import get_device, set_deterministic, set_random_seed
from utils.errors import RunError, UsageError, run_script
from utils.files import write_atomically, write_text

DESCRIPTION = "features.json"
# What changes the features of a clip.
SETTINGS = (
    *("dataset", "clip_frames", "clip_sampling", "load_truncated"),
    *("frame_height", "frame_width", "crop", "pixel_scale"),
    *("backbone", "window", "window_stride"),
)


def describe(args: Namespace, dataset: VideoScoreDataset, network: ContinualBackbone) -> dict[str, Any]:
    """How features are made: equal descriptions make equal features."""
    weights = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(network.state_dict().items()):
        if not name.startswith("classifier."):
            weights.update(name.encode() + tensor.cpu().numpy().tobytes())
    return {
        **{name: getattr(args, name, None) for name in SETTINGS},
        "clip_frames": dataset.n_clip_frames,
        "backbone_weights": Path(args.backbone_weights).name if args.backbone_weights else None,
        "weights_digest": weights.hexdigest(),
    }


def check_folder(folder: Path, description: dict[str, Any]) -> None:
    """Make the folder, or check that what it holds was made in the same way.

    Raises:
        UsageError: it holds features that were made otherwise.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        if next(folder.rglob("*.npy"), None):
            raise UsageError(f"{folder} holds .npy files and does not say how they were made; choose another --out")
        write_text(path, json.dumps(description, indent=2) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); choose another --out, or remove the folder") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} is damaged; choose another --out, or remove the folder")
    different = [name for name, value in description.items() if found.get(name) != value]
    if different:
        changes = ", ".join(f"{name} {found.get(name)} there, {description[name]} here" for name in different)
        raise UsageError(f"{folder} holds features that were made otherwise: {changes}; choose another --out")


def extract(dataset: VideoScoreDataset, network: ContinualBackbone, folder: Path, batch_size: int) -> int:
    """Write the feature files that are missing; returns how many samples could not be read."""
    index = dataset.frame_index()
    problems = []
    for part in ("train", "test"):
        performances = [each for each in dataset.performances if each.part == part]
        missing = {each.name for each in performances if not feature_path(folder, each.name).exists()}
        if missing:
            source, left_out = open_clips(dataset, index, performances, missing)
            rows = np.array([row for row, clip in enumerate(source.clips) if clip.name in missing], dtype=np.int64)
            problems += left_out + extract_rows(dataset, network, folder, source, rows, batch_size)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    return len(problems)


def open_clips(
    dataset: VideoScoreDataset, index: FrameIndex, performances: list[Performance], missing: set[str]
) -> tuple[ClipSource, list[str]]:
    """The clips to read, and messages about those `missing` features whose frames are not there.

    With `--clip_cache` they are all clips of a part of the stream, with the frames that training may move them by: that
    is what training caches.
    """
    cache = getattr(dataset.args, "clip_cache", None)
    margin = dataset.shift if cache and performances[0].part == "train" else 0
    wanted = performances if cache else [each for each in performances if each.name in missing]
    clips, kept, left_out = dataset.locate_all(wanted, index, margin)
    absent = [each.name for position, each in enumerate(wanted) if position not in set(kept)]
    source = ClipSource(
        clips, dataset.frame_size, skip_corrupt=True, load_truncated=dataset.args.load_truncated,
        cache=Path(cache) if cache else None, n_frames=dataset.n_clip_frames + 2 * margin,
    )  # fmt: skip
    return source, [problem for name, problem in zip(absent, left_out, strict=True) if name in missing]


@torch.no_grad()
def extract_rows(
    dataset: VideoScoreDataset, network: ContinualBackbone, folder: Path, source: ClipSource, rows: np.ndarray, n: int
) -> list[str]:
    """Write the features of these clips, `n` at a time; returns messages about those that cannot be read."""
    device = next(network.parameters()).device
    transform = dataset.get_normalization_transform()
    problems = []
    for start in tqdm(range(0, len(rows), n), unit=" batches", disable=not sys.stderr.isatty()):
        indices = rows[start : start + n]
        raw, kept, unread = source.read(indices)
        problems += unread
        if not kept:
            continue
        features = window_features(network, transform(raw.to(device))).float().cpu().numpy()
        for position, array in zip(kept, features, strict=True):
            path = feature_path(folder, source.clips[indices[position]].name)
            write_atomically(path, lambda file, array=array: np.save(file, array))  # type: ignore[misc]
    return problems


def window_features(network: ContinualBackbone, clips: torch.Tensor) -> torch.Tensor:
    """(B, windows, width); one window for a backbone that takes a clip whole."""
    if isinstance(network, WindowedBackbone):
        return network.window_features(clips)
    return network(clips, returnt="features").unsqueeze(1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the features")
    own, rest = parser.parse_known_args(argv)
    try:
        args = parse_args(["--model", "sgd", "--data_source", "full", *rest])
        set_deterministic()
        set_random_seed(args.seed)
        dataset = get_dataset(args)
        if not isinstance(dataset, VideoScoreDataset) or dataset.uses_features:
            raise UsageError(f"{args.dataset} has no videos here to extract features from")
        total = len(dataset.performances)
        network = get_backbone(args).to(get_device(args)).eval()
        if not args.backbone_weights:
            print(f"no --backbone_weights: these are features of a {args.backbone} that has learnt nothing")
        check_folder(own.out, describe(args, dataset, network))
        n_left_out = extract(dataset, network, own.out, args.batch_size)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{total - n_left_out} of {total} samples have features in {own.out}")
    return 3 if n_left_out else 0


if __name__ == "__main__":
    sys.exit(run_script(main))
