"""Heads of their own for every task, when they learn, how fast, and the baselines of LwF that are made of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbone.c3d import c3d
from backbone.mlp import mlp
from backbone.resnet18 import resnet18
from models.ft_fc import n_after_convolutions
from utils.errors import UsageError

DIGITS = ("--dataset", "seq-digits", "--n_tasks", "3", "--max_samples_per_class", "20", "--width", "8")
BASELINES = ("ft", "ft-fc", "feat-extract")


@pytest.fixture
def digits(drive):
    """A method on three tasks of 4, 3 and 3 digits."""

    def build(name, *options, **more):
        return drive(name, *DIGITS, *options, **more)

    return build


def state(driven):
    return {name: value.clone() for name, value in driven.model.net.state_dict().items()}


def changed(driven, before):
    return {name for name, value in driven.model.net.state_dict().items() if not torch.equal(value, before[name])}


def rates(driven, n_epochs):
    """Learning rate of every epoch of the current task."""
    found = []
    for epoch in range(n_epochs):
        driven.begin_epoch(epoch)
        found.append([group["lr"] for group in driven.model.opt.param_groups])
    return torch.tensor(found, dtype=torch.float64)


# Rates


def test_rate_falls_in_each_phase_and_later_tasks_have_their_own(digits):
    options = ("--lr", "0.5", "--n_epochs", "8", "--lr_drops", "0.75", "--later_lr_mult", "0.1")
    driven = digits("ft", *options, "--warmup_epochs", "0.5", "--warmup_lr_mult", "4")
    driven.begin()
    torch.testing.assert_close(rates(driven, 8)[:, 0], torch.tensor(6 * [0.5] + 2 * [0.05], dtype=torch.float64))
    driven.begin()
    expected = 3 * [0.2] + [0.02] + 3 * [0.05] + [0.005]
    torch.testing.assert_close(rates(driven, 8)[:, 0], torch.tensor(expected, dtype=torch.float64))


def test_drops_of_the_pycil_preset_are_its_milestones(digits):
    driven = digits("lwf", "--model_config", "pycil", "--n_epochs", "250")
    for n_epochs, milestones, decay in ((200, [60, 120, 160], 5e-4), (250, [60, 120, 180, 220], 2e-4)):
        driven.begin()
        parameter = nn.Parameter(torch.zeros(1))
        opt = torch.optim.SGD([parameter], lr=0.1)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(opt, milestones, 0.1)
        expected = []
        for _ in range(n_epochs):
            expected.append(opt.param_groups[0]["lr"])
            opt.step()
            scheduler.step()
        torch.testing.assert_close(rates(driven, n_epochs)[:, 0], torch.tensor(expected, dtype=torch.float64))
        assert driven.model.opt.param_groups[0]["weight_decay"] == decay


def test_rates_multiply_with_those_of_a_scheduler_and_of_the_features(digits):
    options = ("--lr_scheduler", "cosine", "--n_epochs", "6", "--lr", "0.1", "--backbone_lr_scale", "0.5")
    plain = digits("sgd", *options)
    driven = digits("ft", *options, "--warmup_epochs", "2", "--warmup_lr_mult", "3", "--lr_drops", "0.5")
    found = []
    for one in (plain, driven):
        one.begin()
        one.begin()
        scheduler = one.dataset.get_scheduler(one.model, one.model.args)
        seen = []
        for epoch in range(6):
            one.begin_epoch(epoch)
            seen.append([group["lr"] for group in one.model.opt.param_groups])
            one.model.opt.step()
            scheduler.step()
        found.append(torch.tensor(seen, dtype=torch.float64))
    factors = torch.tensor([3, 0.3, 1, 1, 0.1, 0.1], dtype=torch.float64)
    torch.testing.assert_close(found[1], found[0] * factors[:, None])


@pytest.mark.parametrize(
    ("wanted", "n_epochs", "n"),
    [("0", 5, 0), ("2", 5, 2), ("4", 5, 4), ("0.5", 5, 2), ("0.25", 8, 2), ("0.25", 3, 1), ("0.0", 1, 0), ("9", 0, 9)],
)
def test_warm_up_is_a_number_of_epochs_or_a_share_of_them_in_later_tasks(digits, wanted, n_epochs, n):
    driven = digits("ft", "--warmup_epochs", wanted, "--n_epochs", str(n_epochs))
    driven.begin()
    assert driven.model.n_warm_up == 0
    driven.begin()
    assert driven.model.n_warm_up == n


@pytest.mark.parametrize("wanted", ["-1", "-0.5", "1.5", "x"])
def test_warm_up_that_is_neither_is_refused(digits, wanted):
    with pytest.raises(UsageError, match="warmup_epochs"):
        digits("ft", f"--warmup_epochs={wanted}")


@pytest.mark.parametrize(("wanted", "n_epochs"), [("5", 5), ("9", 5), ("1.0", 5), ("0.5", 1), ("1", 1)])
def test_warm_up_that_leaves_no_epoch_for_the_joint_step_is_refused(digits, wanted, n_epochs):
    words = ("--warmup_epochs", wanted, "--n_epochs", str(n_epochs))
    with pytest.raises(UsageError, match=rf"none of the {n_epochs} epochs .* part of --n_epochs"):
        digits("ft", *words)
    # One task has no warm-up, and a debug run leaves it out.
    digits("ft", *words, "--n_tasks", "1")
    driven = digits("ft", *words, "--debug_mode", "1")
    driven.begin()
    driven.begin()
    assert not driven.model.is_warm_up


@pytest.mark.parametrize("option", [("--warmup_epochs", "0.5"), ("--lr_drops", "0.75"), ("--base_lr_drops", "0.5")])
def test_shares_of_epochs_are_refused_where_epochs_do_not_end_a_task(digits, option):
    mode = ("--fitting_mode", "iters", "--n_iters", "3")
    with pytest.raises(UsageError, match=f"{option[0]}: a share"):
        digits("ft", *mode, *option)
    digits("ft", *mode, "--warmup_epochs", "2")


def test_features_stay_frozen_however_many_epochs_a_task_takes(digits):
    driven = digits("feat-extract", "--n_epochs", "1", "--lr", "0.01")
    driven.session()
    driven.begin()
    rates(driven, 4)
    assert driven.model.is_warm_up
    assert driven.model.opt.param_groups[0]["lr"] == pytest.approx(0.05)


def test_joint_step_begins_without_the_momentum_of_the_warm_up(digits):
    driven = digits("ft", "--warmup_epochs", "1", "--n_epochs", "2", "--optim_mom", "0.9")
    driven.session()
    driven.begin()
    driven.model.meta_observe(*driven.batch(), epoch=0)
    assert driven.model.opt.state
    driven.begin_epoch(1)
    assert not driven.model.opt.state


# A new head


def test_new_head_is_xavier_normal_without_bias_and_others_stay(digits):
    driven = digits("ft", "--xavier_head", "1", "--width", "2000")
    before = state(driven)
    driven.begin()
    assert changed(driven, before) == {"classifier.weight", "classifier.bias"}
    layer = driven.model.net.classifier
    assert torch.equal(layer.weight[4:], before["classifier.weight"][4:])
    assert torch.equal(layer.bias[4:], before["classifier.bias"][4:])
    assert (layer.bias[:4] == 0).all()
    # Variance 2 / (inputs + outputs of this head).
    assert layer.weight[:4].std().item() == pytest.approx((2 / 2004) ** 0.5, rel=0.03)
    first = layer.weight[:4].clone()
    driven.begin()
    assert torch.equal(layer.weight[:4], first)
    assert layer.weight[4:7].std().item() == pytest.approx((2 / 2003) ** 0.5, rel=0.03)
    assert not torch.equal(layer.weight[4:7], first[:3])


def test_shared_regressor_is_never_drawn_anew(drive):
    driven = drive("ft", "--xavier_head", "1")
    before = state(driven)
    driven.begin()
    driven.begin()
    assert changed(driven, before) == set()


# The baselines


@pytest.mark.parametrize("name", BASELINES)
def test_tasks_of_one_class_are_refused(digits, name):
    with pytest.raises(UsageError, match="one class"):
        digits(name, "--n_tasks", "10")


@pytest.mark.parametrize("name", BASELINES)
def test_heads_of_past_tasks_stay_as_they_are(digits, name):
    driven = digits(name, "--optim_wd", "0.1", "--optim_mom", "0.9", "--n_epochs", "2")
    driven.session()
    before = state(driven)
    driven.session()
    after = state(driven)
    for entry in ("classifier.weight", "classifier.bias"):
        assert torch.equal(after[entry][:4], before[entry][:4])
        assert torch.equal(after[entry][7:], before[entry][7:])
        assert (after[entry][4:7] != before[entry][4:7]).any()


def test_fine_tuning_trains_the_head_alone_and_then_everything(digits):
    driven = digits("ft", "--warmup_epochs", "1", "--n_epochs", "2", "--optim_wd", "0.1")
    driven.session()
    driven.begin()
    before = state(driven)
    driven.model.meta_observe(*driven.batch(), epoch=0)
    assert changed(driven, before) == {"classifier.weight", "classifier.bias"}
    driven.begin_epoch(1)
    driven.model.meta_observe(*driven.batch(), epoch=1)
    assert changed(driven, before) == before.keys()


def test_feature_extraction_changes_nothing_but_the_new_head_and_learns_five_times_as_fast(digits):
    driven = digits("feat-extract", "--lr", "0.01", "--optim_wd", "0.1", change=with_convolution)
    driven.begin()
    assert driven.model.opt.param_groups[0]["lr"] == 0.01
    before = state(driven)
    driven.learn()
    assert {name for name in before if "running" in name} <= changed(driven, before)
    before = state(driven)
    driven.begin()
    assert driven.model.opt.param_groups[0]["lr"] == pytest.approx(0.05)
    driven.learn()
    assert changed(driven, before) == {"classifier.weight", "classifier.bias"}


def test_layers_after_the_last_convolution_are_found():
    assert n_after_convolutions(mlp(10, (1, 8, 8), width=8, depth=3)) == 3
    assert n_after_convolutions(resnet18(10, (1, 8, 8), width=4)) == 0
    assert n_after_convolutions(c3d(10, (3, 16, 32, 32), width=1)) == 1


class Convolutional(nn.Module):
    """Two convolutions with batch norm and a fully connected layer, in place of a perceptron's layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(4 * 36, 8)


