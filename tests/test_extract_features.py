"""scripts/extract_features.py, and runs on what it writes."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbone import get_backbone
from datasets import get_dataset
from datasets.utils import clips
from datasets.utils.video_dataset import VideoScoreDataset
from main import main as run_main
from scripts.extract_features import main
from tests.conftest import ROOT, Finished
from tests.datasets import trees
from utils.args import parse_args
from utils.conf import set_random_seed
from utils.config import dump_config
from utils.errors import DataError

C3D = ["--backbone", "c3d", "--width", "8"]
Launch = Callable[..., Finished]


def options(name: str, root: Path, *words: str) -> list[str]:
    return [*trees.options(name, root), *C3D, "--batch_size", "3", *words]


@pytest.fixture(scope="module")
def mtl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.mtl_aqa(tmp_path_factory.mktemp("mtl"), 12, 6)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Six clips, to be broken."""
    return trees.manifest(tmp_path / "tree", 4, 2)


def extracted(folder: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(folder))[:-4]: np.load(path) for path in sorted(folder.rglob("*.npy"))}


# What is written


@pytest.mark.parametrize(("n_frames", "n_windows"), [(20, 2), (103, 10)])
def test_features_are_those_of_the_network_in_the_loop(
    mtl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], n_frames: int, n_windows: int
) -> None:
    words = options("mtl-aqa", mtl, "--clip_frames", str(n_frames))
    assert main([*words, "--out", str(tmp_path / "f")]) == 0
    assert "18 of 18 samples have features" in capsys.readouterr().out
    args = parse_args(["--model", "sgd", *words])
    set_random_seed(args.seed)
    dataset = get_dataset(args)
    network = get_backbone(args).eval()
    found = extracted(tmp_path / "f")
    assert sorted(found) == sorted(each.name for each in dataset.performances)
    assert {(array.shape, str(array.dtype)) for array in found.values()} == {((n_windows, 512), "float32")}
    assert isinstance(dataset, VideoScoreDataset)
    for part in ("train", "test"):
        names = [each.name for each in dataset.performances if each.part == part]
        raw = getattr(dataset.samples, part).read(np.arange(4))[0]
        with torch.no_grad():
            wanted = network(dataset.get_normalization_transform()(raw), returnt="features")
        means = np.stack([found[name].mean(0) for name in names[:4]])
        assert np.abs(means).max() > 0.1
        np.testing.assert_allclose(means, wanted.numpy(), rtol=1e-5, atol=1e-5)
    # And as a stream of features gives them to the loop.
    features = get_dataset(
        parse_args(["--model", "sgd", *trees.options("mtl-aqa", mtl), "--features", str(tmp_path / "f")])
    )
    assert features.input_shape == (512, n_windows)
    data = features.samples.test.data
    np.testing.assert_array_equal(data.numpy(), np.stack([found[name].T for name in names]))
    averaged = get_backbone(parse_features(mtl, tmp_path / "f", "--depth", "0")).eval()
    with torch.no_grad():
        torch.testing.assert_close(averaged(data[:4], returnt="features"), wanted, rtol=1e-5, atol=1e-5)


def parse_features(root: Path, folder: Path, *words: str) -> Any:
    args = parse_args(["--model", "sgd", *trees.options("mtl-aqa", root), "--features", str(folder), *words])
    get_dataset(args)
    return args


def test_names_with_folders_have_files_in_folders(small: Path, tmp_path: Path) -> None:
    assert main([*options("aqa-manifest", small), "--out", str(tmp_path / "f")]) == 0
    assert sorted(extracted(tmp_path / "f")) == ["ann/000", "ann/001", "ann/002", "bob/003", "bob/004", "bob/005"]


def test_a_backbone_that_takes_a_clip_whole_gives_one_window(small: Path, tmp_path: Path) -> None:
    words = [*trees.options("aqa-manifest", small), "--backbone", "mlp", "--batch_size", "4"]
    assert main([*words, "--out", str(tmp_path / "f")]) == 0
    shapes = {array.shape for array in extracted(tmp_path / "f").values()}
    assert len(shapes) == 1
    assert next(iter(shapes))[0] == 1


