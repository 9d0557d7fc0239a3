"""Learning without forgetting by hand: what the old network says, who hears it, and what a warm-up leaves alone."""

from __future__ import annotations

import copy
import signal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import backbone
import datasets
import models
from utils.args import parse_args
from utils.conf import set_random_seed
from utils.errors import UsageError
from utils.losses import softened_cross_entropy

DIGITS = ("--dataset", "seq-digits", "--n_tasks", "3", "--max_samples_per_class", "20")
# The first task has three classes, the second two.
THREE_THEN_TWO = ("--dataset", "seq-digits", "--n_tasks", "4", "--custom_task_order", "1,3,2,4")


def build(*options, task=1):
    """A model at the beginning of a task, its stream, and a batch of the task; the old network differs from the new."""
    dataset = () if "--dataset" in options else ("--dataset", "uiprmd")
    args = parse_args(["--model", "lwf", *dataset, "--batch_size", "8", *options])
    stream = datasets.get_dataset(args)
    set_random_seed(0)
    model = models.get_model(args, backbone.get_backbone(args), stream.get_loss(), stream.get_transform(), stream)
    for _ in range(task + 1):
        stream.get_data_loaders()
        model.meta_begin_task(stream)
        model.net.train()
    with torch.no_grad():
        for parameter in model.old_net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model, stream, next(iter(stream.train_loader))


def losses(model, monkeypatch):
    """Let steps record their loss instead of changing the network."""
    seen = []
    monkeypatch.setattr(model, "step", lambda loss: seen.append(loss) or loss.item())
    return seen


def say(net, score):
    """Let a network answer every sample with the same score, or with the same logits."""
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.classifier.bias.copy_(torch.as_tensor(score).expand_as(net.classifier.bias))


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


# Scores


def test_worked_example_of_scores(monkeypatch):
    model, _, (inputs, labels, raw) = build()
    say(model.net, 0.74)
    say(model.old_net, 0.70)
    seen = losses(model, monkeypatch)
    model.meta_observe(inputs, torch.full_like(labels, 0.80), raw, epoch=0)
    assert seen[0].item() == pytest.approx(0.0052, abs=1e-7)
    assert model.logged["loss_new"] == pytest.approx(0.0036, abs=1e-7)
    assert model.logged["loss_distillation"] == pytest.approx(0.0016, abs=1e-7)


def test_weights_of_outputs_features_and_both(monkeypatch):
    model, _, (inputs, labels, raw) = build("--lambda_o", "0.5", "--kd_out", "2", "--kd_feat", "7")
    seen = losses(model, monkeypatch)
    model.meta_observe(inputs, labels, raw, epoch=0)
    outputs, features = model.net(inputs, returnt="both")
    old_outputs, old_features = model.old_net(inputs, returnt="both")
    distance = 2 * F.mse_loss(outputs, old_outputs) + 7 * (features - old_features).square().mean()
    expected = model.loss(outputs, labels) + 0.5 * distance
    assert seen[0].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("options", [("--kd_feat", "0"), ("--kd_out", "0", "--kd_feat", "1"), DIGITS])
def test_old_network_teaches_and_is_not_taught(options):
    model, _, (inputs, labels, raw) = build(*options)
    model.new_loss = lambda outputs, labels: 0 * outputs.sum()
    old, new = weights(model.old_net), weights(model.net)
    for _ in range(3):
        model.meta_observe(inputs, labels, raw, epoch=0)
    assert all(torch.equal(value, old[name]) for name, value in model.old_net.state_dict().items())
    assert not all(torch.equal(value, new[name]) for name, value in model.net.state_dict().items())
    assert all(parameter.grad is None for parameter in model.old_net.parameters())


def test_distillation_has_a_gradient_that_leads_to_the_old_outputs():
    model, _, (inputs, labels, _) = build()
    outputs = model.net(inputs)
    outputs.retain_grad()
    old = model.old_net(inputs)
    model.output_distance(outputs, old, labels).backward()
    torch.testing.assert_close(outputs.grad, 2 * (outputs - old).detach() / len(outputs))
    assert outputs.grad.abs().min() > 0


