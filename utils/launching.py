"""Running a list of commands on this machine, some at a time: what was stopped goes on, what has finished stays."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from tqdm import tqdm

from utils.conf import n_cores
from utils.errors import STOP_SIGNALS, TrainingError, UsageError
from utils.registry import ROOT
from utils.sweeps import Line

# Wrong usage and a loss that is not finite come out the same however often they are tried.
HOPELESS = (UsageError.exit_code, TrainingError.exit_code)
LOG = "log.txt"


@dataclass
class Job:
    """A line and what became of it.

    Attributes:
        outcome: waiting, running, finished, failed, interrupted, or elsewhere (another process runs it).
        attempts: how often it was started by this launcher.
        exit_code: of the last attempt.
        refusal: why the system did not let it start; empty otherwise.
    """

    line: Line
    outcome: str = "waiting"
    attempts: int = 0
    exit_code: int | None = None
    refusal: str = ""

    def log_tail(self, n_lines: int = 5) -> list[str]:
        """The last lines that the run printed, or why it could not be started."""
        if self.refusal:
            return [self.refusal]
        try:
            with open(self.line.run_dir / LOG, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 20_000))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-n_lines:]


@dataclass
class Launcher:
    """Starts the lines in order, `at_once` at a time, each in a process of its own that writes into its folder's log.

    The first Ctrl-C, SIGTERM or SIGUSR1 is passed on to every run, which writes its checkpoint and ends; nothing new is
    started. A second Ctrl-C kills them.

    Args:
        lines: what to run; those that are done already are not touched.
        at_once: runs at a time.
        gpus: GPUs to share out; run number i takes the one with number i modulo their number.
        retry: how often a run that failed is started again, going on from its checkpoint.
    """

    lines: Sequence[Line]
    at_once: int = 1
    gpus: Sequence[int] = ()
    retry: int = 0
    jobs: list[Job] = field(init=False)
    received: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.jobs = [Job(line, "finished" if line.is_done else "waiting") for line in self.lines]
        self.running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}

    def run(self) -> list[Job]:
        """Run everything; returns the jobs with their outcomes."""
        waiting = deque(job for job in self.jobs if job.outcome == "waiting")
        n_done = len(self.jobs) - len(waiting)
        previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        shown = sys.stderr.isatty()
        bar = tqdm(total=len(self.jobs), initial=n_done, unit="run", desc="runs", disable=not shown, smoothing=0)
        try:
            while self.running or (waiting and self.received is None):
                while waiting and len(self.running) < self.at_once and self.received is None:
                    self._start(waiting.popleft())
                for slot, (job, process) in list(self.running.items()):
                    if process.poll() is not None:
                        del self.running[slot]
                        self._judge(job, process.returncode)
                        if job.outcome == "waiting":
                            waiting.appendleft(job)
                        else:
                            bar.update(job.outcome != "interrupted")
                            self._tell(job)
                failed = sum(job.outcome == "failed" for job in self.jobs)
                bar.set_postfix(running=len(self.running), failed=failed, refresh=False)
                time.sleep(0.05)
        finally:
            bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        for job in waiting:
            job.outcome = "interrupted"
        return self.jobs

    def _start(self, job: Job) -> None:
        if job.line.is_done or job.line.state == "running":
            # Another launcher of the same list may have come first.
            job.outcome = "finished" if job.line.is_done else "elsewhere"
            self._tell(job)
            return
        slot = next(i for i in range(self.at_once) if i not in self.running)
        gpu = ["--gpus", str(self.gpus[slot % len(self.gpus)])] if self.gpus else []
        job.attempts += 1
        try:
            process = start(job.line, max(1, n_cores() // self.at_once), gpu)
        except OSError as error:
            job.outcome, job.refusal = "failed", f"cannot be started: {error}"
            self._tell(job)
            return
        self.running[slot] = (job, process)
        job.outcome = "running"
        if self.received is not None:
            # The signal came while the process was being made, and was passed on without it.
            process.send_signal(self.received)

    def _judge(self, job: Job, exit_code: int) -> None:
        job.exit_code = exit_code
        if job.line.is_done:
            job.outcome = "finished"
        elif exit_code and job.line.state == "running":
            # Another launcher of the same list was quicker.
            job.outcome = "elsewhere"
        elif self.received is not None:
            job.outcome = "interrupted"
        elif job.attempts <= self.retry and exit_code not in HOPELESS:
            job.outcome = "waiting"
        else:
            job.outcome = "failed"

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None and number == signal.SIGINT
        self.received = self.received or number
        print("\nkilling the runs" if again else "\nstopping: the runs write their checkpoints ...", file=sys.stderr)
        for _, process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if again else number)

    def _tell(self, job: Job) -> None:
        if job.outcome in ("failed", "elsewhere") or not sys.stderr.isatty():
            tail = f": {job.log_tail(1)[0]}" if job.outcome == "failed" and job.log_tail(1) else ""
            tqdm.write(f"{job.outcome}  line {job.line.number}  {job.line.run_dir}{tail}", file=sys.stdout)


def start(line: Line, n_threads: int, extra: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start the run of a line, or go on with it, as a process that writes into its folder's log.

    It has a session of its own, so that a Ctrl-C in the terminal reaches it only through whoever called this.
    """
    command = [sys.executable, str(ROOT / "main.py"), *line.to_start(), *extra, "--non_verbose", "1"]
    environment = {"OMP_NUM_THREADS": str(n_threads), "PYTHONUNBUFFERED": "1", **os.environ}
    line.run_dir.mkdir(parents=True, exist_ok=True)
    with open(line.run_dir / LOG, "ab") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {shlex.join(command)}\n".encode())
        log.flush()
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        return subprocess.Popen(command, **pipes, env=environment, start_new_session=True)


def summary(jobs: Sequence[Job]) -> str:
    """How many ended how, and for those that failed the last lines of their logs."""
    counts = Counter(job.outcome for job in jobs)
    parts = [f"{counts['finished']} of {len(jobs)} runs finished"]
    parts += [f"{counts[name]} {name}" for name in ("failed", "interrupted") if counts[name]]
    if counts["elsewhere"]:
        parts.append(f"{counts['elsewhere']} running in another process")
    lines = [", ".join(parts)]
    for job in jobs:
        if job.outcome == "failed":
            lines.append(f"\nline {job.line.number}, exit code {job.exit_code}, log: {job.line.run_dir / LOG}")
            lines += [f"    {text}" for text in job.log_tail()]
    return "\n".join(lines)