@pytest.mark.parametrize("backbone", [C3D, ["--backbone", "mc3-18"]], ids=["c3d", "batch norm"])
def test_the_batch_size_does_not_matter(small: Path, tmp_path: Path, backbone: list[str]) -> None:
    for size in ("1", "4"):
        words = [*trees.options("aqa-manifest", small), *backbone, "--batch_size", size]
        assert main([*words, "--out", str(tmp_path / size)]) == 0
    one, four = extracted(tmp_path / "1"), extracted(tmp_path / "4")
    assert one.keys() == four.keys()
    for name in one:
        np.testing.assert_allclose(one[name], four[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside-of-the-folder"])
def test_nothing_is_written_outside_of_the_folder(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = small / "manifest.csv"
    path.write_text(path.read_text().replace("ann/001", name))
    before = sorted(tmp_path.rglob("*"))
    assert main([*options("aqa-manifest", small), "--out", str(tmp_path / "f")]) == 3
    assert "cannot name files" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


# Going on


def test_what_is_there_is_kept_and_what_is_missing_is_added(small: Path, tmp_path: Path) -> None:
    words = [*options("aqa-manifest", small), "--out", str(tmp_path / "f")]
    assert main(words) == 0
    whole = extracted(tmp_path / "f")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "f").rglob("*.npy")}
    lost = [tmp_path / "f" / "ann" / "001.npy", tmp_path / "f" / "bob" / "005.npy"]
    for path in lost:
        path.unlink()
    assert main(words) == 0
    again = extracted(tmp_path / "f")
    for name in whole:
        np.testing.assert_allclose(again[name], whole[name], rtol=1e-5, atol=1e-6)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path not in lost)
    assert main(words) == 0


def test_an_extraction_that_is_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    root = trees.mtl_aqa(tmp_path / "mtl", 16, 8)
    whole = tmp_path / "whole"
    words = [*trees.options("mtl-aqa", root), *C3D, "--batch_size", "1", "--clip_frames", "103"]
    folder = tmp_path / "f"
    command = [sys.executable, ROOT / "scripts" / "extract_features.py", *words, "--out", folder]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len(list(folder.glob("*.npy"))) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    assert 3 <= len(before) < 24
    assert all(np.load(path).shape == (10, 512) for path in before)  # none is half written
    (folder / ".00-000.npy.123.part").write_bytes(b"half of one")  # what a kill in the middle of writing leaves
    assert main([*words, "--out", str(folder)]) == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert main([*words, "--out", str(whole)]) == 0
    one, other = extracted(folder), extracted(whole)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--width", "4"], ["weights_digest"]),
        (["--backbone", "mlp"], ["backbone", "weights_digest"]),
        (["--clip_frames", "6"], ["clip_frames"]),
        (["--crop", "24"], ["crop"]),
        (["--frame_width", "60"], ["frame_width"]),
        (["--pixel_scale", "c3d"], ["pixel_scale"]),
        (["--window", "2"], ["window"]),
        (["--window_stride", "1"], ["window_stride"]),
        (["--clip_sampling", "end"], ["clip_sampling"]),
        (["--load_truncated", "1"], ["load_truncated"]),
        (["--seed", "1"], ["weights_digest"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_features_that_are_made_otherwise_are_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], names: list[str]
) -> None:
    assert main([*options("aqa-manifest", small), "--out", str(tmp_path / "f")]) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "f").rglob("*")}
    (tmp_path / "f" / "ann" / "001.npy").rename(tmp_path / "kept.npy")
    changed = options("aqa-manifest", small, *words)
    if "mlp" in words:
        changed = [*trees.options("aqa-manifest", small), "--batch_size", "3", *words]
    assert main([*changed, "--out", str(tmp_path / "f")]) == 2
    err = capsys.readouterr().err
    assert "holds features that were made otherwise" in err
    assert all(f"{name} " in err for name in names)
    assert "choose another --out" in err
    assert not (tmp_path / "f" / "ann" / "001.npy").exists()
    (tmp_path / "kept.npy").rename(tmp_path / "f" / "ann" / "001.npy")
    assert {path: path.stat().st_mtime_ns for path in before if path.is_file()} == {
        path: stamp for path, stamp in before.items() if path.is_file()
    }


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "read_frame", lambda *args: pytest.fail("a frame was decoded"))