def test_teacher_bounded_error_counts_above_the_old_networks_only(monkeypatch):
    model, _, (inputs, labels, raw) = build("--lwf_reg", "teacher_bounded", "--lambda_o", "10", "--lwf_margin", "0.001")
    seen, labels = losses(model, monkeypatch), torch.full_like(labels, 0.80)
    say(model.old_net, 0.70)
    for score, bounded in ((0.74, 0.0), (0.70, 0.001), (0.60, 0.031)):
        say(model.net, score)
        model.meta_observe(inputs, labels, raw, epoch=0)
        assert seen[-1].item() == pytest.approx((0.80 - score) ** 2 + 10 * bounded, abs=1e-6)


def test_distribution_head_is_distilled_as_a_softened_distribution():
    model, _, (inputs, labels, _) = build("--score_head", "usdl", "--softmax_temp", "3")
    outputs, old = model.net(inputs), model.old_net(inputs)
    expected = softened_cross_entropy(outputs, old, 3.0)
    assert torch.equal(model.output_distance(outputs, old, labels), expected)


def test_teacher_bounded_error_is_refused_for_a_distribution_head():
    with pytest.raises(UsageError, match="distribution"):
        build("--score_head", "usdl", "--lwf_reg", "teacher_bounded")


# The old network


def test_old_network_is_the_one_before_the_task_in_evaluation_mode():
    options = ("--backbone", "resnet18", "--width", "4")
    model, stream, batch = build(*DIGITS, *options, task=0)
    model.meta_observe(*batch, epoch=0)
    before = weights(model.net)
    model.meta_end_task(stream)
    stream.get_data_loaders()
    model.meta_begin_task(stream)
    model.net.train()
    for batch in stream.train_loader:
        model.meta_observe(*batch, epoch=0)
    assert all(torch.equal(value, before[name]) for name, value in model.old_net.state_dict().items())
    assert not any(module.training for module in model.old_net.modules())
    name = next(name for name in before if "running_mean" in name)
    assert not torch.equal(model.net.state_dict()[name], before[name])


@pytest.mark.parametrize("target", ["recorded", "online"])
def test_old_network_sees_the_clean_sample_or_the_view_of_the_new_one(target):
    model, _, (inputs, labels, raw) = build("--lwf_target", target)
    shown = []
    model.old_net.register_forward_pre_hook(lambda module, args: shown.append(args[0]))
    view = inputs + 0.1
    model.meta_observe(view, labels, raw, epoch=0)
    assert torch.equal(shown[0], view if target == "online" else model.normalization_transform(raw))


def test_recorded_and_online_are_the_same_where_nothing_is_augmented(launch, identical):
    line = "--model lwf --dataset uiprmd --n_tasks 2 --n_epochs 2 --lwf_target"
    recorded, online = launch(f"{line} recorded"), launch(f"{line} online")
    assert recorded.code == online.code == 0
    assert identical(recorded, online)


# Classes


def test_worked_example_of_classes(monkeypatch):
    model, _, (inputs, labels, raw) = build(*THREE_THEN_TWO)
    assert [model.get_offsets(task) for task in (0, 1)] == [(0, 3), (3, 5)]
    say(model.old_net, [2.0, 1.0, 0.0] + 7 * [0.0])
    say(model.net, [0.5, 1.5, 0.2, 1.2, -0.3] + 5 * [9.0])
    seen = losses(model, monkeypatch)
    model.meta_observe(inputs, torch.full_like(labels, 3), raw, epoch=0)
    assert seen[0].item() == pytest.approx(1.331217, abs=1e-5)
    assert model.logged["loss_new"] == pytest.approx(0.201413, abs=1e-5)
    assert model.logged["loss_distillation"] == pytest.approx(1.129804, abs=1e-5)
    assert model.logged["drift"] == pytest.approx(0.109613, abs=1e-5)
    # Each of the eight samples adds its share of the mean.
    seen[0].backward()
    expected = torch.tensor([-0.1108, 0.0813, 0.0295])
    torch.testing.assert_close(model.net.classifier.bias.grad[:3], expected, atol=1e-4, rtol=0)


