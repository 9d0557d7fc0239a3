"""What every registered method must do, on every setting it declares."""

from __future__ import annotations

import json
import signal

import pytest

import utils.run
from datasets.utils.continual_dataset import SCORE_SETTINGS, SEMI_SUPERVISED, SETTINGS
from main import main
from models import get_model_class, get_model_names
from models.utils import load_model_config
from models.utils.continual_model import ContinualModel
from tests.conftest import Finished

STREAMS = {
    "class-il": "--dataset seq-digits --n_tasks 2 --n_epochs 2 --max_samples_per_class 20",
    "task-il": "--dataset seq-digits --n_tasks 2 --n_epochs 2 --max_samples_per_class 20 --permute_classes 1",
    "domain-il": "--dataset perm-digits --n_tasks 2 --n_epochs 2 --max_samples_per_class 10",
    "general-continual": "--dataset digits-360 --n_epochs 2 --max_samples_per_class 12 --batch_size 16",
    "grade-il": "--dataset uiprmd --n_tasks 3 --n_epochs 2",
    "group-il": "--dataset uiprmd --tasks_by group --n_epochs 2",
}
# What a method cannot do without, or takes one of several in place of; options that all its kind share.
REQUIRED = {"buffer_size": "6"}
# Sizes of the network of methods that choose among texts.
SMALL_CLIP = "--clip_image_size 8 --patch_size 4 --width 32 --depth 2"
# Of methods that otherwise take a large step for every single sample.
FEWER_STEPS = {"anytimecl": "--new_per_step 4 --step_batch 8"}


def command(model: str, setting: str) -> str:
    """A short run of a method in a setting."""
    import argparse

    parser = get_model_class(model).get_parser(argparse.ArgumentParser())
    needed = [action.dest for action in parser._actions if action.required or action.dest in REQUIRED]
    own = (f"--{name} {REQUIRED[name]}" for name in needed)
    small = [SMALL_CLIP] if load_model_config(argparse.Namespace(model=model)).get("backbone") == "clip-tiny" else []
    return " ".join(["--model", model, STREAMS[setting], *own, *small, FEWER_STEPS.get(model, ""), "--batch_size 8"])


CASES = [
    (model, setting)
    for model in get_model_names()
    for setting in get_model_class(model).COMPATIBILITY
    if setting in STREAMS
]


def first_of_each_kind(cases):
    """The cases, all but a method's first setting with classes and its first with scores marked as exhaustive."""
    kinds = [(model, setting in SCORE_SETTINGS) for model, setting in cases]
    return [
        pytest.param(*case, marks=[] if kinds.index(kind) == position else pytest.mark.exhaustive)
        for position, (case, kind) in enumerate(zip(cases, kinds, strict=True))
    ]


def first_of_each_method(cases):
    """The cases, all but a method's first marked as exhaustive."""
    models = [model for model, _ in cases]
    return [
        pytest.param(*case, marks=[] if models.index(case[0]) == position else pytest.mark.exhaustive)
        for position, case in enumerate(cases)
    ]


@pytest.fixture(scope="module", autouse=True)
def environment():
    """What runs note about the machine and the code, gathered once: it takes longer than these runs."""
    known = utils.run.environment()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils.run, "environment", lambda: known)
        patch.setattr(utils.run, "uncommitted_changes", str)
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run of a command line that is never stopped, made once for all tests."""
    made = {}

    def run(line):
        if line not in made:
            path = tmp_path_factory.mktemp("straight")
            place = ["--run_dir", str(path), "--base_path", str(path / "data"), "--non_verbose", "1"]
            made[line] = Finished(main([*line.split(), *place]), path)
            assert made[line].code == 0
        return made[line]

    return run


@pytest.mark.parametrize("model", get_model_names())
def test_method_declares_a_name_known_settings_and_its_own_observe(model):
    cls = get_model_class(model)
    assert model == cls.NAME
    assert cls.COMPATIBILITY
    assert set(cls.COMPATIBILITY) <= {*SETTINGS, SEMI_SUPERVISED}
    assert cls.observe is not ContinualModel.observe
    assert cls.__doc__


@pytest.mark.parametrize(("model", "setting"), first_of_each_kind(CASES))
def test_run_stopped_and_resumed_four_times_is_identical_to_one_that_never_was(
    launch, straight, identical, stop_after, model, setting
):
    line = command(model, setting)
    expected = straight(line)
    # Three times in the first epoch, then, where there are so many batches, in a later epoch or task.
    stops = [1, 5, 9, 28]
    n_observed = stop_after(*stops)
    run, n_parts = launch(line), 1
    while run.code == 128 + signal.SIGTERM:
        assert run.status["state"] == "interrupted"
        run, n_parts = launch("", resume=run.path), n_parts + 1
    assert run.code == 0
    assert n_parts == 1 + sum(stop <= n_observed() for stop in stops) >= 4
    assert identical(expected, run)


@pytest.mark.parametrize(("model", "setting"), first_of_each_method(CASES))
def test_another_seed_gives_another_run(launch, straight, model, setting):
    def epochs(run):
        return [record for record in map(json.loads, run.metrics.splitlines()) if record["event"] == "epoch"]

    other = launch(command(model, setting) + " --seed 1 --stop_after 1")
    assert other.code == 0
    assert epochs(other)
    assert epochs(other) != epochs(straight(command(model, setting)))[: len(epochs(other))]


@pytest.mark.parametrize("model", get_model_names())
def test_method_is_refused_on_settings_it_does_not_declare_before_data_is_read(launch, capsys, monkeypatch, model):
    from datasets.uiprmd import UIPRMD
    from datasets.utils.image_sets import DigitImages

    for cls in (DigitImages, UIPRMD):
        monkeypatch.setattr(cls, "load_samples", lambda self: pytest.fail("data was read"))
    for setting in STREAMS.keys() - {"task-il"} - set(get_model_class(model).COMPATIBILITY):
        run = launch(command(model, setting))
        assert run.code == 2
        assert not run.path.exists()
        message = capsys.readouterr().err
        fitting = [name for name in get_model_names() if setting in get_model_class(name).COMPATIBILITY]
        assert all(name in message for name in fitting)
        assert setting in message


@pytest.mark.parametrize(("model", "setting"), first_of_each_method(CASES))
def test_batches_of_one_and_a_single_task_are_learnt(launch, model, setting):
    few = " --fitting_mode iters --n_iters "
    assert launch(command(model, setting) + few + "12 --batch_size 1").code == 0
    if setting != "group-il":
        assert launch(command(model, setting) + few + "4 --n_tasks 1").code == 0


@pytest.mark.parametrize(
    ("model", "setting"), first_of_each_method([case for case in CASES if "buffer_size" in command(*case)])
)
@pytest.mark.parametrize(("size", "scope"), [(0, "session"), (1, "total")])
def test_buffers_of_nothing_or_smaller_than_the_number_of_tasks_work(launch, model, setting, size, scope):
    run = launch(command(model, setting) + f" --buffer_size {size} --buffer_scope {scope} --n_epochs 1")
    assert run.code == 0
    if size == 0:
        assert run.summary["buffer_bytes"] == 0


@pytest.mark.parametrize(("model", "setting"), first_of_each_method(CASES))
def test_state_does_not_grow_with_the_length_of_training(launch, straight, model, setting):
    short, long = straight(command(model, setting)), launch(command(model, setting) + " --n_epochs 4")

    def size(run):
        return sum(value.numel() for value in run.checkpoint["model"].values() if hasattr(value, "numel"))

    assert size(short) == size(long)
