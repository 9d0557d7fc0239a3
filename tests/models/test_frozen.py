"""The network that learns the first task only."""

from __future__ import annotations

import csv
import json

import torch

LINE = "--dataset uiprmd --n_tasks 3 --n_epochs 2"


def column(run, task):
    with open(run.path / "R_srcc.csv") as file:
        return [row[1 + task] for row in list(csv.reader(file))[1:]]


def test_it_is_fine_tuning_that_stops_after_the_first_task(launch):
    frozen, stopped = launch(f"--model frozen {LINE}"), launch(f"--model sgd {LINE} --stop_after 1")
    nets = [{k: v for k, v in run.checkpoint["model"].items() if k.startswith("net.")} for run in (frozen, stopped)]
    assert nets[0].keys() == nets[1].keys()
    assert all(torch.equal(value, nets[1][name]) for name, value in nets[0].items())


def test_figures_of_a_task_never_change_after_the_first_session(launch):
    run = launch(f"--model frozen {LINE} --fewshot 1")
    assert len(set(column(run, 0))) == 1
    assert len(set(column(run, 1))) == 1
    assert run.summary["srcc_forgetting"] == 0


def test_losses_of_later_tasks_are_recorded(launch):
    run = launch(f"--model frozen {LINE}")
    records = [json.loads(line) for line in run.metrics.splitlines()]
    later = [record["loss"] for record in records if record["event"] == "epoch" and record["task"] == 2]
    assert len(later) == 2
    assert later[0] > 0
