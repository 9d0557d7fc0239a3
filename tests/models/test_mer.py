"""Meta-experience replay against the paper's algorithm written out sample by sample."""

from __future__ import annotations

import copy

import pytest
import torch

import backbone
import datasets
import models
from utils.args import parse_args
from utils.conf import set_random_seed


def build(*options, batch_size=1):
    """A model at the beginning of the first task, and its stream."""
    argv = ["--model", "mer", "--dataset", "uiprmd", "--buffer_size", "20", "--buffer_scope", "total"]
    plain = ["--optimizer", "sgd", "--optim_wd", "0", "--lr", "0.05", "--batch_size", str(batch_size)]
    args = parse_args([*argv, *plain, *options])
    stream = datasets.get_dataset(args)
    set_random_seed(0)
    model = models.get_model(args, backbone.get_backbone(args), stream.get_loss(), stream.get_transform(), stream)
    stream.get_data_loaders()
    model.meta_begin_task(stream)
    model.net.train()
    return model, stream


def algorithm_1(net, loss, memories, sample, rate, beta, gamma):
    """The paper's lines, for one sample; `memories` are the draws of the s batches."""
    theta = [p.detach().clone() for p in net.parameters()]
    theta_a0 = theta
    for memory in memories:
        theta_w0 = theta
        theta_w = theta
        for x, y in [*memory, sample]:
            for p, value in zip(net.parameters(), theta_w, strict=True):
                p.data = value.clone()
            gradient = torch.autograd.grad(loss(net(x[None]), y[None]), list(net.parameters()))
            theta_w = [w - rate * g for w, g in zip(theta_w, gradient, strict=True)]
        theta = [w0 + beta * (wk - w0) for w0, wk in zip(theta_w0, theta_w, strict=True)]
    return [a0 + gamma * (a - a0) for a0, a in zip(theta_a0, theta, strict=True)]


def test_single_samples_are_learnt_by_the_papers_algorithm():
    options = ("--batch_num", "3", "--minibatch_size", "4", "--beta", "0.3", "--gamma", "0.6")
    model, stream = build(*options)
    batches = iter(stream.train_loader)
    for _ in range(6):
        model.meta_observe(*next(batches), epoch=0)
    inputs, labels, raw = next(batches)

    net, generator = copy.deepcopy(model.net), model.buffer.generator.get_state()
    memories = []
    for _ in range(3):
        drawn = model.buffer.get_data(4, transform=model.transform)
        assert len(drawn[0]) == 4
        memories.append(list(zip(*drawn, strict=True)))
    model.buffer.generator.set_state(generator)
    expected = algorithm_1(net, model.loss, memories, (inputs[0], labels[0]), rate=0.05, beta=0.3, gamma=0.6)

    before = copy.deepcopy(list(model.net.parameters()))
    model.meta_observe(inputs, labels, raw, epoch=0)
    for found, wanted, old in zip(model.net.parameters(), expected, before, strict=True):
        torch.testing.assert_close(found.data, wanted, rtol=1e-4, atol=1e-7)
        assert not torch.equal(found, old)


def test_batch_takes_the_place_of_a_sample_and_replay_comes_in_groups_before_it(monkeypatch):
    model, stream = build("--batch_num", "2", "--minibatch_size", "10", batch_size=4)
    batches = iter(stream.train_loader)
    for _ in range(3):
        model.meta_observe(*next(batches), epoch=0)
    inputs, labels, raw = next(batches)
    shown = []
    hook = model.net.register_forward_pre_hook(lambda module, args: shown.append(args[0]))
    value = model.meta_observe(inputs, labels, raw, epoch=0)
    hook.remove()
    assert [len(x) for x in shown] == [4, 4, 2, 4] * 2
    assert torch.equal(shown[3], inputs)
    assert torch.equal(shown[7], inputs)
    stored = model.buffer.get_all_data(transform=model.normalization_transform)[0][:12]
    replayed = torch.cat(shown[:3])
    assert all(any(torch.equal(x, s) for s in stored) for x in replayed)
    assert len(replayed.unique(dim=0)) == 10, "drawn without replacement"
    assert not torch.equal(replayed, torch.cat(shown[4:7])), "each round draws anew"
    assert value > 0


@pytest.mark.parametrize("options", [("--beta", "0"), ("--gamma", "0")])
def test_share_of_nothing_stays_where_it_is(options):
    model, stream = build(*options, batch_size=8)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    for batch in stream.train_loader:
        model.meta_observe(*batch, epoch=0)
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())


def test_reservoir_is_offered_raw_samples_in_the_first_epoch_only():
    model, stream = build(batch_size=8)
    for epoch in range(2):
        for batch in stream.train_loader:
            model.meta_observe(*batch, epoch=epoch)
    assert model.buffer.num_seen_examples == 27
    assert len(model.buffer) == 20
    raw = stream.train_loader.dataset[list(range(27))][0]
    assert all(any(torch.equal(x, r) for r in raw) for x in model.buffer.get_all_data()[0])


@pytest.mark.parametrize("dataset", ["uiprmd", "seq-digits"])
def test_whole_way_of_one_round_without_a_buffer_is_fine_tuning(launch, dataset):
    line = f"--dataset {dataset} --n_tasks 2 --n_epochs 2"
    plain = launch(f"--model sgd {line}")
    run = launch(f"--model mer --buffer_size 0 --batch_num 1 --beta 1 --gamma 1 {line}")
    net = {name: value for name, value in run.checkpoint["model"].items() if name.startswith("net.")}
    assert net
    assert all(torch.equal(value, plain.checkpoint["model"][name]) for name, value in net.items())


def test_it_forgets_less_than_fine_tuning(launch):
    line = "--dataset uiprmd --n_tasks 3 --n_epochs 15"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model mer --buffer_size 10 {line}")
    assert run.summary["mae"] < 0.7 * plain.summary["mae"]
    line = "--dataset seq-digits --n_epochs 2"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model mer --buffer_size 200 --beta 1 {line}")
    assert run.summary["class_il_mean"] > plain.summary["class_il_mean"] + 15
