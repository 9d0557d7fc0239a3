"""Small trees in the official layout of every data set, whose frames say which clip and which frame they are.

A frame's upper half is grey of one value, its lower half of another. JPEG keeps both exactly, and so does resizing, so
`codes` reads them back from decoded clips.
"""

from __future__ import annotations

import csv
import gzip
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torch import Tensor

HEIGHT, WIDTH = 64, 86
# Clips of four small frames; what the streams' own configurations ask for takes a GPU.
SMALL = [
    *("--clip_frames", "4", "--frame_height", "36", "--frame_width", "48", "--crop", "32"),
    *("--num_workers", "0", "--fewshot", "0"),
]
SPORTS = {
    "diving": (21.6, 102.6),
    "gym_vault": (12.3, 16.87),
    "ski_big_air": (8.0, 50.0),
    "snowboard_big_air": (8.0, 50.0),
    "sync_diving_3m": (46.2, 104.88),
    "sync_diving_10m": (49.8, 99.36),
}
AQA7_FRAMES = (1, 35, 69, 103)  # 4 of 103, evenly spread
APPARATUS = ("Ball", "Clubs", "Hoop", "Ribbon")
EVENTS = ("WorldCup2019 free", "Final #1", "Final #2", "Olympics_2020", "Worlds-2022")
# Forward, back, reverse, inward, twisting, armstand; with rotation_type, armstand and tw_no as MTL-AQA has them.
KINDS = (
    *(("107C", 1, 0, 0), ("205B", 0, 0, 0), ("307C", 3, 0, 0)),
    *(("407B", 2, 0, 0), ("5253B", 0, 0, 3), ("626C", 0, 1, 0)),
)


# Frames


