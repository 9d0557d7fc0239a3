"""A process killed at any moment goes on to the same bits."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from datasets import get_dataset
from datasets.utils.clips import ClipSource
from datasets.utils.sources import TensorSource
from tests.conftest import Finished
from tests.datasets import trees
from utils.args import parse_args
from utils.registry import ROOT
from utils.stored_runs import StoredRun

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


# Data that breaks while a run is under way


@pytest.fixture
def begun(launch, tmp_path):
    """(a run of three tasks that has done one, options of its stream, a middle frame of a sample of the third)."""
    root = trees.manifest(tmp_path / "videos", 12, 6)
    words = [
        "--model",
        "sgd",
        *trees.options("aqa-manifest", root),
        "--n_tasks",
        "3",
        "--backbone",
        "mlp",
        "--batch_size",
        "3",
    ]
    run = launch("--n_epochs 1 --stop_after 1", *words)
    assert run.code == 0
    dataset = get_dataset(parse_args(words))
    source = dataset.samples.train
    assert isinstance(source, ClipSource)
    return run, words, source.clips[dataset.split.train[2][0]].frames[1]


def stored(run: Finished) -> tuple[bool, bool]:
    config = StoredRun(run.path).config
    return config["skip_corrupt"], config["load_truncated"]


@pytest.mark.parametrize(("option", "n_left_out"), [("skip_corrupt", 1), ("load_truncated", 0)])
def test_a_run_that_met_an_unreadable_frame_goes_on_when_told_how_and_remembers(
    begun, launch, capsys, option, n_left_out
):
    run, _, frame = begun
    frame.write_bytes(frame.read_bytes()[:-20])
    assert launch("", resume=run.path).code == 3
    message = capsys.readouterr().err
    assert str(frame) in message
    assert f"--{option} 1" in message
    assert stored(run) == (False, False)
    begins = (run.path / "config.yaml").read_text()
    assert launch(f"--{option} 1 --stop_after 2", resume=run.path).code == 0
    assert stored(run) == (option == "skip_corrupt", option == "load_truncated")
    assert launch("", resume=run.path).code == 0
    assert stored(run) == (option == "skip_corrupt", option == "load_truncated")
    assert run.summary["skipped_samples"] == n_left_out
    assert run.status["state"] == "finished"
    resumed = StoredRun(run.path).environment["resumed"]
    assert [part.get("turned_on") for part in resumed] == [None, [option], None]
    before, after = (set(text.splitlines()) for text in (begins, (run.path / "config.yaml").read_text()))
    assert (before - after, after - before) == (
        {f"{option}: false  # default"},
        {f"{option}: true  # turned on by --resume"},
    )


def test_a_resumed_run_turns_on_what_deals_with_unreadable_data_and_changes_nothing_else(begun, launch, capsys):
    run, _, _ = begun
    assert launch("--skip_corrupt 0 --load_truncated 1 --stop_after 1", resume=run.path).code == 0
    assert stored(run) == (False, True)
    config = (run.path / "config.yaml").read_bytes()
    capsys.readouterr()
    for words, name in (("--load_truncated 0", "load_truncated"), ("--skip_corrupt 1 --lr 3", "lr")):
        assert launch(words, resume=run.path).code == 2
        message = capsys.readouterr().err
        assert f"error: --{name}: a resumed run keeps its configuration" in message
        assert "skip_corrupt, load_truncated be turned on" in message
    assert (run.path / "config.yaml").read_bytes() == config


def test_a_resumed_run_does_not_go_on_with_fewer_samples_than_it_began_with(begun, launch, capsys):
    run, _, frame = begun
    shutil.rmtree(frame.parent)
    assert launch("--skip_corrupt 1", resume=run.path).code == 3
    message = capsys.readouterr().err
    assert re.search(r"has \d+ training samples, this run began with \d+\. Restore the files", message)
    assert stored(run) == (False, False)


def test_a_resumed_run_notes_that_its_data_is_other_data(launch, monkeypatch, capsys):
    line = "--model sgd --dataset seq-digits --n_tasks 3 --n_epochs 1 --max_samples_per_class 5"
    run = launch(f"{line} --stop_after 1")
    note = "note: the data is not to the last bit what this run began with"
    assert launch("--stop_after 2", resume=run.path).code == 0
    assert note not in capsys.readouterr().err
    monkeypatch.setattr(TensorSource, "fingerprint", lambda self: "other")
    assert launch("", resume=run.path).code == 0
    assert note in capsys.readouterr().err
    assert ["data" in part for part in StoredRun(run.path).environment["resumed"]] == [False, True]


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
