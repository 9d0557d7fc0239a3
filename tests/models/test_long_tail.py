"""Losses and second stages of a long tail within the loop, for methods that know nothing of them."""

from __future__ import annotations

import json
import signal

import pytest
import torch

from utils.class_losses import ClassLoss, sampled_counts
from utils.errors import UsageError
from utils.grids import check_words

DIGITS = ["--dataset", "seq-digits", "--n_tasks", "5", "--n_epochs", "1", "--imb_factor", "10"]
SHORT = "--dataset seq-digits --n_tasks 2 --n_epochs 2 --max_samples_per_class 20 --imb_factor 4 --batch_size 8"
CASES = [
    "--model er --buffer_size 10 --cls_loss ldam --drw_epoch 1",
    "--model er --buffer_size 10 --cls_loss balanced-softmax --stage2 lws",
    "--model lwf --cls_loss cb-focal --stage2 crt",
    "--model sgd --stage2 tde",
]


# Counts


def test_a_method_without_memory_samples_the_task(drive):
    driven = drive("sgd", *DIGITS)
    for task in range(2):
        driven.begin()
        expected = torch.zeros(10, dtype=torch.float64)
        numbers = driven.dataset.cls_num_list
        expected[2 * task : 2 * task + 2] = torch.tensor(numbers[2 * task : 2 * task + 2], dtype=torch.float64)
        assert torch.equal(sampled_counts(driven.model), expected)


def test_replay_counts_as_often_as_it_is_drawn_and_not_as_much_as_is_stored(drive):
    driven = drive("er", "--buffer_size", "20", "--batch_size", "16", "--minibatch_size", "6", *DIGITS)
    driven.session()
    driven.begin()
    own = torch.bincount(driven.dataset.train_loader.dataset.targets, minlength=10)
    held = torch.bincount(driven.model.buffer.labels, minlength=10)
    n_steps = len(driven.dataset.train_loader)
    torch.testing.assert_close(sampled_counts(driven.model), own + held.double() * 6 * n_steps / 20)


def test_a_draw_is_no_larger_than_the_buffer(drive):
    driven = drive("er", "--buffer_size", "5", "--minibatch_size", "50", *DIGITS)
    driven.session()
    driven.begin()
    n_own, n_steps = len(driven.dataset.train_loader.dataset), len(driven.dataset.train_loader)
    assert sampled_counts(driven.model).sum().item() == pytest.approx(n_own + 5 * n_steps)


def test_gem_samples_its_whole_memory_at_every_step(drive):
    driven = drive("gem", "--buffer_size", "40", "--batch_size", "16", *DIGITS)
    for _ in range(2):
        driven.session()
    driven.begin()
    own = torch.bincount(driven.dataset.train_loader.dataset.targets, minlength=10)
    held = torch.bincount(driven.model.buffer.get_all_data()[1], minlength=10)
    assert held.sum() == 20
    expected = own + held.double() * len(driven.dataset.train_loader)
    torch.testing.assert_close(sampled_counts(driven.model), expected)


@pytest.mark.parametrize("name", ["der", "fdr"])
def test_labels_that_are_stored_and_not_replayed_do_not_count(drive, name):
    driven = drive(name, *DIGITS, "--buffer_size", "20", "--batch_size", "8")
    driven.session()
    driven.begin()
    assert "labels" in driven.model.buffer.attributes
    own = torch.bincount(driven.dataset.train_loader.dataset.targets, minlength=10)
    assert torch.equal(sampled_counts(driven.model), own.double())


def test_anchors_of_hal_are_no_samples(drive):
    driven = drive("hal", "--buffer_size", "20", "--batch_size", "16", "--minibatch_size", "6", *DIGITS)
    driven.session()
    driven.begin()
    assert len(driven.model.anchors) == 2
    own = torch.bincount(driven.dataset.train_loader.dataset.targets, minlength=10)
    held = torch.bincount(driven.model.buffer.labels, minlength=10)
    n_steps = len(driven.dataset.train_loader)
    torch.testing.assert_close(sampled_counts(driven.model), own + held.double() * 6 * n_steps / 20)


def test_exemplars_joined_to_the_task_count_once_and_samples_without_a_label_never(drive):
    driven = drive("sgd", *DIGITS)
    driven.begin()
    driven.dataset.train_loader.dataset.targets = torch.tensor([0, 0, 1, 9, -1])
    assert sampled_counts(driven.model).tolist() == [2, 1, *[0] * 7, 1]


def test_the_loss_of_a_method_has_the_counts_of_each_epoch(drive):
    driven = drive("er", "--buffer_size", "20", "--cls_loss", "balanced-softmax", *DIGITS)
    driven.session()
    driven.begin()
    expected = sampled_counts(driven.model)
    assert torch.equal(driven.model.loss.counts, expected)
    assert (expected[:4] > 0).all()
    assert torch.equal(driven.model.state_dict()["loss.counts"], expected)


