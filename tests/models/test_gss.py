"""Gradient-based sample selection by hand: scores, and who takes whose place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from utils.errors import TrainingError

# Tasks of 4, 3 and 3 classes.
DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "20", "--batch_size", "8", "--minibatch_size", "4")


def gradient(model, x, y):
    model.net.zero_grad()
    model.loss(model.net(x[None]), y[None]).backward()
    return torch.cat([p.grad.flatten() for p in model.net.parameters()]).clone()


def begun(drive, size, *options):
    driven = drive("gss", *DIGITS, "--buffer_size", str(size), *options)
    driven.begin()
    return driven


def test_score_is_one_more_than_the_largest_cosine_to_drawn_gradients(drive):
    driven = begun(drive, 20, "--gss_minibatch_size", "6")
    model = driven.model
    for batch in list(driven.dataset.train_loader)[:2]:
        model.meta_observe(*batch, epoch=0)
    _, labels, raw = driven.batch()
    state = model.buffer.generator.get_state()
    examples, targets, _ = model.buffer.get_data(6, transform=model.normalization_transform)
    model.buffer.generator.set_state(state)
    scores = model.scores(raw, labels)
    assert model.net.training
    memory = [gradient(model, x, y) for x, y in zip(examples, targets, strict=True)]
    for x, y, score in zip(model.normalization_transform(raw), labels, scores, strict=True):
        cosines = [F.cosine_similarity(gradient(model, x, y), other, dim=0).item() for other in memory]
        assert score.item() == pytest.approx(1 + max(cosines), abs=1e-5)


def test_gradients_opposite_to_all_others_have_a_score_above_zero(drive, monkeypatch):
    driven = begun(drive, 20)
    model = driven.model
    model.meta_observe(*driven.batch(), epoch=0)
    _, labels, raw = driven.batch()
    found = iter([torch.ones(4, 1), -torch.ones(8, 1)])
    monkeypatch.setattr(model, "directions", lambda inputs, labels: iter(next(found)))
    assert model.scores(raw, labels).tolist() == pytest.approx([1e-6] * 8)


def test_gradients_are_of_clean_views_and_the_network_in_evaluation_mode(drive):
    driven = begun(drive, 20)
    model, modes = driven.model, []
    model.meta_observe(*driven.batch(), epoch=0)
    _, labels, raw = driven.batch()
    model.net.register_forward_pre_hook(lambda net, args: modes.append(net.training))
    model.transform = lambda batch: pytest.fail("augmented")
    model.scores(raw, labels)
    assert modes == [False] * 12


def test_samples_fill_free_places_with_their_scores(drive):
    driven = begun(drive, 20)
    model = driven.model
    inputs, labels, raw = driven.batch()
    model.meta_observe(inputs, labels, raw, epoch=0)
    stored = model.buffer.get_all_data()
    assert torch.equal(stored[0], raw)
    assert torch.equal(stored[1], labels)
    assert torch.equal(stored[2], torch.full((8,), 0.1)), "nothing was there to compare with"


def full(drive, monkeypatch, stored, offered):
    """A memory of 4 with given scores that was offered a batch of 8 with given scores."""
    driven = begun(drive, 4)
    model = driven.model
    first, second = (driven.batch() for _ in range(2))
    model.buffer.add_data(first[2][:4], labels=first[1][:4], scores=torch.tensor(stored))
    monkeypatch.setattr(model, "scores", lambda raw, labels: torch.tensor(offered))
    model.offer(second[2], second[1])
    return model.buffer, first, second


def test_full_memory_is_closed_to_scores_of_one_and_above(drive, monkeypatch):
    buffer, first, _ = full(drive, monkeypatch, [1.9] * 4, [1.0, 1.5, 2.0] + [1.2] * 5)
    assert torch.equal(buffer.get_all_data()[0], first[2][:4])


def test_place_is_drawn_by_score_and_taken_with_sample_label_and_score(drive, monkeypatch):
    low = 1e-30
    buffer, first, second = full(drive, monkeypatch, [low, low, 1.9, low], [1.5] * 3 + [1e-6] + [1.5] * 4)
    examples, labels, scores = buffer.get_all_data()
    assert torch.equal(examples[2], second[2][3])
    assert labels[2] == second[1][3]
    assert scores[2] == 1e-6
    others = torch.tensor([0, 1, 3])
    assert torch.equal(examples[others], first[2][others])
    assert scores[others].tolist() == pytest.approx([low] * 3)


def test_chance_of_replacement_is_the_stored_score_over_the_sum_of_both(drive, monkeypatch):
    driven = begun(drive, 1)
    model, taken, n = driven.model, 0, 600
    _, labels, raw = driven.batch()
    model.buffer.add_data(raw[:1], labels=labels[:1], scores=torch.tensor([0.6]))
    monkeypatch.setattr(model, "scores", lambda raw, labels: torch.tensor([0.9]))
    for _ in range(n):
        model.buffer.scores[0] = 0.6
        model.offer(raw[1:2], labels[1:2])
        taken += int(model.buffer.scores[0] == 0.9)
    assert taken / n == pytest.approx(0.4, abs=0.06)


def test_later_sample_of_a_batch_competes_with_one_that_was_just_taken(drive, monkeypatch):
    buffer, _, second = full(drive, monkeypatch, [1.9, 1e-30, 1e-30, 1e-30], [1e-6, 1e-12] + [1.5] * 6)
    assert torch.equal(buffer.get_all_data()[0][0], second[2][1])
    assert buffer.get_all_data()[2][0] == pytest.approx(1e-12)


def test_sample_that_was_just_taken_defends_its_place_with_its_own_score(drive, monkeypatch):
    buffer, _, second = full(drive, monkeypatch, [1.9, 1e-30, 1e-30, 1e-30], [1e-12, 1e-3] + [1.5] * 6)
    assert torch.equal(buffer.get_all_data()[0][0], second[2][0])
    assert buffer.get_all_data()[2][0] == pytest.approx(1e-12)


def test_every_round_replays_another_draw_and_the_memory_may_be_offered_the_first_epoch_only(drive):
    driven = begun(drive, 20, "--batch_num", "3", "--offer_epochs", "first")
    model = driven.model
    for batch in list(driven.dataset.train_loader)[:2]:
        model.meta_observe(*batch, epoch=0)
    stored, shown = model.buffer.get_all_data()[0], []
    inputs, labels, raw = driven.batch()
    hook = model.net.register_forward_pre_hook(lambda module, args: shown.append(args[0]))
    model.meta_observe(inputs, labels, raw, epoch=1)
    hook.remove()
    assert [len(part) for part in shown] == [12] * 3
    assert all(torch.equal(part[:8], inputs) for part in shown)
    assert not torch.equal(shown[0][8:], shown[1][8:])
    assert torch.equal(stored, model.buffer.get_all_data()[0])


def test_gradients_that_are_not_finite_end_the_run(drive):
    driven = begun(drive, 20)
    driven.model.meta_observe(*driven.batch(), epoch=0)
    _, labels, raw = driven.batch()
    with torch.no_grad():
        driven.model.net.classifier.weight.fill_(float("inf"))
    with pytest.raises(TrainingError, match=r"gss: .* task 1"):
        driven.model.scores(raw, labels)


def test_without_a_memory_it_is_fine_tuning(launch):
    line = "--dataset seq-digits --n_tasks 2 --n_epochs 1 --max_samples_per_class 20"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model gss --buffer_size 0 {line}")
    net = {name: value for name, value in run.checkpoint["model"].items() if name.startswith("net.")}
    assert net
    assert all(torch.equal(value, plain.checkpoint["model"][name]) for name, value in net.items())
