"""Hyper-parameter search: validation data only, pruning, workers that stop or die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from scripts.search import findings, main
from utils.errors import UsageError
from utils.grids import check_words, read_grid, to_words
from utils.registry import ROOT
from utils.search import open_study, read_search, run_trial, suggest
from utils.stored_runs import find_runs

optuna = pytest.importorskip("optuna")

CONTENT = {
    "values": {"model": "sgd", "dataset": "uiprmd", "n_tasks": 2, "n_epochs": 1, "validation": 25},
    "seeds": [100, 101],
    "space": {"lr": {"from": 0.001, "to": 0.3, "scale": "log"}, "optimizer": ["sgd", "adam"]},
    "figure": "srcc_pooled",
}


@pytest.fixture
def write(tmp_path):
    """Write a search file, changed in some of its parts."""

    def file(**changes):
        content = {**CONTENT, "folder": str(tmp_path / "search"), **changes}
        path = tmp_path / "search.yaml"
        path.write_text(yaml.safe_dump({name: value for name, value in content.items() if value is not None}))
        return path

    return file


def start(path, *words):
    command = [sys.executable, "scripts/search.py", str(path), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def trials(path):
    return open_study(read_search(path)).trials


def without(name):
    return {key: value for key, value in CONTENT["values"].items() if key != name}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": without("validation")}, "validation"),
        ({"space": {"validation": [10, 20]}}, "validation"),
        ({"space": {"seed": [1, 2]}}, "seed"),
        ({"space": {"lrr": [0.1]}}, "--lrr"),
        ({"space": {"lr": [0.1, -1]}}, "lr"),
        ({"space": {"lr": {"from": 1, "to": 0.1}}}, "upwards"),
        ({"space": {"lr": {"from": 0, "to": 1, "scale": "log"}}}, "above 0"),
        ({"space": {"lr": {"from": "low", "to": 1}}}, "numbers"),
        ({"values": {**CONTENT["values"], "n_epochs": [1, 2]}}, "space"),
        ({"figure": None}, "figure"),
        ({"figure": "srcc_poled"}, "srcc_pooled"),
        ({"figure": "class_il_mean"}, "class_il_mean"),
        ({"seeds": ["a"]}, "whole numbers"),
        ({"metric": "mae"}, "metric"),
    ],
)
def test_search_that_makes_no_sense_or_sees_test_data_is_refused_before_anything_runs(
    write, tmp_path, capsys, changes, message
):
    assert main([str(write(**changes)), "--trials", "1"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


def test_runs_judged_on_test_data_are_refused_even_if_their_file_was_changed(write, launch):
    search = read_search(write(seeds=[100]))
    (line,) = search.lines({"lr": 0.1, "optimizer": "sgd"})
    source = launch("--model sgd --dataset uiprmd --n_tasks 2 --n_epochs 1 --lr 0.1")
    line.run_dir.parent.mkdir(parents=True)
    source.path.rename(line.run_dir)
    trial = optuna.trial.FixedTrial({"lr": 0.1, "optimizer": "sgd"})
    with pytest.raises(UsageError, match="not evaluated on validation data"):
        run_trial(search, trial)


@pytest.mark.slow
def test_trials_are_judged_by_their_mean_and_the_best_goes_on_to_other_seeds_and_test_data(write, tmp_path, capsys):
    path = write()
    assert main([str(path), "--trials", "3"]) == 0
    assert "3 trials completed" in capsys.readouterr().out
    done = trials(path)
    search = read_search(path)
    for trial in done:
        runs = [line.run for line in search.lines(trial.params)]
        assert trial.value == pytest.approx(sum(run.summary["srcc_pooled"] for run in runs) / 2)
        assert {run.summary["evaluated_on"] for run in runs} == {"validation"}
        assert len(trial.intermediate_values) == 4
    best = max(done, key=lambda trial: trial.value)
    assert yaml.safe_load((tmp_path / "search" / "best.yaml").read_text()) == best.params
    grid = read_grid(tmp_path / "search" / "final.yaml")
    resolved = [check_words(to_words(options)) for options in grid.runs]
    assert not {args.seed for args in resolved} & {100, 101}
    assert {args.validation for args in resolved} == {None}
    assert {args.lr for args in resolved} == {best.params["lr"]}

    n_runs = len(find_runs([tmp_path / "search"]))
    assert main([str(path), "--trials", "3"]) == 0
    assert len(find_runs([tmp_path / "search"])) == n_runs


def test_option_with_several_values_stays_one_value_after_the_search(write, tmp_path):
    values = {**CONTENT["values"], "lr_scheduler": "multistep", "lr_milestones": [[1, 2]]}
    path = write(values=values, seeds=[100])
    search = read_search(path)
    study = open_study(search)
    trial = study.ask()
    suggest(trial, search.space)
    study.tell(trial, 1.0)
    findings(search, 1)
    grid = read_grid(tmp_path / "search" / "final.yaml")
    assert {tuple(options["lr_milestones"]) for options in grid.runs} == {(1, 2)}
    assert len(grid.runs) == 5


def test_figures_that_are_errors_are_made_small(write):
    assert read_search(write(figure="mae")).direction == "minimize"
    assert read_search(write(figure="srcc_pooled")).direction == "maximize"


def test_trial_that_diverges_is_pruned_and_the_search_goes_on(write, capsys):
    values = {"model": "sgd", "dataset": "seq-digits", "backbone": "mlp", "n_tasks": 2, "n_epochs": 1, "validation": 25}
    path = write(values=values, seeds=[100], space={"lr": [1e38]}, figure="class_il_mean")
    assert main([str(path), "--trials", "1"]) == 0
    assert [trial.state.name for trial in trials(path)] == ["PRUNED"]


def test_unpromising_trial_is_stopped_after_a_task(write, monkeypatch):
    path = write(seeds=[100], values={**CONTENT["values"], "n_tasks": 5, "n_epochs": 20})
    search = read_search(path)
    study = open_study(search)
    for value in (99.0, 98.0, 97.0, 96.0, 95.0):
        trial = study.ask()
        for step in range(5):
            trial.report(value, step)
        study.tell(trial, value)
    with pytest.raises(optuna.TrialPruned, match="after 1 tasks"):
        study.tell(99, run_trial(search, study.ask({})))


@pytest.mark.slow
def test_stopped_and_killed_workers_lose_nothing(write):
    path = write(seeds=[100], values={**CONTENT["values"], "n_epochs": 80}, space={"lr": [0.01, 0.02]})

    def until_a_run_trains(process):
        end = time.monotonic() + 60
        while not any(run.state == "running" and len(run.records) > 3 for run in find_runs([path.parent])):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.1)

    process = start(path, "--trials", "1")
    until_a_run_trains(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    (run,) = find_runs([path.parent])
    assert run.state == "interrupted"

    process = start(path, "--trials", "1")
    until_a_run_trains(process)
    process.kill()
    process.wait()
    assert [trial.state.name for trial in trials(path)][-1] == "RUNNING"

    out, _ = start(path, "--trials", "1", "--workers", "2").communicate(timeout=120)
    assert "1 trials completed" in out
    (run,) = find_runs([path.parent])
    assert run.state == "finished"
    assert [trial.params for trial in trials(path) if trial.state.name == "COMPLETE"] == [trials(path)[0].params]


def test_folder_of_another_search_is_refused(write, capsys):
    open_study(read_search(write()))
    assert main([str(write(figure="mae")), "--status"]) == 2
    assert "other figure" in capsys.readouterr().err
