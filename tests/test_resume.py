"""A process killed at any moment goes on to the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished
from utils.registry import ROOT

RUNS = {
    "magr on movements": "--model magr --dataset uiprmd --buffer_size 10 --n_epochs 12",
    "er on digits": "--model er --dataset seq-digits --buffer_size 50 --n_epochs 8 --lr_scheduler cosine",
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(line: str, error: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """In a process group of its own."""
    words = [sys.executable, "main.py", *line.split(), "--non_verbose", "1"]
    return subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=error, env=ENVIRONMENT, start_new_session=True
    )


def n_records(path: Path) -> int:
    """Lines of metrics.jsonl: how far a run has come, however busy the machine is."""
    file = path / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def kill_and_resume(path: Path, line: str, moment: float, how: signal.Signals) -> tuple[Finished, bool]:
    """Start a run, stop it when it has written `moment` records (its fraction: a moment later), resume it.

    Returns:
        (the resumed run, whether the signal came before its end).
    """
    process = start(f"{line} --run_dir {path}")
    while n_records(path) < int(moment) and process.poll() is None:
        time.sleep(0.002)
    time.sleep((moment % 1) / 10)
    process.send_signal(how)
    process.wait()
    if Finished(0, path).status.get("state") == "finished":
        return Finished(0, path), False
    return Finished(start(f"--resume {path}").wait(), path), True


@pytest.fixture(scope="module", params=RUNS)
def straight(request, tmp_path_factory):
    """(command, result) of a run that is never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    line = f"{RUNS[request.param]} --checkpoint_every 0.1 --base_path {folder / 'data'}"
    assert start(f"{line} --run_dir {folder / 'run'}").wait() == 0
    return line, Finished(0, folder / "run")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda s: s.name)
def test_stopped_run_resumes_to_the_same_bits(straight, identical, tmp_path, how):
    line, expected = straight
    run, in_time = kill_and_resume(tmp_path / "run", line, n_records(expected.path) / 2, how)
    assert in_time
    assert run.code == 0
    assert identical(expected, run)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_signal_to_all_processes_of_a_run_lets_its_readers_finish(tmp_path, identical, how):
    line = f"{RUNS['magr on movements']} --n_tasks 2 --num_workers 1 --base_path {tmp_path / 'data'}"
    assert start(f"{line} --run_dir {tmp_path / 'whole'}").wait() == 0
    process = start(f"{line} --run_dir {tmp_path / 'run'}", subprocess.PIPE)
    while n_records(tmp_path / "run") < 6 and process.poll() is None:
        time.sleep(0.002)
    os.killpg(process.pid, how)
    _, error = process.communicate()
    assert process.returncode == 128 + how
    assert error.decode().count("stopping after this batch") == 1
    assert start(f"--resume {tmp_path / 'run'}").wait() == 0
    assert identical(Finished(0, tmp_path / "whole"), Finished(0, tmp_path / "run"))


@pytest.mark.slow
def test_kills_at_ten_random_moments_all_resume_to_the_same_bits(straight, identical, tmp_path):
    line, expected = straight
    draw = random.Random(0)
    outcomes = []
    for i in range(10):
        path = tmp_path / f"run{i}"
        run, _ = kill_and_resume(path, line, draw.uniform(1, n_records(expected.path) - 2), signal.SIGKILL)
        outcomes.append(run.code == 0 and identical(expected, run))
    assert outcomes == [True] * 10
