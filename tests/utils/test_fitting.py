"""How long a task is trained, and early stopping."""

from __future__ import annotations

import json
import math
import os
import signal
from argparse import ArgumentTypeError, Namespace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import utils.training
from models.er import ER
from models.utils.continual_model import ContinualModel
from utils import early_stopping
from utils.args import duration, parse_args
from utils.early_stopping import EarlyStopping, measure_validation
from utils.errors import UsageError
from utils.fitting import check_fitting, evaluated_on, improves
from utils.grids import check_words

DIGITS = "--model er --dataset seq-digits --buffer_size 20 --n_tasks 2 --max_samples_per_class 20 --batch_size 8"
SCORES = "--model er --dataset uiprmd --buffer_size 10 --n_tasks 2 --batch_size 16"
STOPPING = " --fitting_mode early_stopping --validation 20 --early_stopping_patience 2 --n_epochs 9"
N_BATCHES = 13  # of a task of DIGITS: 100 samples


def records(run, event):
    return [record for record in map(json.loads, run.metrics.splitlines()) if record["event"] == event]


@pytest.fixture
def figures(monkeypatch):
    """What the evaluations of early stopping will give, one after the other."""

    def given(*values):
        left = iter(values)
        monkeypatch.setattr(early_stopping, "measure_validation", lambda *args: next(left))

    return given


@pytest.fixture
def stopped_after(monkeypatch):
    """Send a signal to the process after the n-th batch that is learnt from now on."""

    def after(n):
        observe, calls = ContinualModel.meta_observe, count(1)

        def observe_then_signal(self, *args, **kwargs):
            loss = observe(self, *args, **kwargs)
            if next(calls) == n:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss

        monkeypatch.setattr(ContinualModel, "meta_observe", observe_then_signal)

    return after


# Pure decisions


@pytest.mark.parametrize(
    ("value", "best", "epsilon", "higher", "expected"),
    [
        (1.0, None, 0.5, True, True),
        (1.0, None, 0.5, False, True),
        (math.nan, None, 0.0, True, False),
        (math.nan, 1.0, 0.0, False, False),
        (1.5, 1.0, 0.5, True, False),
        (1.75, 1.0, 0.5, True, True),
        (0.5, 1.0, 0.5, False, False),
        (0.25, 1.0, 0.5, False, True),
        (1.0, 1.0, 0.0, True, False),
        (2.0, 1.0, 0.0, False, False),
    ],
)
def test_better_is_better_by_more_than_epsilon(value, best, epsilon, higher, expected):
    assert improves(value, best, epsilon, higher) == expected


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5", 1.5), ("90s", 90), ("15M", 900), ("2h", 7200)])
def test_durations_have_seconds_unless_they_name_a_unit(text, seconds):
    assert duration(text) == seconds
    assert duration(duration(text)) == seconds


@pytest.mark.parametrize("text", ["0", "-1s", "5d", "m", "", "inf", "nan"])
def test_durations_that_are_none_are_refused(text):
    with pytest.raises(ArgumentTypeError):
        duration(text)


