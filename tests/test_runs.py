"""Whole runs: what they leave behind, what they learn, and what they do when something is wrong."""

from __future__ import annotations

import ast
import json
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from utils import metrics
from utils.files import write_text
from utils.registry import ROOT

SHORT = "--model sgd --dataset uiprmd --n_tasks 3 --n_epochs 2"


def records(run):
    return [json.loads(line) for line in run.metrics.splitlines()]


# What a run leaves behind


def test_stored_predictions_give_every_reported_figure_again(launch):
    run = launch(SHORT)
    for session in range(3):
        with np.load(run.path / "predictions" / f"session-{session}.npz") as stored:
            outputs, truth, task = stored["outputs"][:, 0], stored["truth"], stored["task"]
        figures = next(r for r in records(run) if r["event"] == "session" and r["session"] == session)
        seen = task <= session
        assert figures["srcc_pooled"] == pytest.approx(100 * metrics.srcc(outputs[seen], truth[seen]))
        assert figures["mae"] == pytest.approx(metrics.mean_absolute_error(outputs[seen], truth[seen]))
        for k, value in enumerate(figures["srcc"]):
            assert value == pytest.approx(100 * metrics.srcc(outputs[task == k], truth[task == k]))


def test_class_and_task_incremental_accuracies_follow_from_the_stored_logits(launch):
    run = launch("--model sgd --dataset seq-digits --n_epochs 1")
    with np.load(run.path / "predictions" / "session-2.npz") as stored:
        outputs, truth, task = stored["outputs"], stored["truth"], stored["task"]
    figures = next(r for r in records(run) if r["event"] == "session" and r["session"] == 2)
    for k in range(3):
        mine = task == k
        assert figures["class_il"][k] == pytest.approx(100 * np.mean(outputs[mine, :6].argmax(1) == truth[mine]))
        own = 2 * k + outputs[mine, 2 * k : 2 * k + 2].argmax(1)
        assert figures["task_il"][k] == pytest.approx(100 * np.mean(own == truth[mine]))


def test_task_matrix_is_stored_with_the_next_task_measured_before_it_is_learnt(launch):
    run = launch(SHORT)
    lines = (run.path / "R_srcc.csv").read_text().splitlines()
    assert lines[0] == "session,grade 1,grade 2,grade 3"
    filled = [[cell != "" for cell in line.split(",")[1:]] for line in lines[1:]]
    assert filled == [[True, True, False], [True, True, True], [True, True, True]]


def test_run_folder_says_what_ran_where_and_how_it_ended(launch):
    run = launch(SHORT)
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert environment["command"]
    assert run.status["state"] == "finished"
    assert run.summary["parameters"] > 0
    assert run.summary["seconds"] > 0
    assert records(run)[0]["event"] == "split"
    assert sum(task["train"] for task in records(run)[0]["tasks"]) == 135


@pytest.mark.parametrize(
    ("line", "folders"),
    [(SHORT, ["grade-il"]), ("--model sgd --dataset seq-digits --n_tasks 2 --n_epochs 1", ["class-il", "task-il"])],
)
def test_mammoth_logs_are_plain_dicts_one_a_line(launch, tmp_path, line, folders):
    launch(line)
    launch(line + " --seed 1")
    for folder in folders:
        (path,) = (tmp_path / "data" / "results" / folder).rglob("logs.pyd")
        lines = [ast.literal_eval(text) for text in path.read_text().splitlines()]
        assert [entry["seed"] for entry in lines] == [0, 1]
        assert all(isinstance(entry["accmean_task1"], float) for entry in lines)
        assert path.parent.name == "sgd"


def test_stand_in_is_called_by_its_own_name_everywhere(launch, tmp_path, capsys):
    run = launch("--model sgd --dataset aqa7 --base_epochs 1 --n_epochs 0 --n_tasks 2 --width 4")
    assert run.code == 0
    out = capsys.readouterr().out
    assert "sgd on aqa7-mini" in out
    assert "aqa7-mini: rendered dives" in out
    assert run.summary["dataset"] == records(run)[0]["dataset"] == "aqa7-mini"
    assert "dataset: aqa7-mini  # stand-in" in (run.path / "config.yaml").read_text()
    (path,) = (tmp_path / "data" / "results").rglob("logs.pyd")
    assert path.parent.parent.name == "aqa7-mini"
    assert ast.literal_eval(path.read_text())["dataset"] == "aqa7-mini"


def test_stand_in_is_refused_when_the_full_data_is_asked_for(launch, capsys):
    run = launch("--model sgd --dataset aqa7 --data_source full")
    assert run.code == 3
    assert not run.path.exists()
    assert "--data_root" in capsys.readouterr().err


def test_evaluation_within_tasks_is_recorded_and_changes_nothing(launch):
    plain, often = launch(SHORT), launch(SHORT + " --eval_epochs 1")
    extra = [r for r in records(often) if r["event"] == "evaluation"]
    assert [(r["task"], r["epoch"]) for r in extra] == [(t, e) for t in range(3) for e in range(2)]
    assert [r for r in records(often) if r["event"] != "evaluation"] == records(plain)


