"""Asymmetric cross-entropy by hand: which classes a batch competes with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

# Tasks of 4, 3 and 3 classes.
DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "20", "--buffer_size", "20", "--batch_size", "8")


def second_task(drive, *options):
    driven = drive("er-ace", *DIGITS, *options)
    driven.session()
    driven.begin()
    return driven


def record(model, monkeypatch):
    """Let steps record their loss instead of changing the network."""
    seen = []
    monkeypatch.setattr(model, "step", lambda loss: seen.append(loss) or loss.item())
    return seen


def test_batch_competes_with_its_own_and_unseen_classes_and_replay_with_all_seen(drive, monkeypatch):
    driven = second_task(drive, "--minibatch_size", "5")
    model = driven.model
    batch = driven.batch()
    inputs, labels, raw = (part[batch[1] != 5] for part in batch)
    assert labels.unique().tolist() == [4, 6]
    state = model.buffer.generator.get_state()
    replayed, targets = model.buffer.get_data(5, transform=model.transform)
    model.buffer.generator.set_state(state)
    seen = record(model, monkeypatch)
    model.meta_observe(inputs, labels, raw, epoch=1)
    open_classes = torch.tensor([4, 6, 7, 8, 9])
    own = F.cross_entropy(model.net(inputs)[:, open_classes], (labels == 6).long())
    replay = F.cross_entropy(model.net(replayed)[:, :7], targets)
    assert seen[0].item() == pytest.approx((own + replay).item())
    assert model.logged == pytest.approx({"loss_stream": own.item(), "loss_replay": replay.item()})


def test_outputs_of_absent_old_classes_get_no_gradient_from_the_batch(drive, monkeypatch):
    driven = second_task(drive)
    model = driven.model
    model.buffer.empty()
    inputs, labels, raw = (part[:1] for part in driven.batch())
    seen = record(model, monkeypatch)
    model.meta_observe(inputs, labels, raw, epoch=0)
    model.net.zero_grad()
    seen[0].backward()
    moved = (model.net.classifier.bias.grad.abs() > 0).nonzero().view(-1)
    assert moved.tolist() == [int(labels), 7, 8, 9]


def test_first_task_is_plain_fine_tuning_over_all_classes(drive, monkeypatch):
    driven = drive("er-ace", *DIGITS)
    driven.begin()
    driven.model.meta_observe(*driven.batch(), epoch=0)
    assert len(driven.model.buffer) == 8
    seen = record(driven.model, monkeypatch)
    inputs, labels, raw = driven.batch()
    driven.model.meta_observe(inputs, labels, raw, epoch=1)
    assert seen[0].item() == pytest.approx(F.cross_entropy(driven.model.net(inputs), labels).item())


@pytest.mark.parametrize(("words", "n_offered"), [((), 160), (("--offer_epochs", "first"), 80)])
def test_reservoir_is_offered_raw_samples_in_every_epoch_or_the_first(drive, words, n_offered):
    driven = drive("er-ace", *DIGITS, "--n_epochs", "2", *words)
    driven.session()
    assert driven.model.buffer.num_seen_examples == n_offered
    raw = driven.data()[0]
    assert all(any(torch.equal(x, r) for r in raw) for x in driven.model.buffer.get_all_data()[0])


def test_it_forgets_less_than_fine_tuning(launch):
    line = "--dataset seq-digits --n_epochs 3"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model er-ace --buffer_size 200 {line}")
    assert run.summary["class_il_mean"] > plain.summary["class_il_mean"] + 30
