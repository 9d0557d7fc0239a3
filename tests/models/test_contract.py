"""What every registered method must do, on every setting it declares."""

from __future__ import annotations

import os
import signal

import pytest

from datasets.utils.continual_dataset import SETTINGS
from models import get_model_class, get_model_names
from models.utils.continual_model import ContinualModel

STREAMS = {
    "class-il": "--dataset seq-digits --n_tasks 2 --n_epochs 2 --max_samples_per_class 20",
    "task-il": "--dataset seq-digits --n_tasks 2 --n_epochs 2 --max_samples_per_class 20 --permute_classes 1",
    "grade-il": "--dataset uiprmd --n_tasks 3 --n_epochs 2",
    "group-il": "--dataset uiprmd --tasks_by group --n_epochs 2",
}
# What a method cannot do without; options that all its kind share.
REQUIRED = {"buffer_size": "6"}


def command(model: str, setting: str) -> str:
    """A short run of a method in a setting."""
    import argparse

    parser = get_model_class(model).get_parser(argparse.ArgumentParser())
    needed = [action.dest for action in parser._actions if action.required]
    return " ".join(["--model", model, STREAMS[setting], *(f"--{name} {REQUIRED[name]}" for name in needed)])


CASES = [
    (model, setting)
    for model in get_model_names()
    for setting in get_model_class(model).COMPATIBILITY
    if setting in STREAMS
]


@pytest.mark.parametrize("model", get_model_names())
def test_method_declares_a_name_known_settings_and_its_own_observe(model):
    cls = get_model_class(model)
    assert model == cls.NAME
    assert cls.COMPATIBILITY
    assert set(cls.COMPATIBILITY) <= set(SETTINGS)
    assert cls.observe is not ContinualModel.observe
    assert cls.__doc__


@pytest.mark.parametrize(("model", "setting"), CASES)
def test_two_runs_with_one_seed_are_identical_and_another_seed_differs(launch, identical, model, setting):
    line = command(model, setting)
    first, second, other = launch(line), launch(line), launch(line + " --seed 1")
    assert first.code == second.code == other.code == 0
    assert identical(first, second)
    assert first.metrics != other.metrics


@pytest.mark.parametrize(("model", "setting"), CASES)
@pytest.mark.parametrize("at", [1, 5, 9])
def test_run_stopped_after_a_batch_and_resumed_is_identical(launch, identical, monkeypatch, model, setting, at):
    line = command(model, setting) + " --batch_size 8"
    straight = launch(line)
    observe, calls = ContinualModel.meta_observe, iter(range(10**9))

    def observe_then_signal(self, *args, **kwargs):
        loss = observe(self, *args, **kwargs)
        if next(calls) == at - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(ContinualModel, "meta_observe", observe_then_signal)
    stopped = launch(line)
    assert stopped.code == 128 + signal.SIGTERM
    assert stopped.status["state"] == "interrupted"
    resumed = launch("", resume=stopped.path)
    assert resumed.code == 0
    assert identical(straight, resumed)


@pytest.mark.parametrize("model", get_model_names())
def test_method_is_refused_on_settings_it_does_not_declare_before_data_is_read(launch, capsys, monkeypatch, model):
    from datasets.seq_digits import SequentialDigits
    from datasets.uiprmd import UIPRMD

    for cls in (SequentialDigits, UIPRMD):
        monkeypatch.setattr(cls, "load_samples", lambda self: pytest.fail("data was read"))
    for setting in STREAMS.keys() - {"task-il"} - set(get_model_class(model).COMPATIBILITY):
        run = launch(command(model, setting))
        assert run.code == 2
        assert not run.path.exists()
        message = capsys.readouterr().err
        fitting = [name for name in get_model_names() if setting in get_model_class(name).COMPATIBILITY]
        assert all(name in message for name in fitting)
        assert setting in message


@pytest.mark.parametrize(("model", "setting"), CASES)
def test_batches_of_one_and_a_single_task_are_learnt(launch, model, setting):
    assert launch(command(model, setting) + " --batch_size 1 --n_epochs 1").code == 0
    if setting != "group-il":
        assert launch(command(model, setting) + " --n_tasks 1 --n_epochs 1").code == 0


@pytest.mark.parametrize(("model", "setting"), [case for case in CASES if "buffer_size" in command(*case)])
@pytest.mark.parametrize("scope", ["total", "session"])
@pytest.mark.parametrize("size", [0, 1])
def test_buffers_of_nothing_or_smaller_than_the_number_of_tasks_work(launch, model, setting, size, scope):
    run = launch(command(model, setting) + f" --buffer_size {size} --buffer_scope {scope}")
    assert run.code == 0
    if size == 0:
        assert run.summary["buffer_bytes"] == 0


@pytest.mark.parametrize(("model", "setting"), CASES)
def test_state_does_not_grow_with_the_length_of_training(launch, model, setting):
    short, long = launch(command(model, setting)), launch(command(model, setting) + " --n_epochs 6")

    def size(run):
        return sum(value.numel() for value in run.checkpoint["model"].values() if hasattr(value, "numel"))

    assert size(short) == size(long)