def write_frame(path: Path, upper: int, lower: int) -> None:
    """A frame of two greys, 0-255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((HEIGHT, WIDTH), upper, np.uint8)
    pixels[HEIGHT // 2 :] = lower
    Image.fromarray(pixels).save(path, quality=95)


def codes(clips: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(upper, lower) greys of raw clips (..., 3, T, height, width), each (..., T)."""
    height, width = clips.shape[-2:]
    column = clips[..., 0, :, :, width // 2].int().numpy()
    return column[..., height // 4], column[..., 3 * height // 4]


def truncate(path: Path) -> Path:
    """Put the first half of a picture in place of a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def write_pickle(path: Path, content: Any, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def arrival(n: int) -> np.ndarray:
    """Order in which samples are listed: not that of their scores."""
    return np.random.default_rng(0).permutation(n)


# AQA-7


def aqa7_scores(sport: str, n: int) -> np.ndarray:
    low, high = SPORTS[sport]
    return low + (high - low) * np.linspace(0, 1, n)


def write_aqa7_split(root: Path, part: str, rows: Sequence[Sequence[float]]) -> Path:
    path = root / "Split_4" / f"split_4_{part}_list.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {f"consolidated_{part}_list": np.asarray(rows, dtype=np.float64)})
    return path


def write_aqa7_clip(folder: Path, brightness: int = 0) -> None:
    """Frames whose grey tells their number, with a white right half in the lower half: neither axis is symmetric."""
    folder.mkdir(parents=True)
    for number in AQA7_FRAMES:
        frame = np.full((HEIGHT, WIDTH), number + brightness, np.uint8)
        frame[HEIGHT // 2 :, WIDTH // 2 :] = 255
        Image.fromarray(frame).convert("RGB").save(folder / f"img_{number:05d}.jpg", quality=95)


def aqa7(root: Path, sports: Sequence[str] = tuple(SPORTS), n_train: int = 8, n_test: int = 4) -> Path:
    """Of every sport `n_train` clips and, after them, `n_test`, of the frames that --clip_frames 4 takes."""
    rows: dict[str, list[list[float]]] = {"train": [], "test": []}
    for sport in sports:
        number = list(SPORTS).index(sport) + 1
        for part, n, first in (("train", n_train, 1), ("test", n_test, n_train + 1)):
            for i, score in enumerate(aqa7_scores(sport, n)):
                rows[part].append([number, first + i, score])
                write_aqa7_clip(root / f"{sport}-out" / f"{first + i:03d}", brightness=2 * i + (part == "test"))
    for part in rows:
        write_aqa7_split(root, part, [rows[part][i] for i in arrival(len(rows[part]))])
    return root


# MTL-AQA and UNLV-Dive


def dive_facts(i: int, n: int, end: int) -> dict[str, Any]:
    """The annotation of the i-th of n dives; difficulties and, in threes, kinds take turns, final scores rise."""
    number, rotation, armstand, twists = KINDS[i // 3 % len(KINDS)]
    return {
        "primary_view": 0,
        "start_frame": end - 80,
        "end_frame": end,
        "position": 1,
        "difficulty": (1.6, 2.8, 3.2, 3.7)[i % 4],
        "armstand": armstand,
        "rotation_type": rotation,
        "ss_no": 3,
        "tw_no": twists,
        "final_score": 22.0 + round(80 * i / max(n - 1, 1), 1),
        "judge_scores": np.array([7.5, 8.0, 7.0, 8.0, 7.5, 8.0, 7.5]),
        "dive_number": number,
    }


def broadcasts(root: Path, videos: Sequence[int], n_frames: int) -> None:
    """`<video>/<number>.jpg`, upper grey 20 times the video, lower grey the number."""
    for video in videos:
        for number in range(1, n_frames + 1):
            write_frame(root / f"{video:02d}" / f"{number:08d}.jpg", 20 * video % 256, number)


def dives(n: int, videos: Sequence[int]) -> dict[tuple[int, int], dict[str, Any]]:
    """n annotated dives that take turns between the videos; each ends three frames after the one before."""
    found = {}
    for i in range(n):
        turn = i // len(videos)
        found[videos[i % len(videos)], turn + 1] = dive_facts(i, n, end=103 + 3 * turn)
    return found


def divided(keys: list[Any], n_test: int) -> tuple[list[Any], list[Any]]:
    """(training, test) samples in no order of score; test ones lie between, never at the ends of the scores."""
    positions = np.rint(np.linspace(1, len(keys) - 2, n_test)).astype(int)
    test = [keys[i] for i in positions]
    train = [key for key in keys if key not in test]
    return [train[i] for i in arrival(len(train))], [test[i] for i in arrival(len(test))]


def mtl_aqa(root: Path, n_train: int = 30, n_test: int = 15, videos: Sequence[int] = (1, 7)) -> Path:
    found = dives(n_train + n_test, videos)
    broadcasts(root, videos, max(facts["end_frame"] for facts in found.values()) + 3)
    train, test = divided(list(found), n_test)
    write_pickle(root / "final_annotations_dict_with_dive_number.pkl", found)
    write_pickle(root / "train_split_0.pkl", train, 3)
    write_pickle(root / "test_split_0.pkl", test, 3)
    return root


def unlv_dive(root: Path, n_train: int = 30, n_test: int = 15) -> Path:
    """Splits of NumPy's small integers, one of which no annotation knows, as in the official files."""
    videos = (1, 2, 3)
    found = dives(n_train + n_test, videos)
    broadcasts(root, videos, max(facts["end_frame"] for facts in found.values()))
    train, test = divided(list(found), n_test)
    for facts in found.values():
        del facts["judge_scores"], facts["dive_number"]
    write_pickle(root / "final_annotations_dict.pkl", found, 3)
    for part, keys in (("train", [*train, (1, 64)]), ("test", test)):
        write_pickle(root / f"{part}_split_370_4.pkl", [(np.uint8(a), np.uint8(b)) for a, b in keys], 3)
    return root


# FineDiving, LOGO, Rhythmic Gymnastics


def finediving(root: Path, n_train: int = 30, n_test: int = 15, n_frames: int = 9) -> Path:
    """`FINADiving_MTL_256s/<event>/<instance>/<number>.jpg`; instances begin at frame 1000 times their number."""
    found = {}
    for i in range(n_train + n_test):
        event, instance = EVENTS[i % 3], i // 3 + 1
        for number in range(1000 * instance, 1000 * instance + n_frames):
            path = root / "FINADiving_MTL_256s" / event / str(instance) / f"{number:05d}.jpg"
            write_frame(path, 5 * i, number - 1000 * instance)
        facts = dive_facts(i, n_train + n_test, 0)
        found[event, instance] = [facts["dive_number"], facts["final_score"], facts["difficulty"], 7, np.arange(3)]
    train, test = divided(list(found), n_test)
    write_pickle(root / "Annotations" / "fine-grained_annotation_aqa.pkl", found)
    write_pickle(root / "train_split.pkl", train)
    write_pickle(root / "test_split.pkl", test)
    return root


def logo(root: Path, n_train: int = 30, n_test: int = 15, n_frames: int = 9) -> Path:
    """`frames/<event>/<instance>/<number>.jpg`, numbered from 0."""
    found = {}
    for i in range(n_train + n_test):
        event, instance = EVENTS[i % len(EVENTS)], i // len(EVENTS)
        for number in range(n_frames):
            write_frame(root / "frames" / event / str(instance) / f"{number:05d}.jpg", 5 * i, number)
        found[event, instance] = ["Free", 60.0 + i, 3, [1, 2]]
    train, test = divided(list(found), n_test)
    write_pickle(root / "anno_dict.pkl", found)
    # Instances are text in these two.
    write_pickle(root / "train_split3.pkl", [(event, str(instance)) for event, instance in train])
    write_pickle(root / "test_split3.pkl", [(event, str(instance)) for event, instance in test])
    return root


def rg(root: Path, n_train: int = 8, n_test: int = 4, n_frames: int = 9) -> Path:
    """Of every apparatus `n_train` and `n_test` routines: `frames/Ball_001/00001.jpg`."""
    header = "Video_ID Difficulty_Score Execution_Score Total_Score"
    lines = {"train": [header], "test": [header]}
    _, test = divided(list(range(n_train + n_test)), n_test)
    for a, apparatus in enumerate(APPARATUS):
        for i in range(n_train + n_test):
            name = f"{apparatus}_{i + 1:03d}"
            for number in range(1, n_frames + 1):
                write_frame(root / "frames" / name / f"{number:05d}.jpg", 5 * (12 * a + i) % 256, number)
            difficulty, execution = 3 + 0.5 * i + 0.1 * a, 9 - 0.3 * i + 0.07 * a
            scores = (difficulty, execution, difficulty + execution)
            lines["test" if i in test else "train"].append("\t".join([name, *(f"{score:.3f}" for score in scores)]))
    for part, rows in lines.items():
        (root / f"{part}.txt").write_text("\n".join(rows) + "\n")
    return root


# Manifests


def write_manifest(path: Path, rows: Sequence[dict[str, Any]], **how: Any) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), **how)
        writer.writeheader()
        writer.writerows(rows)
    return path


