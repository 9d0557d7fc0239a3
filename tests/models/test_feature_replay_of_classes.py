"""feature-er and feature-mer on streams of classes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from utils.selection import CLASS_SELECTIONS, even_places, herding, kmeans

METHODS = ["feature-er", "feature-mer"]
# The features stay as they are after the first task, so that those of raw samples can be made again.
DIGITS = "--dataset seq-digits --max_samples_per_class 20 --n_epochs 1 --lr 0.05 --backbone_lr_scale 0"


def line(model: str, *more: str) -> str:
    return " ".join([f"--model {model} --dataset seq-digits --max_samples_per_class 8 --n_epochs 1", *more])


# What is stored


@pytest.mark.parametrize("name", METHODS)
def test_every_session_but_the_last_stores_clean_features_evenly_by_class(drive, name):
    driven = drive(name, *DIGITS.split(), "--n_tasks", "5", "--buffer_size", "22")
    for session in range(5):
        driven.session()
        features, labels, sessions = driven.model.buffer.get_all_data()
        if session < 4:
            raw, targets = driven.data()
            own = sessions == session
            distances = torch.cdist(features[own], driven.features(raw))
            assert distances.amin(1).max() < 1e-3
            assert torch.equal(targets[distances.argmin(1)], labels[own])
    # 22 places in four sessions: 6, 6, 5, 5.
    assert sessions.tolist() == [0] * 6 + [1] * 6 + [2] * 5 + [3] * 5
    assert labels.bincount().tolist() == [3, 3, 3, 3, 3, 2, 3, 2]


@pytest.mark.parametrize("selection", CLASS_SELECTIONS)
def test_a_session_stores_what_the_selection_chooses_of_each_class(drive, selection):
    driven = drive("feature-er", *DIGITS.split(), "--n_tasks", "2", "--buffer_size", "13", "--selection", selection)
    driven.session()
    raw, targets = driven.data()
    of_all = driven.features(raw)
    features, labels, _ = driven.model.buffer.get_all_data()
    distances = torch.cdist(features, of_all)
    chosen = distances.argmin(1)
    assert distances.amin(1).max() < 1e-3
    assert torch.equal(targets[chosen], labels)
    assert len(set(chosen.tolist())) == 13
    assert labels.tolist() == torch.arange(5).repeat_interleave(torch.tensor([3, 3, 3, 2, 2])).tolist()
    members = [(targets == label).nonzero().view(-1) for label in range(5)]
    wanted = {
        "first": lambda of_class, m: of_class[:m],
        "herding": lambda of_class, m: of_class[herding(of_all[of_class], m)],
        "kmeans": lambda of_class, m: of_class[kmeans(of_all[of_class], m)],
    }.get(selection)
    if wanted:
        parts = [wanted(of_class, m) for of_class, m in zip(members, (3, 3, 3, 2, 2), strict=True)]
        assert chosen.tolist() == torch.cat(parts).tolist()


def test_sessions_that_share_their_classes_store_all_of_them(drive):
    options = f"{DIGITS} --dataset perm-digits --n_tasks 3 --max_samples_per_class 4 --buffer_size 44"
    driven = drive("feature-er", *options.split())
    for _ in range(3):
        driven.session()
    _, labels, sessions = driven.model.buffer.get_all_data()
    for session in (0, 1):
        assert labels[sessions == session].bincount().tolist() == [3, 3] + [2] * 8


def test_a_rare_class_of_a_long_tail_leaves_its_places_to_the_others(drive):
    options = f"{DIGITS} --n_tasks 2 --imb_type step --imb_factor 0.1 --imb_step_frac 0.8 --buffer_size 40"
    driven = drive("feature-er", *options.split())
    driven.session()
    counts = driven.data()[1].bincount(minlength=5)
    assert counts.min() < 8
    assert driven.model.buffer.get_all_data()[1].bincount(minlength=5).tolist() == even_places(counts, 40).tolist()


# What is learnt


def second_task(drive, name, *options):
    driven = drive(name, *DIGITS.split(), "--n_tasks", "5", "--buffer_size", "24", "--batch_size", "4", *options)
    driven.session()
    driven.begin()
    return driven, driven.model, driven.batch()


def test_feature_er_takes_cross_entropy_of_the_head_on_stored_features_and_labels(drive):
    _, model, (inputs, labels, raw) = second_task(drive, "feature-er", "--minibatch_size", "6", "--alpha", "0.5")
    features, targets, _ = model.buffer.get_all_data()  # six places, a draw takes all
    assert targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert set(labels.tolist()) <= {2, 3}
    replay = F.cross_entropy(model.net.classifier(features), targets)
    wanted = F.cross_entropy(model.net(inputs), labels) + 0.5 * replay
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(wanted.item(), rel=1e-5)
    assert model.logged["loss_replay"] == pytest.approx(replay.item(), rel=1e-5)


def test_feature_mer_steps_on_groups_of_stored_features_and_then_on_the_batch(drive):
    options = ["--minibatch_size", "6", "--batch_num", "1", "--beta", "0.3", "--backbone_lr_scale", "1"]
    _, model, (inputs, labels, raw) = second_task(drive, "feature-mer", *options)
    state = model.buffer.generator.get_state()
    parameters = list(model.net.parameters())
    start = [p.detach().clone() for p in parameters]
    features, targets, _ = model.buffer.get_data(6)
    losses = []
    for compute in (
        lambda: F.cross_entropy(model.net.classifier(features[:4]), targets[:4]),
        lambda: F.cross_entropy(model.net.classifier(features[4:]), targets[4:]),
        lambda: F.cross_entropy(model.net(inputs), labels),
    ):
        loss = compute()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        for p, g in zip(parameters, gradients, strict=True):
            p.data -= 0.05 * g
    wanted = [origin + 0.3 * (p.detach() - origin) for p, origin in zip(parameters, start, strict=True)]
    for p, origin in zip(parameters, start, strict=True):
        p.data.copy_(origin)
    model.buffer.generator.set_state(state)
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(sum(losses) / 3, rel=1e-5)
    for p, value in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(p.detach(), value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_balanced_softmax_goes_by_how_often_each_class_is_drawn_replay_included(drive, name):
    options = ["--cls_loss", "balanced-softmax", "--minibatch_size", "3", "--max_samples_per_class", "10"]
    driven, model, batch = second_task(drive, name, *options)
    assert driven.dataset.n_batches == 5
    # Five batches of four: ten samples of each new class. Five draws of three of the six stored: 7.5 of each past one.
    counts = [7.5, 7.5, 10, 10]
    assert model.loss.counts.tolist() == [*counts, *[0] * 6]
    state = model.buffer.generator.get_state()
    features, targets, _ = model.buffer.get_data(3)
    model.buffer.generator.set_state(state)
    outputs = model.net.classifier(features)[:, :4] + torch.tensor(counts).log()
    wanted = F.cross_entropy(outputs, targets).item()
    first = []
    model.step = lambda loss, step=model.step: first.append(loss.item()) or step(loss)
    model.meta_observe(*batch, epoch=0)
    # The first step of feature-mer is one on stored features.
    found = model.logged["loss_replay"] if name == "feature-er" else first[0]
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_features_of_the_past_keep_the_head_from_forgetting_where_the_network_stands_still(drive, name):
    def accuracy_of_the_past(model, *options):
        driven = drive(model, *DIGITS.split(), "--n_tasks", "2", "--n_epochs", "6", "--batch_size", "8", *options)
        driven.session()
        raw, labels = driven.data()
        driven.session()
        with torch.no_grad():
            outputs = driven.model.net.eval()(driven.dataset.get_normalization_transform()(raw))
        return (outputs.argmax(1) == labels).float().mean().item()

    assert accuracy_of_the_past(name, "--buffer_size", "50") > accuracy_of_the_past("sgd") + 0.3


# End to end


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("options", ["--n_tasks 10", "--n_tasks 10 --batch_size 1", "--n_tasks 5 --buffer_size 3"])
def test_one_class_a_task_single_samples_and_fewer_places_than_classes_are_learnt(launch, name, options):
    run = launch(line(name, "--buffer_size 11", options))
    assert run.code == 0
    assert len(run.summary["class_il"]) == int(options.split()[1])


@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_goes_on_to_the_same_bits_with_selection_and_loss_of_choice(launch, identical, name):
    words = line(name, "--n_tasks 5 --buffer_size 9 --selection herding --cls_loss balanced-softmax --stage2 tau-norm")
    straight, stopped = launch(words), launch(words + " --stop_after 3")
    assert straight.code == stopped.code == 0
    assert identical(straight, launch("--stop_after 9", resume=stopped.path))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dataset", ["seq-digits", "perm-digits"])
def test_a_selection_by_scores_is_refused_on_classes_with_those_that_fit(launch, capsys, name, dataset):
    words = line(name, "--buffer_size 9 --selection ordered-uniform").replace("seq-digits", dataset)
    assert launch(words).code == 2
    message = capsys.readouterr().err
    assert f"--selection ordered-uniform goes by scores, and {dataset} has classes" in message
    assert all(selection in message for selection in CLASS_SELECTIONS)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("stage", ["crt", "lws"])
def test_second_stages_that_need_past_samples_are_refused(launch, capsys, name, stage):
    assert launch(line(name, f"--buffer_size 9 --stage2 {stage}")).code == 2
    message = capsys.readouterr().err
    assert f"--stage2 {stage}" in message
    assert "tau-norm" in message


@pytest.mark.parametrize("name", METHODS)
def test_second_stages_that_need_no_samples_answer_after_a_task(drive, name):
    driven = drive(name, *DIGITS.split(), "--n_tasks", "2", "--buffer_size", "10", "--stage2", "tau-norm")
    driven.session()
    raw, _ = driven.data()
    inputs = driven.dataset.get_normalization_transform()(raw)
    model = driven.model.eval()
    features, weight = model.net(inputs, returnt="features"), model.net.classifier.weight
    torch.testing.assert_close(model(inputs), features @ F.normalize(weight, dim=1).T, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*METHODS, "magr"])
def test_a_memory_of_features_has_no_choice_of_what_to_replay(launch, capsys, name):
    words = line(name, "--buffer_size 9 --replay features")
    assert launch(words if name != "magr" else f"--model {name} --dataset uiprmd --replay features").code == 2
    assert "unknown option --replay" in capsys.readouterr().err
