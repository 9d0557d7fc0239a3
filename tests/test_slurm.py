"""Job arrays on a real SLURM (tests/slurm.sh starts one): killed, preempted and requeued runs end as all others do."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Finished
from utils.errors import UsageError
from utils.registry import ROOT
from utils.slurm import Resources, batch_script, seconds_of
from utils.stored_runs import StoredRun
from utils.sweeps import read_list

N_RUNS = 6
RUN = "python main.py --model er --dataset uiprmd --buffer_size 10 --n_epochs 250 --data_source full --seed 3"


def call(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def slurm(tmp_path_factory):
    """A SLURM that takes jobs, for one test at a time; whatever it leaves in the queue is cancelled."""
    if shutil.which("sinfo") is None:
        pytest.skip("no SLURM on this machine")
    with (tmp_path_factory.getbasetemp().parent / "slurm.lock").open("wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield from idle_slurm()


def idle_slurm():
    done = subprocess.run(["sinfo", "--noheader", "--format", "%T"], capture_output=True, text=True, check=False)
    if done.returncode or not {"idle", "mixed"} & set(done.stdout.split()):
        pytest.skip("SLURM does not run here; tests/slurm.sh start")
    yield
    subprocess.run(["scancel", "--user", str(os.getuid())], check=False)


@pytest.fixture
def sweep(tmp_path):
    """A list that runs the same experiment six times, so that every run is the reference of every other."""
    folders = [tmp_path / "runs" / f"run{i}" for i in range(N_RUNS)]
    path = tmp_path / "list.txt"
    place = f"--checkpoint_every 0.5 --base_path {tmp_path / 'data'}"
    path.write_text("\n".join(f"{RUN} {place} --run_dir {folder}" for folder in folders))
    return path, [StoredRun(folder) for folder in folders]


def has_come(run: StoredRun, n_records: int) -> bool:
    file = run.path / "metrics.jsonl"
    return file.exists() and file.read_bytes().count(b"\n") >= n_records and (run.path / "checkpoint.pt").exists()


@pytest.mark.slurm
@pytest.mark.slow
def test_array_with_a_killed_and_two_requeued_runs_ends_with_the_same_bits_everywhere(slurm, sweep, identical):
    path, runs = sweep
    sbatcher = (sys.executable, "scripts/slurm_sbatcher.py", path)
    call(*sbatcher, "--max_at_once", 2, "--cpus", 1, "--time", "20:00")
    job = call("squeue", "--noheader", "--format", "%F").split()[0]

    wait_until(lambda: has_come(runs[0], 100) and has_come(runs[1], 100), 90, "training of the first two runs")
    assert call(*sbatcher, "--status") == "     2  running\n     4  queued\n"
    os.kill(StoredRun(runs[0].path).status["process"], signal.SIGKILL)
    # What SLURM sends to the batch shell before the time limit.
    with subprocess.Popen(["scancel", "--batch", "--signal=USR1", f"{job}_1"], stderr=subprocess.DEVNULL) as scancel:
        wait_until(lambda: StoredRun(runs[1].path).state == "interrupted", 30, "the checkpoint of the second run")
        # It would send the signal once more after the restart.
        scancel.kill()
    wait_until(lambda: has_come(runs[2], 100), 90, "training of the third run")
    # What SLURM does with a preempted job.
    call("scontrol", "requeue", f"{job}_2")

    hurried = set()

    def finished():
        for text in call("squeue", "--noheader", "--array", "--format", "%i %r").splitlines():
            name, reason = text.split(maxsplit=1)
            if reason == "BeginTime" and name not in hurried:
                # SLURM holds requeued jobs back for two minutes.
                call("scontrol", "update", f"JobId={name}", "StartTime=now")
                hurried.add(name)
        time.sleep(0.5)
        return all(StoredRun(run.path).state == "finished" for run in runs)

    wait_until(finished, 300, "the end of all runs")
    reference = Finished(0, runs[5].path)
    assert [identical(Finished(0, run.path), reference) for run in runs] == [True] * N_RUNS
    starts = [(run.path / "log.txt").read_text().count("main.py") for run in runs]
    assert starts == [2, 2, 2, 1, 1, 1]
    outputs = {file.stem: file.read_text() for file in path.with_suffix(".slurm").rglob("*.out")}
    assert ["restart 1" in outputs[str(i)] for i in range(N_RUNS)] == [False, True, True, False, False, False]

    wait_until(lambda: not call("squeue", "--noheader"), 30, "an empty queue")
    assert call(*sbatcher, "--status") == "     6  finished\n"
    assert "nothing to submit" in call(*sbatcher)


@pytest.mark.slurm
def test_submitting_again_leaves_out_what_waits_in_the_queue(slurm, sweep):
    path, _ = sweep
    sbatcher = (sys.executable, "scripts/slurm_sbatcher.py", path)
    call(*sbatcher, "--extra=--hold")
    assert "     6  queued" in call(*sbatcher, "--status")
    assert "nothing to submit" in call(*sbatcher)


@pytest.mark.slurm
def test_what_sbatch_refuses_is_said_and_nothing_is_left_in_the_queue(slurm, sweep):
    path, _ = sweep
    words = [sys.executable, "scripts/slurm_sbatcher.py", str(path), "--partition", "nowhere"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == UsageError.exit_code
    assert "nowhere" in done.stderr or "partition" in done.stderr
    assert call("squeue", "--noheader") == ""
    assert [line.state for line in read_list(path)] == ["never started"] * N_RUNS


def test_dry_run_shows_the_script_and_writes_nothing(sweep, tmp_path):
    path, _ = sweep
    before = sorted(tmp_path.rglob("*"))
    resources = ["--partition", "gpu", "--gpus", 2, "--cpus", 8, "--memory", "16G", "--time", "4:00:00"]
    more = ["--max_at_once", 3, "--per_job", 4, "--setup", "module load cuda", "--extra=--constraint=a100"]
    script = call(sys.executable, "scripts/slurm_sbatcher.py", path, "--dry_run", *resources, *more)
    assert sorted(tmp_path.rglob("*")) == before
    lines = script.splitlines()
    for option in ("array=0-1%3", "partition=gpu", "gres=gpu:2", "cpus-per-task=8", "mem=16G", "time=4:00:00"):
        assert f"#SBATCH --{option}" in lines
    assert "#SBATCH --constraint=a100" in lines
    assert lines.index("module load cuda") < lines.index("lines=([0]=1-4 [1]=5-6)")
    assert "export OMP_NUM_THREADS=4" in lines
    assert any(line.startswith("python ") and "--at_once 2 --retry 1 --gpus 0 1" in line for line in lines)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.slurm
def test_what_waits_in_the_queue_is_known_by_its_run_when_the_list_has_changed(slurm, sweep):
    path, _ = sweep
    sbatcher = (sys.executable, "scripts/slurm_sbatcher.py", path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:2]))
    call(*sbatcher, "--extra=--hold")
    path.write_text("\n".join(reversed(lines)))
    assert call(*sbatcher, "--status") == "     2  queued\n     4  never started\n"
    assert "4 of 6 runs in 4 jobs" in call(*sbatcher, "--extra=--hold")
    assert call(*sbatcher, "--status") == "     6  queued\n"


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("30", 1800), ("1:30", 90), ("4:00:00", 14400), ("2-12", 216000), ("2-12:30", 217800), ("1-0:0:5", 86405)],
)
def test_time_limits_are_read_as_slurm_does(limit, seconds):
    assert seconds_of(limit) == seconds


@pytest.mark.parametrize("limit", ["2:00", "soon"])
def test_limit_that_leaves_no_time_for_work_is_refused(sweep, limit):
    words = [sys.executable, "scripts/slurm_sbatcher.py", str(sweep[0]), "--dry_run", "--time", limit]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == UsageError.exit_code
    assert f"--time {limit}" in done.stderr


def test_percent_signs_in_a_path_are_no_placeholders(tmp_path):
    text = batch_script({0: "1"}, tmp_path / "50%a", tmp_path, Resources(name="x", python="python"))
    assert f"--output={tmp_path}/50%%a/%a.out" in text


def test_list_with_a_flag_that_main_refuses_is_not_submitted(sweep, tmp_path, monkeypatch):
    path, _ = sweep
    path.write_text(path.read_text().replace("--seed 3", "--sed 3", 1))
    stand_in = tmp_path / "bin" / "sbatch"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\ntouch {tmp_path / 'submitted'}\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    words = [sys.executable, "scripts/slurm_sbatcher.py", str(path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == UsageError.exit_code
    assert "line 1" in done.stderr
    assert "--sed" in done.stderr
    assert not (tmp_path / "submitted").exists()
    assert not Path(path.with_suffix(".slurm")).exists()
