"""Measure how fast clips are read: the loader of published code against ours, on the same files, in one run.

    python scripts/benchmark_clips.py
    python scripts/benchmark_clips.py --clips 40 --workers 2 --root /scratch/benchmark

Four ways to bring clips to a network's input (crop of 224x224, flip, normalised float):
  plain          what MAGR's released code does for a sample: list the folder, open 103 JPEG files with Pillow, resize,
                 flip and crop each, to a float tensor, normalise; and hand the sample over twice
  no cache       ours, decoding
  first epoch    ours, decoding and writing the clip cache
  second epoch   ours, from the clip cache (--epochs of them)
Ours crops, flips and normalises whole batches of bytes. Everything runs on the CPU; with a GPU the augmentation of ours
moves there, and "read" is what remains. The files are in the page cache: they were just written.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Before torch is imported: see main.py. Without large pages a new batch costs more than what is done with it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.utils.augment import Normalize, Operation, RandomCrop, RandomHorizontalFlip, ToFloat, Transform
from datasets.utils.clips import Clip, ClipSource, FrameIndex
from datasets.utils.loader import StreamLoader, TaskData
from utils.errors import RunError, run_script
from utils.tables import text_table

CROP = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PlainLoader(Dataset):
    """What the released code of MAGR does for each sample, written anew: (clip, target, the clip again)."""

    def __init__(self, folders: list[Path], size: tuple[int, int]) -> None:
        self.folders = folders
        self.size = size

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> tuple[Tensor, float, Tensor]:
        height, width = self.size
        images = []
        for path in sorted(self.folders[index].glob("*.jpg")):
            with Image.open(path) as image:
                images.append(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
        if torch.rand(()) < 0.5:
            images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
        top, left = (int(torch.randint(length - CROP + 1, ())) for length in (height, width))
        cut = [image.crop((left, top, left + CROP, top + CROP)) for image in images]
        frames = [torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255) for image in cut]
        clip = torch.stack(frames, 1)
        clip = (clip - torch.tensor(MEAN).view(3, 1, 1, 1)) / torch.tensor(STD).view(3, 1, 1, 1)
        return clip, 0.0, clip.clone()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--clips", type=int, default=12, help="clips")
    add("--frames", type=int, default=103, help="frames of a clip")
    add("--height", type=int, default=256, help=f"of a frame, at least {CROP}")
    add("--width", type=int, default=455, help=f"of a frame, at least {CROP}")
    add("--batch_size", type=int, default=4, help="clips a batch")
    add("--workers", type=int, default=0, help="processes that read ahead, for every way of reading; 0: none")
    add("--epochs", type=int, default=2, help="epochs to read from the cache; each is shown")
    add("--indexed_files", type=int, default=100_000, help="files of the tree whose listing is measured; 0: none")
    add("--root", type=Path, help="where to make the files, which are then kept (default: a temporary folder)")
    args = parser.parse_args(argv)
    if min(args.height, args.width) < CROP or min(args.clips, args.frames, args.batch_size, args.epochs) < 1:
        parser.error(f"clips, frames and batches of at least 1, frames of at least {CROP}x{CROP}")
    try:
        with tempfile.TemporaryDirectory() as temporary:
            root = args.root or Path(temporary)
            measure_reading(args, root)
            if args.indexed_files:
                measure_index(root / "index", args.indexed_files)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def measure_reading(args: argparse.Namespace, root: Path) -> dict[str, float]:
    """Print, and return, clips a second of every way of reading."""
    size = (args.height, args.width)
    clip_root = root / f"{args.frames}x{args.height}x{args.width}"
    folders = make_clips(clip_root, args.clips, args.frames, size)
    sizes = [path.stat().st_size for folder in folders for path in folder.iterdir()]
    print(
        f"{args.clips} clips of {args.frames} JPEG frames, {args.width}x{args.height}, {np.mean(sizes) / 1e3:.0f} kB a "
        f"frame; batches of {args.batch_size}, {args.workers} workers, {torch.get_num_threads()} threads, "
        f"{os.cpu_count()} cores\n"
    )
    index = FrameIndex(clip_root)
    clips = [Clip(folder.name, tuple(index.files(folder.name))) for folder in folders]
    with tempfile.TemporaryDirectory(dir=root) as cache:
        plain = DataLoader(
            PlainLoader(folders, size), args.batch_size, num_workers=args.workers, persistent_workers=args.workers > 0
        )
        uncached, cached, raw = (
            ours(ClipSource(clips, size, cache=folder), args.batch_size, args.workers, augment)
            for folder, augment in ((None, True), (Path(cache), True), (Path(cache), False))
        )
        passes: list[tuple[str, Callable[[], Iterable[object]]]] = [
            ("plain", lambda: plain),
            ("no cache", lambda: uncached),
            ("first epoch (writes the cache)", lambda: cached),
            *((f"epoch {epoch} (from the cache)", lambda: cached) for epoch in range(2, args.epochs + 2)),
            ("read only, no augmentation", lambda: raw),
            ("read only, no augmentation, again", lambda: raw),
        ]
        speeds = {name: args.clips / seconds(batches()) for name, batches in passes}
    rows = [[name, f"{speed:.2f}", f"{speed / speeds['plain']:.1f}"] for name, speed in speeds.items()]
    print(text_table(["way of reading", "clips/s", "x plain"], rows))
    return speeds


def ours(source: ClipSource, batch_size: int, workers: int, augment: bool) -> StreamLoader:
    """The loader that a stream makes for training."""
    operations: list[Operation] = [RandomCrop(CROP), RandomHorizontalFlip(), ToFloat(), Normalize(MEAN, STD)]
    transform = Transform(operations if augment else [])
    data = TaskData(source, np.arange(len(source)), torch.zeros(len(source)))
    return StreamLoader(data, batch_size, transform, torch.device("cpu"), True, (0, "benchmark"), workers)


def seconds(batches: Iterable[object]) -> float:
    """Time of one pass."""
    began = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - began


def make_clips(root: Path, n_clips: int, n_frames: int, size: tuple[int, int]) -> list[Path]:
    """Folders of JPEG frames: a smooth picture that moves, with noise as cameras have it."""
    rng = np.random.default_rng(0)
    height, width = size
    folders = [root / f"{clip:04d}" for clip in range(n_clips)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        picture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        for frame in range(n_frames):
            noise = rng.integers(-8, 9, picture.shape, dtype=np.int16)
            pixels = np.clip(np.roll(picture, 2 * frame, axis=1) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{frame + 1:05d}.jpg", quality=90)
    return folders


def measure_index(root: Path, n_files: int, n_folders: int = 4) -> float:
    """Print, and return, the seconds to list a tree of empty files, as of a few broadcasts."""
    for folder in (root / f"{number:02d}" for number in range(n_folders)):
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(n_files // n_folders):
            os.close(os.open(f"{folder}/{number + 1:08d}.jpg", os.O_CREAT | os.O_WRONLY))
    began = time.perf_counter()
    index = FrameIndex(root)
    n_found = sum(len(index.files(folder)) for folder in index.folders())
    took = time.perf_counter() - began
    print(f"\nlisting {n_found} files in {n_folders} folders: {took:.2f} s")
    return took


if __name__ == "__main__":
    sys.exit(run_script(main))
