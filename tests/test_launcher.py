"""The local launcher: what fails stops nothing else, what is stopped goes on to the same bits, nothing runs twice."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from scripts.local_launcher import main
from tests.conftest import Finished, held_elsewhere
from utils.conf import n_cores
from utils.errors import DataError, TrainingError, UsageError
from utils.launching import Launcher
from utils.registry import ROOT
from utils.stored_runs import StoredRun
from utils.sweeps import chosen, read_list

SHORT = "python main.py --model sgd --dataset uiprmd --n_tasks 2 --n_epochs 1"
LONG = "python main.py --model er --dataset uiprmd --buffer_size 10 --n_tasks 2 --n_epochs 40 --checkpoint_every 0.2"
# Two at a time everywhere: the number of threads of a run follows from it, and the bits may follow from the threads.
AT_ONCE = ("--at_once", "2")


def without_threads() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


def start(path: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "scripts/local_launcher.py", str(path), *AT_ONCE, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env=without_threads(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)


def has_begun(folder: Path) -> bool:
    return StoredRun(folder).status.get("state") == "running"


def is_training(folder: Path) -> bool:
    """Whether a run is well under way, and has a checkpoint to go on from."""
    file = folder / "metrics.jsonl"
    return file.exists() and file.read_bytes().count(b"\n") >= 10 and (folder / "checkpoint.pt").exists()


def surviving(folder: Path) -> dict[int, str]:
    """Process -> command line of everything that the repository's scripts still run below a folder."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = file.read_text().replace("\0", " ")
        except OSError:
            continue
        if ("main.py" in text or "local_launcher.py" in text) and str(folder) in text:
            found[int(file.parent.name)] = text
    return found


