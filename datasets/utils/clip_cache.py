"""Decoded clips on disk: each is decoded once, for all epochs and all runs."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError, StorageError
from utils.files import write_text

PAGE = 4096
ENTRY_BYTES = 8
# Of the file. To be part of the key: what is laid out otherwise is then another file, and not a damaged one.
LAYOUT = 2
# Of the free space, left to others.
MARGIN = 0.05


class ClipCache:
    """One file of decoded clips, which any number of processes may read and fill at the same time.

    The file `<key>.clips` is a header of one page (JSON, padded with spaces), then 8 bytes a clip, its entry, padded to
    whole pages, then the clips, uint8. `<key>.json` beside it says in words what is in it. All of its space is reserved
    at the start.

    An entry is 0 where the clip is absent, else a stamp * 2^32 + the CRC-32 of the clip that begins with the stamp. The
    stamp tells which state of its files a clip was decoded from, and whether they were whole: where that is another
    one, the clip is not given, and what is decoded from the files takes its place. One that does not match its CRC-32
    is taken back.

    A clip is written and flushed before its entry is set, its entry is taken back before it is written over, and
    readers look whether an entry is still the same when they have copied the clip: they need no lock, and a process
    killed at any moment loses the clip it was writing. Two processes that write the same clip at the same time write
    the same bytes, unless its files change just then.

    Clips are copied with `pread`, not through a mapping of the file: batches are copies anyway, both come from the
    system's page cache, and a file that is cut off or a disk that fails is an error here, where touching a mapping
    would end the process with SIGBUS.

    Args:
        folder: made if absent.
        key: a digest of what decides about all clips, LAYOUT among it.
        shape: (number of clips, 3, T, height, width).
        names: of the clips, for messages and the description.
        decoder: what decodes the clips, for the description.
        stamps: of a row, from 1 to 2^32 - 1, for its files as they are now: (of the clip that they hold, of the clip
            that is taken from them though they are damaged). It is asked when this process first finds the clip here.
        accept_truncated: give clips of damaged files too.

    Raises:
        StorageError: the file cannot be made, or does not fit on the disk.
        DataError: the file has another size or header than it should.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        shape: Sequence[int],
        names: Sequence[str],
        decoder: str,
        stamps: Callable[[int], tuple[int, int]],
        accept_truncated: bool = False,
    ) -> None:
        self.path = Path(folder) / f"{key}.clips"
        self.names = list(names)
        self.stamps = stamps
        self.accept_truncated = accept_truncated
        self.n_clips = shape[0]
        self.clip_bytes = int(np.prod(shape[1:], dtype=np.int64))
        self._data_start = PAGE + _whole_pages(ENTRY_BYTES * self.n_clips)
        self.n_bytes = self._data_start + self.n_clips * self.clip_bytes
        self._header = json.dumps({"decoded clips": LAYOUT, "key": key, "shape": list(shape)}).encode().ljust(PAGE)
        # The entries that this process has verified.
        self._verified = np.zeros(self.n_clips, np.uint64)
        self._told = np.zeros(self.n_clips, bool)
        self._file: Any = None
        self._writable = True
        if not self.path.exists():
            self._create(
                {
                    "what": "decoded video clips, so that runs need not decode them again; can be deleted at any time",
                    "clips": self.path.name,
                    "layout": f"{PAGE} bytes header; a little-endian uint64 a clip, 0: absent, else stamp of its "
                    f"files * 2^32 + CRC-32 that begins with the stamp; from byte {self._data_start} on the clips, "
                    "uint8 RGB (clip, channel, frame, row, column)",
                    "shape": list(shape),
                    "decoder": decoder,
                    "names": self.names,
                }
            )
        else:
            entries = np.frombuffer(self._read_bytes(PAGE, ENTRY_BYTES * self.n_clips), dtype="<u8")
            n_present = np.count_nonzero(entries)
            print(
                f"clip cache: {n_present} of {self.n_clips} clips are in {self.path} ({_gigabytes(self.n_bytes)})",
                file=sys.stderr,
            )

    def __getstate__(self) -> dict[str, Any]:
        """A process that was not forked from this one opens the file anew."""
        return self.__dict__ | {"_file": None}

    def read(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Copy the clips that are there to their places in a batch; each is verified when this process first reads it.

        A clip that does not match its checksum or the present state of its files is named once, and counts as not there
        until it is written anew.

        Args:
            rows: (B,) which clips.
            out: (B, 3, T, height, width) uint8, contiguous.

        Returns:
            (B,) bool: whether the clip was there; places of the others may hold anything.

        Raises:
            DataError: the file was cut off.
            StorageError: the disk does not give it back.
        """
        present = np.zeros(len(rows), bool)
        for position, row in enumerate(map(int, rows)):
            entry = self._entry(row)
            if not entry:
                continue
            self._fill(out[position], self._data_start + row * self.clip_bytes)
            if self._entry(row) != entry:
                # Another process has begun to replace it: what was copied may be half of each.
                continue
            if entry != int(self._verified[row]):
                if not self._verify(row, entry, out[position]):
                    continue
                self._verified[row] = entry
            present[position] = True
        return present

    def write(self, row: int, clip: np.ndarray, stamp: int) -> None:
        """Add a clip, unless it is there; in the place of one of other files, or of damaged ones.

        Where that fails, say so, and add no more from this process.

        Args:
            row: which clip.
            clip: (3, T, height, width) uint8, contiguous.
            stamp: one of `stamps`, found before the clip was decoded: if its files change meanwhile, it is not theirs.
        """
        entry = self._entry(row)
        if not self._writable or entry >> 32 == stamp:
            return
        descriptor = self._open().fileno()
        try:
            if entry:
                self._set_entry(row, 0)
            rest, place = clip.data.cast("B"), self._data_start + row * self.clip_bytes
            while rest:
                n_written = os.pwrite(descriptor, rest, place)
                rest, place = rest[n_written:], place + n_written
            # The entry must not reach the disk before the clip does.
            os.fsync(descriptor)
            self._set_entry(row, _entry_of(clip, stamp))
        except OSError as error:
            self._give_up_writing(error)

    def _verify(self, row: int, entry: int, clip: np.ndarray) -> bool:
        """Whether a clip is what was written, and belongs to its files as they are now."""
        stamp = entry >> 32
        if entry != _entry_of(clip, stamp):
            self._forget(row)
            return False
        intact, truncated = self.stamps(row)
        if stamp == intact or (stamp == truncated and self.accept_truncated):
            return True
        if stamp != truncated:
            # Its entry stays until another clip takes its place: files that are only away for a while lose nothing.
            self._tell(row, "was decoded from files that have changed since; it is decoded again from those there are")
        return False

    def _forget(self, row: int) -> None:
        """Take back the entry of a damaged clip: a kill before it is written anew then leaves it absent."""
        self._tell(row, "does not match its checksum; it is decoded again from the original frames")
        if self._writable:
            try:
                self._set_entry(row, 0)
            except OSError as error:
                self._give_up_writing(error)

    def _tell(self, row: int, what: str) -> None:
        if not self._told[row]:
            self._told[row] = True
            print(f"clip cache: row {row} of {self.path}, clip {self.names[row]}, {what}", file=sys.stderr)

    def _set_entry(self, row: int, entry: int) -> None:
        os.pwrite(self._open().fileno(), entry.to_bytes(ENTRY_BYTES, "little"), PAGE + ENTRY_BYTES * row)

    def _give_up_writing(self, error: OSError) -> None:
        self._writable = False
        print(f"clip cache: cannot write {self.path}: {error}. Going on without adding to it", file=sys.stderr)

    def _entry(self, row: int) -> int:
        return int.from_bytes(self._read_bytes(PAGE + ENTRY_BYTES * row, ENTRY_BYTES), "little")

    def _read_bytes(self, place: int, n: int) -> bytes:
        content = np.empty(n, np.uint8)
        self._fill(content, place)
        return content.tobytes()

    def _fill(self, out: np.ndarray, place: int) -> None:
        descriptor = self._open().fileno()
        rest = out.data.cast("B")
        while rest:
            try:
                n_read = os.preadv(descriptor, [rest], place)
            except OSError as error:
                raise StorageError(
                    f"cannot read the clip cache {self.path}: {error}. Name another folder with --clip_cache, or leave "
                    "it out"
                ) from error
            if not n_read:
                raise self._damaged("it ends too early")
            rest, place = rest[n_read:], place + n_read

    def _open(self) -> Any:
        """The file, opened and checked when this process first needs it."""
        if self._file is None:
            try:
                try:
                    file = open(self.path, "r+b", buffering=0)  # noqa: SIM115 - stays open
                except OSError:
                    # Somebody else's: what is there is of use, even where nothing can be added.
                    file = open(self.path, "rb", buffering=0)  # noqa: SIM115
                    self._writable = False
                n_bytes, header = os.stat(file.fileno()).st_size, file.read(PAGE)
            except OSError as error:
                raise StorageError(f"cannot open the clip cache {self.path}: {error}") from error
            if n_bytes != self.n_bytes:
                raise self._damaged(f"it has {n_bytes} bytes where {self.n_bytes} are expected")
            if header != self._header:
                raise self._damaged("its header is not the one expected")
            self._file = file
        return self._file

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"the clip cache {self.path} is damaged: {what}. Delete this file; its clips are then decoded again from "
            "the original frames"
        )

    def _create(self, description: dict[str, Any]) -> None:
        folder = self.path.parent
        aside = folder / f".{self.path.name}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / ".lock", "wb") as lock:
                # One after the other: each must see what the ones before it left free.
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self.path.exists():
                    return
                # Left by a process that was killed here.
                aside.unlink(missing_ok=True)
                self._announce(folder)
                try:
                    with open(aside, "wb") as file:
                        self._reserve(file.fileno())
                        file.write(self._header)
                        file.flush()
                        os.fsync(file.fileno())
                    write_text(self.path.with_suffix(".json"), json.dumps(description, indent=1))
                    os.replace(aside, self.path)
                finally:
                    aside.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the clip cache {self.path} of {_gigabytes(self.n_bytes)}: {error}. "
                "Free some space, name another folder with --clip_cache, or leave it out"
            ) from error

    def _announce(self, folder: Path) -> None:
        free = shutil.disk_usage(folder).free
        print(
            f"clip cache: {self.n_clips} clips of {self.clip_bytes / 1e6:.1f} MB take {_gigabytes(self.n_bytes)} in "
            f"{folder}, where {_gigabytes(free)} are free",
            file=sys.stderr,
        )
        if self.n_bytes > (1 - MARGIN) * free:
            others = [path.stat().st_size for path in folder.glob("*.clips")]
            raise StorageError(
                f"the clip cache needs {_gigabytes(self.n_bytes)} in {folder}, of {_gigabytes(free)} free at most "
                f"{1 - MARGIN:.0%} are taken. Free some space (other caches there take {_gigabytes(sum(others))}; what "
                "no run uses can be deleted), name another folder with --clip_cache, or leave it out"
            )

    def _reserve(self, descriptor: int) -> None:
        """Take all of the space now: the disk is then not full in the middle of a run, for this one or for others."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, self.n_bytes)
        else:
            os.ftruncate(descriptor, self.n_bytes)


def _entry_of(clip: np.ndarray, stamp: int) -> int:
    return (stamp << 32) + zlib.crc32(clip.data, stamp)


def _whole_pages(n_bytes: int) -> int:
    return -(-n_bytes // PAGE) * PAGE


def _gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e7 else f"{n_bytes / 1e6:.2f} MB"
