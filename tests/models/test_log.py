"""What a method records with `log` from within observe."""

from __future__ import annotations

import json

import pytest

from models.er import ER
from models.magr import MAGR

LINE = "--model magr --dataset uiprmd --buffer_size 10 --n_tasks 2 --n_epochs 2"


def epochs(run):
    return [record for record in map(json.loads, run.metrics.splitlines()) if record["event"] == "epoch"]


def test_means_of_logged_values_are_recorded_with_the_epoch(launch, monkeypatch):
    observe, given = ER.observe, []

    def logging(self, *args, **kwargs):
        loss = observe(self, *args, **kwargs)
        given.append(loss)
        self.log(doubled=2 * loss)
        if len(given) % 2:
            self.log(rare=float(len(given)))
        return loss

    monkeypatch.setattr(ER, "observe", logging)
    run = launch("--model er --dataset uiprmd --buffer_size 10 --n_tasks 2 --n_epochs 1 --batch_size 20")
    first = epochs(run)[0]
    n_batches = len(given) // 2
    assert first["loss"] == pytest.approx(sum(given[:n_batches]) / n_batches)
    assert first["doubled"] == pytest.approx(2 * first["loss"])
    odd = range(1, n_batches + 1, 2)
    assert first["rare"] == pytest.approx(sum(odd) / len(odd))


def test_magr_records_the_parts_of_its_loss_which_add_up(launch):
    run = launch(LINE + " --lambda_p 0.5 --lambda_r 0.01")
    for record in epochs(run)[2:]:
        parts = record["loss_d"] + 0.5 * record["loss_p"] + record["loss_m"] + 0.01 * record["loss_r"]
        assert record["loss"] == pytest.approx(parts, rel=1e-4)


def test_means_of_logged_values_survive_a_stop_within_the_epoch(launch, identical, monkeypatch):
    straight = launch(LINE + " --checkpoint_every 0")
    observe, count = MAGR.observe, []

    def stopping(self, *args, **kwargs):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return observe(self, *args, **kwargs)

    monkeypatch.setattr(MAGR, "observe", stopping)
    stopped = launch(LINE + " --checkpoint_every 0")
    assert stopped.code == 130
    resumed = launch("", resume=stopped.path)
    assert resumed.code == 0
    assert identical(straight, resumed)


def test_names_that_every_record_has_are_refused(launch, monkeypatch):
    monkeypatch.setattr(ER, "observe", lambda self, *args, **kwargs: self.log(loss=1.0))
    with pytest.raises(ValueError, match="loss is recorded anyway"):
        launch("--model er --dataset uiprmd --buffer_size 10 --n_tasks 2 --n_epochs 1")
