"""iCaRL by hand: its targets, and the nearest mean of exemplars."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "12", "--batch_size", "8")


@pytest.fixture
def icarl(drive):
    return lambda size="30", *options: drive("icarl", *DIGITS, "--buffer_size", size, *options)


def test_targets_are_the_old_networks_for_past_classes_and_labels_for_new(icarl, monkeypatch):
    run = icarl()
    run.session()
    run.begin()
    with torch.no_grad():
        run.model.net.classifier.bias += 0.3
    inputs, labels, raw = next(batch for batch in run.dataset.train_loader if (batch[1] < 4).any())
    targets = F.one_hot(labels, 10)[:, :7].float()
    targets[:, :4] = run.model.old_net(inputs)[:, :4].sigmoid()
    expected = F.binary_cross_entropy(run.model.net(inputs)[:, :7].sigmoid(), targets)
    seen = []
    monkeypatch.setattr(run.model, "step", lambda loss: seen.append(loss) or loss.item())
    run.model.meta_observe(inputs, labels, raw, epoch=0)
    assert seen[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_answer_is_the_nearest_mean_of_exemplars_of_length_one(icarl):
    run = icarl()
    for _ in range(2):
        run.session()
    examples, labels = run.model.buffer.get_all_data()
    unit = F.normalize(run.features(examples), dim=1)
    means = torch.stack([F.normalize(unit[labels == label].mean(0), dim=0) for label in range(7)])
    inputs = run.model.normalization_transform(run.data()[0])
    features = F.normalize(run.model.net(inputs, returnt="features"), dim=1)
    with torch.no_grad():
        answers = run.model(inputs)
        torch.testing.assert_close(answers[:, :7], -torch.cdist(features, means).square(), atol=1e-5, rtol=1e-4)
    assert answers.shape == (len(inputs), 10)
    assert answers[:, 7:].max() < answers[:, :7].min()


def test_means_of_past_classes_follow_the_network(icarl):
    run = icarl()
    run.session()
    first = run.model.class_means[:4].clone()
    run.session()
    assert (run.model.class_means[:4] != first).any(1).all()


def test_network_answers_within_a_task_and_without_exemplars(icarl):
    run = icarl()
    run.session()
    run.begin()
    inputs = run.batch()[0]
    assert torch.equal(run.model(inputs), run.model.net(inputs))
    run = icarl("5")
    for _ in range(2):
        run.session()
    inputs = run.batch()[0]
    assert torch.equal(run.model(inputs), run.model.net(inputs))


def test_means_are_in_the_checkpoint(icarl):
    run, other = icarl(), icarl()
    run.session()
    inputs = run.batch()[0]
    other.model.load_state_dict(run.model.state_dict())
    other.model.eval()
    assert torch.equal(other.model(inputs), run.model.eval()(inputs))
    assert not torch.equal(other.model(inputs), other.model.net(inputs))


def test_resumed_within_a_task_it_goes_on_with_the_exemplars(icarl):
    run, other = icarl(), icarl()
    run.session()
    run.begin()
    other.dataset.set_task(1)
    other.model.load_state_dict(run.model.state_dict())
    assert len(other.dataset.train_loader.dataset) == len(run.dataset.train_loader.dataset) == 36 + 28
    for ours, theirs in zip(run.dataset.train_loader, other.dataset.train_loader, strict=True):
        assert torch.equal(ours[2], theirs[2])


def test_it_remembers_more_than_without_exemplars(launch):
    line = "--dataset seq-digits --n_epochs 5"
    plain, run = launch(f"--model lwf-mc {line}"), launch(f"--model icarl {line} --buffer_size 100")
    assert run.summary["class_il_mean"] > plain.summary["class_il_mean"] + 10


def test_tasks_of_one_class_work(launch):
    line = "--model icarl --dataset seq-digits --n_tasks 10 --n_epochs 1 --max_samples_per_class 8 --buffer_size 10"
    assert launch(line).code == 0