def test_validation_evaluates_on_held_out_training_samples(launch):
    run = launch(SHORT + " --validation 20")
    assert run.summary["evaluated_on"] == "validation"
    assert [task["test"] for task in records(run)[0]["tasks"]] == [9, 9, 9]
    assert sum(task["train"] for task in records(run)[0]["tasks"]) == 135 - 27


def test_run_stopped_after_a_task_goes_on_as_if_it_had_not_stopped(launch, identical):
    straight, stopped = launch(SHORT), launch(SHORT + " --stop_after 1")
    assert stopped.status["state"] == "stopped"
    resumed = launch("--stop_after 3", resume=stopped.path)
    assert resumed.code == 0
    assert identical(straight, resumed)


def test_kept_weights_start_another_run_behind_the_tasks_they_know(launch):
    first = launch(SHORT + " --savecheck task")
    weights = first.path / "checkpoints" / "task-2.pt"
    second = launch(SHORT + f" --start_from 2 --loadcheck {weights}")
    assert second.code == 0
    sessions = [r for r in records(second) if r["event"] == "session"]
    assert [r["session"] for r in sessions] == [2]
    # The next task begins from the same weights: what they say about it beforehand is the same.
    before = (first.path / "R_srcc.csv").read_text().splitlines()[2].split(",")[3]
    assert second.checkpoint["results"]["untrained"] == []
    third = launch(SHORT + f" --start_from 2 --loadcheck {weights} --n_epochs 0")
    assert (third.path / "R_srcc.csv").read_text().splitlines()[3].split(",")[3] == before


def test_tasks_that_loaded_weights_know_are_not_stored_or_projected_again(launch):
    line = "--model magr --dataset uiprmd --buffer_size 10 --n_epochs 1"
    first = launch(line + " --savecheck task")
    second = launch(line + f" --start_from 2 --loadcheck {first.path / 'checkpoints' / 'task-2.pt'}")
    stored = [run.checkpoint["model"]["buffer.task_labels"].bincount().tolist() for run in (first, second)]
    assert stored == [[10, 10, 10, 10]] * 2


def test_sampling_at_test_time_does_not_change_training(launch):
    line = SHORT + " --score_head gaussian --sample_scores always"
    plain, often = launch(line), launch(line + " --eval_epochs 1")
    assert [r for r in records(often) if r["event"] == "epoch"] == [r for r in records(plain) if r["event"] == "epoch"]


def test_debug_mode_takes_five_batches_a_task(launch, monkeypatch):
    from models.utils.continual_model import ContinualModel

    seen = []
    observe = ContinualModel.meta_observe
    monkeypatch.setattr(ContinualModel, "meta_observe", lambda *a, **k: (seen.append(1), observe(*a, **k))[1])
    assert launch("--model sgd --dataset seq-digits --n_tasks 2 --debug_mode 1").code == 0
    assert len(seen) == 10


# What a run learns, on real data


def test_joint_training_on_rehabilitation_data_ranks_unseen_repetitions(launch):
    run = launch("--model joint --dataset uiprmd")
    assert run.summary["srcc_pooled"] >= 85


def test_replay_and_magr_forget_less_than_fine_tuning_on_rehabilitation_data(launch):
    def mean(line):
        return np.mean([launch(f"{line} --dataset uiprmd --seed {seed}").summary["srcc_pooled"] for seed in range(5)])

    sgd = mean("--model sgd")
    assert mean("--model er --buffer_size 10") > sgd + 10
    assert mean("--model magr --buffer_size 10") > sgd + 10


def test_replay_forgets_less_than_fine_tuning_on_digits_and_joint_bounds_both(launch):
    line = "--dataset seq-digits"
    sgd, joint = launch(f"--model sgd {line}"), launch(f"--model joint {line}")
    er = launch(f"--model er --buffer_size 200 {line}")
    accuracies = [run.summary["class_il_mean"] for run in (sgd, er, joint)]
    assert accuracies[0] < 30 < 75 < accuracies[1] < accuracies[2]
    assert er.summary["task_il_mean"] > 90


def test_surgical_skill_data_is_learnt_better_jointly_than_by_chance(launch, shared_data):
    run = launch(f"--model joint --dataset jigsaws --data_root {shared_data}")
    assert run.code == 0
    assert run.summary["srcc_pooled"] > 40


# What a run does when something is wrong


def test_loss_that_is_not_finite_ends_the_run_with_place_and_remedy(launch, capsys):
    run = launch("--model sgd --dataset seq-digits --lr 1e38 --backbone mlp")
    assert run.code == 4
    message = capsys.readouterr().err
    assert "task 1, epoch 1" in message
    assert "--lr" in message
    assert run.status["state"] == "failed"


def test_sample_that_is_not_finite_is_never_learnt_from(launch, monkeypatch):
    from datasets.uiprmd import UIPRMD

    load = UIPRMD.load_samples

    def broken(self):
        samples = load(self)
        samples.train.data[5] = torch.nan
        return samples

    monkeypatch.setattr(UIPRMD, "load_samples", broken)
    assert launch(SHORT).code == 4


