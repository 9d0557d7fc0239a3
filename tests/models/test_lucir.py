"""LUCIR by hand: cosines, the three losses, and what stays as it is."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from backbone.utils.cosine_head import CosineHead

DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "12", "--batch_size", "8")


@pytest.fixture
def lucir(drive):
    return lambda *options: drive("lucir", *DIGITS, "--buffer_size", "40", "--fitting_epochs", "1", *options)


def test_head_gives_scaled_cosines():
    head = CosineHead(5, 3)
    with torch.no_grad():
        head.scale.fill_(4.0)
    features = torch.randn(2, 5)
    expected = F.cosine_similarity(features[:, None], head.weight[:, 0], dim=2)
    torch.testing.assert_close(head.similarity(features), expected)
    torch.testing.assert_close(head(features), 4 * expected)


def test_loss_is_the_weighted_sum_of_three(lucir, monkeypatch):
    run = lucir("--lamda_base", "3", "--lamda_mr", "0.5", "--mr_margin", "0.9")
    run.session()
    run.begin()
    run.model.meta_observe(*run.batch(), epoch=0)
    inputs, labels, raw = next(batch for batch in run.dataset.train_loader if (batch[1] < 4).sum() > 1)
    features, old = (net(inputs, returnt="features") for net in (run.model.net, run.model.old_net))
    cosines = F.cosine_similarity(features[:, None], run.model.net.classifier.weight[:, 0], dim=2)
    ranking = []
    for i, label in enumerate(labels.tolist()):
        if label < 4:
            two = sorted(cosines[i, 4:7].tolist())[-2:]
            ranking += [max(0.0, 0.9 - cosines[i, label].item() + cosine) for cosine in two]
    features_moved = (1 - F.cosine_similarity(features, old)).mean().item()
    assert features_moved > 0
    expected = (
        F.cross_entropy(run.model.net.classifier.scale * cosines[:, :7], labels).item()
        + 3 * math.sqrt(4 / 3) * features_moved
        + 0.5 * sum(ranking) / len(ranking)
    )
    seen = []
    monkeypatch.setattr(run.model, "step", lambda loss: seen.append(loss) or loss.item())
    run.model.meta_observe(inputs, labels, raw, epoch=0)
    assert seen[0].item() == pytest.approx(expected, rel=1e-5)


def test_without_exemplars_nothing_is_ranked(lucir):
    run = lucir()
    run.session()
    run.begin()
    cosines = torch.zeros(3, 10, requires_grad=True)
    assert run.model.margin_ranking(cosines, torch.tensor([4, 5, 6])) == 0
    # One past sample, two new classes at the margin.
    assert run.model.margin_ranking(cosines, torch.tensor([4, 2, 6])).item() == 0.5


def test_directions_of_past_classes_stay(lucir):
    run = lucir("--optim_mom", "0.9", "--optim_wd", "0.1")
    run.session()
    run.begin()
    before = run.model.net.classifier.weight.detach().clone()
    run.learn()
    after = run.model.net.classifier.weight.detach()
    assert torch.equal(after[:4], before[:4])
    assert (after[4:7] != before[4:7]).any(2).all()
    run.model.meta_end_task(run.dataset)
    assert (run.model.net.classifier.weight[:4] != before[:4]).any(2).all()


@pytest.mark.parametrize("imprint", ["1", "0"])
def test_new_directions_start_at_the_mean_feature_as_long_as_past_ones(lucir, imprint):
    run = lucir("--imprint_weights", imprint)
    run.session()
    before = run.model.net.classifier.weight.detach().clone()
    run.begin()
    weight = run.model.net.classifier.weight.detach()
    if imprint == "0":
        assert torch.equal(weight, before)
        return
    raw, labels = run.model.task_data[np_range(run.model.task_data)][:2]
    features = F.normalize(run.features(raw), dim=1)
    for label in (4, 5, 6):
        mean = F.normalize(features[labels == label].mean(0), dim=0)
        torch.testing.assert_close(weight[label, 0], mean * before[:4].norm(dim=2).mean())
    assert torch.equal(weight[:4], before[:4])
    assert torch.equal(weight[7:], before[7:])


def test_direction_of_a_class_without_a_labelled_sample_stays_as_it_was_drawn(lucir):
    run = lucir("--label_perc", "0.06")
    run.session()
    before = run.model.net.classifier.weight.detach().clone()
    run.begin()
    here = run.model.task_data.targets.unique().tolist()
    absent = [label for label in (4, 5, 6) if label not in here]
    assert here
    assert absent
    weight = run.model.net.classifier.weight.detach()
    assert torch.equal(weight[absent], before[absent])
    assert (weight[here] != before[here]).any(2).all()
    run.learn()
    run.model.meta_end_task(run.dataset)
    assert run.model.net.classifier.weight.isfinite().all()


def np_range(data):
    return torch.arange(len(data)).numpy()


def test_tasks_of_one_class_work(launch):
    line = "--model lucir --dataset seq-digits --n_tasks 10 --n_epochs 1 --max_samples_per_class 8 --buffer_size 20"
    assert launch(line).code == 0
