"""Bias correction by hand: what is held out, what is fitted to it, and who hears of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.errors import UsageError

DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "12", "--batch_size", "8")


@pytest.fixture
def bic(drive):
    return lambda size="40", *options: drive("bic", *DIGITS, "--buffer_size", size, "--bic_epochs", "30", *options)


def everything(data):
    return data[np.arange(len(data))][:2]


def rows(samples):
    return sorted(sample.flatten().tolist() for sample in samples)


def test_held_out_samples_are_balanced_and_not_trained_on(bic):
    # Ten exemplars of each of the four past classes, a quarter of which is rounded to two.
    run = bic("40", "--valset_split", "0.24")
    run.session()
    run.begin()
    raw, labels = everything(run.model.held_out)
    assert labels.bincount().tolist() == [2] * 7
    trained, trained_labels = everything(run.dataset.train_loader.dataset)
    assert trained_labels.bincount().tolist() == [8] * 4 + [10] * 3
    own, exemplars = everything(run.model.task_data)[0], run.model.buffer.get_all_data()[0]
    assert rows(torch.cat([raw, trained])) == rows(torch.cat([own, exemplars]))


def test_exemplars_are_taken_from_all_samples_of_the_task(bic):
    run = bic("84")
    run.session()
    run.session()
    assert run.model.buffer.get_all_data()[1].bincount().tolist() == [12] * 7


def test_held_out_samples_are_the_same_after_a_stop(bic):
    run, other = bic(), bic()
    run.session()
    run.begin()
    other.dataset.set_task(1)
    other.model.load_state_dict(run.model.state_dict())
    assert torch.equal(everything(run.model.held_out)[0], everything(other.model.held_out)[0])


@pytest.mark.parametrize("size", ["0", "4"])
def test_with_one_exemplar_a_class_or_none_nothing_is_held_out_or_corrected(bic, size):
    run = bic(size)
    run.session()
    run.begin()
    assert run.model.held_out is None
    assert len(run.dataset.train_loader.dataset) == 36 + int(size)
    run.learn()
    run.model.meta_end_task(run.dataset)
    assert (run.model.alpha == 1).all()
    assert (run.model.beta == 0).all()


def test_what_is_held_out_is_forgotten_with_the_task(bic):
    run = bic("8")
    run.session()
    run.begin()
    assert run.model.held_out is not None
    run.learn()
    run.model.meta_end_task(run.dataset)
    run.begin()
    assert run.model.held_out is None


def test_two_numbers_are_fitted_to_the_held_out_samples(bic):
    run = bic("40", "--bic_lr", "0.05", "--bic_epochs", "400", "--valset_split", "0.4")
    run.session()
    run.begin()
    with torch.no_grad():
        run.model.net.classifier.bias[4:7] += 2
    raw, labels = everything(run.model.held_out)
    with torch.no_grad():
        outputs = run.model.net(run.model.normalization_transform(raw))[:, :7].double()
    weights = {name: value.clone() for name, value in run.model.net.state_dict().items()}
    run.model.fit_correction(run.model.held_out)
    alpha, beta = run.model.alpha.double(), run.model.beta.double()
    assert (alpha[:4] == 1).all()
    assert (beta[:4] == 0).all()
    assert alpha[4:7].unique().numel() == beta[4:7].unique().numel() == 1
    numbers = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([numbers], max_iter=200, line_search_fn="strong_wolfe")

    def loss_of(a, b):
        return F.cross_entropy(torch.cat([outputs[:, :4], a * outputs[:, 4:] + b], dim=1), labels)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(*numbers)
        loss.backward()
        return loss

    optimizer.step(closure)
    fitted, best, before = loss_of(alpha[4], beta[4]), loss_of(*numbers), loss_of(1, 0)
    assert best <= fitted < best + 0.02 * (before - best)
    assert all(torch.equal(value, weights[name]) for name, value in run.model.net.state_dict().items())


def test_answers_and_training_use_corrected_outputs(bic, monkeypatch):
    for after in ("1", "0"):
        run = bic("40", "--distill_after_bic", after, "--temp", "3")
        run.session()
        run.session()
        run.begin()
        run.model.alpha[4:7], run.model.beta[4:7] = 0.5, -1.0
        inputs, labels, raw = run.batch()
        plain, old = run.model.net(inputs), run.model.old_net(inputs)
        outputs = torch.cat([plain[:, :4], 0.5 * plain[:, 4:7] - 1, plain[:, 7:]], dim=1)
        torch.testing.assert_close(run.model(inputs), outputs)
        if after == "1":
            old = torch.cat([old[:, :4], 0.5 * old[:, 4:7] - 1], dim=1)
        kd = -(F.softmax(old[:, :7] / 3, 1) * F.log_softmax(outputs[:, :7] / 3, 1)).sum(1).mean()
        expected = 0.3 * F.cross_entropy(outputs, labels) + 0.7 * kd
        seen = []
        monkeypatch.setattr(run.model, "step", lambda loss, seen=seen: seen.append(loss) or loss.item())
        run.model.meta_observe(inputs, labels, raw, epoch=0)
        assert seen[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_share_outside_of_zero_and_one_is_refused(bic):
    with pytest.raises(UsageError, match="not between 0 and 1"):
        bic("40", "--valset_split", "2")


def test_tasks_of_one_class_work(launch):
    line = "--model bic --dataset seq-digits --n_tasks 10 --n_epochs 1 --max_samples_per_class 8 --buffer_size 40"
    assert launch(line + " --bic_epochs 5").code == 0
