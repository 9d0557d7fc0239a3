"""The cache of decoded clips: same bits as decoding, whatever happens to the processes and files."""

import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from datasets.utils import clip_cache, clips
from datasets.utils.clip_cache import PAGE, ClipCache
from datasets.utils.clips import Clip, ClipSource
from datasets.utils.loader import StreamLoader, TaskData
from utils.errors import DataError, StorageError

ROOT = Path(__file__).resolve().parent.parent.parent
SIZE = (16, 20)
N, T = 6, 4
CLIP_BYTES = 3 * T * SIZE[0] * SIZE[1]
# Where the bytes of the fourth clip begin.
DATA = 2 * PAGE + 3 * CLIP_BYTES
MESSAGE = "Delete this file"


@pytest.fixture
def tree(tmp_path: Path) -> list[Clip]:
    return make_tree(tmp_path / "frames")


def make_tree(root: Path, suffix: str = "jpg") -> list[Clip]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(N):
        (root / f"{i}").mkdir(parents=True)
        paths = tuple(root / f"{i}" / f"{t}.{suffix}" for t in range(T))
        for path in paths:
            coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
            coarse.resize((40, 24), Image.Resampling.BICUBIC).save(path, quality=90)
        made.append(Clip(f"dive {i}", paths))
    return made


def cached(tree: list[Clip], tmp_path: Path, **options: object) -> ClipSource:
    return ClipSource(tree, SIZE, cache=tmp_path / "cache", **options)


def everything(source: ClipSource) -> torch.Tensor:
    batch, positions, problems = source.read(np.arange(len(source)))
    assert (positions, problems) == (list(range(len(source))), [])
    return batch


def cache_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache").glob("*.clips")
    return path


def n_cached(tmp_path: Path) -> int:
    return int(np.count_nonzero(np.fromfile(cache_file(tmp_path), "<u8", N, offset=PAGE)))


def change(path: Path) -> None:
    """Another image in a file of the same size, as of a bitmap; a JPEG gets longer."""
    with Image.open(path) as image:
        inverted = ImageOps.invert(image)
    inverted.save(path)
    if path.suffix == ".jpg":
        with path.open("ab") as file:
            file.write(bytes(1000))


def truncate(path: Path) -> bytes:
    """Cut off the end of an image; returns what it was."""
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    return content