def test_outputs_beyond_the_range_of_exp_teach_and_stay_finite(monkeypatch):
    model, _, (inputs, labels, raw) = build(*THREE_THEN_TWO)
    say(model.old_net, [200.0, -200.0, 0.0] + 7 * [0.0])
    say(model.net, [-200.0, 200.0, 0.0, 200.0, -200.0] + 5 * [0.0])
    seen = losses(model, monkeypatch)
    model.meta_observe(inputs, labels, raw, epoch=0)
    seen[0].backward()
    assert seen[0].isfinite()
    torch.testing.assert_close(model.net.classifier.bias.grad[:3], torch.tensor([-0.5, 0.5, 0.0]))


def test_distillation_of_classes_has_the_gradient_of_the_paper():
    model, _, (inputs, labels, _) = build(*DIGITS, "--softmax_temp", "3", task=2)
    outputs = model.net(inputs)
    outputs.retain_grad()
    old = model.old_net(inputs)
    model.output_distance(outputs, old, labels).backward()
    for head in (slice(0, 4), slice(4, 7)):
        expected = (F.softmax(outputs[:, head] / 3, 1) - F.softmax(old[:, head] / 3, 1)) / 3 / len(inputs)
        torch.testing.assert_close(outputs.grad[:, head], expected.detach())
        assert outputs.grad[:, head].abs().min() > 0
    assert (outputs.grad[:, 7:] == 0).all()


