"""Run folders read back: whatever a crash left in them, reading goes on, and says what it could not read."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from main import main
from tests.conftest import held_elsewhere
from utils.errors import DataError, TrainingError
from utils.registry import ROOT
from utils.run import Run
from utils.stored_runs import STATES, StoredRun, differing, find_runs

FILES = (
    "config.yaml",
    "environment.json",
    "status.json",
    "metrics.jsonl",
    "R_srcc.csv",
    "predictions/session-0.npz",
    "predictions/session-1.npz",
    "summary.json",
)
DAMAGES = {
    "removed": None,
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "overwritten with bytes": lambda content: random.Random(0).randbytes(len(content)),
    "overwritten with text": lambda content: b"what {is: [this\n" * 9,
    "overwritten with zeros": lambda content: bytes(len(content)),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a real run of two tasks."""
    place = tmp_path_factory.mktemp("finished")
    words = f"--model sgd --dataset uiprmd --n_tasks 2 --n_epochs 1 --seed 3 --base_path {place} --non_verbose 1"
    assert main([*words.split(), "--run_dir", str(place / "run")]) == 0
    return place / "run"


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def read_everything(run: StoredRun) -> dict[str, Any]:
    """Everything that a run folder can be asked."""
    names = ("state", "reason", "config", "status", "summary", "environment", "records")
    more = ("model", "dataset", "seed", "data", "split", "settings", "problems")
    content = {name: getattr(run, name) for name in (*names, *more)}
    content |= {"matrix": run.matrix("srcc"), "task_names": run.task_names("srcc")}
    return content | {"last": run.predictions(), "first": run.predictions(0)}


# What is whole


def test_finished_run_is_read_back_as_it_was_written(finished):
    run = StoredRun(finished)
    content = read_everything(run)
    assert (run.state, run.reason, run.problems) == ("finished", "", [])
    assert (run.model, run.dataset, run.seed) == ("sgd", "uiprmd", 3)
    assert [record["event"] for record in run.records] == ["split", "epoch", "session", "epoch", "session", "summary"]
    assert content["task_names"] == ["grade 1", "grade 2"]
    assert content["matrix"].shape == (2, 2)
    assert content["matrix"][1].tolist() == pytest.approx(run.records[-1]["srcc"])
    # Five grades' worth of samples, 45 of them for testing; after the last session all are evaluated.
    assert {name: len(values) for name, values in content["last"].items()} == {"outputs": 45, "truth": 45, "task": 45}
    assert Counter(content["last"]["task"].tolist()) == {0: 22, 1: 23}
    assert run.data == run.split["data"] == run.records[0]["data"]


def test_settings_are_what_repetitions_have_in_common(finished):
    found = StoredRun(finished).settings
    assert (found["model"], found["n_tasks"], found["evaluated_on"]) == ("sgd", 2, "test")
    assert found["data"]
    assert not {"seed", "base_path", "non_verbose", "gpus", "run_dir"} & found.keys()


def test_unmeasured_cells_of_the_matrix_are_nan(tmp_path):
    (tmp_path / "R_srcc.csv").write_text("session,a,b\n0,50.5,\n1,25.0,75.0\n")
    matrix = StoredRun(tmp_path).matrix("srcc")
    np.testing.assert_array_equal(matrix, [[50.5, np.nan], [25.0, 75.0]])
    assert StoredRun(tmp_path).matrix("class_il").shape == (0, 0)


def test_last_predictions_are_those_of_the_highest_session_not_of_the_last_name(tmp_path):
    (tmp_path / "predictions").mkdir()
    for session in (0, 2, 9, 10):
        np.savez(tmp_path / "predictions" / f"session-{session}.npz", outputs=np.full(3, session))
    assert StoredRun(tmp_path).predictions()["outputs"].tolist() == [10, 10, 10]
    assert StoredRun(tmp_path).predictions(2)["outputs"].tolist() == [2, 2, 2]


