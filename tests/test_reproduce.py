"""Listing runs, comparing two, repeating one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from scripts import reproduce, runs
from utils.errors import run_script
from utils.registry import ROOT
from utils.run import Run, uncommitted_changes
from utils.stored_runs import StoredRun

LINE = "--model er --dataset uiprmd --buffer_size 5 --n_tasks 2 --n_epochs 2"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two finished runs that differ in the seed."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in ("0", "1"):
        place = ["--run_dir", str(folder / f"seed{seed}"), "--base_path", str(folder / "data")]
        words = [sys.executable, "main.py", *LINE.split(), "--seed", seed, *place]
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    return folder / "seed0", folder / "seed1"


def test_repeated_run_is_identical_and_leaves_no_trace_in_the_first_runs_place(finished, tmp_path, capsys):
    before = sorted(finished[0].parent.rglob("*"))
    assert reproduce.main([str(finished[0]), "--out", str(tmp_path / "again")]) == 0
    assert "identical" in capsys.readouterr().out
    assert StoredRun(tmp_path / "again").state == "finished"
    assert sorted(finished[0].parent.rglob("*")) == before


def test_repetition_that_comes_out_different_says_from_where_on_and_in_what(finished, tmp_path, capsys):
    changed = tmp_path / "changed"
    shutil.copytree(finished[0], changed)
    lines = (changed / "metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[2])
    lines[2] = json.dumps({**record, "loss": record["loss"] + 1e-9})
    (changed / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    environment = json.loads((changed / "environment.json").read_text())
    environment["packages"]["torch"] = "1.0"
    (changed / "environment.json").write_text(json.dumps(environment))
    assert reproduce.main([str(changed)]) == 1
    out = capsys.readouterr().out
    assert "record 3 of metrics.jsonl" in out
    assert "loss" in out
    assert "torch" in out


def test_predictions_that_differ_in_one_bit_are_noticed(finished, tmp_path, capsys):
    changed = tmp_path / "changed"
    shutil.copytree(finished[0], changed)
    path = changed / "predictions" / "session-1.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["outputs"][0] = np.nextafter(arrays["outputs"][0], np.float32(9))
    np.savez_compressed(path, **arrays)
    runs.main(["--compare", str(finished[0]), str(changed)])
    assert "predictions after session 1" in capsys.readouterr().out


def test_run_that_has_not_ended_is_not_repeated(launch, capsys):
    assert launch("--model sgd --dataset seq-digits --backbone mlp --lr 1e38").code == 4
    run = launch("--model sgd --dataset seq-digits --backbone mlp --lr 1e38")
    assert reproduce.main([str(run.path)]) == 2
    assert "failed" in capsys.readouterr().err


def test_folder_without_a_run_and_a_run_that_lost_a_file_are_named(finished, tmp_path, capsys):
    assert reproduce.main([str(tmp_path / "absent")]) == 3
    changed = tmp_path / "changed"
    shutil.copytree(finished[0], changed)
    (changed / "predictions" / "session-0.npz").unlink()
    runs.main(["--compare", str(finished[0]), str(changed)])
    assert f"the predictions after session 0, which {changed} lacks" in capsys.readouterr().out


def test_ctrl_c_and_a_reader_that_leaves_end_a_script_without_a_traceback(finished):
    words = [sys.executable, "scripts/runs.py", str(finished[0].parent)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 141

    def stop():
        raise KeyboardInterrupt

    assert run_script(stop) == 130


def test_comparison_names_settings_environment_results_and_where_they_part(finished, capsys):
    assert runs.main(["--compare", *map(str, finished)]) == 0
    out = capsys.readouterr().out
    assert "environment: no difference" in out
    assert next(line.split() for line in out.splitlines() if line.startswith("seed ")) == ["seed", "0", "1"]
    assert "srcc_pooled" in out
    assert "record 2 of metrics.jsonl" in out


def test_comparison_of_a_run_with_itself_finds_nothing(finished, capsys):
    runs.main(["--compare", str(finished[0]), str(finished[0])])
    out = capsys.readouterr().out
    assert "settings: no difference" in out
    assert "results: no difference" in out
    assert "all records and predictions are identical" in out


def test_list_shows_states_figures_and_why_a_run_failed(finished, launch, tmp_path, capsys):
    failed = launch("--model sgd --dataset seq-digits --backbone mlp --lr 1e38")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "log.txt").write_text("")
    assert runs.main([str(finished[0].parent), str(tmp_path)]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith(str(finished[0])))
    assert f"{StoredRun(finished[0]).summary['srcc_pooled']:.2f}" in row
    assert "2/2" in row
    assert f"failed: {failed.path}: TrainingError" in out
    assert f"broken: {tmp_path / 'half'}" in out
    assert "2 finished" in out
    runs.main([str(finished[0].parent), str(tmp_path), "--state", "failed"])
    out = capsys.readouterr().out
    assert str(finished[0]) not in out
    assert "1 of 4 runs shown" in out


def test_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert runs.main(["--compare", str(tmp_path), str(tmp_path)]) == 3
    assert str(tmp_path) in capsys.readouterr().err
    assert runs.main([str(tmp_path / "absent")]) == 3


def test_uncommitted_changes_are_kept_as_a_patch_that_gives_the_code_again(tmp_path, monkeypatch):
    code = tmp_path / "code"
    code.mkdir()

    def git(*words, cwd=code):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *name, *words], cwd=cwd, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (code / "old.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr("utils.run.ROOT", code)
    assert uncommitted_changes() == ""
    (code / "old.py").write_text("x = 2\n")
    (code / "models").mkdir()
    (code / "models" / "mine.py").write_text("y = 3\n")
    (code / "weights.bin").write_bytes(b"0" * 10)
    patch = tmp_path / "changes.diff"
    patch.write_text(uncommitted_changes())
    git("clone", "-q", str(code), str(tmp_path / "again"), cwd=tmp_path)
    git("apply", str(patch), cwd=tmp_path / "again")
    assert (tmp_path / "again" / "old.py").read_text() == "x = 2\n"
    assert (tmp_path / "again" / "models" / "mine.py").read_text() == "y = 3\n"
    assert not (tmp_path / "again" / "weights.bin").exists()


def test_resumption_elsewhere_is_noted(launch, monkeypatch):
    run = launch(LINE + " --stop_after 1")
    monkeypatch.setattr("utils.run.platform.node", lambda: "elsewhere")
    assert launch("", resume=run.path).code == 0
    resumed = StoredRun(run.path).environment["resumed"]
    assert [part["host"] for part in resumed] == ["elsewhere"]
    assert "packages" not in resumed[0]


def test_fingerprint_changes_with_the_data_and_not_with_its_place(launch, tmp_path, monkeypatch):
    from datasets.uiprmd import UIPRMD

    first, second = launch(LINE), launch(LINE + " --seed 5 --n_tasks 3")
    assert StoredRun(first.path).data == StoredRun(second.path).data != ""
    load = UIPRMD.load_samples

    def changed(self):
        samples = load(self)
        samples.train.data[3, 0] += 1e-6
        return samples

    monkeypatch.setattr(UIPRMD, "load_samples", changed)
    assert StoredRun(launch(LINE).path).data != StoredRun(first.path).data


def test_run_folder_without_a_lock_on_disk_is_not_running(launch):
    run = launch(LINE)
    Run(run.path).set_status("running")
    assert StoredRun(run.path).state == "killed"