def test_figures_are_of_the_test_data_where_validation_decides_when_to_stop():
    args = {"validation": None, "fitting_mode": "epochs"}
    assert evaluated_on(Namespace(**args)) == "test"
    assert evaluated_on(Namespace(**args | {"validation": 10.0})) == "validation"
    assert evaluated_on(Namespace(**args | {"validation": 10.0, "fitting_mode": "early_stopping"})) == "test"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--fitting_mode iters", "needs --n_iters"),
        ("--fitting_mode time", "needs --fitting_time"),
        ("--fitting_mode time --fitting_time 1m --lr_scheduler cosine", "does not know"),
        ("--fitting_mode iters --n_iters 5 --online 1", "leave out --fitting_mode iters"),
        ("--fitting_mode early_stopping", "--validation 10"),
        ("--fitting_mode early_stopping --validation 10 --early_stopping_metric srcc", "choose loss or accuracy"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_parsed_also_for_grids(words, message):
    with pytest.raises(UsageError, match=message):
        check_words([*DIGITS.split(), *words.split()])


def test_accuracy_is_no_metric_of_scores():
    with pytest.raises(UsageError, match="choose loss or srcc"):
        parse_args([*SCORES.split(), *STOPPING.split(), "--early_stopping_metric", "accuracy"])


def test_a_namespace_without_these_options_is_one_of_epochs():
    check_fitting(Namespace(), is_score=False)
    assert evaluated_on(Namespace()) == "test"


# A number of batches


def test_iterations_end_a_task_in_the_middle_of_an_epoch(launch):
    run = launch(DIGITS + f" --fitting_mode iters --n_iters {N_BATCHES + 5} --lr_scheduler cosine")
    assert run.code == 0
    epochs = [(record["task"], record["epoch"]) for record in records(run, "epoch")]
    assert epochs == [(0, 0), (0, 1), (1, 0), (1, 1)]
    position = run.checkpoint["position"]
    assert position["step"] == 2 * (N_BATCHES + 5)
    assert position["batch"] == 5
    # The learning rate falls over the two epochs that begin.
    assert run.checkpoint["scheduler"]["T_max"] == 2


@pytest.mark.parametrize("at", [3, N_BATCHES + 5, N_BATCHES + 6])
def test_a_run_of_iterations_resumes_to_the_same_bits(launch, identical, stopped_after, at):
    line = DIGITS + f" --fitting_mode iters --n_iters {N_BATCHES + 5}"
    straight = launch(line)
    stopped_after(at)
    stopped = launch(line)
    assert stopped.code == 128 + signal.SIGTERM
    assert identical(straight, launch("", resume=stopped.path))


def test_whole_epochs_of_iterations_are_epochs(launch):
    by_iterations = launch(DIGITS + f" --fitting_mode iters --n_iters {2 * N_BATCHES}")
    assert by_iterations.metrics == launch(DIGITS + " --n_epochs 2").metrics


def test_reading_ahead_survives_an_epoch_that_is_cut(launch):
    line = DIGITS + f" --fitting_mode iters --n_iters {N_BATCHES + 2} --num_workers "
    assert launch(line + "0").metrics == launch(line + "1").metrics


def test_debug_mode_has_one_epoch_of_five_batches_in_every_mode(launch):
    for words in ("iters --n_iters 99", "time --fitting_time 1h", "early_stopping --validation 20"):
        run = launch(DIGITS + f" --debug_mode 1 --fitting_mode {words}")
        assert run.code == 0
        assert run.checkpoint["position"]["step"] == 10


# A time


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for one second a batch."""
    now, observe = [0.0], ContinualModel.meta_observe

    def observe_a_second(self, *args, **kwargs):
        now[0] += 1
        return observe(self, *args, **kwargs)

    monkeypatch.setattr(ContinualModel, "meta_observe", observe_a_second)
    monkeypatch.setattr(utils.training, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_task_ends_when_its_time_is_over(launch, clock):
    run = launch(DIGITS + " --fitting_mode time --fitting_time 7.5")
    assert run.code == 0
    assert run.checkpoint["position"]["step"] == 2 * 8
    assert run.summary["seconds"] == 16


@pytest.mark.parametrize("at", [4, 8, 16])
def test_a_resumed_task_has_only_the_time_that_was_left(launch, identical, clock, stopped_after, at):
    line = DIGITS + " --fitting_mode time --fitting_time 7.5"
    straight = launch(line)
    stopped_after(at)
    stopped = launch(line)
    assert stopped.code == 128 + signal.SIGTERM
    clock[0] += 1000  # between the parts
    resumed = launch("", resume=stopped.path)
    assert resumed.code == 0
    assert identical(straight, resumed)


def test_an_epoch_that_begins_when_the_time_is_just_over_has_a_batch(launch, monkeypatch):
    # The time is over between the question whether the second epoch begins and its first batch.
    spent = property(lambda loop: loop.epoch == 2 or (loop.epoch == 1 and loop.in_epoch))
    monkeypatch.setattr(utils.training.Loop, "budget_is_spent", spent)
    run = launch(DIGITS + " --fitting_mode time --fitting_time 1h --stop_after 1")
    assert run.code == 0
    assert run.checkpoint["position"]["step"] == N_BATCHES + 1


# Early stopping


def test_a_task_ends_after_so_many_evaluations_without_improvement(launch, figures):
    figures(3.0, 2.0, 2.5, 1.9, 1.9, 2.1, *[5.0, 6.0, 7.0])
    run = launch(DIGITS + STOPPING)
    assert run.code == 0
    assert [(record["task"], record["epoch"], record["loss"]) for record in records(run, "validation")] == [
        *[(0, epoch, loss) for epoch, loss in enumerate([3.0, 2.0, 2.5, 1.9, 1.9, 2.1])],
        *[(1, epoch, loss) for epoch, loss in enumerate([5.0, 6.0, 7.0])],
    ]
    assert [(record["task"], record["epoch"], record["loss"]) for record in records(run, "best")] == [
        (0, 3, 1.9),
        (1, 0, 5.0),
    ]


def test_accuracy_improves_upwards_and_evaluations_may_be_rare(launch, figures):
    figures(50.0, 60.0, 60.5, 60.6, *[1.0, 0.0, 0.0])
    words = " --early_stopping_metric accuracy --early_stopping_epsilon 1 --early_stopping_freq 2"
    run = launch(DIGITS + STOPPING + words)
    assert [(record["task"], record["epoch"]) for record in records(run, "validation")] == [
        *[(0, epoch) for epoch in (1, 3, 5, 7)],
        *[(1, epoch) for epoch in (1, 3, 5)],
    ]
    assert [record["epoch"] for record in records(run, "best")] == [3, 1]


HEADS = DIGITS.replace("--model er", "--model {}").replace(" --buffer_size 20", "") + STOPPING


@pytest.mark.parametrize("model", ["lwf", "ft", "ft-fc"])
def test_a_warm_up_is_not_evaluated_and_not_gone_back_to(launch, figures, model):
    figures(3.0, 4.0, 5.0, *[8.0, 7.0, 9.0, 9.0])
    run = launch(HEADS.format(model) + " --warmup_epochs 3")
    assert run.code == 0
    assert [(record["task"], record["epoch"]) for record in records(run, "validation")] == [
        *[(0, epoch) for epoch in (0, 1, 2)],
        *[(1, epoch) for epoch in (3, 4, 5, 6)],
    ]
    assert [(record["task"], record["epoch"]) for record in records(run, "best")] == [(0, 0), (1, 4)]


def test_a_task_that_is_a_warm_up_from_end_to_end_is_evaluated(launch, figures):
    figures(3.0, 4.0, 5.0, *[3.0, 2.0, 5.0, 5.0])
    run = launch(HEADS.format("feat-extract"))
    assert [(record["task"], record["epoch"]) for record in records(run, "best")] == [(0, 0), (1, 1)]


def test_the_last_epoch_ends_a_task_that_still_improves(launch, figures):
    figures(*range(100, 0, -1))
    run = launch(DIGITS + STOPPING + " --n_epochs 3")
    assert [record["epoch"] for record in records(run, "validation")] == [0, 1, 2] * 2


def test_the_method_goes_back_to_its_best_epoch_before_it_ends_the_task(launch, figures, monkeypatch):
    states, ended = [], []
    on_epoch_end = EarlyStopping.on_epoch_end

    def noting(self, loop, loss):
        on_epoch_end(self, loop, loss)
        states.append({name: value.clone() for name, value in loop.model.net.state_dict().items()})

    monkeypatch.setattr(EarlyStopping, "on_epoch_end", noting)
    monkeypatch.setattr(ER, "end_task", lambda self, dataset: ended.append(dict(self.net.state_dict())))
    figures(3.0, 2.0, 4.0, 5.0)
    run = launch(DIGITS + STOPPING + " --stop_after 1")
    assert run.code == 0
    assert len(states) == 4
    for name, value in run.checkpoint["model"].items():
        if name.startswith("net."):
            assert torch.equal(value, states[1][name.removeprefix("net.")])
            assert torch.equal(value, ended[0][name.removeprefix("net.")])
    assert not torch.equal(states[1]["classifier.weight"], states[3]["classifier.weight"])


def test_without_a_figure_that_is_a_number_the_last_weights_stay(launch, figures):
    figures(math.nan, math.nan)
    run = launch(DIGITS + STOPPING + " --stop_after 1")
    assert run.code == 0
    assert len(records(run, "validation")) == 2
    assert records(run, "best") == []


def test_a_run_that_stops_early_resumes_to_the_same_bits(launch, identical, monkeypatch, stopped_after):
    # Stopped three times: in the first epoch, while it waits after the best, and in the second task.
    values = {0: [3.0, 2.0, 2.5, 2.4], 1: [2.0, 1.0, 1.5, 0.5, 0.6, 0.7]}
    monkeypatch.setattr(
        early_stopping, "measure_validation", lambda model, data, _: values[data.current_task][model.task_epoch]
    )
    line = DIGITS + STOPPING + " --optimizer adam --lr 0.01"
    straight = launch(line)
    assert [record["epoch"] for record in records(straight, "best")] == [1, 3]
    run = None
    for at in (4, 21, 15):
        stopped_after(at)
        run = launch(line) if run is None else launch("", resume=run.path)
        assert run.code == 128 + signal.SIGTERM
        monkeypatch.undo()
        monkeypatch.setattr(
            early_stopping, "measure_validation", lambda model, data, _: values[data.current_task][model.task_epoch]
        )
    assert identical(straight, launch("", resume=run.path))


def test_early_stopping_looks_at_held_out_training_samples_and_figures_are_of_the_test_data(launch, monkeypatch):
    seen = []

    def noting(model, dataset, metric):
        seen.append([loader.dataset.indices for loader in dataset.validation_loaders])
        trained = set(dataset.train_loader.dataset.indices)
        for loader in dataset.validation_loaders:
            assert loader.dataset.source is dataset.samples.train
            assert not trained & set(loader.dataset.indices)
        assert all(loader.dataset.source is dataset.samples.test for loader in dataset.test_loaders)
        return 0.0

    monkeypatch.setattr(early_stopping, "measure_validation", noting)
    assert launch(DIGITS + STOPPING + " --n_epochs 1").code == 0
    assert [[len(part) for part in parts] for parts in seen] == [[20], [20]]
    assert launch(DIGITS + STOPPING + " --n_epochs 1 --validation_mode complete").code == 0
    assert [[len(part) for part in parts] for parts in seen[2:]] == [[20], [20, 20]]
    assert np.array_equal(seen[3][0], seen[2][0])
    assert launch(DIGITS + STOPPING + " --n_epochs 1 --joint 1").code == 0
    assert [[len(part) for part in parts] for parts in seen[4:]] == [[20, 20]]


def test_skipped_tasks_are_neither_trained_nor_evaluated(launch):
    run = launch(DIGITS + STOPPING + " --start_from 1 --n_epochs 2")
    assert run.code == 0
    assert {record["task"] for record in records(run, "validation")} == {1}


@pytest.mark.parametrize("metric", ["loss", "accuracy", "srcc"])
def test_a_figure_of_validation_is_that_of_all_its_samples_at_once(metric):
    import backbone
    import datasets
    import models

    line = SCORES if metric == "srcc" else DIGITS
    args = parse_args([*line.split(), *STOPPING.split(), "--validation_mode", "complete"])
    dataset = datasets.get_dataset(args)
    model = models.get_model(args, backbone.get_backbone(args), dataset.get_loss(), dataset.get_transform(), dataset)
    for _ in range(2):
        dataset.get_data_loaders()
        model.meta_begin_task(dataset)
    model.net.train()
    held = [loader.dataset for loader in dataset.validation_loaders]
    assert len(held) == 2
    raw = torch.cat([part[np.arange(len(part))][0] for part in held])
    labels = torch.cat([part.targets for part in held])
    state = torch.get_rng_state()
    value = measure_validation(model, dataset, metric)
    assert torch.equal(state, torch.get_rng_state())
    assert model.net.training
    model.eval()
    with torch.no_grad():
        outputs = model(dataset.get_normalization_transform()(raw))
    if metric == "loss":
        assert value == pytest.approx(float(torch.nn.functional.cross_entropy(outputs, labels)), rel=1e-5)
    elif metric == "accuracy":
        assert value == pytest.approx(100 * float((outputs.argmax(1) == labels).float().mean()))
    else:
        scores = np.concatenate([part.scores for part in held])
        assert value == pytest.approx(100 * spearmanr(outputs.view(-1), scores).statistic, abs=0.5)


# Options without effect


@pytest.mark.parametrize(
    ("name", "value", "missing"),
    [
        ("n_iters", "9", "--fitting_mode iters"),
        ("fitting_time", "5m", "--fitting_mode time"),
        ("early_stopping_patience", "3", "--fitting_mode early_stopping"),
        ("lr_milestones", "3", "--lr_scheduler multistep"),
        ("imb_type", "step", "--imb_factor"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused_but_for_one_of_a_file(name, value, missing, tmp_path):
    line = ["--model", "sgd", "--dataset", "seq-digits"]
    with pytest.raises(UsageError, match=f"--{name} has no effect without {missing}"):
        parse_args([*line, f"--{name}", value])
    (tmp_path / "mine.yaml").write_text(f"{name}: {value}\n")
    assert parse_args([*line, "--config", str(tmp_path / "mine.yaml")]).dataset == "seq-digits"


def test_weights_that_would_never_come_are_refused():
    line = ["--model", "sgd", "--dataset", "seq-digits", "--n_epochs", "5", "--drw_epoch"]
    with pytest.raises(UsageError, match="never come"):
        parse_args([*line, "5"])
    assert parse_args([*line, "4"]).drw_epoch == 4


def test_first_task_may_have_a_schedule_and_a_weight_decay_of_its_own(launch, monkeypatch):
    from models.sgd import SGD

    seen = {}
    observe = SGD.observe

    def noting(self, *args, **kwargs):
        group = self.opt.param_groups[0]
        seen.setdefault((self.current_task, self.task_epoch), (round(group["lr"], 6), group["weight_decay"]))
        return observe(self, *args, **kwargs)

    monkeypatch.setattr(SGD, "observe", noting)
    line = "--model sgd --dataset seq-digits --n_tasks 3 --max_samples_per_class 6 --lr 0.1 --optim_wd 0.0002"
    line += " --n_epochs 2 --base_epochs 4 --lr_scheduler multistep --lr_milestones 1 --base_lr_milestones 2 3"
    assert launch(f"{line} --base_optim_wd 0.0005").code == 0
    first = [(0.1, 0.0005), (0.1, 0.0005), (0.01, 0.0005), (0.001, 0.0005)]
    assert [seen[0, epoch] for epoch in range(4)] == first
    for task in (1, 2):
        assert [seen[task, epoch] for epoch in range(2)] == [(0.1, 0.0002), (0.01, 0.0002)]