# What is damaged


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damaged_file_never_stops_the_reading_and_is_told_of(copy, name, damage):
    change = DAMAGES[damage]
    if change is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(change((copy / name).read_bytes()))
    # Half a configuration still says which method and which stream.
    half = name == "config.yaml" and damage == "cut"
    expected = {"config.yaml": "broken", "summary.json": "broken", "status.json": "killed"}.get(name, "finished")
    run = StoredRun(copy)
    content = read_everything(run)
    assert run.state == ("finished" if half else expected)
    # "killed" says itself that a status is missing; all else must be named.
    told = [*run.problems, run.reason]
    assert any(Path(name).name in text or Path(name).stem.replace("-", " ") in text for text in told) or (
        name == "status.json" and damage == "removed"
    )
    if run.state == "broken":
        # The reason is the message of what could not be read, where there is one.
        assert Path(name).name in run.reason
        assert not run.problems or run.problems[0] in run.reason
    if name == "R_srcc.csv":
        assert content["matrix"].shape == (0, 0)
    if name == "predictions/session-1.npz":
        assert content["last"] == {}
        assert len(content["first"]["truth"]) == 45
    if name == "metrics.jsonl":
        assert len(content["records"]) <= 3
    # What is not damaged is read all the same.
    if name != "summary.json":
        assert run.summary["session"] == 1
    if name != "config.yaml":
        assert run.seed == 3


@pytest.mark.parametrize("name", [".lock", "checkpoint.pt"])
def test_files_that_hold_no_figures_do_not_matter_to_a_finished_run(copy, name):
    (copy / name).unlink()
    run = StoredRun(copy)
    read_everything(run)
    assert (run.state, run.problems) == ("finished", [])


def test_configuration_cut_after_any_word_can_be_read(copy):
    text = (copy / "config.yaml").read_text()
    cuts = [at for at in range(len(text)) if text[at] in ":\n #"]
    for at, extra in itertools.product(cuts, (0, 1)):
        (copy / "config.yaml").write_text(text[: at + extra])
        run = StoredRun(copy)
        read_everything(run)
        assert run.state in ("broken", "finished")
        assert run.problems or run.reason or text[at + extra - 1] == "\n"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), content=st.one_of(st.binary(max_size=200), st.text(max_size=50).map(str.encode)))
def test_no_content_of_any_file_makes_reading_fail(copy, name, content):
    before = (copy / name).read_bytes()
    (copy / name).write_bytes(content)
    try:
        run = StoredRun(copy)
        read_everything(run)
        assert run.state in STATES
    finally:
        (copy / name).write_bytes(before)


@pytest.mark.parametrize(
    "content",
    ["[]", "3", '"text"', "null", "{}", '{"state": []}', '{"state": {"a": 1}}', '{"state": null}', '{"state": "odd"}'],
)
def test_status_that_says_nothing_sensible_is_a_killed_run(copy, content):
    (copy / "status.json").write_text(content)
    run = StoredRun(copy)
    read_everything(run)
    assert run.state == "killed"


@pytest.mark.parametrize("line", ["3", "[1]", '{"event": "split"}', '{"event": "split", "data": null}', "NaN", '{"a'])
def test_odd_lines_of_metrics_never_stop_the_reading(copy, line):
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(line)
    run = StoredRun(copy)
    read_everything(run)
    assert [record["event"] for record in run.records][:6] == (
        ["split", "epoch", "session", "epoch", "session", "summary"]
    )
    assert bool(run.problems) is (line == '{"a')


@pytest.mark.parametrize("line", ["seed:", "seed: a", "seed: [1]", "seed: 2020-01-01", "n_tasks: 2020-13-45"])
def test_odd_values_of_the_configuration_never_stop_the_reading(copy, line):
    with (copy / "config.yaml").open("a") as file:
        file.write(line + "\n")
    read_everything(StoredRun(copy))


@pytest.mark.parametrize(
    "rows",
    [
        "session,a,b\n0,1.0,2.0\n1,3.0",
        "session,a,b\n0,1.0,2.0\n1,3.0\n",
        "session,a,b\n0,1.0,x\n",
        "session,a,b\n0,1.0,2.0\n1,3.0,4",
    ],
)
def test_matrix_that_is_not_whole_is_no_matrix_and_is_told_of(tmp_path, rows):
    (tmp_path / "R_srcc.csv").write_text(rows)
    run = StoredRun(tmp_path)
    assert run.matrix("srcc").shape == (0, 0)
    assert "R_srcc.csv" in "; ".join(run.problems)


def test_empty_folder_is_a_broken_run_that_says_why(tmp_path):
    run = StoredRun(tmp_path)
    content = read_everything(run)
    assert (run.state, run.model, run.dataset, run.seed) == ("broken", "?", "?", 0)
    assert "config.yaml" in run.reason
    assert (content["last"], content["records"], content["summary"]) == ({}, [], {})


# States


def test_run_is_running_while_its_process_lives_and_killed_after(tmp_path):
    words = f"--model er --dataset uiprmd --buffer_size 10 --n_epochs 1000 --base_path {tmp_path} --run_dir {tmp_path}"
    command = [sys.executable, "main.py", *words.split()]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 60
        while StoredRun(tmp_path).status.get("state") != "running":
            assert time.monotonic() < end
            time.sleep(0.01)
        assert StoredRun(tmp_path).state == "running"
        assert StoredRun(tmp_path).status["process"] == process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    run = StoredRun(tmp_path)
    assert run.status["state"] == "running"
    assert (run.state, run.reason) == ("killed", "")