@pytest.mark.parametrize("n_frames", ["20", "103"])  # only a clip of 103 may move in time
def test_the_cache_of_clips_is_that_of_training(
    mtl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_frames: str
) -> None:
    words = options("mtl-aqa", mtl, "--clip_frames", n_frames)
    cache = ["--clip_cache", str(tmp_path / "cache")]
    assert main([*words, "--out", str(tmp_path / "without")]) == 0
    assert main([*words, *cache, "--out", str(tmp_path / "filling")]) == 0
    assert len(list((tmp_path / "cache").glob("*.clips"))) == 2
    no_decoding(monkeypatch)
    dataset = get_dataset(parse_args(["--model", "sgd", *words, *cache]))
    raw = dataset.samples.train.read(np.arange(12))[0]
    assert raw.shape[2] == (109 if n_frames == "103" else 20)
    dataset.samples.test.read(np.arange(6))
    assert main([*words, *cache, "--out", str(tmp_path / "filled")]) == 0
    for name, wanted in extracted(tmp_path / "without").items():
        for how in ("filling", "filled"):
            np.testing.assert_allclose(extracted(tmp_path / how)[name], wanted, rtol=1e-5, atol=1e-6)


def test_features_that_are_added_come_from_the_same_cache(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*options("aqa-manifest", small), "--clip_cache", str(tmp_path / "cache"), "--out", str(tmp_path / "f")]
    assert main(words) == 0
    (tmp_path / "f" / "ann" / "001.npy").unlink()
    no_decoding(monkeypatch)
    assert main(words) == 0
    assert len(list((tmp_path / "cache").glob("*.clips"))) == 2
    shutil.rmtree(tmp_path / "cache")
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().err == ""  # where nothing is missing, no space is taken
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "words", [["--fewshot", "1"], ["--n_tasks", "2"], ["--score_head", "usdl"], ["--temporal_shift", "0"]]
)
def test_what_does_not_change_features_may_change(small: Path, tmp_path: Path, words: list[str]) -> None:
    assert main([*options("aqa-manifest", small), "--out", str(tmp_path / "f")]) == 0
    assert main([*options("aqa-manifest", small, *words), "--out", str(tmp_path / "f")]) == 0


def test_weights_of_another_file_are_told_apart_by_their_content(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parse_args(["--model", "sgd", *options("aqa-manifest", small)])
    get_dataset(args)
    for seed in (5, 6):
        torch.manual_seed(seed)
        (tmp_path / str(seed)).mkdir()
        torch.save(get_backbone(args).state_dict(), tmp_path / str(seed) / "c3d.pth")
    words = [*options("aqa-manifest", small), "--out", str(tmp_path / "f"), "--backbone_weights"]
    assert main([*words, str(tmp_path / "5" / "c3d.pth")]) == 0
    assert "learnt nothing" not in capsys.readouterr().out
    assert main([*words, str(tmp_path / "5" / "c3d.pth"), "--seed", "3"]) == 0  # the file decides, not the seed
    assert main([*words, str(tmp_path / "6" / "c3d.pth")]) == 2
    assert "weights_digest" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "absent.pth")]) == 3


def c3d_weights(path: Path, small: Path, public: bool = True) -> Path:
    """Weights of a C3D, under the names of c3d.pickle or ours."""
    args = parse_args(["--model", "sgd", *options("aqa-manifest", small)])
    get_dataset(args)
    args.score_head = None
    torch.manual_seed(5)
    state = get_backbone(args).state_dict()
    if public:
        names = {"classifier.1": "fc7", "classifier.4": "fc8"}
        for ours, theirs in names.items():
            state = {key.replace(ours, theirs): value for key, value in state.items()}
    torch.save(state, path)
    return path


def test_public_weights_of_c3d_see_pixels_as_they_were_trained(small: Path, tmp_path: Path) -> None:
    """0-255 in the order blue, green, red, less (90, 98, 102)."""
    path = c3d_weights(tmp_path / "c3d.pickle", small)
    words = [*options("aqa-manifest", small), "--backbone_weights", str(path)]
    args = parse_args(["--model", "sgd", *words])
    dataset = get_dataset(args)
    assert isinstance(dataset, VideoScoreDataset)
    assert args.pixel_scale == "c3d"
    assert f"pixel_scale: c3d  # public weights {path}" in dump_config(args)
    raw = torch.zeros(1, 3, 4, 36, 48, dtype=torch.uint8)
    raw[:, 0], raw[:, 2] = 10, 200
    seen = dataset.get_normalization_transform()(raw)
    torch.testing.assert_close(seen[0, :, 0, 0, 0], torch.tensor([110.0, -98.0, -92.0]))
    assert main([*words, "--out", str(tmp_path / "f")]) == 0
    assert json.loads((tmp_path / "f" / "features.json").read_text())["pixel_scale"] == "c3d"


