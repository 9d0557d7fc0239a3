"""scripts/check_data.py on whole and on damaged copies of every data set."""

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.check_data import main
from tests.conftest import ROOT
from tests.datasets import trees
from utils.errors import run_script

Check = Callable[..., tuple[int, str, str]]
# Of each data set: its tree, few samples of it.
SMALL: dict[str, Callable[[Path], Path]] = {
    "aqa7": lambda root: trees.aqa7(root, ["diving"], 4, 2),
    "aqa-manifest": lambda root: trees.manifest(root, 4, 2),
    "finediving": lambda root: trees.finediving(root, 4, 2),
    "logo": lambda root: trees.logo(root, 4, 2),
    "mtl-aqa": lambda root: trees.mtl_aqa(root, 4, 2, videos=(1,)),
    "rg": lambda root: trees.rg(root, 1, 1),
    "unlv-dive": lambda root: trees.unlv_dive(root, 4, 2),
}
N_SAMPLES = {name: 8 if name == "rg" else 6 for name in SMALL}


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    def run(name: str, root: Path, *words: str) -> tuple[int, str, str]:
        code = main([*trees.options(name, root), "--at_once", "1", *words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def counts(out: str) -> dict[str, int]:
    """What the summary says: samples, complete, and problems by kind."""
    found = re.search(r"^[\w-]+: (\d+) samples, (\d+) complete, (\d+) not$", out, re.MULTILINE)
    assert found
    kinds = {kind: int(n) for kind, n in re.findall(r"^  ([a-z ]+): (\d+)$", out, re.MULTILINE)}
    return {"samples": int(found[1]), "complete": int(found[2]), "not": int(found[3]), **kinds}


@pytest.mark.parametrize("name", SMALL)
def test_a_whole_copy_passes(check: Check, tmp_path: Path, name: str) -> None:
    code, out, err = check(name, SMALL[name](tmp_path))
    assert code == 0
    assert counts(out) == {"samples": N_SAMPLES[name], "complete": N_SAMPLES[name], "not": 0}
    assert err == ""


@pytest.mark.parametrize("name", ["jigsaws", "seq-cifar10"])
def test_a_stream_without_videos_is_read_as_a_whole(check: Check, tmp_path: Path, name: str) -> None:
    root = trees.TREES[name](tmp_path)
    code, out, _ = check(name, root)
    assert (code, counts(out)["not"]) == (0, 0)
    if name == "seq-cifar10":
        path = sorted((root / "train").rglob("*.png"))[7]
        path.write_bytes(b"no picture")
        code, out, _ = check(name, root)
        assert code == 3
        assert counts(out)["unreadable"] == 1
        assert str(path) in out


def one_folder(root: Path, name: str) -> Path:
    """The folder of frames of one sample of its own, or of the recording of all."""
    place = {
        "aqa7": "diving-out/002",
        "aqa-manifest": "clips/2",
        "finediving": f"FINADiving_MTL_256s/{trees.EVENTS[1]}/1",
        "logo": f"frames/{trees.EVENTS[1]}/0",
        "rg": "frames/Clubs_001",
        "mtl-aqa": "01",
        "unlv-dive": "02",
    }[name]
    assert (root / place).is_dir()
    return root / place


AFFECTED = {"mtl-aqa": 6, "unlv-dive": 2}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("decode", ["True", "False"])
def test_samples_without_frames_are_counted_as_missing(check: Check, tmp_path: Path, name: str, decode: str) -> None:
    root = SMALL[name](tmp_path)
    folder = one_folder(root, name)
    shutil.rmtree(folder)
    code, out, _ = check(name, root, "--decode", decode)
    assert code == 3
    n = AFFECTED.get(name, 1)
    assert counts(out) == {"samples": N_SAMPLES[name], "complete": N_SAMPLES[name] - n, "not": n, "missing": n}
    assert f"no frames in {folder}" in out


@pytest.mark.parametrize("name", SMALL)
def test_damaged_frames_are_counted_as_unreadable_if_they_are_looked_at(
    check: Check, tmp_path: Path, name: str
) -> None:
    root = SMALL[name](tmp_path)
    # The last frame of a folder is part of its clip in every data set, and of one clip alone.
    folder = one_folder(root, name)
    path = sorted(folder.iterdir())[{"aqa-manifest": 7, "logo": 3, "rg": 3}.get(name, -1)]
    if name == "mtl-aqa":
        path = folder / "00000118.jpg"
    trees.truncate(path)
    code, out, _ = check(name, root)
    assert code == 3
    assert counts(out) == {"samples": N_SAMPLES[name], "complete": N_SAMPLES[name] - 1, "not": 1, "unreadable": 1}
    assert str(path) in out
    assert "runcated" in out
    code, out, _ = check(name, root, "--decode", "False")
    assert (code, counts(out)["not"]) == (0, 0)
    assert check(name, root, "--load_truncated", "1")[0] == 0
    path.write_bytes(b"")
    code, out, _ = check(name, root, "--decode", "False")
    assert (code, counts(out)["unreadable"]) == (3, 1)
    assert f"{path} is empty" in out


def test_a_frame_missing_in_the_middle_is_named(check: Check, tmp_path: Path) -> None:
    root = SMALL["mtl-aqa"](tmp_path)
    (root / "01" / "00000051.jpg").unlink()
    code, out, _ = check("mtl-aqa", root, "--clip_frames", "103")
    assert code == 3
    assert counts(out) == {"samples": 6, "complete": 0, "not": 6, "missing": 6}
    assert out.count(f"the frame {root / '01' / '00000051.jpg'} is missing") == 6


@pytest.mark.parametrize("name", ["mtl-aqa", "finediving"])
def test_every_missing_frame_is_counted_and_the_others_are_read(check: Check, tmp_path: Path, name: str) -> None:
    root = SMALL[name](tmp_path)
    folder = one_folder(root, name)
    paths = sorted(folder.iterdir())
    # Of mtl-aqa, the frames that the first dive alone needs lie at the start of the recording.
    lost, broken = (paths[:3], paths[3]) if name == "mtl-aqa" else (paths[1:4], paths[5])
    words = ("--clip_frames", "103", "--temporal_shift", "0") if name == "mtl-aqa" else ("--clip_frames", "9")
    for path in lost:
        path.unlink()
    trees.truncate(broken)
    code, out, _ = check(name, root, *words)
    assert code == 3
    n = {"mtl-aqa": 2, "finediving": 1}[name]
    assert counts(out)["not"] == n
    assert {kind: counts(out)[kind] for kind in ("missing", "unreadable")} == {
        "mtl-aqa": {"missing": 3, "unreadable": 2},
        "finediving": {"missing": 3, "unreadable": 1},
    }[name]
    assert all(out.count(f"the frame {path} is missing") == 1 for path in lost)
    assert str(broken) in out
    code, out, _ = check(name, root, *words, "--decode", "False")
    assert (code, counts(out)["missing"], "unreadable" in counts(out)) == (3, 3, False)


def test_the_frames_of_a_recording_that_ends_too_early_are_read(check: Check, tmp_path: Path) -> None:
    root = SMALL["aqa7"](tmp_path)
    folder = one_folder(root, "aqa7")
    (folder / "img_00069.jpg").unlink()
    (folder / "img_00103.jpg").unlink()
    trees.truncate(folder / "img_00035.jpg")
    code, out, _ = check("aqa7", root)
    assert code == 3
    assert counts(out) == {"samples": 6, "complete": 5, "not": 1, "unreadable": 1, "too short": 1}
    assert f"too short: diving/002: the frame {folder / 'img_00069.jpg'} is missing, and 1 more" in out


def test_a_recording_that_ends_too_early_is_told_from_one_that_lacks_frames(check: Check, tmp_path: Path) -> None:
    root = SMALL["mtl-aqa"](tmp_path)
    for number in range(113, 122):
        (root / "01" / f"{number:08d}.jpg").unlink()
    code, out, _ = check("mtl-aqa", root)
    assert code == 3
    assert counts(out) == {"samples": 6, "complete": 4, "not": 2, "too short": 2}
    assert f"too short: 01-005: the frame {root / '01' / '00000115.jpg'} is missing" in out


def test_limits_beyond_the_recording_are_too_short(check: Check, tmp_path: Path) -> None:
    root = SMALL["aqa-manifest"](tmp_path)
    path = root / "manifest.csv"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].rsplit(",", 1)[0] + ",9"
    path.write_text("\n".join(lines))
    code, out, _ = check("aqa-manifest", root)
    assert code == 3
    assert counts(out)["too short"] == 1
    assert "manifest.csv, row 3: frames 2 to 9" in out


def test_frames_that_training_reaches_by_moving_a_clip_are_looked_for(check: Check, tmp_path: Path) -> None:
    """A gap just after a dive breaks training and not testing."""
    root = SMALL["mtl-aqa"](tmp_path)
    path = root / "01" / "00000119.jpg"  # one after the last dive
    assert path.exists()
    trees.truncate(path)
    words = ("--clip_frames", "103")
    code, out, _ = check("mtl-aqa", root, *words)
    assert code == 3
    assert counts(out)["unreadable"] >= 1
    assert check("mtl-aqa", root, *words, "--temporal_shift", "0")[0] == 0


def test_video_files_are_looked_at_too(check: Check, tmp_path: Path) -> None:
    root = trees.manifest_of_videos(tmp_path)
    assert check("aqa-manifest", root)[0] == 0
    content = (root / "videos" / "1.mp4").read_bytes()
    (root / "videos" / "0.mp4").unlink()
    (root / "videos" / "1.mp4").write_bytes(b"no video" * 100)
    path = root / "videos" / "2.mp4"
    cut = bytearray(path.read_bytes())
    middle = len(cut) * 2 // 3
    cut[middle : middle + 200] = bytes(200)
    code, out, _ = check("aqa-manifest", root)
    assert code == 3
    found = counts(out)
    assert (found["samples"], found["not"]) == (6, 2)
    assert str(root / "videos" / "1.mp4") in out
    (root / "videos" / "1.mp4").write_bytes(content)
    (root / "videos" / "3.mp4").write_bytes(bytes(cut))
    code, out, _ = check("aqa-manifest", root)
    assert (code, counts(out)["not"]) == (3, 2)


def test_feature_files_are_looked_at(check: Check, tmp_path: Path) -> None:
    root = trees.manifest_of_features(tmp_path, 6, 3)
    words = ("--backbone", "clip-features")
    assert check("aqa-manifest", root, *words)[0] == 0
    (root / "taken" / "0.npy").unlink()
    (root / "taken" / "3.npy").write_bytes(b"none")
    np.save(root / "taken" / "5.npy", np.zeros((3, 4), np.float32))
    code, out, _ = check("aqa-manifest", root, *words)
    assert code == 3
    assert counts(out) == {"samples": 9, "complete": 6, "not": 3, "missing": 1, "unreadable": 2}


def test_features_of_a_video_stream_are_looked_at_in_place_of_its_frames(check: Check, tmp_path: Path) -> None:
    root = SMALL["rg"](tmp_path / "rg")
    shutil.rmtree(root / "frames")
    for apparatus in trees.APPARATUS:
        for i in (1, 2):
            (tmp_path / "f").mkdir(exist_ok=True)
            np.save(tmp_path / "f" / f"{apparatus}_{i:03d}.npy", np.zeros((2, 3), np.float32))
    assert check("rg", root, "--features", str(tmp_path / "f"))[0] == 0
    (tmp_path / "f" / "Hoop_002.npy").unlink()
    code, out, _ = check("rg", root, "--features", str(tmp_path / "f"))
    assert (code, counts(out)["missing"]) == (3, 1)
    code, _, err = check("rg", root, "--features", str(tmp_path / "nowhere"))
    assert code == 3
    assert "is no folder" in err


def test_the_list_of_all_problems_goes_to_a_file(check: Check, tmp_path: Path) -> None:
    root = trees.logo(tmp_path / "logo", 20, 5)
    for event in trees.EVENTS[:3]:
        shutil.rmtree(root / "frames" / event)
    words = ("--out", str(tmp_path / "deep" / "problems.csv"))
    code, out, _ = check("logo", root)
    assert code == 3
    assert len(re.findall(r"^missing: .*no frames", out, re.MULTILINE)) == 10
    assert "missing: ... and 5 more; --out FILE lists them" in out
    code, out, _ = check("logo", root, *words)
    assert code == 3
    assert "and 5 more\n" in out
    with open(tmp_path / "deep" / "problems.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    assert {row["kind"] for row in rows} == {"missing"}
    assert {row["sample"].split("/")[0] for row in rows} == set(trees.EVENTS[:3])
    assert all("no frames in" in row["message"] for row in rows)


def test_an_empty_list_is_written_where_nothing_is_wrong(check: Check, tmp_path: Path) -> None:
    code, _, _ = check("rg", SMALL["rg"](tmp_path / "rg"), "--out", str(tmp_path / "p.csv"))
    assert code == 0
    assert (tmp_path / "p.csv").read_text().splitlines() == ["kind,sample,message"]


@pytest.mark.parametrize("name", SMALL)
def test_broken_annotations_end_with_one_line(check: Check, tmp_path: Path, name: str) -> None:
    root = SMALL[name](tmp_path)
    for path in [*root.rglob("*.pkl"), *root.rglob("*.txt"), *root.rglob("*.csv"), *root.rglob("*.mat")]:
        path.write_bytes(b"\x00\xff broken")
    code, out, err = check(name, root)
    assert code == 3
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_absent_data_and_wrong_options_end_with_one_line(check: Check, tmp_path: Path) -> None:
    code, _, err = check("mtl-aqa", tmp_path / "nowhere")
    assert code == 3
    assert "Get annotations and split 0" in err
    root = SMALL["rg"](tmp_path / "rg")
    shutil.rmtree(root / "frames")
    code, out, _ = check("rg", root)
    assert (code, counts(out)["missing"]) == (3, 8)
    code, _, err = check("rg", root, "--no_such_option", "1")
    assert code == 2
    assert "no_such_option" in err
    assert check("no-such-set", tmp_path)[0] == 2
    assert main(["--dataset", "aqa7", "--base_path", str(tmp_path)]) == 3  # not the stand-in


def n_processes(group: int) -> int:
    """Number of processes in a process group."""
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            found += os.getpgid(int(folder.name)) == group
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc to see processes in")
def test_ctrl_c_leaves_no_traceback(tmp_path: Path) -> None:
    """A terminal sends it to every process: to the one that waits and to those that read."""
    root = trees.logo(tmp_path / "logo", 30, 15, n_frames=16)
    # Frames that take long to read: checking must not be over before the signal comes.
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg", quality=98)
    for path in (root / "frames").rglob("*.jpg"):
        path.unlink()
        path.symlink_to(tmp_path / "large.jpg")
    words = [*trees.options("logo", root), "--clip_frames", "16", "--at_once", "2"]
    with subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "check_data.py", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        deadline = time.monotonic() + 120
        while n_processes(process.pid) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "stopped"
    assert "Traceback" not in out


def test_an_interrupt_is_reported_by_run_script(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run_script(interrupted) == 130
    assert capsys.readouterr().err == "stopped\n"