def note_decoding(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The frames that are decoded from now on."""
    read: list[Path] = []
    read_frame = clips.read_frame
    monkeypatch.setattr(clips, "read_frame", lambda path, *more: read.append(path) or read_frame(path, *more))
    return read


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a frame was decoded")

    monkeypatch.setattr(clips, "read_frame", refuse)


def fail(*args: object) -> None:
    raise OSError(5, "Input/output error")


def forbid_writing(path: Path, mode: str, **options: object) -> object:
    if mode != "rb":
        raise PermissionError(13, "Permission denied")
    return open(path, mode, **options)


# Same bits


def test_cached_clips_have_the_bits_of_decoded_ones(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = everything(ClipSource(tree, SIZE))
    first = cached(tree, tmp_path)
    assert torch.equal(everything(first), decoded)
    no_decoding(monkeypatch)
    for source in (first, cached(tree, tmp_path)):
        assert torch.equal(everything(source), decoded)
        assert torch.equal(source.read(np.array([4, 1, 4]))[0], decoded[[4, 1, 4]])


def test_a_batch_may_be_cached_in_part(tree: list[Clip], tmp_path: Path) -> None:
    decoded = everything(ClipSource(tree, SIZE))
    source = cached(tree, tmp_path)
    source.read(np.array([1, 4]))
    assert n_cached(tmp_path) == 2
    assert torch.equal(everything(source), decoded)
    assert n_cached(tmp_path) == N


def test_a_cached_batch_can_be_changed_without_harm(tree: list[Clip], tmp_path: Path) -> None:
    source = cached(tree, tmp_path)
    decoded = everything(source).clone()
    everything(source).zero_()
    assert torch.equal(everything(source), decoded)


def test_the_fingerprint_does_not_depend_on_the_cache(tree: list[Clip], tmp_path: Path) -> None:
    source = cached(tree, tmp_path)
    everything(source)
    assert source.fingerprint() == ClipSource(tree, SIZE).fingerprint()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_processes_share_the_cache(
    tree: list[Clip], tmp_path: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = everything(ClipSource(tree, SIZE))
    source = cached(tree, tmp_path)
    source.read(np.array([2]))
    data = TaskData(source, np.arange(N), torch.arange(N))
    loader = StreamLoader(data, 2, lambda batch: batch, torch.device("cpu"), False, (0,), num_workers)
    for _ in range(2):
        assert torch.equal(torch.cat([inputs for inputs, _ in loader]), decoded)
    assert n_cached(tmp_path) == N
    no_decoding(monkeypatch)
    assert torch.equal(everything(pickle.loads(pickle.dumps(source))), decoded)


# What a cache belongs to


def test_a_moved_tree_keeps_its_cache(tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = everything(cached(tree, tmp_path))
    shutil.move(tmp_path / "frames", tmp_path / "elsewhere")
    moved = [
        Clip(c.name, tuple(tmp_path / "elsewhere" / p.relative_to(tmp_path / "frames") for p in c.frames)) for c in tree
    ]
    no_decoding(monkeypatch)
    assert torch.equal(everything(cached(moved, tmp_path)), decoded)


def test_a_copied_tree_keeps_its_cache(tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = everything(cached(tree, tmp_path))
    for path in (path for clip in tree for path in clip.frames):
        path.write_bytes(path.read_bytes())
        os.utime(path, (0, 0))
    no_decoding(monkeypatch)
    assert torch.equal(everything(cached(tree, tmp_path)), decoded)


@pytest.mark.parametrize(("suffix", "frame"), [("jpg", 1), ("bmp", 0), ("bmp", 1), ("bmp", T - 1)])
def test_a_clip_whose_files_have_changed_is_decoded_anew_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suffix: str, frame: int
) -> None:
    tree = make_tree(tmp_path / "frames", suffix)
    before = everything(cached(tree, tmp_path))
    n_bytes = tree[2].frames[frame].stat().st_size
    change(tree[2].frames[frame])
    assert (tree[2].frames[frame].stat().st_size == n_bytes) == (suffix == "bmp")
    decoded = everything(ClipSource(tree, SIZE))
    assert [torch.equal(*pair) for pair in zip(before, decoded, strict=True)] == [i != 2 for i in range(N)]
    source = cached(tree, tmp_path)
    read = note_decoding(monkeypatch)
    capsys.readouterr()
    for _ in range(2):
        assert torch.equal(everything(source), decoded)
    assert sorted(read) == sorted(tree[2].frames)
    warning = f"row 2 of {cache_file(tmp_path)}, clip dive 2, was decoded from files that have changed since"
    printed = capsys.readouterr().err
    assert printed.count(warning) == 1
    assert "checksum" not in printed
    no_decoding(monkeypatch)
    assert torch.equal(everything(cached(tree, tmp_path)), decoded)
    assert capsys.readouterr().err.count("\n") == 1  # how many clips are there, no warning


def test_files_that_change_while_their_clip_is_decoded_do_not_keep_it(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_frame = clips.read_frame

    def change_afterwards(path: Path, *more: object) -> np.ndarray:
        frame = read_frame(path, *more)
        if path == tree[2].frames[1]:
            change(path)
        return frame

    with monkeypatch.context() as patch:
        patch.setattr(clips, "read_frame", change_afterwards)
        everything(cached(tree, tmp_path))
    assert torch.equal(everything(cached(tree, tmp_path)), everything(ClipSource(tree, SIZE)))


def test_a_clip_whose_files_are_away_for_a_while_stays_and_is_not_given_meanwhile(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = everything(cached(tree, tmp_path))
    content = tree[2].frames[1].read_bytes()
    tree[2].frames[1].unlink()
    with pytest.raises(DataError, match="clip dive 2: cannot read the frame"):
        everything(cached(tree, tmp_path))
    tree[2].frames[1].write_bytes(content)
    no_decoding(monkeypatch)
    assert torch.equal(everything(cached(tree, tmp_path)), decoded)


def test_files_are_looked_at_when_their_clip_is_first_found(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything(cached(tree, tmp_path))
    looked = []
    find = clips._files_digest
    monkeypatch.setattr(clips, "_files_digest", lambda paths: looked.append(paths) or find(paths))
    source = cached(tree, tmp_path)
    assert looked == []
    source.read(np.array([4, 1]))
    assert looked == [tree[4].frames, tree[1].frames]
    everything(source)
    everything(source)
    assert len(looked) == N


def test_a_running_process_takes_what_another_put_in_the_place_of_an_outdated_clip(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = cached(tree, tmp_path)
    everything(running)
    everything(running)
    change(tree[2].frames[1])
    decoded = everything(cached(tree, tmp_path))
    no_decoding(monkeypatch)
    assert torch.equal(everything(running), decoded)


def test_a_clip_that_is_replaced_while_it_is_copied_is_not_given(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = cached(tree, tmp_path)
    everything(running)
    everything(running)
    change(tree[2].frames[1])
    preadv = os.preadv

    def replace_halfway(descriptor: int, buffers: list[memoryview], place: int) -> int:
        if len(buffers[0]) < CLIP_BYTES or place != 2 * PAGE + 2 * CLIP_BYTES:
            return preadv(descriptor, buffers, place)
        monkeypatch.setattr(os, "preadv", preadv)
        n_read = preadv(descriptor, [buffers[0][: CLIP_BYTES // 2]], place)
        everything(cached(tree, tmp_path))
        return n_read

    monkeypatch.setattr(os, "preadv", replace_halfway)
    assert torch.equal(everything(running), everything(ClipSource(tree, SIZE)))
    assert os.preadv is preadv


def test_another_order_or_number_of_frames_or_preprocessing_has_another_cache(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(clips: list[Clip] = tree, size: tuple[int, int] = SIZE, **options: object) -> str:
        source = ClipSource(clips, size, cache=tmp_path / "cache", **options)
        assert source.cache is not None
        return source.cache.path.name

    keys = [
        key(),
        key(size=SIZE[::-1]),
        key(n_frames=T + 1),
        key(tree[:-1]),
        key([*tree[:-1], Clip("another name", tree[-1].frames)]),
        key([*tree[:-1], Clip(tree[-1].name, tree[-1].frames[::-1])]),
        key([*tree[:-1], Clip(tree[-1].name, (*tree[-1].frames[:2], *tree[-1].frames[1:3]))]),
    ]
    assert key() == keys[0]
    assert key(skip_corrupt=True) == keys[0]
    assert key(load_truncated=True) == keys[0]
    change(tree[2].frames[1])
    tree[3].frames[1].unlink()
    assert key() == keys[0]
    with monkeypatch.context() as patch:
        patch.setattr(clips, "LAYOUT", clips.LAYOUT + 1)
        keys.append(key())
    monkeypatch.setattr(clips, "DECODING", clips.DECODING + 1)
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_the_description_says_what_the_file_is(tree: list[Clip], tmp_path: Path) -> None:
    cached(tree, tmp_path)
    path = cache_file(tmp_path)
    description = json.loads(path.with_suffix(".json").read_text())
    assert "can be deleted at any time" in description["what"]
    assert description["shape"] == [N, 3, T, *SIZE]
    assert description["names"] == [clip.name for clip in tree]
    assert "Pillow" in description["decoder"]
    header = json.loads(path.read_bytes()[:PAGE])
    assert (header["decoded clips"], header["shape"]) == (2, [N, 3, T, *SIZE])


def test_a_source_without_frames_has_no_cache(tmp_path: Path) -> None:
    assert cached([], tmp_path).cache is None
    assert cached([Clip("x")], tmp_path, skip_corrupt=True).cache is None


# Clips that cannot be read


def test_unreadable_clips_are_not_cached_and_are_reported_each_time(tree: list[Clip], tmp_path: Path) -> None:
    truncate(tree[2].frames[1])
    source = cached(tree, tmp_path, skip_corrupt=True)
    for _ in range(2):
        batch, positions, problems = source.read(np.arange(N))
        assert positions == [0, 1, 3, 4, 5]
        assert len(problems) == 1
        assert torch.equal(batch, ClipSource(tree, SIZE, skip_corrupt=True).read(np.arange(N))[0])
    assert n_cached(tmp_path) == N - 1
    with pytest.raises(DataError, match="clip dive 2"):
        cached(tree, tmp_path).read(np.arange(N))


def test_what_truncated_frames_show_is_not_given_to_runs_that_refuse_them(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(tree[2].frames[1])
    shown = everything(cached(tree, tmp_path, load_truncated=True))
    assert torch.equal(shown, everything(ClipSource(tree, SIZE, load_truncated=True)))
    assert n_cached(tmp_path) == N
    read = note_decoding(monkeypatch)
    capsys.readouterr()
    with pytest.raises(DataError, match="clip dive 2"):
        cached(tree, tmp_path).read(np.arange(N))
    batch, positions, _ = cached(tree, tmp_path, skip_corrupt=True).read(np.arange(N))
    assert positions == [0, 1, 3, 4, 5]
    assert torch.equal(batch, shown[positions])
    assert set(read) <= set(tree[2].frames)
    assert "dive 2" not in capsys.readouterr().err  # nothing is wrong with the cache
    # Runs that refused it have not taken it from the others.
    no_decoding(monkeypatch)
    assert torch.equal(everything(cached(tree, tmp_path, load_truncated=True)), shown)


def test_clips_that_can_be_read_are_shared_with_runs_that_take_truncated_frames(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tree, tmp_path).read(np.array([0, 1, 4]))
    truncate(tree[2].frames[1])
    read = note_decoding(monkeypatch)
    decoded = everything(cached(tree, tmp_path, load_truncated=True))
    assert {path.parent.name for path in read} == {"2", "3", "5"}
    no_decoding(monkeypatch)
    rows = np.array([0, 1, 3, 4, 5])
    assert torch.equal(cached(tree, tmp_path).read(rows)[0], decoded[rows])
    assert torch.equal(everything(cached(tree, tmp_path, load_truncated=True)), decoded)


@pytest.mark.parametrize("load_truncated", [False, True])
def test_a_clip_that_was_taken_as_truncated_is_decoded_anew_when_its_frame_is_restored(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_truncated: bool
) -> None:
    decoded = everything(ClipSource(tree, SIZE))
    content = truncate(tree[2].frames[1])
    assert not torch.equal(everything(cached(tree, tmp_path, load_truncated=True)), decoded)
    tree[2].frames[1].write_bytes(content)
    read = note_decoding(monkeypatch)
    assert torch.equal(everything(cached(tree, tmp_path, load_truncated=load_truncated)), decoded)
    assert sorted(read) == sorted(tree[2].frames)
    no_decoding(monkeypatch)
    for accept in (False, True):
        assert torch.equal(everything(cached(tree, tmp_path, load_truncated=accept)), decoded)


def test_a_run_that_refuses_truncated_frames_replaces_what_they_showed_by_what_it_reads_without_fault(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = everything(ClipSource(tree, SIZE))
    read_frame = clips.read_frame

    def fail_at_first(path: Path, size: tuple[int, int], load_truncated: bool) -> np.ndarray:
        if path == tree[2].frames[1] and not load_truncated:
            raise DataError("the disk was busy")
        return read_frame(path, size, load_truncated)

    with monkeypatch.context() as patch:
        patch.setattr(clips, "read_frame", fail_at_first)
        everything(cached(tree, tmp_path, load_truncated=True))
    assert torch.equal(everything(cached(tree, tmp_path)), decoded)
    no_decoding(monkeypatch)
    for accept in (False, True):
        assert torch.equal(everything(cached(tree, tmp_path, load_truncated=accept)), decoded)


# Space


def test_size_and_place_are_told_once(tree: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = cached(tree, tmp_path)
    printed = capsys.readouterr().err
    match = re.fullmatch(
        rf"clip cache: {N} clips of {CLIP_BYTES / 1e6:.1f} MB take (.+) MB in {tmp_path / 'cache'}, where .+\n", printed
    )
    assert match
    assert N * CLIP_BYTES / 1e6 <= float(match[1]) < N * CLIP_BYTES / 1e6 + 0.03
    assert printed.count("\n") == 1
    assert "GB are free" in printed
    source.read(np.arange(2))
    everything(pickle.loads(pickle.dumps(source)))
    assert capsys.readouterr().err == ""
    cached(tree, tmp_path)
    assert capsys.readouterr().err == f"clip cache: {N} of {N} clips are in {cache_file(tmp_path)} ({match[1]} MB)\n"


def test_a_cache_that_does_not_fit_is_refused_before_anything_is_written(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_bytes = 2 * PAGE + N * CLIP_BYTES
    free = [n_bytes]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "older.clips").write_bytes(bytes(20_000_000))
    for free[0] in (n_bytes, int(n_bytes / 0.95)):  # 5 % are left to others
        with pytest.raises(StorageError) as caught:
            cached(tree, tmp_path)
        assert str(tmp_path / "cache") in str(caught.value)
        assert "--clip_cache" in str(caught.value)
        assert "other caches there take 0.02 GB" in str(caught.value)
        assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".lock", "older.clips"]
    (tmp_path / "cache" / "older.clips").unlink()
    free[0] = int(n_bytes / 0.95) + 1
    everything(cached(tree, tmp_path))
    free[0] = 0  # nothing more is needed once it is there
    assert n_cached(tmp_path) == N
    everything(cached(tree, tmp_path))


def test_all_space_is_taken_at_the_start(tree: list[Clip], tmp_path: Path) -> None:
    cached(tree, tmp_path)
    status = cache_file(tmp_path).stat()
    assert status.st_size == 2 * PAGE + N * CLIP_BYTES
    assert status.st_blocks * 512 >= status.st_size


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync", "replace"])
def test_a_disk_that_turns_out_full_leaves_nothing_behind(
    tree: list[Clip], tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StorageError, match="No space left"):
            cached(tree, tmp_path)
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.suffix in (".clips", ".part")]
    assert left == []
    everything(cached(tree, tmp_path))


def test_a_folder_that_cannot_be_made_is_a_storage_error(tree: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StorageError, match="--clip_cache"):
        cached(tree, tmp_path)


def test_a_run_goes_on_when_clips_cannot_be_added(
    tree: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cached(tree, tmp_path)
    source.read(np.arange(2))
    decoded = everything(ClipSource(tree, SIZE))
    monkeypatch.setattr(os, "pwrite", fail)
    capsys.readouterr()
    for _ in range(2):
        assert torch.equal(everything(source), decoded)
    printed = capsys.readouterr().err
    assert printed.count("cannot write") == 1
    assert str(cache_file(tmp_path)) in printed
    assert n_cached(tmp_path) == 2


def test_a_cache_that_may_only_be_read_is_read(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tree, tmp_path).read(np.arange(2))

    monkeypatch.setattr(clip_cache, "open", forbid_writing, raising=False)
    assert torch.equal(everything(cached(tree, tmp_path)), everything(ClipSource(tree, SIZE)))
    assert n_cached(tmp_path) == 2


# Damage


def flip_byte(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("place", [PAGE + 8 * 3, PAGE + 8 * 3 + 4, *(DATA + at for at in (0, CLIP_BYTES - 1))])
def test_a_changed_byte_costs_its_clip_alone_which_is_decoded_again(
    tree: list[Clip], tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decoded = everything(cached(tree, tmp_path))
    whole = cache_file(tmp_path).read_bytes()
    flip_byte(cache_file(tmp_path), place)
    source = cached(tree, tmp_path)
    read = note_decoding(monkeypatch)
    capsys.readouterr()
    for _ in range(2):
        assert torch.equal(everything(source), decoded)
    assert sorted(read) == sorted(tree[3].frames)
    warning = f"row 3 of {cache_file(tmp_path)}, clip dive 3, does not match its checksum; it is decoded again"
    assert capsys.readouterr().err.count(warning) == 1
    assert cache_file(tmp_path).read_bytes() == whole
    no_decoding(monkeypatch)
    assert torch.equal(everything(cached(tree, tmp_path)), decoded)
    assert "checksum" not in capsys.readouterr().err


@pytest.mark.parametrize("cause", ["damaged", "outdated"])
def test_the_entry_of_a_clip_that_does_not_match_is_taken_back_before_the_clip_is_written(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    everything(cached(tree, tmp_path))
    if cause == "damaged":
        flip_byte(cache_file(tmp_path), DATA)
    else:
        change(tree[3].frames[1])
    source = cached(tree, tmp_path)
    events = []
    pwrite, fsync = os.pwrite, os.fsync
    monkeypatch.setattr(os, "pwrite", lambda *args: events.append((args[2], len(args[1]))) or pwrite(*args))
    monkeypatch.setattr(os, "fsync", lambda *args: events.append("flush") or fsync(*args))
    everything(source)
    assert events == [(PAGE + 8 * 3, 8), (DATA, CLIP_BYTES), "flush", (PAGE + 8 * 3, 8)]


def test_a_damaged_clip_whose_frames_are_gone_is_refused_and_the_others_stay(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = everything(cached(tree, tmp_path))
    flip_byte(cache_file(tmp_path), DATA)
    source = cached(tree, tmp_path)
    content = tree[3].frames[1].read_bytes()
    tree[3].frames[1].unlink()
    with pytest.raises(DataError, match="clip dive 3: cannot read the frame"):
        source.read(np.arange(N))
    assert n_cached(tmp_path) == N - 1
    tree[3].frames[1].write_bytes(content)
    assert torch.equal(everything(source), decoded)
    assert n_cached(tmp_path) == N


@pytest.mark.parametrize("how", ["may not", "cannot"])
def test_a_damaged_clip_in_a_cache_that_is_not_written_is_decoded_and_named_once(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    decoded = everything(cached(tree, tmp_path))
    flip_byte(cache_file(tmp_path), DATA)
    if how == "may not":
        monkeypatch.setattr(clip_cache, "open", forbid_writing, raising=False)
    source = cached(tree, tmp_path)
    if how == "cannot":
        monkeypatch.setattr(os, "pwrite", fail)
    for _ in range(3):
        assert torch.equal(everything(source), decoded)
    printed = capsys.readouterr().err
    assert printed.count("clip dive 3, does not match its checksum") == 1
    assert printed.count("cannot write") == (how == "cannot")
    assert n_cached(tmp_path) == N


def test_a_disk_that_does_not_give_clips_back_is_named_without_advice_to_delete(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cached(tree, tmp_path)
    everything(source)
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(StorageError, match=r"cannot read the clip cache .*\.clips: .*Input/output error") as caught:
        everything(source)
    assert MESSAGE not in str(caught.value)


def test_each_clip_is_verified_once_in_a_process(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything(cached(tree, tmp_path))
    sums = []
    crc32 = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda *args: sums.append(1) or crc32(*args))
    source = cached(tree, tmp_path)
    for _ in range(3):
        everything(source)
    assert len(sums) == N


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    os.truncate(path, path.stat().st_size + PAGE)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def break_header(path: Path) -> None:
    flip_byte(path, 3)


@pytest.mark.parametrize("damage", [cut, lengthen, empty, break_header])
def test_a_damaged_file_is_named_and_kept(tree: list[Clip], tmp_path: Path, damage) -> None:
    decoded = everything(cached(tree, tmp_path))
    path = cache_file(tmp_path)
    damage(path)
    content = path.read_bytes()
    with pytest.raises(DataError) as caught:
        cached(tree, tmp_path)
    assert str(path) in str(caught.value)
    assert MESSAGE in str(caught.value)
    assert path.read_bytes() == content
    path.unlink()  # what the message says
    assert torch.equal(everything(cached(tree, tmp_path)), decoded)


def test_a_file_cut_off_while_it_is_read_is_an_error_and_no_crash(tree: list[Clip], tmp_path: Path) -> None:
    source = cached(tree, tmp_path)
    everything(source)
    os.truncate(cache_file(tmp_path), 2 * PAGE + 2 * CLIP_BYTES + 100)
    source.read(np.arange(2))
    with pytest.raises(DataError, match="ends too early"):
        source.read(np.array([2]))


def test_a_file_deleted_while_it_is_used_goes_on_being_used(tree: list[Clip], tmp_path: Path) -> None:
    source = cached(tree, tmp_path)
    decoded = everything(source)
    cache_file(tmp_path).unlink()
    assert torch.equal(everything(source), decoded)
    with pytest.raises(StorageError, match="cannot open"):
        pickle.loads(pickle.dumps(source)).read(np.arange(N))


# Several processes, and killed ones


def read_in_own_order(tree: list[Clip], folder: Path, seed: int, barrier, results) -> None:
    order = np.random.default_rng(seed).permutation(N)
    barrier.wait()
    source = ClipSource(tree, SIZE, cache=folder)
    batches = [source.read(part)[0] for part in np.array_split(order, 3)]
    results.put((order.tolist(), torch.cat(batches).numpy().tobytes()))


def test_processes_that_fill_one_cache_at_once_agree(tree: list[Clip], tmp_path: Path) -> None:
    decoded = everything(ClipSource(tree, SIZE))
    context = multiprocessing.get_context("fork")
    n = 5
    for attempt in range(3):
        barrier, results = context.Barrier(n), context.Queue()
        folder = tmp_path / f"{attempt}" / "cache"
        processes = [
            context.Process(target=read_in_own_order, args=(tree, folder, seed, barrier, results)) for seed in range(n)
        ]
        for process in processes:
            process.start()
        outcomes = [results.get(timeout=120) for _ in processes]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * n
        assert all(content == decoded[order].numpy().tobytes() for order, content in outcomes)
        assert n_cached(folder.parent) == N
        assert torch.equal(everything(cached(tree, folder.parent)), decoded)


KILLED = """
import os, pickle, signal, sys
import numpy as np
from datasets.utils import clip_cache
from datasets.utils.clips import ClipSource

folder, call, number = sys.argv[1:]
clips = pickle.load(sys.stdin.buffer)
original, calls = getattr(os, call), []

def deadly(*args):
    calls.append(args)
    if len(calls) == int(number):
        if call == "pwrite":
            original(args[0], bytes(args[1])[: len(args[1]) // 2], args[2])
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)

setattr(os, call, deadly)
source = ClipSource(clips, (16, 20), cache=folder)
for index in range(len(clips)):
    source.read(np.array([index]))
"""


@pytest.mark.parametrize(
    ("call", "number", "n_left"),
    [
        ("posix_fallocate", 1, None),
        ("replace", 1, None),
        ("pwrite", 1, 0),  # in the middle of the first clip
        ("pwrite", 7, 3),  # in the middle of the fourth clip
        ("preadv", 9, 4),  # between two clips
    ],
)
def test_a_killed_writer_loses_at_most_the_clip_it_was_writing(
    tree: list[Clip], tmp_path: Path, call: str, number: int, n_left: int | None
) -> None:
    decoded = everything(ClipSource(tree, SIZE))
    words = [sys.executable, "-c", KILLED, str(tmp_path / "cache"), call, str(number)]
    finished = subprocess.run(words, input=pickle.dumps(tree), cwd=ROOT, capture_output=True)
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    if n_left is None:
        assert not list((tmp_path / "cache").glob("*.clips"))
    else:
        assert n_cached(tmp_path) == n_left
    assert torch.equal(everything(cached(tree, tmp_path)), decoded)
    assert n_cached(tmp_path) == N
    assert not list((tmp_path / "cache").glob(".*.clips.part"))


def test_a_clip_that_another_process_added_is_not_written_again(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (cached(tree, tmp_path) for _ in range(2))
    assert here.cache is not None
    clip = everything(there)[0].numpy()
    monkeypatch.setattr(os, "pwrite", lambda *args: pytest.fail("written again"))
    here.cache.write(0, clip, here.cache.stamps(0)[0])


def test_a_clip_of_which_only_part_is_written_at_once_is_whole(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = everything(ClipSource(tree, SIZE))
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, place: pwrite(fd, data[:1000], place))
    monkeypatch.setattr(os, "preadv", lambda fd, data, place: preadv(fd, [data[0][:700]], place))
    everything(cached(tree, tmp_path))
    assert torch.equal(everything(cached(tree, tmp_path)), decoded)


def test_clips_reach_the_disk_before_their_entries(
    tree: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cached(tree, tmp_path)
    events = []
    pwrite, fsync = os.pwrite, os.fsync
    monkeypatch.setattr(os, "pwrite", lambda *args: events.append(args[2]) or pwrite(*args))
    monkeypatch.setattr(os, "fsync", lambda *args: events.append("flush") or fsync(*args))
    source.read(np.array([1]))
    assert events == [2 * PAGE + CLIP_BYTES, "flush", PAGE + 8]


def test_rows_beyond_one_page_of_entries_have_their_place(tmp_path: Path) -> None:
    n = 700  # entries take two pages
    names = [str(i) for i in range(n)]
    cache = ClipCache(tmp_path, "key", (n, 3, 1, 2, 2), names, "", lambda row: (row + 1, n + 1))
    for row in (0, 511, 512, n - 1):
        cache.write(row, np.full((3, 1, 2, 2), row % 251, np.uint8), row + 1)
    out = np.zeros((5, 3, 1, 2, 2), np.uint8)
    assert cache.read(np.array([511, 0, 512, n - 1, 7]), out).tolist() == [True] * 4 + [False]
    assert (
        [int(clip.min()) for clip in out]
        == [int(clip.max()) for clip in out]
        == [511 % 251, 0, 512 % 251, 699 % 251, 0]
    )