def test_a_chosen_scale_of_pixels_stays(small: Path, tmp_path: Path) -> None:
    path = c3d_weights(tmp_path / "c3d.pickle", small)
    words = ["--model", "sgd", *options("aqa-manifest", small), "--backbone_weights", str(path)]
    assert parse_args([*words, "--pixel_scale", "imagenet"]).pixel_scale == "imagenet"
    (tmp_path / "own.yaml").write_text("pixel_scale: signed\n")
    assert parse_args([*words, "--config", str(tmp_path / "own.yaml")]).pixel_scale == "signed"


def test_weights_that_do_not_tell_their_scale_of_pixels_leave_the_default(small: Path, tmp_path: Path) -> None:
    words = ["--model", "sgd", *options("aqa-manifest", small), "--backbone_weights"]
    own = c3d_weights(tmp_path / "ours.pth", small, public=False)
    assert parse_args([*words, str(own)]).pixel_scale == "imagenet"
    assert parse_args([*words, str(tmp_path / "absent.pth")]).pixel_scale == "imagenet"
    public = c3d_weights(tmp_path / "c3d.pickle", small)
    changed = ["mlp" if word == "c3d" else word for word in words if word not in ("--width", "8")]
    assert parse_args([*changed, str(public)]).pixel_scale == "imagenet"


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff"])
def test_a_damaged_description_is_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    words = [*options("aqa-manifest", small), "--out", str(tmp_path / "f")]
    assert main(words) == 0
    (tmp_path / "f" / "features.json").write_bytes(content)
    assert main(words) == 2
    assert "features.json is damaged" in capsys.readouterr().err


def test_feature_files_of_unknown_origin_are_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*options("aqa-manifest", small), "--out", str(tmp_path / "f")]
    assert main(words) == 0
    (tmp_path / "f" / "features.json").unlink()
    assert main(words) == 2
    assert "does not say how they were made" in capsys.readouterr().err


def test_the_description_says_how_features_were_made(small: Path, tmp_path: Path) -> None:
    assert main([*options("aqa-manifest", small), "--out", str(tmp_path / "f")]) == 0
    found = json.loads((tmp_path / "f" / "features.json").read_text())
    weights = found.pop("weights_digest")
    assert len(weights) == 32
    assert found == {
        **{"dataset": "aqa-manifest", "backbone": "c3d", "backbone_weights": None, "clip_frames": 4},
        **{"frame_height": 36, "frame_width": 48, "crop": 32, "pixel_scale": "imagenet", "load_truncated": False},
        **{"clip_sampling": "spread", "window": 16, "window_stride": 0},
    }


# What cannot be read


def test_clips_that_cannot_be_read_are_left_out_and_counted(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(small / "clips" / "1", tmp_path / "away")
    good = (small / "clips" / "3" / "frame0004.jpg").read_bytes()
    trees.truncate(small / "clips" / "3" / "frame0004.jpg")
    words = [*options("aqa-manifest", small), "--out", str(tmp_path / "f")]
    assert main(words) == 3
    printed = capsys.readouterr()
    assert printed.err.count("left out: ") == 2
    assert str(small / "clips" / "1") in printed.err
    assert "frame0004.jpg" in printed.err
    assert "4 of 6 samples have features" in printed.out
    shutil.move(tmp_path / "away", small / "clips" / "1")
    (small / "clips" / "3" / "frame0004.jpg").write_bytes(good)
    assert main(words) == 0
    assert len(extracted(tmp_path / "f")) == 6


@pytest.mark.parametrize("name", ["uiprmd", "seq-digits"])
def test_a_stream_without_videos_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["--dataset", name, "--out", str(tmp_path / "f")]) == 2
    assert f"{name} has no videos here" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_features_of_features_and_absent_data_are_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options("aqa-manifest", small), "--out", str(tmp_path / "f")]) == 0
    words = [*trees.options("aqa-manifest", small), "--features", str(tmp_path / "f"), "--out", str(tmp_path / "g")]
    assert main(words) == 2
    assert main(["--dataset", "aqa7", "--base_path", str(tmp_path), "--out", str(tmp_path / "g")]) == 3
    assert "no frames" in capsys.readouterr().err
    assert main([*options("mtl-aqa", tmp_path / "nowhere"), "--out", str(tmp_path / "g")]) == 3
    assert not (tmp_path / "g").exists()


# Runs


