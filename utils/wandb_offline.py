"""What W&B needs beyond this machine: a key, a server that answers, and the upload of what runs left offline."""

from __future__ import annotations

import netrc
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from utils.errors import DataError, StorageError, UsageError
from utils.stored_runs import StoredRun

SERVER_SECONDS = 5.0
HEADER_BYTES = 7
CUT_SHORT = "the file ends with an incomplete record"


def what_is_missing(settings: Any) -> str:
    """Why W&B cannot be reached from here, in a line that says what to do; empty if it can.

    Args:
        settings: `wandb.setup().settings`, which knows environment variables and wandb's settings files.
    """
    if not has_key(settings):
        return f"no key for {settings.base_url} on this machine (run `wandb login`, or set WANDB_API_KEY)"
    if not answers(settings):
        return f"no answer from {settings.base_url} within {SERVER_SECONDS:g} s"
    return ""


def check_upload() -> None:
    """Find out before an upload whether there can be one.

    Raises:
        UsageError: wandb is not installed, or there is no key on this machine.
        StorageError: the server does not answer.
    """
    try:
        import wandb
    except ImportError as error:
        raise UsageError("uploading needs wandb: pip install wandb") from error
    settings = wandb.setup().settings
    missing = what_is_missing(settings)
    if missing:
        raise (StorageError if has_key(settings) else UsageError)(f"nothing was uploaded: {missing}")


def has_key(settings: Any) -> bool:
    """Whether wandb would find a key without asking for one: environment, netrc, settings files."""
    if settings.api_key or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for place in places:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(os.path.expanduser(place)).authenticators(urlsplit(settings.base_url).netloc):
                return True
    return False


def answers(settings: Any) -> bool:
    """Whether the server says anything at all over HTTP, through the proxies that wandb would use."""
    given = {"http": settings.http_proxy, "https": settings.https_proxy}
    proxies = urllib.request.getproxies() | {scheme: url for scheme, url in given.items() if url}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    heard = threading.Event()

    def ask() -> None:
        try:
            opener.open(settings.base_url, timeout=SERVER_SECONDS).close()
        except urllib.error.HTTPError:
            pass
        except urllib.error.URLError as error:
            # Certificates are checked by wandb itself, with its own settings.
            if not isinstance(error.reason, ssl.SSLError):
                return
        except Exception:
            return
        heard.set()

    # In a thread: the time limit of a connection does not cover looking its name up.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SERVER_SECONDS)
    return heard.is_set()


@dataclass(frozen=True)
class Part:
    """What one process logged to an offline run; a resumed run has several.

    Attributes:
        path: the .wandb file in its offline-run-<time>-<id> folder.
    """

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.stem.removeprefix("run-")

    @property
    def run_folder(self) -> Path:
        """The folder of the run that logged it, if it lies where `utils.tracking` puts it."""
        return self.path.parent.parent.parent

    @property
    def is_done(self) -> bool:
        """Whether it has been uploaded and has not grown since, or its process was killed before wandb wrote to it."""
        if self.path.stat().st_size <= HEADER_BYTES:
            return True
        return self.mark.exists() and self.mark.stat().st_mtime >= self.path.stat().st_mtime

    @property
    def mark(self) -> Path:
        """Where wandb notes that it has uploaded the file."""
        return self.path.with_name(f"{self.path.name}.synced")


def find_parts(places: Iterable[str | Path]) -> dict[str, list[Part]]:
    """The offline runs below some folders: run id -> its parts in order of time.

    Raises:
        DataError: a place does not exist.
    """
    found: set[Path] = set()
    for place in map(Path, places):
        if not place.is_dir():
            raise DataError(f"no folder {place}")
        for folder, below, files in os.walk(place):
            if Path(folder).resolve().name.startswith("offline-run-"):
                found |= {Path(folder).resolve() / name for name in files if name.endswith(".wandb")}
                below.clear()
    runs: dict[str, list[Part]] = defaultdict(list)
    for path in sorted(found, key=lambda path: (path.parent.name, path)):
        runs[Part(path).run_id].append(Part(path))
    return dict(runs)


def waiting(runs: dict[str, list[Part]]) -> tuple[dict[str, list[Part]], list[Path], int]:
    """What to upload.

    Returns:
        (run id -> parts that are not uploaded yet, folders of runs that are in progress and left for later, number of
        runs that are uploaded already).
    """
    todo, busy, done = {}, [], 0
    for name, parts in runs.items():
        if StoredRun(parts[-1].run_folder).state == "running":
            busy.append(parts[-1].run_folder)
        elif rest := [part for part in parts if not part.is_done]:
            todo[name] = rest
        else:
            done += 1
    return todo, busy, done


class Uploads:
    """Runs `wandb sync`, several at a time if `sync` is called from several threads.

    wandb 0.31 has no --append: it asks the server how far a run has come and writes behind that, so that parts uploaded
    one after the other make one run; the step a part begins at is kept beside it in .syncstate, so that repeating an
    upload gives its rows the same steps. `wandb sync` exits with 0 even if nothing was uploaded; its mark tells.

    Args:
        retry: attempts after the first one.
        timeout: seconds for each attempt of each part.
        pause: seconds before the first repetition; doubled every time.
    """

    def __init__(self, retry: int, timeout: float, pause: float = 5.0) -> None:
        self.retry, self.timeout, self.pause = retry, timeout, pause
        self.stopped = threading.Event()

    def sync(self, parts: list[Part]) -> str:
        """Upload the parts of one run in order; returns why the first failed that did, or an empty text."""
        for part in parts:
            for wait in self._pauses():
                if self.stopped.wait(wait):
                    return "stopped"
                reason = self._attempt(part)
                if not reason:
                    break
            if reason:
                return f"{part.path.parent}: {reason}"
        return ""

    def stop(self) -> None:
        """End all attempts; `sync` returns soon in every thread."""
        self.stopped.set()

    def _pauses(self) -> Iterator[float]:
        yield 0.0
        for i in range(self.retry):
            yield self.pause * 2**i

    def _attempt(self, part: Part) -> str:
        words = [sys.executable, "-m", "wandb", "sync", "--include-synced", str(part.path)]
        # Not in the terminal's group: Ctrl-C is passed on by `stop`, once.
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        began = time.time()
        end = time.monotonic() + self.timeout
        while True:
            try:
                output, _ = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if self.stopped.is_set() or time.monotonic() > end:
                    process.kill()
                    process.communicate()
                    return "stopped" if self.stopped.is_set() else f"not done within {self.timeout:g} s"
        if CUT_SHORT in output:
            # All that a killed process left is uploaded, and there will not be more: runs in progress are left out.
            part.mark.touch()
        if part.mark.exists() and part.mark.stat().st_mtime >= began - 1:
            return ""
        return "; ".join(output.strip().splitlines()[-3:]) or f"wandb sync ended with code {process.returncode}"