@pytest.mark.parametrize("state", ["running", "interrupted", "failed", "stopped", None])
def test_run_whose_lock_another_process_holds_is_running_whatever_its_status_says(copy, state):
    (copy / "status.json").unlink()
    if state is not None:
        Run(copy).set_status(state, "as before")
    with held_elsewhere(copy):
        assert StoredRun(copy).state == "running"
    after = {"running": "killed", None: "killed"}.get(state, state)
    assert StoredRun(copy).state == after
    assert StoredRun(copy).reason == ("as before" if state in ("interrupted", "failed") else "")


def test_run_that_was_told_to_stop_is_stopped(launch):
    run = StoredRun(launch("--model sgd --dataset uiprmd --n_tasks 2 --n_epochs 1 --stop_after 1").path)
    read_everything(run)
    assert (run.state, run.reason, run.problems) == ("stopped", "", [])
    assert run.matrix("srcc").shape == (1, 2)


def test_run_that_diverged_has_failed_and_says_why(launch):
    line = "--model sgd --dataset seq-digits --backbone mlp --lr 1e38 --n_epochs 1 --n_tasks 2"
    done = launch(line)
    assert done.code == TrainingError.exit_code
    run = StoredRun(done.path)
    assert run.state == "failed"
    assert run.reason.startswith("TrainingError: the loss is nan")
    assert run.problems == []


# Finding


def make_runs(place: Path, *names: str) -> None:
    for name in names:
        (place / name).mkdir(parents=True)
        (place / name / "config.yaml").write_text("model: sgd\ndataset: uiprmd\n")


def test_runs_are_found_at_any_depth_each_once_in_the_order_of_their_paths(tmp_path, monkeypatch):
    make_runs(tmp_path, "b/run", "a/deep/er/run2", "a/deep/er/run1", "c")
    (tmp_path / "a/empty").mkdir()
    names = ["a/deep/er/run1", "a/deep/er/run2", "b/run", "c"]
    assert [run.path for run in find_runs([tmp_path])] == [tmp_path / name for name in names]
    overlapping = [tmp_path / "c", tmp_path / "a", str(tmp_path), tmp_path / "b/run"]
    assert [run.path for run in find_runs(overlapping)] == [tmp_path / name for name in names]
    monkeypatch.chdir(tmp_path)
    assert len(find_runs([tmp_path, Path("a"), Path()])) == len(names)


@pytest.mark.parametrize("mark", ["config.yaml", "status.json", "log.txt"])
def test_folder_that_a_crash_left_early_is_found(tmp_path, mark):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / mark).write_text("")
    (run,) = find_runs([tmp_path])
    assert run.state == "broken"
    assert run.reason


def test_folders_within_a_run_are_not_runs_of_their_own(tmp_path):
    make_runs(tmp_path, "run", "run/wandb/files")
    assert [run.path for run in find_runs([tmp_path])] == [tmp_path / "run"]


def test_place_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        find_runs([tmp_path, tmp_path / "nowhere"])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        find_runs([tmp_path / "file"])
    assert find_runs([]) == []


def test_settings_that_differ_are_counted_and_those_that_have_no_effect_are_left_out(tmp_path):
    for name, lr, seed, more in (("a", 0.1, 0, ""), ("b", 0.1, 1, "gpus: [0]\n"), ("c", 0.2, 2, "alpha: 1\n")):
        (tmp_path / name).mkdir()
        text = f"model: sgd\ndataset: uiprmd\nlr: {lr}\nseed: {seed}\n{more}"
        (tmp_path / name / "config.yaml").write_text(text)
    (tmp_path / "c" / "metrics.jsonl").write_text(json.dumps({"event": "split", "data": "f00"}) + "\n")
    assert differing(find_runs([tmp_path])) == {
        "lr": Counter({"0.1": 2, "0.2": 1}),
        "alpha": Counter({"absent": 2, "1": 1}),
        "data": Counter({"": 2, "f00": 1}),
    }
    assert differing(find_runs([tmp_path / "a"])) == {}


def test_log_above_runs_does_not_hide_them(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("model: er\ndataset: uiprmd\nseed: 0\n")
    (tmp_path / "log.txt").write_text("what a launcher printed")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "log.txt").write_text("")
    assert [run.path.name for run in find_runs([tmp_path])] == ["a", "b", "half"]