def with_convolution(net):
    parts = Convolutional()
    net.layers = nn.ModuleList([parts.conv, parts.fc])
    net.feature_maps = lambda x: (parts.fc(parts.conv(x)).relu(), [])


def test_fine_tuning_of_fully_connected_layers_freezes_convolutions_and_their_batch_norm(digits):
    driven = digits("ft-fc", "--optim_wd", "0.1", change=with_convolution)
    before = state(driven)
    driven.session()
    assert changed(driven, before) == before.keys()
    before = state(driven)
    driven.session()
    assert changed(driven, before) == {"layers.1.weight", "layers.1.bias", "classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(("n", "trained"), [("0", ("classifier",)), ("9", ("classifier", "layers.0", "layers.1"))])
def test_number_of_layers_to_fine_tune_can_be_said(digits, n, trained):
    driven = digits("ft-fc", "--ft_layers", n, "--optim_wd", "0.1", change=with_convolution)
    driven.session()
    before = state(driven)
    driven.session()
    assert changed(driven, before) == {name for name in before if name.startswith(trained)}


@pytest.mark.parametrize("options", ["", " --backbone resnet18 --width 4 --ft_layers 1"])
def test_frozen_layers_are_frozen_again_after_a_stop(launch, identical, options):
    line = "--model ft-fc --dataset seq-digits --n_tasks 3 --n_epochs 1 --max_samples_per_class 20"
    line += f" --checkpoint_every 0 --optim_wd 0.1{options} --stop_after"
    straight, stopped = launch(f"{line} 3"), launch(f"{line} 2")
    assert identical(straight, launch("--stop_after 3", resume=stopped.path))


def test_predictions_on_old_tasks_are_those_of_the_first_network_with_frozen_features(launch):
    run = launch("--model feat-extract --dataset seq-digits --n_tasks 3 --n_epochs 2 --max_samples_per_class 20")
    rows = [line.split(",")[1:] for line in (run.path / "R_task_il.csv").read_text().splitlines()[1:]]
    assert len(rows) == 3
    assert len({row[0] for row in rows}) == 1
    assert rows[1][1] == rows[2][1]


# LwF beside its baselines


@pytest.mark.exhaustive
def test_on_digits_lwf_lies_between_fine_tuning_and_feature_extraction_and_its_weight_trades_old_for_new(launch):
    line = "--model_config paper --dataset seq-digits --n_tasks 2 --max_samples_per_class 60 --backbone resnet18"
    line += " --width 4 --base_epochs 6 --n_epochs 10 --batch_size 32 --lr 0.01"
    methods = {"ft": "ft", "feat-extract": "feat-extract"}
    methods |= {f"lwf {weight}": f"lwf --lambda_o {weight}" for weight in (0.1, 1)}
    old, new = {}, {}
    for name, words in methods.items():
        runs = [launch(f"--model {words} {line} --seed {seed}").summary["task_il"] for seed in range(5)]
        old[name], new[name] = torch.tensor(runs, dtype=torch.float64).mean(0).tolist()
        print(f"{name}: task-IL accuracy {old[name]:.2f} on the first task, {new[name]:.2f} on the second")
    assert old["lwf 1"] > old["ft"] + 1
    assert new["lwf 1"] >= new["feat-extract"]
    assert old["lwf 0.1"] < old["lwf 1"]
    assert new["lwf 0.1"] > new["lwf 1"]