def test_rows_of_one_layer_are_heads_of_their_own():
    options = (*DIGITS, "--optim_wd", "0.1", "--optim_mom", "0.9", "--lr", "0.2", "--warmup_epochs", "1")
    model, stream, _ = build(*options, task=0)
    trunk, teacher = copy.deepcopy(model.net), copy.deepcopy(model.net)
    heads = nn.ModuleList(nn.Linear(100, end - first) for first, end in map(model.get_offsets, range(3)))
    for head, (first, end) in zip(heads, map(model.get_offsets, range(3)), strict=True):
        head.weight.data = model.net.classifier.weight.data[first:end].clone()
        head.bias.data = model.net.classifier.bias.data[first:end].clone()

    def optimizer(*modules):
        parameters = [p for module in modules for p in module.parameters()]
        return torch.optim.SGD(parameters, lr=0.2, momentum=0.9, weight_decay=0.1)

    for task in range(3):
        if task > 0:
            stream.get_data_loaders()
            model.meta_begin_task(stream)
        model.net.train()
        trunk.classifier = nn.Identity()
        teacher, old_heads = copy.deepcopy(trunk), copy.deepcopy(heads[:task])
        first = stream.get_offsets()[0]
        for epoch in range(3):
            is_warm_up = task > 0 and epoch == 0
            if epoch == 0 or (task > 0 and epoch == 1):
                opt = optimizer(heads[task]) if is_warm_up else optimizer(trunk, *heads[: task + 1])
            model.meta_begin_epoch(epoch, stream)
            for inputs, labels, raw in stream.train_loader:
                model.meta_observe(inputs, labels, raw, epoch=epoch)
                features = trunk(inputs)
                loss = F.cross_entropy(heads[task](features), labels - first)
                for head, old_head in [] if is_warm_up else zip(heads[:task], old_heads, strict=True):
                    target = F.softmax(old_head(teacher(inputs)).detach() / 2, dim=1)
                    loss = loss + F.cross_entropy(head(features) / 2, target)
                opt.zero_grad()
                loss.backward()
                opt.step()
    own = torch.cat([head.weight for head in heads])
    torch.testing.assert_close(model.net.classifier.weight, own, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.net.layers[0].weight, trunk.layers[0].weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("train", [True, False])
def test_old_heads_learn_or_stay_and_heads_to_come_always_stay(train):
    options = ("--train_old_heads", str(train), "--optim_wd", "0.1", "--optim_mom", "0.9", "--optimizer", "sgd")
    model, stream, _ = build(*DIGITS, *options)
    before = weights(model.net)
    for batch in stream.train_loader:
        model.meta_observe(*batch, epoch=0)
    for name in ("classifier.weight", "classifier.bias"):
        moved = model.net.state_dict()[name] != before[name]
        assert moved[:4].all() if train else not moved[:4].any()
        assert moved[4:7].all()
        assert not moved[7:].any()
    assert not torch.equal(model.net.layers[0].weight, before["layers.0.weight"])


def test_recorded_and_online_are_the_same_on_classes_where_nothing_is_augmented(launch, identical):
    line = "--model lwf --dataset seq-digits --n_tasks 2 --n_epochs 2 --max_samples_per_class 20 --backbone resnet18"
    recorded, online = (launch(f"{line} --width 4 --lwf_target {target}") for target in ("recorded", "online"))
    assert recorded.code == online.code == 0
    assert identical(recorded, online)


@pytest.mark.parametrize("ce", ["new", "all"])
@pytest.mark.parametrize("kd", ["per_task", "concat"])
def test_heads_of_classes_are_slices_of_the_outputs(monkeypatch, ce, kd):
    # Ten classes in three tasks: 0-3, 4-6, 7-9.
    options = ("--lwf_ce", ce, "--lwf_kd", kd, "--lambda_o", "3", "--softmax_temp", "4")
    model, _, (inputs, labels, raw) = build(*DIGITS, *options, task=2)
    seen = losses(model, monkeypatch)
    model.meta_observe(inputs, labels, raw, epoch=0)
    z, old = model.net(inputs), model.old_net(inputs)
    assert set(labels.tolist()) <= {7, 8, 9}
    new = F.cross_entropy(z[:, 7:10], labels - 7) if ce == "new" else F.cross_entropy(z, labels)
    heads = [slice(0, 4), slice(4, 7)] if kd == "per_task" else [slice(0, 7)]
    distances = [-(F.softmax(old[:, h] / 4, 1) * F.log_softmax(z[:, h] / 4, 1)).sum(1).mean() for h in heads]
    assert seen[0].item() == pytest.approx((new + 3 * sum(distances)).item(), rel=1e-5)


def test_loss_over_all_classes_leaves_out_those_that_are_still_to_come(monkeypatch):
    model, _, (inputs, labels, raw) = build(*DIGITS, "--lwf_ce", "all", "--lambda_o", "0", task=1)
    seen = losses(model, monkeypatch)
    model.meta_observe(inputs, labels, raw, epoch=0)
    assert seen[0].item() == pytest.approx(F.cross_entropy(model.net(inputs)[:, :7], labels).item(), rel=1e-5)


@pytest.mark.parametrize("options", [(), ("--lwf_ce", "all"), ("--lwf_kd", "concat")])
def test_tasks_of_one_class_are_refused_where_their_softmax_would_teach_nothing(options):
    one_class = ("--dataset", "seq-digits", "--n_tasks", "10")
    with pytest.raises(UsageError, match="one class"):
        build(*one_class, *options)
    build(*one_class, "--lwf_ce", "all", "--lwf_kd", "concat")


# Warm-up


@pytest.mark.parametrize(
    "optimizer", [("--optim_wd", "0.1", "--optim_mom", "0.9"), ("--optimizer", "adamw", "--optim_wd", "0.1")]
)
def test_warm_up_trains_the_new_outputs_alone(optimizer):
    options = ("--backbone", "resnet18", "--width", "4", "--warmup_epochs", "2", "--lwf_ce", "all", "--n_epochs", "3")
    model, stream, _ = build(*DIGITS, *options, *optimizer)
    before = weights(model.net)
    for epoch in range(3):
        model.net.train()
        model.meta_begin_epoch(epoch, stream)
        for batch in stream.train_loader:
            model.meta_observe(*batch, epoch=epoch)
        after = weights(model.net)
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        if epoch < 2:
            assert changed == {"classifier.weight", "classifier.bias"}
            assert torch.equal(after["classifier.weight"][:4], before["classifier.weight"][:4])
            assert (after["classifier.weight"][4:7] != before["classifier.weight"][4:7]).any(1).all()
    assert {name for name in before if name not in changed and "num_batches" not in name} == set()


def test_warm_up_comes_in_later_tasks_only_and_weight_decay_leaves_the_features_alone():
    for task in (0, 1):
        model, stream, batch = build("--warmup_epochs", "1", "--optim_wd", "0.1", task=task)
        before = copy.deepcopy(model.net)
        model.meta_begin_epoch(0, stream)
        model.meta_observe(*batch, epoch=0)
        inputs = batch[0]
        same = torch.equal(model.net(inputs, returnt="features"), before(inputs, returnt="features"))
        assert same is (task == 1)
        assert not torch.equal(model.net(inputs), before(inputs))


def test_warm_up_survives_a_stop(launch, identical):
    line = "--model lwf --dataset uiprmd --n_tasks 2 --n_epochs 3 --warmup_epochs 2 --stop_after"
    straight, stopped = launch(f"{line} 2"), launch(f"{line} 1")
    assert identical(straight, launch("--stop_after 2", resume=stopped.path))


# Presets


@pytest.mark.parametrize("at", [14, 19])
@pytest.mark.parametrize("preset", ["paper", "mammoth", "pycil", "facil"])
def test_preset_stopped_in_the_second_of_two_unequal_tasks_goes_on_with_the_same_bits(
    launch, identical, stop_after, preset, at
):
    # Tasks of 4 and 3 classes: 4 epochs of 3 batches, then 4 of 2, of which the first two may be a warm-up.
    line = f"--model lwf --model_config {preset} --dataset seq-digits --n_tasks 3 --stop_after 2 --n_epochs 4"
    line += " --base_epochs 4 --max_samples_per_class 20 --batch_size 32"
    straight = launch(line)
    stop_after(at)
    stopped = launch(line)
    assert stopped.code == 128 + signal.SIGTERM
    resumed = launch("--stop_after 2", resume=stopped.path)
    assert straight.code == resumed.code == 0
    assert identical(straight, resumed)


def test_presets_differ_from_each_other_in_what_the_methods_differ_in():
    choices = ("lwf_ce", "lwf_kd", "lwf_target", "lambda_o", "train_old_heads", "warmup_epochs")
    presets = {}
    for name in ("paper", "mammoth", "pycil", "facil"):
        args = parse_args(["--model", "lwf", "--dataset", "seq-digits", "--model_config", name])
        presets[name] = tuple(getattr(args, choice) for choice in choices)
        assert (args.softmax_temp, args.optimizer, args.kd_out, args.kd_feat) == (2, "sgd", 1, 0)
    assert presets == {
        "paper": ("new", "per_task", "recorded", 1, True, 0.5),
        "mammoth": ("all", "concat", "recorded", 0.5, True, 0.5),
        "pycil": ("new", "concat", "online", 3, True, 0),
        "facil": ("new", "concat", "online", 1, False, 0),
    }


# Whole runs


def test_without_a_weight_it_is_fine_tuning_on_scores(launch):
    line = "--dataset uiprmd --n_tasks 2 --n_epochs 2"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model lwf {line} --lambda_o 0")
    net = {name: value for name, value in run.checkpoint["model"].items() if name.startswith("net.")}
    assert net
    assert all(torch.equal(value, plain.checkpoint["model"][name]) for name, value in net.items())


def test_it_forgets_less_than_fine_tuning_on_classes(launch):
    plain, run = (launch(f"--model {name} --dataset seq-digits --n_epochs 5") for name in ("sgd", "lwf"))
    assert run.summary["class_il_mean"] > plain.summary["class_il_mean"] + 10


def test_old_outputs_drift_less_with_a_larger_weight(launch):
    def drift(weight):
        run = launch(f"--model lwf --dataset uiprmd --n_tasks 2 --n_epochs 10 --lambda_o {weight}")
        model, stream, _ = build("--n_tasks", "2", task=0)
        model.load_state_dict(run.checkpoint["model"])
        stream.set_task(1)
        inputs = torch.cat([inputs for inputs, *_ in stream.train_loader])
        return F.mse_loss(model.net(inputs), model.old_net(inputs)).item()

    none, some, much = drift(0), drift(1), drift(30)
    assert none > 1.5 * some > 2 * much