def manifest_rows(n_train: int, n_test: int, kind: str, place: Callable[[int], str]) -> list[dict[str, Any]]:
    """Samples of three people, every third or so for testing, with difficulties and rising scores."""
    _, test = divided(list(range(n_train + n_test)), n_test)
    rows = []
    for i in range(n_train + n_test):
        part, person = "test" if i in test else "train", ("ann", "bob", "cem")[i // 3 % 3]
        row = {"id": f"{person}/{i:03d}", "score": 10 + i, "split": part, kind: place(i)}
        rows.append({**row, "difficulty": 1 + i % 3, "group": person})
    return rows


def manifest(root: Path, n_train: int = 30, n_test: int = 15, n_frames: int = 9) -> Path:
    """Folders of frames; the frames of sample i are 2 to n_frames - 2 of `clips/<i>`, counted from 0."""
    rows = manifest_rows(n_train, n_test, "frames", lambda i: f"clips/{i}")
    for i, row in enumerate(rows):
        row |= {"start": 2, "end": n_frames - 2}
        for number in range(n_frames):
            write_frame(root / "clips" / str(i) / f"frame{number:04d}.jpg", 5 * i, 20 * number % 256)
    write_manifest(root / "manifest.csv", rows)
    return root


def manifest_of_features(root: Path, n_train: int = 30, n_test: int = 15, windows: int = 3, width: int = 6) -> Path:
    """Feature files (windows, width), some of more windows."""
    rows = manifest_rows(n_train, n_test, "features", lambda i: f"taken/{i}.npy")
    (root / "taken").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for i in range(len(rows)):
        np.save(root / "taken" / f"{i}.npy", rng.normal(size=(windows + i % 2, width)).astype(np.float32))
    write_manifest(root / "manifest.csv", rows)
    return root


def write_video(path: Path, frames: Sequence[tuple[int, int]]) -> Path:
    """A video file of frames of two greys; skips the test where PyAV is not installed."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        for upper, lower in frames:
            pixels = np.full((64, 80, 3), upper, np.uint8)
            pixels[32:] = lower
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def manifest_of_videos(root: Path, n_train: int = 4, n_test: int = 2, n_frames: int = 12) -> Path:
    """Video files; frame t of video i is 40 * i over 20 * t."""
    rows = manifest_rows(n_train, n_test, "video", lambda i: f"videos/{i}.mp4")
    for i in range(len(rows)):
        write_video(root / "videos" / f"{i}.mp4", [(40 * i, 20 * t) for t in range(n_frames)])
    write_manifest(root / "manifest.csv", rows)
    return root


# Streams without videos


def jigsaws(root: Path, n_trials: int = 16) -> Path:
    """The packed file, with `n_trials` of each of three tasks by eight surgeons."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    tasks = ("Knot_Tying", "Needle_Passing", "Suturing")
    trials = [f"{task}_{'BCDEFGHI'[i % 8]}{i // 8 + 1:03d}" for task in tasks for i in range(n_trials)]
    lengths = 20 + np.arange(len(trials)) % 5
    np.savez(
        root / "jigsaws_kinematics_10hz.npz",
        frames=rng.normal(size=(lengths.sum(), 76)).astype(np.float32),
        offsets=np.cumsum([0, *lengths]),
        trial=np.array(trials),
        grs=np.linspace(6, 30, len(trials))[rng.permutation(len(trials))],
    )
    return root


def image_folders(root: Path, parts: dict[str, int], names: Sequence[str], size: tuple[int, int]) -> Path:
    """`<part>/<class>/0000.png`: random pictures of `size` = (width, height), so many of every class in each part."""
    rng = np.random.default_rng(0)
    for part, n in parts.items():
        for name in names:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:04d}.png")
    return root


