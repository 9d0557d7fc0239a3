"""X-DER by hand: the terms of its loss, and a memory that is kept up to date."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from utils.episodes import rank_in_class
from utils.future_outputs import excess, transplanted

# Tasks of 4, 3 and 3 classes.
DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "20", "--batch_size", "8", "--minibatch_size", "5")


def second_task(drive, *options):
    driven = drive("xder", *DIGITS, "--buffer_size", "18", *options)
    driven.session()
    driven.begin()
    return driven


def observed(model, monkeypatch, batch):
    """Value of the loss, without a step."""
    seen = []
    with monkeypatch.context() as patched:
        patched.setattr(model, "step", lambda loss: seen.append(loss.item()) or loss.item())
        model.meta_observe(*batch, epoch=0)
    return seen[0]


def next_draws(model):
    state = model.buffer.generator.get_state()
    draws = model.draw(), model.draw()
    model.buffer.generator.set_state(state)
    return draws


# The parts


def test_excess_is_the_mean_over_those_too_close():
    values, limits = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.1, 1.0, 5.0])
    assert excess(values, limits, 0.3).item() == pytest.approx((0.2 + 1.3) / 2)
    assert excess(values, limits + 9, 0.3).item() == 0


def test_rank_counts_samples_of_the_class_before():
    assert rank_in_class(torch.tensor([2, 0, 2, 2, 0, 1])).tolist() == [0, 0, 1, 2, 1, 0]


def test_later_outputs_are_replaced_and_kept_below_the_own_one():
    stored = torch.tensor([[4.0, 1.0, 9.0, 9.0], [4.0, 1.0, 9.0, 9.0], [-2.0, 1.0, 9.0, 9.0], [4.0, -1.0, 9.0, 9.0]])
    answers = torch.tensor(
        [[7.0, 7.0, 3.0, -1.0], [7.0, 7.0, 8.0, -1.0], [7.0, 7.0, 8.0, -1.0], [7.0, 7.0, -3.0, -2.0]]
    )
    found = transplanted(stored, answers, torch.tensor([0, 0, 0, 1]), 2, 0.85)
    below = 0.85 * 4 / 8
    expected = [[4, 1, 3, -1], [4, 1, 8 * below, -below], [-2, 1, -2, -11], [4, -1, -3, -2]]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert stored[0, 2] == 9, "what was given stays as it was"


# The loss


def test_loss_of_the_first_task_is_its_own_head_and_margins_and_consistency_of_future_ones(drive, monkeypatch):
    driven = drive("xder", *DIGITS, "--buffer_size", "18", "--eta", "0.5", "--lambd", "0.7", "--m", "0.4")
    driven.begin()
    model = driven.model
    inputs, labels, raw = driven.batch()
    outputs = model.net(inputs)
    expected = F.cross_entropy(outputs[:, :4], labels)
    expected = expected + 0.5 * excess(outputs[:, 4:].amax(1), outputs[:, :4].amax(1), 0.4)
    contrast = [supervised(F.normalize(outputs[:, a:b]).repeat(2, 1), labels.repeat(2)) for a, b in ((4, 7), (7, 10))]
    expected = expected + 0.7 * sum(contrast) / 2
    assert observed(model, monkeypatch, (inputs, labels, raw)) == pytest.approx(expected.item(), rel=1e-5)


def supervised(features, labels):
    """Khosla et al., equation 2, at temperature 5, sample by sample."""
    losses = []
    for i in range(len(labels)):
        others = [a for a in range(len(labels)) if a != i]
        total = sum((features[i] @ features[a] / 5).exp() for a in others)
        same = [a for a in others if labels[a] == labels[i]]
        losses.append(-sum(((features[i] @ features[p] / 5).exp() / total).log() for p in same) / len(same))
    return sum(losses) / len(losses)


def test_loss_of_later_tasks_separates_past_present_and_future(drive, monkeypatch):
    # A margin that every sample is within, so that one counted twice would show.
    options = ("--alpha", "0.3", "--beta", "0.9", "--eta", "0.5", "--m", "4", "--lambd", "0")
    driven = second_task(drive, *options)
    model, batch = driven.model, driven.batch()
    inputs, labels, _ = batch
    (slots, first, _, logits, _), (others, second, more_targets, _, _) = next_draws(model)
    assert 0 < torch.isin(others, slots).sum() < 5
    outputs, answers, more = (model.net(x).detach() for x in (inputs, first, second))
    shares = outputs[:, :7].softmax(1)
    expected = F.cross_entropy(outputs[:, 4:7], labels - 4)
    expected += 0.3 * (answers - logits).square().mean() + 0.9 * F.cross_entropy(more[:, :4], more_targets)
    expected += 0.5 * excess(shares[:, :4].amax(1), shares[:, 4:].amax(1), 4)
    new = ~torch.isin(others, slots)
    own = torch.cat([outputs[:, 4:7].amax(1), answers[:, :4].amax(1), more[new][:, :4].amax(1)])
    future = torch.cat([part[:, 7:].amax(1) for part in (outputs, answers, more[new])])
    expected += 0.5 * excess(future, own, 4)
    assert observed(model, monkeypatch, batch) == pytest.approx(expected.item(), rel=1e-5)


def test_past_heads_are_not_pushed_down_by_the_margin(drive, monkeypatch):
    driven = second_task(drive, "--alpha", "0", "--beta", "0", "--eta", "1", "--m", "5", "--lambd", "0")
    model = driven.model
    model.buffer.empty()
    inputs, labels, raw = driven.batch()
    seen = []
    monkeypatch.setattr(model, "step", lambda loss: seen.append(loss) or 0.0)
    model.meta_observe(inputs, labels, raw, epoch=0)
    outputs = model.net(inputs).detach().requires_grad_()
    shares = outputs[:, :7].softmax(1)
    loss = F.cross_entropy(outputs[:, 4:7], labels - 4)
    loss = loss + (5 + shares[:, :4].amax(1).detach() - shares[:, 4:].amax(1)).mean()
    loss = loss + (5 + outputs[:, 7:].amax(1) - outputs[:, 4:7].amax(1)).mean()
    loss.backward()
    model.net.zero_grad()
    seen[0].backward()
    torch.testing.assert_close(model.net.classifier.bias.grad, outputs.grad.sum(0), rtol=1e-4, atol=1e-6)


# The memory


def test_memory_is_balanced_over_the_classes_seen_and_the_last_task_stores_nothing(drive):
    driven = drive("xder", *DIGITS, "--buffer_size", "18")
    for counts in ([5, 5, 4, 4], [3, 3, 3, 3, 2, 2, 2], [3, 3, 3, 3, 2, 2, 2]):
        driven.session()
        assert driven.model.buffer.get_all_data()[1].bincount().tolist() == counts


def test_outputs_at_the_end_of_the_task_are_stored(drive):
    driven = drive("xder", *DIGITS, "--buffer_size", "18")
    driven.session()
    model = driven.model
    examples, _, logits, draws = model.buffer.get_all_data()
    torch.testing.assert_close(logits, model.answers(examples))
    assert not draws.any()


def test_stored_outputs_are_of_the_network_in_evaluation_mode(drive):
    driven, modes = second_task(drive), []
    driven.model.net.register_forward_pre_hook(lambda net, args: modes.append(net.training))
    driven.model.meta_end_task(driven.dataset)
    assert modes
    assert not any(modes)


def test_end_of_a_task_brings_later_outputs_of_past_classes_up_to_date(drive):
    driven = drive("xder", *DIGITS, "--buffer_size", "18")
    driven.session()
    model = driven.model
    driven.begin()
    driven.learn()
    examples, labels, logits, _ = model.buffer.get_all_data()
    model.net.eval()
    expected = transplanted(logits, model.answers(examples), labels, 4, 0.85)[rank_in_class(labels) < 3]
    model.meta_end_task(driven.dataset)
    found, found_labels, found_logits, draws = model.buffer.get_all_data()
    assert torch.equal(found[:12], examples[rank_in_class(labels) < 3])
    torch.testing.assert_close(found_logits[:12], expected)
    torch.testing.assert_close(found_logits[12:], model.answers(found[12:]))
    assert set(found_labels[12:].tolist()) == {4, 5, 6}
    assert not draws.any()


def test_drawn_samples_take_over_later_outputs_alone(drive, monkeypatch):
    driven = second_task(drive)
    model, before = driven.model, driven.model.buffer.get_all_data()[2]
    (slots, first, *_), (others, second, *_) = next_draws(model)
    both = {int(slot): x for slot, x in [*zip(others, second, strict=True), *zip(slots, first, strict=True)]}
    drawn = torch.tensor(sorted(both))
    answers = model.net(torch.stack([both[int(slot)] for slot in drawn])).detach()
    observed(model, monkeypatch, driven.batch())
    _, labels, logits, draws = model.buffer.get_all_data()
    assert draws[drawn].tolist() == [1] * len(drawn)
    assert draws.sum() == len(drawn)
    torch.testing.assert_close(logits[drawn], transplanted(before[drawn], answers, labels[drawn], 4, 0.85))
    assert torch.equal(logits[draws == 0], before[draws == 0])


def test_every_draw_of_a_task_has_the_same_chance_to_stay(drive):
    driven = second_task(drive)
    model, slot, counts = driven.model, torch.tensor([0]), [0, 0, 0, 0]
    model.buffer.logits[0] = torch.tensor([9.0] * 10)
    for _ in range(400):
        model.buffer.draws[0] = 0
        for i in range(4):
            model.update_stored(slot, torch.full((1, 10), float(i)))
        counts[int(model.buffer.logits[0, 9])] += 1
    assert min(counts) > 65
    assert max(counts) < 135


def test_it_forgets_less_than_fine_tuning(launch):
    line = "--dataset seq-digits --n_epochs 3"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model xder --buffer_size 200 {line}")
    assert run.summary["class_il_mean"] > plain.summary["class_il_mean"] + 30
