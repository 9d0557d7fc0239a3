"""Second stages: what they learn from, what they change, and what they leave alone."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utils.class_heads import CausalHead
from utils.errors import UsageError
from utils.second_stage import class_aware_batches, features_at_hand, second_stage

ABLE = ["--width", "60", "--depth", "1", "--n_tasks", "1", "--n_epochs", "4", "--max_samples_per_class", "100"]
SMALL = ["--dataset", "seq-digits", "--n_tasks", "5", "--n_epochs", "1", "--max_samples_per_class", "20"]


@pytest.fixture
def trained(drive):
    """A method and its second stage after the first tasks, the stage not yet made for the last of them."""

    def build(name, *words, n_tasks=1, change=lambda net: None):
        driven = drive(name, *SMALL, *words, change=change)
        driven.model.second_stage = None
        stage = second_stage(driven.model)
        for task in range(n_tasks):
            if task:
                stage.fit(driven.model)
            driven.session()
        return driven, stage

    return build


def state_of(module):
    return copy.deepcopy(module.state_dict())


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a if torch.is_tensor(a[name]))


# Sampling


def test_every_class_is_drawn_as_often_as_the_largest_has_samples():
    labels = torch.tensor([7] * 3 + [2] * 40 + [5] * 11)[torch.randperm(54, generator=torch.manual_seed(0))]
    batches = list(class_aware_batches(labels, 32, torch.Generator().manual_seed(1)))
    drawn = torch.cat(batches)
    assert torch.bincount(labels[drawn])[[2, 5, 7]].tolist() == [40, 40, 40]
    assert [len(part) for part in batches] == [32, 32, 32, 24]
    assert len(drawn[labels[drawn] == 2].unique()) > 20
    assert set(drawn[labels[drawn] == 7].tolist()) == set((labels == 7).nonzero().view(-1).tolist())


def test_classes_take_turns_of_four_in_an_order_that_the_generator_draws():
    labels = torch.arange(60) % 3
    first, again, other = (
        torch.cat(list(class_aware_batches(labels, 7, torch.Generator().manual_seed(seed)))) for seed in (0, 0, 1)
    )
    turns = labels[first].view(-1, 4)
    assert (turns == turns[:, :1]).all()
    assert (turns[:, 0].view(-1, 3).sort(1).values == torch.arange(3)).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_class_of_one_sample_is_enough():
    assert torch.cat(list(class_aware_batches(torch.tensor([3]), 8, torch.Generator()))).tolist() == [0] * 4


# Samples at hand


def test_stages_learn_from_clean_views_of_the_task_and_of_the_buffer(trained):
    driven, _ = trained("er", "--buffer_size", "13", "--stage2", "crt", n_tasks=2)
    model = driven.model
    model.net.train()
    features, labels = features_at_hand(model)
    assert all(module.training for module in model.net.modules())
    raw, targets = driven.data()
    held, held_labels = model.buffer.get_all_data()
    assert torch.equal(labels, torch.cat([targets, held_labels]))
    torch.testing.assert_close(features, torch.cat([driven.features(raw), driven.features(held)]))


@pytest.mark.parametrize("name", ["der", "fdr"])
def test_stages_learn_from_the_past_samples_of_methods_that_replay_outputs(trained, name):
    driven, stage = trained(name, "--buffer_size", "30", "--stage2", "lws", n_tasks=3)
    examples, stored = driven.model.buffer.get_all_data()[:2]
    features, labels = features_at_hand(driven.model)
    torch.testing.assert_close(features[-30:], driven.features(examples))
    assert torch.equal(labels[-30:], stored)
    stage.fit(driven.model)
    past = stored[stored < 4].unique()
    assert len(past) > 1
    assert (stage.scale[past] != 1).all()


def test_anchors_of_hal_are_no_samples_at_hand(trained):
    driven, _ = trained("hal", "--buffer_size", "13", "--stage2", "crt", n_tasks=2)
    labels = features_at_hand(driven.model)[1]
    assert len(driven.model.anchors) == 4
    assert torch.equal(labels, torch.cat([driven.data()[1], driven.model.buffer.get_all_data()[1]]))


# What is made


def test_a_stage_leaves_the_network_and_its_generators_alone(trained):
    for stage2 in ("crt", "tau-norm", "lws"):
        driven, stage = trained("er", "--buffer_size", "13", "--stage2", stage2)
        before, modes = state_of(driven.model.net), {m: m.training for m in driven.model.modules()}
        generators = torch.get_rng_state(), driven.model.buffer.generator.get_state()
        stage.fit(driven.model)
        assert same(before, state_of(driven.model.net))
        assert modes == {m: m.training for m in driven.model.modules()}
        assert torch.equal(generators[0], torch.get_rng_state())
        assert torch.equal(generators[1], driven.model.buffer.generator.get_state())


def test_tau_norm_divides_by_a_power_of_the_norm_and_drops_the_bias(trained):
    for tau, power in (("1.0", 0.0), ("0.5", 0.5), ("0", 1.0)):
        driven, stage = trained("sgd", "--stage2", "tau-norm", "--tau_norm", tau)
        stage.fit(driven.model)
        weight = driven.model.net.classifier.weight.detach()
        torch.testing.assert_close(stage.weight.norm(dim=1), weight.norm(dim=1) ** power)
        torch.testing.assert_close(F.normalize(stage.weight, dim=1), F.normalize(weight, dim=1))
        x = torch.rand(4, weight.shape[1])
        torch.testing.assert_close(stage(x), x @ stage.weight.T)


def test_crt_learns_a_new_classifier_that_fits_the_samples(trained):
    driven, stage = trained("sgd", "--stage2", "crt", *ABLE)
    stage.fit(driven.model)
    features, labels = features_at_hand(driven.model)
    assert (stage(features).argmax(1) == labels).float().mean() > 0.85
    first, old = state_of(stage), driven.model.net.classifier.weight.detach()
    assert F.cosine_similarity(stage.weight, old).abs().max() < 0.99
    with torch.no_grad():
        driven.model.net.classifier.weight.zero_()
    stage.fit(driven.model)
    assert same(first, state_of(stage)), "it starts anew, whatever the method's classifier is"


def test_crt_keeps_the_rows_of_classes_without_a_sample(trained):
    driven, stage = trained("sgd", "--stage2", "crt", n_tasks=2)
    stage.fit(driven.model)
    head = driven.model.net.classifier
    changed = (stage.weight != head.weight).any(1)
    assert changed.tolist() == [False, False, True, True] + [False] * 6
    assert torch.equal(stage.bias[~changed], head.bias[~changed])


def test_lws_learns_nothing_but_scales_and_those_of_classes_without_a_sample_stay(trained):
    driven, stage = trained("sgd", "--stage2", "lws", n_tasks=2)
    after_first = stage.scale.clone()
    stage.fit(driven.model)
    head = driven.model.net.classifier
    assert torch.equal(stage.weight, head.weight)
    assert torch.equal(stage.bias, head.bias)
    assert (after_first[:2] != 1).all()
    assert torch.equal(stage.scale[:2], after_first[:2])
    assert (stage.scale[2:4] != 1).all()
    assert (stage.scale[4:] == 1).all()
    x = torch.rand(3, head.in_features)
    torch.testing.assert_close(stage(x), stage.scale * head(x))


def test_lws_learns_the_scales_of_past_classes_from_the_buffer(trained):
    driven, stage = trained("er", "--buffer_size", "20", "--stage2", "lws", n_tasks=2)
    after_first = stage.scale.clone()
    stage.fit(driven.model)
    assert (stage.scale[:4] != after_first[:4]).all()
    assert (stage.scale[4:] == 1).all()


def test_lws_can_learn_the_weights_of_the_newest_classes_too(trained):
    driven, stage = trained("er", "--buffer_size", "20", "--stage2", "lws", "--stage2_last_head", "1", n_tasks=2)
    stage.fit(driven.model)
    changed = (stage.weight != driven.model.net.classifier.weight).any(1)
    assert changed.tolist() == [False, False, True, True] + [False] * 6
    assert (stage.scale[:4] != 1).all()


@pytest.mark.parametrize("name", ["lucir", "podnet"])
def test_lws_scales_the_outputs_of_a_cosine_head(trained, name):
    driven, stage = trained(name, "--buffer_size", "20", "--stage2", "lws", n_tasks=2)
    stage.fit(driven.model)
    head = driven.model.net.classifier
    assert torch.equal(stage.weight, head.weight)
    assert (stage.scale[:4] != 1).all()
    assert (stage.scale[4:] == 1).all()
    x = torch.rand(3, head.weight.shape[2])
    torch.testing.assert_close(stage(x), stage.scale * head(x))


@pytest.mark.parametrize("name", ["lucir", "podnet"])
def test_lws_can_learn_the_directions_of_the_newest_classes_too(trained, name):
    words = ["--buffer_size", "20", "--stage2", "lws", "--stage2_last_head", "1"]
    driven, stage = trained(name, *words, n_tasks=2)
    stage.fit(driven.model)
    changed = (stage.weight != driven.model.net.classifier.weight).flatten(1).any(1)
    assert changed.tolist() == [False, False, True, True] + [False] * 6


@pytest.mark.parametrize("name", ["lucir", "podnet"])
def test_methods_with_a_cosine_head_take_lws_alone(launch, capsys, name):
    for stage2, code in (("crt", 2), ("tau-norm", 2), ("tde", 2), ("lws", 0)):
        line = f"--model {name} --buffer_size 10 --stage2 {stage2} {' '.join(SMALL)} --stop_after 1"
        assert launch(line).code == code
        if code:
            assert f"--stage2 {stage2}: {name} has a head of its own" in capsys.readouterr().err


def test_class_aware_sampling_lifts_the_small_classes(trained):
    driven, stage = trained("sgd", "--stage2", "crt", *ABLE, "--imb_factor", "20")
    stage.fit(driven.model)
    inputs, labels = map(torch.cat, zip(*driven.dataset.test_loader(0), strict=True))
    driven.model.net.eval()
    with torch.no_grad():
        features = driven.model.net(inputs, returnt="features")
        small = labels >= 7
        after = (stage(features).argmax(1) == labels)[small].float().mean()
        before = (driven.model.net.classifier(features).argmax(1) == labels)[small].float().mean()
    assert after > before + 0.2


def test_tde_takes_the_drift_of_the_trained_head_out_of_the_features(trained):
    def change(net):
        net.classifier = CausalHead(8, 10, 2, 16.0, 1 / 32, 0.9)

    driven, stage = trained("sgd", "--stage2", "tde", "--tde_alpha", "1.25", n_tasks=1, change=change)
    stage.fit(driven.model)
    head = driven.model.net.classifier
    assert head.drift.abs().sum() > 0
    x = torch.rand(3, 8)
    torch.testing.assert_close(stage(x), head.effect(x, 1.25))
    expected = stage(x)
    with torch.no_grad():
        head.weight.zero_()
        head.drift.zero_()
    torch.testing.assert_close(stage(x), expected)


# State


@pytest.mark.parametrize("stage2", ["crt", "tau-norm", "lws"])
def test_the_same_seed_gives_the_same_stage_and_its_state_holds_it(trained, stage2):
    driven, stage = trained("er", "--buffer_size", "13", "--stage2", stage2)
    empty = second_stage(driven.model)
    assert not stage.is_of(0)
    stage.fit(driven.model)
    first = state_of(stage)
    stage.scale.fill_(1)
    stage.fit(driven.model)
    assert same(first, state_of(stage))
    assert stage.is_of(0)
    assert not stage.is_of(1)
    empty.load_state_dict(first)
    assert same(first, state_of(empty))
    assert empty.is_of(0)


def test_a_stage_has_no_parameters_that_an_optimiser_would_take(trained):
    for stage2 in ("crt", "tau-norm", "lws"):
        assert not [*trained("sgd", "--stage2", stage2)[1].parameters()]


# Refusals


def test_methods_that_predict_otherwise_are_refused(trained):
    driven, _ = trained("sgd", "--stage2", "crt", n_tasks=0)

    class Other(type(driven.model)):
        def forward(self, x):
            return 2 * self.net(x)

    driven.model.__class__ = Other
    with pytest.raises(UsageError, match="does not predict by a linear"):
        second_stage(driven.model)


@pytest.mark.parametrize("head", [nn.Sequential(nn.Linear(8, 10)), CausalHead(8, 10, 2, 16.0, 0.1, 0.9)])
def test_heads_that_are_not_linear_are_refused(trained, head):
    def change(net):
        net.classifier = head

    with pytest.raises(UsageError, match="--stage2 crt: --backbone mlp"):
        trained("sgd", "--stage2", "crt", n_tasks=0, change=change)


def test_without_the_option_there_is_no_stage(drive):
    assert second_stage(drive("sgd", *SMALL).model) is None
    assert second_stage(drive("sgd").model) is None  # a stream of scores
