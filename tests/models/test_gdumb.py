"""GDumb: what the memory holds, and a fitting that knows nothing else."""

from __future__ import annotations

import pytest
import torch

import backbone
from utils.augmentations import cutmix_data
from utils.conf import set_random_seed
from utils.errors import UsageError

# Tasks of 4, 3 and 3 classes.
DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "20", "--fitting_epochs", "3", "--batch_size", "8")


def net_of(model):
    return {name: value.clone() for name, value in model.net.state_dict().items()}


def same(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_stream_trains_nothing_and_fills_a_balanced_memory(drive):
    driven = drive("gdumb", *DIGITS, "--buffer_size", "21", "--n_epochs", "2")
    before = net_of(driven.model)
    driven.begin()
    inputs, labels, raw = driven.batch()
    value = driven.model.meta_observe(inputs, labels, raw, epoch=1)
    assert value == pytest.approx(driven.model.loss(driven.model.net(inputs), labels).item())
    driven.learn()
    assert same(before, driven.model.net.state_dict())
    assert driven.model.buffer.num_seen_examples == 80, "later epochs bring nothing new"
    assert sorted(driven.model.buffer.get_all_data()[1].bincount().tolist()) == [5, 5, 5, 6]
    driven.model.meta_end_task(driven.dataset)
    driven.session()
    assert driven.model.buffer.get_all_data()[1].bincount(minlength=7).tolist() == [3] * 7


def test_fitting_starts_from_scratch_and_depends_on_the_memory_alone(drive):
    first, second = (drive("gdumb", *DIGITS, "--buffer_size", "21") for _ in range(2))
    for driven in (first, second):
        driven.session()
    with torch.no_grad():
        for p in second.model.net.parameters():
            p.add_(1.0)
    set_random_seed(5)
    for driven in (first, second):
        driven.session()
    assert same(first.model.net.state_dict(), second.model.net.state_dict())


def test_fresh_weights_differ_from_task_to_task_and_leave_the_global_generator_alone(drive, monkeypatch):
    driven = drive("gdumb", *DIGITS, "--buffer_size", "21")
    monkeypatch.setattr(driven.model, "step", lambda loss: loss.item())
    state = torch.get_rng_state()
    driven.session()
    first = net_of(driven.model)
    driven.session()
    assert not torch.equal(first["layers.0.weight"], driven.model.net.layers[0].weight)
    assert torch.equal(state, torch.get_rng_state())
    network = backbone.get_backbone(driven.model.args)
    assert first["layers.0.weight"].std() == pytest.approx(network.layers[0].weight.std().item(), rel=0.2)


def test_every_epoch_shows_the_whole_memory_in_another_order(drive, monkeypatch):
    driven = drive("gdumb", *DIGITS, "--buffer_size", "20")
    driven.begin()
    driven.learn()
    shown = []
    hook = driven.model.net.register_forward_pre_hook(lambda module, args: shown.append(args[0]))
    driven.model.meta_end_task(driven.dataset)
    hook.remove()
    assert [len(part) for part in shown] == [8, 8, 4] * 3
    epochs = [torch.cat(shown[i : i + 3]) for i in (0, 3, 6)]
    stored = driven.model.buffer.get_all_data(transform=driven.model.normalization_transform)[0]
    for epoch in epochs:
        assert torch.equal(epoch.flatten(1).unique(dim=0), stored.flatten(1).unique(dim=0))
    assert not torch.equal(epochs[0], epochs[1])


def test_rates_are_a_warm_up_and_torchs_cosine_with_warm_restarts(drive):
    model = drive("gdumb", *DIGITS, "--buffer_size", "6", "--fitting_epochs", "40").model
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=1, T_mult=2, eta_min=0.0005)
    expected = [0.005]
    for _ in range(39):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert model.rates() == pytest.approx(expected)
    model.args.fitting_epochs = 1
    assert model.rates() == [pytest.approx(0.005)]


def test_steps_are_made_at_those_rates(drive, monkeypatch):
    driven = drive("gdumb", *DIGITS, "--buffer_size", "8", "--fitting_epochs", "4")
    driven.begin()
    driven.learn()
    used = []
    monkeypatch.setattr(driven.model, "step", lambda loss: used.append(driven.model.opt.param_groups[0]["lr"]))
    driven.model.meta_end_task(driven.dataset)
    assert used == driven.model.rates()


# CutMix


def test_loss_of_mixed_batches_is_shared_between_both_labels(drive, monkeypatch):
    driven = drive("gdumb", *DIGITS, "--buffer_size", "8", "--cutmix_alpha", "1")
    model, seen = driven.model, []
    monkeypatch.setattr(model, "step", lambda loss: seen.append(loss.item()))
    driven.begin()
    inputs, labels, _ = driven.batch()
    expected, shares = [], []
    for seed in range(6):
        set_random_seed(seed)
        mixed, own, pasted, share = cutmix_data(inputs, labels, 1.0)
        outputs = model.net(mixed)
        loss = share * model.loss(outputs, own) + (1 - share) * model.loss(outputs, pasted)
        expected.append(loss.item())
        shares.append(share)
        set_random_seed(seed)
        model.fit(inputs, labels)
    assert seen == pytest.approx(expected)
    assert min(shares) < 1 == max(shares)


def test_without_cutmix_batches_are_as_they_are(drive, monkeypatch):
    driven = drive("gdumb", *DIGITS, "--buffer_size", "8")
    seen = []
    monkeypatch.setattr(driven.model, "step", lambda loss: seen.append(loss.item()))
    driven.begin()
    inputs, labels, _ = driven.batch()
    driven.model.fit(inputs, labels)
    assert seen == [pytest.approx(driven.model.loss(driven.model.net(inputs), labels).item())]


def test_cutmix_is_refused_where_samples_are_no_images(drive, monkeypatch):
    from datasets.seq_digits import SequentialDigits

    monkeypatch.setattr(SequentialDigits, "input_shape", (64,))
    with pytest.raises(UsageError, match="seq-digits"):
        drive("gdumb", *DIGITS, "--buffer_size", "8", "--cutmix_alpha", "1")


# Whole runs


def test_published_defaults_hold_unless_others_are_given(drive):
    args = drive("gdumb", "--dataset", "seq-digits", "--buffer_size", "8").model.args
    assert (args.batch_size, args.optim_mom, args.optim_wd, args.clip_grad) == (16, 0.9, 1e-6, 10)
    assert (args.fitting_epochs, args.maxlr, args.minlr, args.cutmix_alpha) == (256, 0.05, 0.0005, None)


def test_memory_alone_is_enough_for_digits(launch):
    run = launch("--model gdumb --dataset seq-digits --buffer_size 100 --fitting_epochs 20 --max_samples_per_class 20")
    assert run.summary["class_il_mean"] > 70