def test_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    from utils.errors import StorageError
    from utils.files import write_atomically

    path = tmp_path / "file"
    write_text(path, "before")

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_disk_full_while_saving_keeps_the_last_checkpoint_and_the_run_goes_on_from_it(launch, identical, tmp_path):
    line = "--model er --dataset uiprmd --n_tasks 3 --n_epochs 2 --buffer_size 400 --buffer_scope total --batch_size 8"
    straight = launch(line + " --checkpoint_every 0")
    limit = (straight.path / "checkpoint.pt").stat().st_size - 1
    path = tmp_path / "limited"
    words = ["main.py", *line.split(), "--checkpoint_every", "0", "--run_dir", str(path), "--non_verbose", "1"]

    def largest_file():
        # The checkpoint grows by the optimiser's second task, R and records; the last ones no longer fit.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, *words, "--base_path", str(tmp_path / "data")],
        cwd=ROOT, capture_output=True, text=True, preexec_fn=largest_file, check=False,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert "cannot write" in done.stderr
    assert not list(path.glob(".*.part"))
    resumed = launch("", resume=path)
    assert resumed.code == 0
    assert identical(straight, resumed)


def test_two_processes_cannot_run_in_one_folder(launch):
    from utils.run import Run

    run = launch(SHORT + " --stop_after 1")
    with Run(run.path).locked():
        words = [sys.executable, "main.py", "--resume", str(run.path)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "another process" in done.stderr


def test_damaged_checkpoint_is_reported_and_not_replaced(launch, capsys):
    run = launch(SHORT + " --stop_after 1")
    path = run.path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert launch("--stop_after 3", resume=run.path).code == 5
    assert str(path) in capsys.readouterr().err
    assert path.stat().st_size == 1000


@pytest.fixture
def image_folder(tmp_path):
    """Ten classes of noise images in the layout of CIFAR-10."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for part, n in (("train", 6), ("test", 2)):
        for label in range(10):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i:04d}.jpg")
    return root


def test_truncated_image_is_named_or_left_out_and_counted(launch, image_folder, capsys):
    path = image_folder / "train" / "class3" / "0002.jpg"
    path.write_bytes(path.read_bytes()[:300])
    line = f"--model sgd --dataset seq-cifar10 --data_root {image_folder} --width 4 --n_epochs 1"
    assert launch(line).code == 3
    message = capsys.readouterr().err
    assert str(path) in message
    assert "--skip_corrupt" in message
    run = launch(line + " --skip_corrupt 1")
    assert run.code == 0
    assert run.summary["skipped_samples"] == 1
    assert str(path) in run.summary["skipped"][0]


def test_class_without_images_is_named(launch, image_folder, capsys):
    for path in (image_folder / "train" / "class7").iterdir():
        path.unlink()
    assert launch(f"--model sgd --dataset seq-cifar10 --data_root {image_folder} --width 4").code == 3
    assert "class7" in capsys.readouterr().err


def test_training_data_of_which_nothing_can_be_read_ends_the_run(launch, monkeypatch, capsys):
    from datasets.utils.sources import TensorSource

    read = TensorSource.read

    def unreadable(self, indices):
        kept = [i for i, index in enumerate(indices) if len(self) < 100 or index % 2]
        return read(self, indices[kept])[0], kept, []

    monkeypatch.setattr(TensorSource, "read", unreadable)
    assert launch(SHORT).code == 0
    monkeypatch.setattr(TensorSource, "read", lambda self, indices: (self.data[:0], [], ["gone"]))
    assert launch(SHORT + " --skip_corrupt 1").code == 3


def test_line_cut_by_a_crash_does_not_swallow_the_next(tmp_path):
    from utils.files import append_line

    path = tmp_path / "logs.pyd"
    path.write_text("{'cut': 1, ")
    append_line(path, "{'b': 2}")
    append_line(path, "{'c': 3}")
    assert path.read_text().splitlines()[1:] == ["{'b': 2}", "{'c': 3}"]


def test_class_that_is_absent_from_the_data_is_named(launch, monkeypatch, capsys):
    from datasets.seq_digits import SequentialDigits

    load = SequentialDigits.load_samples

    def without_threes(self):
        samples = load(self)
        kept = samples.train_targets != 3
        samples.train.data, samples.train_targets = (
            samples.train.data[torch.from_numpy(kept)],
            samples.train_targets[kept],
        )
        return samples

    monkeypatch.setattr(SequentialDigits, "load_samples", without_threes)
    assert launch("--model sgd --dataset seq-digits").code == 3
    assert "class 3" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--optim_nesterov 1 --optimizer sgd", "--device meta", "--lr -1", "--seed -1"])
def test_values_that_cannot_work_are_usage_errors(launch, words):
    assert launch(f"{SHORT} {words}").code == 2


def test_task_without_samples_is_named_with_a_remedy(launch, capsys):
    assert launch("--model sgd --dataset uiprmd --n_tasks 80").code == 3
    message = capsys.readouterr().err
    assert "grade" in message
    assert "--n_tasks" in message
