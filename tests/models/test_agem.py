"""Averaged gradient episodic memory by hand: what is remembered, and which steps are allowed."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from utils.episodes import even_shares, first_samples
from utils.errors import TrainingError

SGD = ("--optimizer", "sgd", "--optim_wd", "0", "--lr", "0.01", "--batch_size", "8")
BUFFER = ("--buffer_size", "6", "--minibatch_size", "4")


def gradient(model, inputs, labels):
    model.net.zero_grad()
    model.loss(model.net(inputs), labels).backward()
    return parameters_to_vector([p.grad for p in model.net.parameters()]).clone()


def next_draw(model):
    """What the next step will draw from the memory."""
    state = model.buffer.generator.get_state()
    drawn = model.buffer.get_data(4, transform=model.transform)
    model.buffer.generator.set_state(state)
    return drawn


def second_task(drive, name, *options):
    driven = drive(name, *SGD, *BUFFER, *options)
    driven.session()
    driven.begin()
    return driven


def opposed(model):
    """A batch that wants the opposite of the memory: the same samples, their errors turned round."""
    examples, labels = model.buffer.get_all_data()
    inputs = model.normalization_transform(examples)
    noise = 0.3 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
    return inputs + noise, 2 * model.net(inputs).detach()[:, 0] - labels, examples


# Dividing a memory


@pytest.mark.parametrize(
    ("capacity", "n", "shares"), [(7, 3, [3, 2, 2]), (2, 3, [1, 1, 0]), (0, 2, [0, 0]), (5, 1, [5])]
)
def test_shares_are_even_and_use_every_place(capacity, n, shares):
    assert even_shares(capacity, n) == shares


@pytest.mark.parametrize(("n", "sizes"), [(0, []), (2, [2]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1]), (9, [3, 3, 1])])
def test_first_samples_cuts_the_last_batch_and_reads_no_further(n, sizes):
    read = []

    def batches():
        for part in torch.arange(7).split(3):
            read.append(part)
            yield part, -part

    found = list(first_samples(batches(), n))
    assert [len(part) for part, _ in found] == sizes
    assert all(torch.equal(a, -b) for a, b in found)
    assert [int(x) for part, _ in found for x in part] == list(range(min(n, 7)))
    assert len(read) == min(-(-n // 3), 3)


# The memory


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        (("--buffer_scope", "session"), [6, 12, 12]),
        (("--buffer_scope", "total", "--buffer_size", "5"), [3, 5, 5]),
        (("--buffer_scope", "total", "--buffer_size", "1"), [1, 1, 1]),
        (("--buffer_scope", "session", "--buffer_size", "100"), [45, 90, 90]),
    ],
)
def test_every_task_but_the_last_remembers_its_share(drive, options, sizes):
    driven = drive("agem", *SGD, *BUFFER, *options)
    for size in sizes:
        driven.session()
        assert len(driven.model.buffer) == size


def test_what_is_remembered_is_raw_samples_of_the_task_each_once_with_its_label(drive):
    driven = drive("agem", *SGD, *BUFFER)
    driven.session()
    raw, targets = driven.data()
    examples, labels = driven.model.buffer.get_all_data()
    where = [int((raw == example).flatten(1).all(1).nonzero()) for example in examples]
    assert len(set(where)) == 6
    assert torch.equal(targets[where], labels)


def test_reservoir_of_agem_r_is_offered_every_sample_once(drive):
    driven = drive("agem-r", *SGD, *BUFFER, "--n_epochs", "2", "--buffer_scope", "total")
    driven.session()
    assert driven.model.buffer.num_seen_examples == len(driven.data()[0])
    driven.session()
    assert driven.model.buffer.num_seen_examples > len(driven.data()[0])
    assert len(driven.model.buffer) == 6


# The step


@pytest.mark.parametrize("name", ["agem", "agem-r"])
def test_gradient_that_agrees_with_the_draw_is_taken_as_it_is(drive, name):
    model = second_task(drive, name).model
    replayed, labels = next_draw(model)
    expected = gradient(model, replayed, labels)
    loss = model.loss(model.net(replayed), labels).item()
    assert model.meta_observe(replayed, labels, replayed, epoch=1) == pytest.approx(loss)
    torch.testing.assert_close(parameters_to_vector([p.grad for p in model.net.parameters()]), expected)
    assert model.logged["violated"] == 0


@pytest.mark.parametrize("name", ["agem", "agem-r"])
def test_gradient_that_would_raise_the_loss_of_the_draw_loses_the_part_that_does(drive, name):
    model = second_task(drive, name).model
    inputs, labels, raw = opposed(model)
    past, plain = gradient(model, *next_draw(model)), gradient(model, inputs, labels)
    assert past @ plain < 0
    model.meta_observe(inputs, labels, raw, epoch=1)
    found = parameters_to_vector([p.grad for p in model.net.parameters()])
    expected = plain - (plain @ past) / (past @ past) * past
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(plain.norm()))
    assert abs(float(past @ found)) < 1e-5 * float(past.norm() * plain.norm())
    assert model.logged["violated"] == 1


@pytest.mark.parametrize("name", ["agem", "agem-r"])
def test_gradient_that_is_not_finite_ends_the_run_and_changes_nothing(drive, name):
    driven = second_task(drive, name)
    before = {key: value.clone() for key, value in driven.model.net.state_dict().items()}
    inputs, labels, raw = driven.batch()
    with pytest.raises(TrainingError, match=f"{name}: .* task 2"):
        driven.model.meta_observe(inputs * float("nan"), labels, raw, epoch=0)
    assert all(torch.equal(value, before[key]) for key, value in driven.model.net.state_dict().items())


# Whole runs


@pytest.mark.parametrize("name", ["agem", "agem-r"])
def test_without_a_memory_it_is_fine_tuning(launch, name):
    line = "--dataset seq-digits --n_tasks 2 --n_epochs 1 --max_samples_per_class 20"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model {name} --buffer_size 0 {line}")
    net = {key: value for key, value in run.checkpoint["model"].items() if key.startswith("net.")}
    assert net
    assert all(torch.equal(value, plain.checkpoint["model"][key]) for key, value in net.items())


@pytest.mark.parametrize("name", ["agem", "agem-r"])
def test_it_forgets_less_than_fine_tuning_on_scores(launch, name):
    line = "--dataset uiprmd --n_tasks 3 --n_epochs 10"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model {name} --buffer_size 10 {line}")
    assert run.summary["mae"] < 0.8 * plain.summary["mae"]
