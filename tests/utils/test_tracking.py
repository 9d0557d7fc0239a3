"""What wandb and TensorBoard see of a run, read back from what they wrote; and that they never get in its way."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Finished
from tests.wandb_server import Server, environment, logged_values, read_records, silent_server
from utils import tracking, wandb_offline
from utils.callbacks import Callback
from utils.errors import DataError, Interrupted
from utils.metrics import srcc
from utils.registry import ROOT
from utils.stored_runs import StoredRun

wandb = pytest.importorskip("wandb")
pytest.importorskip("tensorboard")

# Two batches an epoch, ten a task.
LINE = "--model magr --dataset uiprmd --buffer_size 10 --n_epochs 5 --n_tasks 3 --batch_size 23"
TRACKED = f"{LINE} --wandb_project caqa"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No key, no server, nothing of wandb's outside the test's folder; wandb reads its environment anew."""
    wandb.teardown()
    for name, value in environment(tmp_path / "wandb").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setattr(wandb_offline, "SERVER_SECONDS", 1.0)
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = Server()
    for name, value in environment(tmp_path / "wandb", server.url).items():
        monkeypatch.setenv(name, value)
    yield server
    server.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same run without tracking."""
    from main import main

    path = tmp_path_factory.mktemp("plain")
    words = ["--run_dir", str(path / "run"), "--base_path", str(path), "--non_verbose", "1"]
    return Finished(main([*LINE.split(), *words]), path / "run")


def parts(run: Finished) -> list[list]:
    """Records of every part of a run, in order of time."""
    return [read_records(path) for path in sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))]


def of_kind(records: list, kind: str) -> list:
    return [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]


def column(rows: list[dict], name: str) -> list[tuple[int, float]]:
    return [(row["batch"], row[name]) for row in rows if name in row]


def read_events(path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def scalars(events, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(name)]


def epochs(run: Finished) -> list[dict]:
    return [record for record in StoredRun(run.path).records if record["event"] == "epoch"]


# What is logged


@pytest.fixture
def tracked(launch, plain, identical, capfd):
    """A run with both trackers."""
    run = launch(f"{TRACKED} --tensorboard True --wandb_entity team")
    assert run.code == 0
    assert not capfd.readouterr().err
    assert identical(plain, run)
    return run


def test_wandb_has_what_the_run_folder_has_and_results_are_the_same_to_the_bit(tracked):
    (records,) = parts(tracked)
    (run,) = of_kind(records, "run")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    stored = StoredRun(tracked.path)
    assert run.run_id == json.loads((tracked.path / "wandb.json").read_text())["id"]
    assert (run.project, run.entity, run.run_group, run.job_type) == ("caqa", "team", "magr-uiprmd", "train")
    assert run.display_name == tracked.path.name
    assert list(run.tags) == ["uiprmd", "magr", "grade-il"]
    assert (config["buffer_size"], config["seed"], config["lr"]) == (10, 0, stored.config["lr"])
    assert config["environment"] == stored.environment
    assert [end.exit_code for end in of_kind(records, "exit")] == [0]
    metrics = {(metric.name or metric.glob_name): metric.step_metric for metric in of_kind(records, "metric")}
    assert metrics == {"batch": "", "*": "batch"}

    rows = logged_values(records)
    losses = [record["loss"] for record in epochs(tracked)]
    assert column(rows, "epoch/loss") == [(2 * (i + 1), loss) for i, loss in enumerate(losses)]
    assert column(rows, "epoch/loss_d") == [(2 * (i + 1), r["loss_d"]) for i, r in enumerate(epochs(tracked))]
    means = [(10 * (i + 1), float(np.mean(losses[5 * i : 5 * i + 5]))) for i in range(3)]
    assert column(rows, "batch/loss") == [(step, pytest.approx(mean)) for step, mean in means]

    sessions = [record for record in stored.records if record["event"] == "session"]
    assert column(rows, "session/srcc_pooled") == [(10 * (i + 1), s["srcc_pooled"]) for i, s in enumerate(sessions)]
    names = stored.task_names("srcc")
    matrix = stored.matrix("srcc")
    for k, name in enumerate(names):
        assert column(rows, f"srcc/{name}") == [(10 * (i + 1), matrix[i, k]) for i in range(k, 3)]

    updates = [update for record in of_kind(records, "summary") for update in record.update if update.key]
    summary = {update.key: json.loads(update.value_json) for update in updates}
    for name in ("srcc_pooled", "srcc_forgetting", "srcc_fwt", "mae"):
        assert summary[name] == tracked.summary[name]


def test_wandb_gets_the_task_matrix_as_table_and_images_that_can_be_opened(tracked):
    (files,) = (tracked.path / "wandb").glob("offline-run-*/files")
    rows = logged_values(parts(tracked)[0])
    stored = StoredRun(tracked.path)
    tables = [row["R_srcc/path"] for row in rows if "R_srcc/path" in row]
    content = json.loads((files / tables[-1]).read_text())
    assert content["columns"] == ["session", *stored.task_names("srcc")]
    table = np.array([[math.nan if cell is None else cell for cell in row[1:]] for row in content["data"]])
    np.testing.assert_array_equal(table, stored.matrix("srcc"))
    assert len(tables) == 3
    for name in ("matrix/srcc", "predictions"):
        images = [row[f"{name}/path"] for row in rows if f"{name}/path" in row]
        assert len(images) == 3
        pixels = np.asarray(Image.open(files / images[-1]))
        assert min(pixels.shape[:2]) > 100
        assert len(np.unique(pixels)) > 10
    assert not of_kind(parts(tracked)[0], "artifact")


def test_tensorboard_has_the_same_numbers(tracked):
    events = read_events(tracked.path)
    rows = logged_values(parts(tracked)[0])
    for name in ("batch/loss", "batch/learning_rate", "epoch/loss", "session/srcc_pooled", "srcc/grade 1"):
        assert scalars(events, name) == [(step, pytest.approx(value)) for step, value in column(rows, name)]
    assert scalars(events, "summary/srcc_pooled")[0][1] == pytest.approx(tracked.summary["srcc_pooled"])
    assert [event.step for event in events.Images("matrix/srcc")] == [10, 20, 30]
    assert [event.step for event in events.Images("predictions")] == [10, 20, 30]
    assert b"buffer_size" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_class_streams_log_both_matrices_and_the_learning_rate_of_the_schedule(launch):
    run = launch(
        "--model sgd --dataset seq-digits --n_epochs 3 --lr 0.1 --lr_scheduler multistep --lr_milestones 1 2 "
        "--stop_after 1 --wandb_project caqa --wandb_name mine --batch_size 29 --debug_mode 0"
    )
    rows = logged_values(parts(run)[0])
    assert {"R_class_il/path", "R_task_il/path", "matrix/class_il/path", "matrix/task_il/path"} <= set().union(*rows)
    assert "predictions/path" not in set().union(*rows)
    # Ten batches an epoch: one value each.
    assert [rate for _, rate in column(rows, "batch/learning_rate")] == pytest.approx([0.1, 0.01, 0.001])
    assert of_kind(parts(run)[0], "run")[0].display_name == "mine"


def test_scatter_shows_the_tasks_seen_and_their_pooled_figure(launch, monkeypatch):
    from utils import figures

    shown = []

    def spy(predicted, truth, task, names, title):
        shown.append((sorted(set(task.tolist())), 100 * srcc(predicted, truth)))
        return draw(predicted, truth, task, names, title)

    draw = figures.scatter_figure
    monkeypatch.setattr(figures, "scatter_figure", spy)
    run = launch(f"{LINE} --tensorboard True --stop_after 2")
    pooled = [r["srcc_pooled"] for r in StoredRun(run.path).records if r["event"] == "session"]
    assert shown == [([0], pytest.approx(pooled[0])), ([0, 1], pytest.approx(pooled[1]))]


def test_a_stand_in_is_tagged_as_one(launch, monkeypatch):
    from datasets import get_dataset_class

    monkeypatch.setattr(get_dataset_class("uiprmd"), "IS_STAND_IN", True)
    run = launch(f"{TRACKED} --stop_after 1")
    assert "stand-in" in of_kind(parts(run)[0], "run")[0].tags


@pytest.mark.parametrize("flags", ["--wandb_mode disabled", "--nowand True"])
def test_switched_off_means_no_trace(launch, flags):
    run = launch(f"{TRACKED} --stop_after 1 {flags}")
    assert run.code == 0
    assert not list(run.path.glob("wandb*"))


# Resuming


def test_crash_in_a_task_is_repeated_without_being_drawn_twice_in_the_same_wandb_run(
    launch, plain, identical, monkeypatch
):
    from models.magr import MAGR

    observe = MAGR.observe

    def failing(self, *batch, **more):
        # Batch 15 is in the middle of the second task, five batches after the checkpoint.
        if self.current_task == 1 and self.task_iteration == 5:
            raise RuntimeError("crash")
        return observe(self, *batch, **more)

    monkeypatch.setattr(MAGR, "observe", failing)
    path = launch(f"{TRACKED} --tensorboard True --stop_after 1").path
    with pytest.raises(RuntimeError, match="crash"):
        launch("", resume=path)
    monkeypatch.setattr(MAGR, "observe", observe)
    time.sleep(1)
    run = launch("", resume=path)
    assert run.code == 0
    assert identical(plain, run)

    found = parts(run)
    assert len({of_kind(records, "run")[0].run_id for records in found}) == 1
    assert [of_kind(records, "exit")[0].exit_code for records in found] == [0, 1, 0]
    assert [step for records in found for step, _ in column(logged_values(records), "epoch/loss")] == [
        *range(2, 11, 2),  # the first task
        *(12, 14),  # up to the crash
        *range(12, 31, 2),  # from the checkpoint on
    ]
    # The values of batch 11 to 15, too few for a mean of ten, are not lost.
    assert [step for step, _ in column(logged_values(found[1]), "batch/loss")] == [15]
    events = read_events(run.path)
    assert [step for step, _ in scalars(events, "epoch/loss")] == list(range(2, 31, 2))
    assert [step for step, _ in scalars(events, "batch/loss")] == [10, 20, 30]
    assert [step for step, _ in scalars(events, "session/srcc_pooled")] == [10, 20, 30]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_still_writes_a_checkpoint_closes_the_wandb_run_and_resumes_in_it(tmp_path, number, code):
    line = "--model er --dataset seq-digits --buffer_size 50 --n_epochs 8 --stop_after 2 --wandb_project caqa"
    path = tmp_path / "run"
    words = [sys.executable, "main.py", *line.split(), "--run_dir", str(path), "--non_verbose", "1"]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics = path / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") > 3):
        time.sleep(0.01)
    # As a terminal and a batch system do: to the whole group.
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    run = Finished(process.returncode, path)
    assert run.code == code
    assert "continue with: --resume" in errors
    assert "wandb" not in errors
    assert run.status["state"] == "interrupted"
    reached = run.checkpoint["position"]["step"]
    (records,) = parts(run)
    assert of_kind(records, "exit")[0].exit_code == code
    assert len(of_kind(records, "preempting")) == (number == signal.SIGTERM)
    assert column(logged_values(records), "batch/loss")[-1][0] == reached

    time.sleep(1)
    from main import main

    assert main(["--resume", str(path), "--stop_after", "1", "--non_verbose", "1"]) == 0
    first, second = parts(run)
    assert of_kind(first, "run")[0].run_id == of_kind(second, "run")[0].run_id
    assert column(logged_values(second), "epoch/loss")[0][0] >= reached
    assert column(logged_values(second), "batch/loss")[0][0] > reached


def test_id_is_made_once_and_moves_with_the_folder(tmp_path):
    first = tracking.run_id(tmp_path, "a", None)
    assert tracking.run_id(tmp_path, "a", None) == first
    assert tracking.run_id(tmp_path, "b", "team") == first
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": first, "project": "b", "entity": "team"}
    assert tracking.run_id(tmp_path / "other", "a", None) != first


# Online


def test_online_run_arrives_at_the_server(launch, server):
    run = launch(f"{TRACKED} --wandb_mode online --stop_after 2")
    assert run.code == 0
    (arrived,) = server.runs.values()
    assert (arrived["groupName"], arrived["displayName"]) == ("magr-uiprmd", run.path.name)
    assert arrived["ends"] == [0]
    rows = [arrived["history"][i] for i in sorted(arrived["history"])]
    assert [row["epoch/loss"] for row in rows if "epoch/loss" in row] == [e["loss"] for e in epochs(run)]
    assert {Path(name).suffix for name in server.files if name.startswith("media/")} == {".png", ".json"}


def test_online_without_a_key_goes_offline_without_a_question(launch, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "")
    run = launch(f"{TRACKED} --wandb_mode online --stop_after 1")
    assert run.code == 0
    assert len(parts(run)) == 1
    (message,) = [line for line in capfd.readouterr().err.splitlines() if "wandb" in line]
    assert "wandb goes offline: no key" in message
    assert "wandb login" in message


def test_key_is_found_wherever_wandb_looks(monkeypatch, tmp_path):
    def found():
        wandb.teardown()
        return wandb_offline.has_key(wandb.setup().settings)

    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not found()
    netrc = tmp_path / "wandb" / "netrc"
    netrc.write_text("machine elsewhere.org login user password x\n")
    assert not found()
    netrc.write_text(f"machine wandb.example.org login user password {'k' * 40}\n")
    assert found()
    netrc.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert found()


def test_server_behind_a_proxy_is_found_through_it(server, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.invalid")
    assert not wandb_offline.answers(wandb.setup().settings)
    monkeypatch.setenv("http_proxy", server.url)
    assert wandb_offline.answers(wandb.setup().settings)


@pytest.mark.parametrize("answer", ["refused", "silent"])
def test_online_without_a_network_goes_offline_within_seconds(launch, capfd, monkeypatch, answer):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with silent_server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url if answer == "silent" else "http://127.0.0.1:9")
        began = time.monotonic()
        run = launch(f"{TRACKED} --wandb_mode online --stop_after 1")
    assert time.monotonic() - began < 15
    assert run.code == 0
    assert len(parts(run)) == 1
    assert "wandb goes offline: no answer from" in capfd.readouterr().err


@pytest.mark.parametrize("fault", ["refused by the server", "no key of W&B's form"])
def test_wrong_key_goes_offline(launch, server, capfd, monkeypatch, fault):
    if fault == "refused by the server":
        server.refuse = 401
    else:
        monkeypatch.setenv("WANDB_API_KEY", "short")
    run = launch(f"{TRACKED} --wandb_mode online --stop_after 1")
    assert run.code == 0
    (records,) = parts(run)
    assert [end.exit_code for end in of_kind(records, "exit")] == [0]
    assert "wandb goes offline: " in capfd.readouterr().err


def test_network_that_dies_in_the_middle_holds_nothing_up(launch, server, capfd, monkeypatch, plain, identical):
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 2)

    class Dies(Callback):
        def on_task_begin(self, loop):
            server.silent.set()

    import main

    callbacks = main.optional_callbacks
    monkeypatch.setattr(main, "optional_callbacks", lambda args, run: [*callbacks(args, run), Dies()])
    began = time.monotonic()
    run = launch(f"{TRACKED} --wandb_mode online")
    assert time.monotonic() - began < 20
    assert run.code == 0
    assert identical(plain, run)
    assert "wandb sync --include-online" in capfd.readouterr().err


# Faults


def test_first_exception_switches_one_writer_off_and_nothing_else(launch, capfd, monkeypatch, plain, identical):
    calls = []

    def failing(self, values, step):
        calls.append(step)
        raise OSError("disk full")

    monkeypatch.setattr(tracking.WandbWriter, "scalars", failing)
    run = launch(f"{TRACKED} --tensorboard True")
    assert run.code == 0
    assert identical(plain, run)
    assert calls == [2]
    assert capfd.readouterr().err.count("wandb is switched off, training is not affected: OSError: disk full") == 1
    assert len(scalars(read_events(run.path), "epoch/loss")) == 15


def test_without_wandb_the_run_goes_on_and_names_the_package(launch, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = launch(f"{TRACKED} --stop_after 1")
    assert run.code == 0
    assert "pip install wandb" in capfd.readouterr().err


def test_without_matplotlib_only_the_images_are_missing(launch, capfd, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = launch(f"{TRACKED} --stop_after 2")
    assert run.code == 0
    assert capfd.readouterr().err.count("pip install -r requirements-sweeps.txt") == 1
    names = set().union(*logged_values(parts(run)[0]))
    assert {"R_srcc/path", "session/srcc_pooled"} <= names
    assert "matrix/srcc/path" not in names


def test_without_tensorboard_the_run_is_refused_before_training(launch, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    run = launch(f"{LINE} --tensorboard True")
    assert run.code == 2
    assert "requirements-sweeps.txt" in capfd.readouterr().err
    assert not (run.path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (DataError(""), 3), (Interrupted("", 15), 143), (KeyboardInterrupt(), 130), (ValueError(), 1)],
)
def test_exit_code_is_that_of_the_process(error, code):
    assert tracking.exit_code(error) == code


def test_undefined_figures_are_left_out_and_lists_spread_over_tasks():
    figures = {"session": 1, "srcc": [50.0, math.nan], "mae": 0.5, "bwt": math.nan, "note": "text"}
    assert tracking.flat(figures, ["a", "b", "c"], "session/") == {
        "session/session": 1.0,
        "srcc/a": 50.0,
        "session/mae": 0.5,
    }