def cifar(root: Path, n_classes: int, n_train: int, n_test: int) -> Path:
    names = [f"class{label:02d}" for label in range(n_classes)]
    return image_folders(root, {"train": n_train, "test": n_test}, names, (32, 32))


def write_idx(path: Path, values: np.ndarray) -> None:
    """An array of bytes in MNIST's format; compressed if the name ends in .gz."""
    content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def mnist(root: Path, n_train: int = 12, n_test: int = 6, suffix: str = ".gz") -> Path:
    """The four files, with so many black and white pictures of each class, classes in turn."""
    rng = np.random.default_rng(0)
    for part, n in (("train", n_train), ("t10k", n_test)):
        write_idx(root / f"{part}-images-idx3-ubyte{suffix}", 255 * rng.integers(0, 2, (10 * n, 28, 28), np.uint8))
        write_idx(root / f"{part}-labels-idx1-ubyte{suffix}", np.arange(10 * n, dtype=np.uint8) % 10)
    return root


def tiny_imagenet(root: Path, n_train: int = 2, n_test: int = 1) -> Path:
    """`tiny-imagenet-200` as in the official archive, classes of the validation images mixed.

    The upper half of an image has its class for its grey, the lower half 50 * i in training, 200 + i in validation.
    """
    folder = root / "tiny-imagenet-200"
    classes = [f"n{label:08d}" for label in range(200)]

    def write(path: Path, upper: int, lower: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((64, 64), upper, np.uint8)
        pixels[32:] = lower
        Image.fromarray(pixels).save(path, quality=95)

    lines = []
    for label, name in enumerate(classes):
        for i in range(n_train):
            write(folder / "train" / name / "images" / f"{name}_{i}.JPEG", label, 50 * i)
    for i in range(200 * n_test):
        label = 7 * i % 200
        write(folder / "val" / "images" / f"val_{i}.JPEG", label, 200 + i // 200)
        lines.append(f"val_{i}.JPEG\t{classes[label]}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


# Every stream that needs data: how its tree is built, and the options that make it quick.
TREES: dict[str, Callable[[Path], Path]] = {
    "aqa-manifest": manifest,
    "aqa7": lambda root: aqa7(root, ["diving"], 30, 15),
    "finediving": finediving,
    "jigsaws": jigsaws,
    "logo": logo,
    "mtl-aqa": mtl_aqa,
    "rg": rg,
    "image-folder": lambda root: image_folders(root, {"train": 8, "val": 4}, list("jihgfedcba"), (50, 40)),
    "mnist-360": mnist,
    "perm-mnist": mnist,
    "rot-mnist": mnist,
    "seq-cifar10": lambda root: cifar(root, 10, 8, 4),
    "seq-cifar100": lambda root: cifar(root, 100, 3, 1),
    "seq-mnist": mnist,
    "seq-tinyimg": tiny_imagenet,
    "unlv-dive": unlv_dive,
}
VIDEO_STREAMS = ("aqa-manifest", "aqa7", "finediving", "logo", "mtl-aqa", "rg", "unlv-dive")
OPTIONS = {
    **{name: [*SMALL, "--n_tasks", "5"] for name in VIDEO_STREAMS},
    **{f"{change}-{images}": ["--n_tasks", "5"] for change in ("perm", "rot") for images in ("digits", "mnist")},
    **{name: ["--n_tasks", "5"] for name in ("seq-cifar100", "seq-tinyimg")},
    "image-folder": ["--n_tasks", "5", "--image_size", "28"],
}


def options(name: str, root: Path) -> list[str]:
    """Command line words that make a stream read its small tree."""
    return ["--dataset", name, "--data_root", str(root), *OPTIONS.get(name, [])]