@pytest.fixture(autouse=True)
def nothing_left_running(tmp_path: Path) -> Iterator[None]:
    """A test that fails half-way leaves no process behind."""
    yield
    for number in surviving(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def n_starts(folder: Path) -> int:
    return sum(text.startswith("--- ") for text in (folder / "log.txt").read_text().splitlines())


@pytest.fixture
def make_list(tmp_path: Path) -> Callable[..., tuple[Path, list[Path]]]:
    """Write a list; returns its path and the folders of its runs."""

    def write(*lines: str) -> tuple[Path, list[Path]]:
        folders = [tmp_path / f"run{number}" for number in range(1, len(lines) + 1)]
        texts = [
            f"{text} --base_path {tmp_path / 'data'} --run_dir {folder}"
            for text, folder in zip(lines, folders, strict=True)
        ]
        (tmp_path / "list.txt").write_text("\n".join(texts))
        return tmp_path / "list.txt", folders

    return write


@dataclass
class Sweep:
    """What a launcher left behind that met runs of every kind."""

    path: Path
    folders: list[Path]
    code: int
    output: str
    reference: Finished


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Sweep:
    """Lines 1 and 2 end well, 3 diverges, 4 does not find its data, 5 is not chosen."""
    place = tmp_path_factory.mktemp("sweep")
    folders = [place / f"run{number}" for number in range(1, 6)]
    lines = [
        LONG,
        f"{SHORT} --seed 1",
        "python main.py --model sgd --dataset seq-digits --backbone mlp --lr 1e38 --n_epochs 1 --n_tasks 2",
        f"python main.py --model sgd --dataset jigsaws --data_root {place / 'nowhere'}",
        f"{SHORT} --seed 2",
    ]
    path = place / "list.txt"
    texts = [
        f"{text} --base_path {place / 'data'} --run_dir {folder}" for text, folder in zip(lines, folders, strict=True)
    ]
    path.write_text("\n".join(texts))
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as environment, contextlib.redirect_stdout(output):
        environment.delenv("OMP_NUM_THREADS", raising=False)
        code = main([str(path), *AT_ONCE, "--retry", "1", "--lines", "1-4"])
    return Sweep(path, folders, code, output.getvalue(), Finished(code, folders[0]))


# What ends by itself


def test_run_that_fails_does_not_stop_the_others(sweep):
    assert sweep.code == 1
    states = [StoredRun(folder).state for folder in sweep.folders[:4]]
    assert states == ["finished", "finished", "failed", "failed"]
    assert "2 of 4 runs finished, 2 failed" in sweep.output


def test_failed_runs_are_listed_with_exit_code_and_the_end_of_their_logs(sweep):
    *_, diverged, absent = sweep.output.split("\nline ")
    assert diverged.startswith(f"3, exit code {TrainingError.exit_code}, log: {sweep.folders[2] / 'log.txt'}")
    assert "the loss is nan" in diverged
    assert absent.startswith(f"4, exit code {DataError.exit_code}, log: {sweep.folders[3] / 'log.txt'}")
    assert "nowhere" in absent
    for folder, shown in ((sweep.folders[2], diverged), (sweep.folders[3], absent)):
        last = [text for text in (folder / "log.txt").read_text().splitlines() if text.strip()][-1]
        assert last in shown


def test_only_what_may_come_out_differently_is_tried_again(sweep):
    assert [n_starts(folder) for folder in sweep.folders[:4]] == [1, 1, 1, 2]


def test_lines_that_are_not_chosen_are_not_started(sweep):
    assert not sweep.folders[4].exists()


def test_runs_share_the_cores_unless_the_environment_says_otherwise(sweep):
    assert StoredRun(sweep.folders[1]).environment["threads"] == max(1, n_cores() // 2)


def test_second_start_of_a_finished_list_starts_nothing(sweep, capsys):
    before = {file: file.stat().st_mtime_ns for folder in sweep.folders[:2] for file in folder.rglob("*")}
    assert main([str(sweep.path), "--lines", "1-2"]) == 0
    assert capsys.readouterr().out.strip() == "2 of 2 runs finished"
    assert {file: file.stat().st_mtime_ns for folder in sweep.folders[:2] for file in folder.rglob("*")} == before


def test_run_that_cannot_even_be_started_does_not_stop_the_others(make_list, capsys, monkeypatch):
    path, (first, second) = make_list(SHORT, f"{SHORT} --seed 1")
    first.parent.joinpath("file").write_text("no folder can be made below this")
    path.write_text(path.read_text().replace(str(first), str(first.parent / "file" / "run")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main([str(path)]) == 1
    output = capsys.readouterr().out
    assert "1 of 2 runs finished, 1 failed" in output
    assert "Not a directory" in output
    assert StoredRun(second).state == "finished"
    assert StoredRun(second).environment["threads"] == 1


def test_gpus_are_shared_out_among_the_runs(make_list, capsys):
    if torch.cuda.is_available():
        pytest.skip("asks for GPUs that are not there")
    path, folders = make_list(SHORT, f"{SHORT} --seed 2 --gpus 7")
    # One at a time for each GPU, as nothing else is said.
    assert main([str(path), "--gpus", "4", "6", "--retry", "1"]) == 1
    assert "0 of 2 runs finished, 2 failed" in capsys.readouterr().out
    logs = [(folder / "log.txt").read_text() for folder in folders]
    commands = [log.partition("\n")[0] for log in logs]
    assert commands[0].endswith("--gpus 4 --non_verbose 1")
    # What the launcher shares out overrides what the line says.
    assert "--gpus 7" in commands[1]
    assert commands[1].endswith("--gpus 6 --non_verbose 1")
    assert ["cuda:4 was asked for" in logs[0], "cuda:6 was asked for" in logs[1]] == [True, True]
    # No GPU is wrong usage: not tried again.
    assert [n_starts(folder) for folder in folders] == [1, 1]


def test_list_with_a_line_that_main_refuses_starts_nothing(make_list, capsys):
    path, folders = make_list(SHORT, f"{SHORT} --sed 1")
    assert main([str(path)]) == UsageError.exit_code
    message = capsys.readouterr().err
    assert "line 2" in message
    assert "--sed" in message
    assert not any(folder.exists() for folder in folders)


@pytest.mark.parametrize("words", [["--lines", "7"], ["--lines", "2-1"], ["--lines", "x"]])
def test_lines_that_are_not_in_the_list_are_wrong_usage(make_list, capsys, words):
    path, folders = make_list(SHORT)
    assert main([str(path), *words]) == UsageError.exit_code
    assert "--lines" in capsys.readouterr().err
    assert not folders[0].exists()


# Other processes in the same folders


def test_run_that_another_process_holds_is_left_alone_and_reported(make_list, sweep, capsys):
    path, (folder,) = make_list(f"{SHORT} --seed 1")
    shutil.copytree(sweep.folders[1], folder)
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "state": "running"}))
    with held_elsewhere(folder):
        before = (folder / "log.txt").read_bytes()
        assert main([str(path)]) == 1
        assert (folder / "log.txt").read_bytes() == before
    output = capsys.readouterr().out
    assert "0 of 1 runs finished, 1 running in another process" in output
    assert f"elsewhere  line 1  {folder}" in output


def test_run_that_another_launcher_finished_in_the_meantime_is_finished(make_list, sweep):
    path, (folder,) = make_list(SHORT)
    launcher = Launcher(read_list(path))
    shutil.copytree(sweep.folders[1], folder)
    (job,) = launcher.run()
    assert (job.outcome, job.attempts) == ("finished", 0)
    assert n_starts(folder) == 1


# Kills and signals


@contextlib.contextmanager
def killing(folder: Path, ready: Callable[[Path], bool]) -> Iterator[None]:
    """Kill the run in a folder as soon as it is ready, while the block is at work."""

    def kill() -> None:
        wait_until(lambda: ready(folder), "the moment to kill")
        os.kill(StoredRun(folder).status["process"], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join()


def test_killed_run_is_started_again_and_ends_with_the_same_bits(make_list, sweep, identical, capsys, monkeypatch):
    path, (folder,) = make_list(LONG)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with killing(folder, is_training):
        assert main([str(path), *AT_ONCE, "--retry", "1"]) == 0
    assert "1 of 1 runs finished" in capsys.readouterr().out
    assert n_starts(folder) == 2
    assert f"--resume {folder}" in (folder / "log.txt").read_text()
    assert identical(Finished(0, folder), sweep.reference)


def test_killed_run_is_a_failure_where_no_retry_is_asked_for(make_list, capsys):
    path, (folder,) = make_list(LONG)
    with killing(folder, has_begun):
        assert main([str(path)]) == 1
    output = capsys.readouterr().out
    assert "0 of 1 runs finished, 1 failed" in output
    assert "exit code -9" in output
    assert n_starts(folder) == 1


def test_ctrl_c_lets_the_runs_write_checkpoints_and_the_second_start_ends_with_the_same_bits(
    make_list, sweep, identical, capsys, monkeypatch
):
    path, folders = make_list(LONG, LONG, SHORT)
    process = start(path)
    wait_until(lambda: all(map(is_training, folders[:2])), "training")
    # The second run is the last to stop: meanwhile the launcher has a free place, and a line that waits.
    second = StoredRun(folders[1]).status["process"]
    os.kill(second, signal.SIGSTOP)
    # As a terminal does: to the launcher and to all that share its session.
    os.killpg(process.pid, signal.SIGINT)
    wait_until(lambda: StoredRun(folders[0]).state == "interrupted", "the first checkpoint")
    time.sleep(0.3)
    assert process.poll() is None
    os.kill(second, signal.SIGCONT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert surviving(path.parent) == {}
    assert [StoredRun(folder).state for folder in folders[:2]] == ["interrupted"] * 2
    assert not folders[2].exists()
    assert "0 of 3 runs finished, 3 interrupted" in output

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert main([str(path), *AT_ONCE, "--lines", "1"]) == 0
    assert "1 of 1 runs to do" in capsys.readouterr().out
    assert identical(Finished(0, folders[0]), sweep.reference)
    assert [line.state for line in read_list(path)] == ["finished", "interrupted", "never started"]
    assert [n_starts(folder) for folder in folders[:2]] == [2, 1]


def test_terminating_signals_are_passed_on_and_told_by_the_exit_code(tmp_path):
    processes, folders = [], []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        path = tmp_path / f"{number.name}.txt"
        path.write_text(f"{LONG} --base_path {tmp_path / 'data'} --run_dir {tmp_path / number.name}")
        processes.append(start(path))
        folders.append(tmp_path / number.name)
    wait_until(lambda: all(map(is_training, folders)), "training")
    processes[0].send_signal(signal.SIGTERM)
    processes[1].send_signal(signal.SIGUSR1)
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [143, 138]
    assert surviving(tmp_path) == {}
    assert [StoredRun(folder).state for folder in folders] == ["interrupted", "interrupted"]
    assert [StoredRun(folder).reason.partition(";")[0] for folder in folders] == [
        "stopped by SIGTERM",
        "stopped by SIGUSR1",
    ]


def test_second_ctrl_c_kills_a_run_that_does_not_stop(make_list):
    path, (folder,) = make_list(LONG)
    process = start(path)
    wait_until(lambda: has_begun(folder), "the start")
    run = StoredRun(folder).status["process"]
    # A stopped process sees no signal but the one that kills.
    os.kill(run, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    assert list(surviving(folder)) == [run]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert surviving(folder) == {}
    assert StoredRun(folder).state == "killed"


def test_signal_that_comes_while_a_run_is_being_started_reaches_it(make_list, monkeypatch):
    class Interrupting(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            os.kill(os.getpid(), signal.SIGINT)

    path, (folder,) = make_list(LONG)
    launcher = Launcher(read_list(path))
    monkeypatch.setattr(subprocess, "Popen", Interrupting)
    (job,) = launcher.run()
    assert job.outcome == "interrupted"
    assert launcher.received == signal.SIGINT
    assert StoredRun(folder).state != "finished"


def test_launcher_gives_the_signals_back(sweep):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    Launcher(chosen(read_list(sweep.path), "1")).run()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_folder_with_a_run_of_other_settings_does_not_pass_for_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    path = tmp_path / "list.txt"
    path.write_text(f"{SHORT} --lr 0.01 --run_dir {run} --base_path {tmp_path}")
    assert main([str(path)]) == 0
    before = (run / "summary.json").read_bytes()
    path.write_text(f"{SHORT} --lr 0.02 --run_dir {run} --base_path {tmp_path}")
    capsys.readouterr()
    assert main([str(path)]) == UsageError.exit_code
    assert "lr 0.01 (now 0.02)" in capsys.readouterr().err
    assert (run / "summary.json").read_bytes() == before
    # Where data lies and how a run is executed may change.
    path.write_text(f"{SHORT} --lr 0.01 --run_dir {run} --base_path {tmp_path / 'elsewhere'} --num_workers 1")
    assert main([str(path)]) == 0
