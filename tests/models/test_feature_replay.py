"""Methods that store features: what a session stores, feature-er and feature-mer by hand, all of them end to end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from utils.evaluate import predict
from utils.selection import SELECTIONS, herding, kmeans

BUFFER = ("--buffer_size", "4")
STORING = ["feature-er", "feature-mer", "magr", "magrpp", "nc-fscil"]
ALL = [*STORING, "slca", "topic"]


def line(model: str) -> str:
    return f"--model {model} --dataset uiprmd --n_tasks 3 --n_epochs 2 --width 8" + (
        " --buffer_size 4" if model != "slca" else ""
    )


# What is stored


@pytest.mark.parametrize("name", STORING)
def test_every_session_but_the_last_stores_its_share_of_clean_features(drive, name):
    driven = drive(name, *BUFFER)
    driven.session()
    raw, scores = driven.data()
    features, labels, _ = driven.model.buffer.get_all_data()
    chosen = scores.argsort(stable=True)[[0, 15, 29, 44]]
    assert torch.equal(labels, scores[chosen]) == (driven.model.args.selection == "ordered-uniform")
    where = torch.tensor([int((scores == label).nonzero()[0]) for label in labels])
    assert torch.allclose(features, driven.features(raw[where]), atol=1e-5)
    for _ in range(2):
        driven.session()
    assert driven.model.buffer.get_all_data()[2].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_session_stores_what_the_selection_chooses(drive, selection):
    driven = drive("feature-er", *BUFFER, "--selection", selection)
    driven.session()
    raw, scores = driven.data()
    features, labels, _ = driven.model.buffer.get_all_data()
    of_all = driven.features(raw)
    distances = (features[:, None] - of_all[None]).norm(dim=2)
    chosen = distances.argmin(1)
    assert distances.amin(1).max() < 1e-4
    assert torch.equal(scores[chosen], labels)
    assert len(set(chosen.tolist())) == 4
    if selection in ("herding", "kmeans"):
        assert chosen.tolist() == {"herding": herding, "kmeans": kmeans}[selection](of_all, 4).tolist()
    if selection == "first":
        assert chosen.tolist() == [0, 1, 2, 3]


def test_samples_that_cannot_be_read_are_left_out_by_a_selection_that_sees_all(drive):
    driven = drive("feature-er", *BUFFER, "--selection", "kmeans")
    driven.begin()
    data = driven.dataset.train_loader.dataset
    read = data.source.read

    def read_some(positions):
        raw, _, _ = read(positions)
        kept = np.arange(len(positions))[1:]
        return raw[1:], kept, ["one is broken"]

    data.source.read = read_some
    driven.model.meta_end_task(driven.dataset)
    data.source.read = read
    features, labels, _ = driven.model.buffer.get_all_data()
    raw, scores = driven.data()
    pairs = (features[:, None] - driven.features(raw)[None]).norm(dim=2).argmin(1)
    assert torch.equal(scores[pairs], labels)


def test_the_default_of_the_comparisons_is_a_random_choice(drive):
    assert {name: drive(name, *BUFFER).model.args.selection for name in STORING} == {
        "feature-er": "random",
        "feature-mer": "random",
        "magr": "ordered-uniform",
        "magrpp": "ordered-uniform",
        "nc-fscil": "ordered-uniform",
    }


# Feature-ER


def test_feature_er_adds_the_loss_of_the_head_on_stored_features(drive):
    driven = drive("feature-er", *BUFFER, "--alpha", "0.5")
    driven.session()
    driven.begin()
    model, (inputs, labels, raw) = driven.model, driven.batch()
    features, targets, _ = model.buffer.get_all_data()  # four places, a draw takes all
    replay = F.mse_loss(model.net.classifier(features).view(-1), targets)
    wanted = F.mse_loss(model.net(inputs).view(-1), labels) + 0.5 * replay
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(wanted.item(), rel=1e-5)
    assert model.logged["loss_replay"] == pytest.approx(replay.item(), rel=1e-5)


def test_replayed_features_teach_the_head_only(drive):
    driven = drive("feature-er", *BUFFER)
    driven.session()
    driven.begin()
    model, calls = driven.model, []

    def loss(outputs, labels):
        calls.append(len(outputs))
        return 0 * outputs.sum() if len(calls) == 1 else F.mse_loss(outputs.view(-1), labels)

    model.loss = loss
    model.meta_observe(*driven.batch(), epoch=0)
    assert calls == [16, 4]
    assert all(p.grad.abs().max() > 0 for p in model.net.head_parameters())
    assert all(p.grad is None or not p.grad.any() for p in model.net.trunk_parameters())


# Feature-MER


def test_feature_mer_is_mers_algorithm_step_by_step(drive):
    options = ["--optimizer", "sgd", "--lr", "0.05", "--batch_size", "4", "--minibatch_size", "6"]
    options += ["--batch_num", "2", "--beta", "0.3", "--gamma", "0.6", "--buffer_size", "8"]
    driven = drive("feature-mer", *options, "--backbone_lr_scale", "1")
    driven.session()
    driven.begin()
    model, (inputs, labels, raw) = driven.model, driven.batch()
    state = model.buffer.generator.get_state()
    parameters = list(model.net.parameters())
    theta_a = [p.detach().clone() for p in parameters]

    def move(start, share):
        with torch.no_grad():
            for p, origin in zip(parameters, start, strict=True):
                p.copy_(origin + share * (p - origin))

    losses = []
    for _ in range(2):
        theta_w = [p.detach().clone() for p in parameters]
        features, targets, _ = model.buffer.get_data(6)
        for compute in (
            lambda f=features, t=targets: F.mse_loss(model.net.classifier(f[:4]).view(-1), t[:4]),
            lambda f=features, t=targets: F.mse_loss(model.net.classifier(f[4:]).view(-1), t[4:]),
            lambda: F.mse_loss(model.net(inputs).view(-1), labels),
        ):
            loss = compute()
            losses.append(loss.item())
            for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                if g is not None:
                    p.data -= 0.05 * g
        move(theta_w, 0.3)
    move(theta_a, 0.6)
    wanted = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, origin in zip(parameters, theta_a, strict=True):
            p.copy_(origin)
    model.opt.param_groups[0]["weight_decay"] = 0.0
    model.buffer.generator.set_state(state)
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(np.mean(losses), rel=1e-4)
    for p, value, origin in zip(parameters, wanted, theta_a, strict=True):
        assert torch.allclose(p, value, atol=1e-6)
        assert not torch.equal(p, origin)


def test_feature_mer_without_anything_stored_is_repeated_steps_on_the_batch(drive):
    driven = drive("feature-mer", "--buffer_size", "0", "--batch_num", "1", "--beta", "1", "--gamma", "1")
    plain = drive("sgd", "--backbone_lr_scale", "0.1")
    assert driven.session() == plain.session()
    assert all(
        torch.equal(p, q) for p, q in zip(driven.model.net.parameters(), plain.model.net.parameters(), strict=True)
    )


# All


@pytest.mark.parametrize("name", ALL)
def test_a_run_that_stopped_after_a_session_goes_on_to_the_same_bits(launch, identical, name):
    straight, stopped = launch(line(name)), launch(line(name) + " --stop_after 2")
    assert straight.code == stopped.code == 0
    assert identical(straight, launch("--stop_after 9", resume=stopped.path))


@pytest.mark.parametrize("name", ALL)
def test_it_learns_a_distribution_of_scores_or_says_that_it_cannot(launch, capsys, name):
    run = launch(line(name) + " --score_head usdl")
    if name == "nc-fscil":
        assert run.code == 2
        assert "choose another head" in capsys.readouterr().err
    else:
        assert run.code == 0
        assert math.isfinite(run.summary["srcc_pooled"])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("options", ["--score_scale raw", "--tasks_by group", "--fewshot 1 --num_samples_per_task 1"])
def test_it_learns_raw_scores_groups_and_single_shots(launch, name, options):
    given = line(name) if "group" not in options else line(name).replace(" --n_tasks 3", "")
    assert launch(f"{given} {options}").code == 0


@pytest.mark.parametrize("name", ALL)
def test_predictions_are_one_number_a_sample(drive, name):
    driven = drive(name, *(BUFFER if name != "slca" else ()))
    driven.session()
    raw, scores = driven.data()
    assert driven.model(raw).shape == (len(scores), 1)
    assert np.ptp(predict(driven.model, driven.dataset, 0).outputs) > 0
