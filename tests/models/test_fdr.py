"""Function distance regularisation by hand: what is recorded, and the step that keeps it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

# Tasks of 4, 3 and 3 classes.
DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "20", "--batch_size", "8", "--buffer_size", "7")
SCORES = ("--batch_size", "8", "--buffer_size", "7", "--buffer_scope", "total")


def test_tasks_share_the_memory_evenly_and_the_last_stores_nothing(drive):
    driven = drive("fdr", *DIGITS)
    kept = []
    for sizes in ([7], [4, 3], [4, 3]):
        driven.session()
        examples, _, _, tasks = driven.model.buffer.get_all_data()
        assert tasks.bincount().tolist() == sizes
        kept.append(examples)
    assert torch.equal(kept[1][:4], kept[0][:4])
    assert torch.equal(kept[2], kept[1])


def test_outputs_at_the_end_of_the_task_are_recorded_and_stay_as_they_are(drive):
    driven = drive("fdr", *DIGITS)
    driven.session()
    model = driven.model
    examples, labels, recorded, _ = model.buffer.get_all_data()
    raw, true = driven.data()
    where = [int((raw == example).flatten(1).all(1).nonzero()) for example in examples]
    assert len(set(where)) == 7
    assert torch.equal(labels, true[where])
    model.net.eval()
    torch.testing.assert_close(recorded, model.net(model.normalization_transform(examples)))
    driven.session()
    assert torch.equal(model.buffer.get_all_data()[2][:4], recorded[:4])
    assert torch.equal(model.buffer.get_all_data()[1][:4], labels[:4])
    assert not torch.allclose(recorded, model.net(model.normalization_transform(examples)))


@pytest.mark.parametrize("options", [DIGITS, SCORES])
def test_step_on_the_batch_is_followed_by_one_on_the_distance_to_what_is_recorded(drive, options):
    driven = drive("fdr", *options, "--optimizer", "sgd", "--optim_wd", "0", "--lr", "0.05", "--minibatch_size", "5")
    driven.session()
    driven.begin()
    model, net = driven.model, copy.deepcopy(driven.model.net)
    state = model.buffer.generator.get_state()
    replayed, _, recorded, _ = model.buffer.get_data(5, transform=model.transform)
    model.buffer.generator.set_state(state)
    inputs, labels, raw = driven.batch()

    def descend(loss):
        for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
            p.data -= 0.05 * g
        return loss.item()

    first = descend(model.loss(net(inputs), labels))
    said = (lambda outputs: F.softmax(outputs, dim=1)) if options is DIGITS else (lambda outputs: outputs)
    gap = said(net(replayed)) - said(recorded)
    second = descend(gap.square().sum(1).sqrt().mean())
    assert second > 0
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(first + second)
    assert model.logged == pytest.approx({"loss_stream": first, "loss_distance": second})
    for found, expected in zip(model.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_distance_of_nothing_leaves_the_network_finite(drive):
    driven = drive("fdr", *DIGITS)
    driven.session()
    model = driven.model
    model.buffer.replace("logits", model.net(model.transform(model.buffer.get_all_data()[0])))
    driven.begin()
    model.opt.param_groups[0]["lr"] = 0.0
    model.meta_observe(*driven.batch(), epoch=0)
    assert model.logged["loss_distance"] == 0
    assert all(p.grad.isfinite().all() for p in model.net.parameters())


def test_it_forgets_less_than_fine_tuning(launch):
    line = "--dataset uiprmd --n_tasks 3 --n_epochs 10"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model fdr --buffer_size 10 {line}")
    assert run.summary["mae"] < 0.7 * plain.summary["mae"]
    line = "--dataset seq-digits --n_epochs 2"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model fdr --buffer_size 200 {line}")
    assert run.summary["class_il_mean"] > plain.summary["class_il_mean"] + 5