@pytest.mark.parametrize("fewshot", ["1", "0"])
def test_magr_learns_from_extracted_features(mtl: Path, tmp_path: Path, launch: Launch, fewshot: str) -> None:
    assert main([*options("mtl-aqa", mtl, "--clip_frames", "20"), "--out", str(tmp_path / "f")]) == 0
    finished = launch(
        "--model magr --dataset mtl-aqa --buffer_size 4 --n_tasks 2 --n_epochs 2 --lr 0.001 --num_workers 0",
        *("--data_root", str(mtl), "--features", str(tmp_path / "f"), "--fewshot", fewshot),
        *("--num_samples_per_task", "3", "--test_shots", "2"),
    )
    assert finished.code == 0
    n_sessions = 2 + int(fewshot)
    rows = [line.split(",")[1:] for line in (finished.path / "R_srcc.csv").read_text().splitlines()[1:]]
    seen = [float(rows[t][k]) for t in range(n_sessions) for k in range(t + 1)]
    assert all(map(math.isfinite, seen))
    assert math.isfinite(finished.summary["srcc_pooled"])
    assert "backbone: clip-features" in (finished.path / "config.yaml").read_text()
    with np.load(finished.path / "predictions" / f"session-{n_sessions - 1}.npz") as stored:
        scores = {each.score for each in get_dataset(parse_features(mtl, tmp_path / "f")).performances}
        assert set(stored["truth"].tolist()) <= scores  # as judged, to the last digit
        assert len(stored["truth"]) == 6


def test_predictions_of_a_run_that_divides_by_the_difficulty_are_final_scores(
    mtl: Path, tmp_path: Path, launch: Launch
) -> None:
    assert main([*options("mtl-aqa", mtl), "--out", str(tmp_path / "f")]) == 0
    words = ["--data_root", str(mtl), "--features", str(tmp_path / "f"), "--fewshot", "0", "--use_difficulty", "1"]
    finished = launch(
        "--model joint --dataset mtl-aqa --n_tasks 2 --n_epochs 60 --lr 0.003 --num_workers 0 --optim_wd 0", *words
    )
    assert finished.code == 0
    known = {each.score: each.difficulty for each in get_dataset(parse_features(mtl, tmp_path / "f")).performances}
    with np.load(finished.path / "predictions" / "session-0.npz") as stored:
        factors = np.array([known[score] for score in stored["truth"].tolist()])
        execution = stored["outputs"][:, 0] / factors
    assert execution.max() < 60  # of 30
    assert finished.summary["mae"] < 40  # of scores from 22 to 102


@pytest.fixture
def gymnastics(tmp_path: Path) -> Path:
    return trees.rg(tmp_path / "rg", 4, 2)


RG = "--config configs/rg.yaml --minibatch_size 2 --n_tasks 4 --fewshot False --buffer_size 10"
ON_A_CPU = "--backbone c3d --width 8 --clip_frames 16 --n_epochs 1 --frame_height 36 --frame_width 48 --crop 32"


def test_the_configuration_of_rhythmic_gymnastics_runs_on_a_cpu(
    gymnastics: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    finished = launch(f"{RG} {ON_A_CPU} --num_workers 0", "--data_root", str(gymnastics))
    assert finished.code == 0
    summary = finished.summary
    assert (summary["model"], summary["dataset"], summary["setting"]) == ("magr", "rg", "grade-il")
    assert math.isfinite(summary["srcc_pooled"])
    config = (finished.path / "config.yaml").read_text()
    for line in ("minibatch_size: 2", "n_tasks: 4", "fewshot: false", "buffer_size: 10", "window_stride: 16"):
        assert line in config


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_asking_for_a_gpu_where_there_is_none_is_refused_in_words(
    gymnastics: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    finished = launch(f"{RG} {ON_A_CPU} --gpus 0", "--data_root", str(gymnastics))
    assert finished.code == 2
    err = capsys.readouterr().err
    assert "cuda:0 was asked for" in err
    assert "leave out --gpus" in err
    assert "Traceback" not in err
    words = [*options("rg", gymnastics), "--gpus", "0", "--out", str(gymnastics / "f")]
    assert main(words) == 2
    assert "cuda:0 was asked for" in capsys.readouterr().err


def test_rhythmic_gymnastics_asked_for_the_published_settings_without_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = [*RG.split(), "--data_root", str(tmp_path / "nowhere"), "--run_dir", str(tmp_path / "run")]
    assert run_main(words) == DataError.exit_code
    assert "Get the annotations of Rhythmic Gymnastics" in capsys.readouterr().err