@pytest.mark.parametrize("name", ["bic", "gdumb", "lucir"])
def test_phases_that_learn_from_balanced_samples_go_by_their_counts(drive, monkeypatch, name):
    # Long-tailed tasks: the 10 exemplars of a class are all there is of the smallest.
    words = ["--imb_factor", "4", "--buffer_size", "40", "--max_samples_per_class", "40", "--batch_size", "8"]
    driven = drive(name, *DIGITS, *words, "--n_tasks", "5", "--cls_loss", "balanced-softmax")
    driven.session()
    driven.begin()
    driven.learn()
    of_epoch, forward, seen = driven.model.loss.counts.clone(), ClassLoss.forward, []

    def recorded(self, outputs, labels, **words):
        seen.append(self.counts.clone())
        return forward(self, outputs, labels, **words)

    monkeypatch.setattr(ClassLoss, "forward", recorded)
    driven.model.meta_end_task(driven.dataset)
    assert len(seen) > 3
    for counts in seen:
        assert counts[0] > 0
        assert torch.equal(counts[:4], counts[:1].expand(4))
        assert not counts[4:].any()
    assert torch.equal(driven.model.loss.counts, of_epoch)
    assert of_epoch[0] != of_epoch[3]


# Runs


@pytest.mark.parametrize("words", CASES)
def test_run_stopped_in_the_second_task_and_resumed_is_identical(launch, identical, stop_after, words):
    line = f"{words} {SHORT}"
    straight = launch(line)
    assert straight.code == 0
    n_first = -(-json.loads(straight.metrics.splitlines()[0])["tasks"][0]["train"] // 8) * 2
    stop_after(n_first + 2)
    stopped = launch(line)
    assert stopped.code == 128 + signal.SIGTERM
    resumed = launch("", resume=stopped.path)
    assert resumed.code == 0
    assert identical(straight, resumed)


def test_scales_and_drift_are_in_the_checkpoint(launch):
    scales = launch(f"{CASES[1]} {SHORT}").checkpoint["model"]["second_stage.scale"]
    assert (scales != 1).all()
    state = launch(f"{CASES[3]} {SHORT}").checkpoint["model"]
    assert state["net.classifier.drift"].abs().sum() > 0
    assert torch.equal(state["second_stage.head.drift"], state["net.classifier.drift"])


def test_figures_of_a_session_are_those_of_the_second_stage_and_learning_goes_on_without_it(drive):
    driven = drive("er", "--buffer_size", "20", "--stage2", "crt", *DIGITS)
    driven.session()
    model = driven.model
    inputs = driven.batch()[0]
    model.eval()
    with torch.no_grad():
        features = model.net(inputs, returnt="features")
        assert torch.equal(model(inputs), model.second_stage(features))
        assert not torch.equal(model(inputs), model.net(inputs))
        driven.begin()
        model.eval()
        assert torch.equal(model(inputs), model.net(inputs))


def test_a_second_stage_changes_no_training(launch):
    plain, staged = (launch(f"--model er --buffer_size 10 {SHORT} {words}") for words in ("", "--stage2 crt"))
    for name, value in plain.checkpoint["model"].items():
        if torch.is_tensor(value):
            assert torch.equal(value, staged.checkpoint["model"][name])
    assert plain.summary["class_il"] != staged.summary["class_il"]


def test_groups_are_in_the_records_and_in_the_summary(launch, capsys):
    run = launch(f"--model sgd {SHORT} --max_samples_per_class 120")
    last = json.loads(run.metrics.splitlines()[-1])
    for name in ("acc_many", "acc_med", "acc_few", "acc_bal", "acc_worst", "macro_f1"):
        assert name in run.summary
        assert name in last
    assert "classes of more than 100 training samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--model sgd --cls_loss ldam --stage2 crt", "--cls_loss ldam a cosine one"),
        ("--model sgd --cls_loss balanced-softmax --drw_epoch 1", "--drw_epoch"),
        ("--model sgd --cls_loss cb --cb_beta 1", "--cb_beta 1"),
        ("--model icarl --buffer_size 20 --stage2 crt", "--stage2 crt: icarl does not predict"),
        ("--model bic --buffer_size 20 --stage2 tde", "--stage2 tde: bic does not predict"),
        ("--model lucir --buffer_size 20 --stage2 crt", "--stage2 crt: lucir has a head of its own"),
        ("--model podnet --buffer_size 20 --cls_head causal", "--cls_head causal: podnet has a head of its own"),
        ("--model podnet --buffer_size 20 --cls_loss focal", "--cls_loss focal: podnet has a loss of its own"),
        ("--model icarl --buffer_size 20 --drw_epoch 1", "--drw_epoch 1: icarl has a loss of its own"),
        ("--model lwf-mc --cls_loss cb", "--cls_loss cb: lwf-mc has a loss of its own"),
        ("--model lucir --buffer_size 20 --cls_loss ldam", "lucir has a head of its own with another factor; take ano"),
    ],
)
def test_options_that_exclude_each_other_are_refused_before_anything_is_run(words, said):
    with pytest.raises(UsageError, match=said):
        check_words([*words.split(), *SHORT.split()])


@pytest.mark.parametrize("words", ["--model lucir --buffer_size 20 --cls_loss focal", "--model icarl --buffer_size 20"])
def test_parts_that_a_method_does_not_replace_can_be_chosen(words):
    assert check_words([*words.split(), *SHORT.split()]).stage2 is None


@pytest.mark.slow
def test_balanced_softmax_knows_the_small_classes_better_than_cross_entropy(launch):
    line = "--model sgd --dataset seq-digits --n_tasks 1 --imb_factor 20 --n_epochs 5 --seed {} --cls_loss {}"
    for seed in range(3):
        plain, balanced = (launch(line.format(seed, loss)).summary for loss in ("ce", "balanced-softmax"))
        assert balanced["acc_few"] > plain["acc_few"] + 10
        assert balanced["acc_bal"] > plain["acc_bal"] + 5
