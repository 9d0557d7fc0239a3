"""Writing files so that a crash, a full disk or a kill never leaves half a file in place of a whole one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from utils.errors import StorageError


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file beside `path`, flush it to disk, then rename it over `path`.

    Args:
        path: the file to create or replace; its folder is made if absent.
        write: called with the open binary file.

    Raises:
        StorageError: the file could not be written; what stood at `path` before is untouched.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; name a file")
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError from its zip writer.
        with contextlib.suppress(OSError):
            aside.unlink()
        raise StorageError(
            f"cannot write {path}: {error}. What was there before is untouched; free some space or name another folder"
        ) from error


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) atomically; raises StorageError as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(text.encode()))


def append_line(path: str | Path, line: str) -> None:
    """Append one line to a file that other processes may append to at the same time.

    Raises:
        StorageError: the line could not be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            if size:
                # A line that a full disk or a kill cut short must not swallow this one.
                file.seek(size - 1)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"cannot append to {path}: {error}") from error


@contextlib.contextmanager
def exclusive_lock(path: str | Path, busy_message: str | None) -> Iterator[None]:
    """Hold a lock file for the duration of the block; the system releases it even after kill -9.

    A record lock belongs to the process alone: loading processes that outlive it for a moment do not hold on to it.

    Args:
        busy_message: what to say where another process holds it; None to wait until it does not.

    Raises:
        StorageError: another process holds it, or the file cannot be made.
    """
    try:
        file = open(path, "wb")  # noqa: SIM115 - held open for as long as the lock
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy_message is not None else 0))
        except (BlockingIOError, PermissionError) as error:
            raise StorageError(busy_message or f"cannot lock {path}: {error}") from error
        yield


def lock_is_held(path: str | Path) -> bool:
    """Whether another process is inside `exclusive_lock` on this file. Asks without taking the lock.

    Not for the holder itself: the system would release its lock when this closes the file.
    """
    # struct flock: type, whence, start, length (0: to the end), pid; the kernel puts F_UNLCK where nobody holds it.
    question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with open(path, "rb+") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError:
        return False
    return struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK
