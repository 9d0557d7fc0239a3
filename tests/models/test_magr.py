"""MAGR on the real data that the repository ships: what is stored, what is trained by what, what may not change."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backbone
import datasets
import models
from backbone.utils.projector import ResidualProjector
from utils.args import parse_args
from utils.conf import set_random_seed
from utils.evaluate import predict
from utils.grids import read_grid
from utils.registry import ROOT


def build(*options: str, buffer_size: int = 4):
    """(model, dataset) of a small run; options override the rest."""
    argv = ["--model", "magr", "--dataset", "uiprmd", "--buffer_size", str(buffer_size), "--n_epochs", "1"]
    args = parse_args([*argv, "--width", "8", "--depth", "2", *options])
    dataset = datasets.get_dataset(args)
    set_random_seed(args.seed)
    net = backbone.get_backbone(args)
    return models.get_model(args, net, dataset.get_loss(), dataset.get_transform(), dataset), dataset


def begin(model, dataset) -> None:
    dataset.get_data_loaders()
    model.meta_begin_task(dataset)
    model.net.train()
    model.meta_begin_epoch(0, dataset)


def learn(model, dataset, n_epochs: int = 1) -> list[float]:
    """Train on the task that has begun, without ending it."""
    return [model.meta_observe(*batch, epoch=epoch) for epoch in range(n_epochs) for batch in dataset.train_loader]


def session(model, dataset) -> list[float]:
    """What the loop does with one task."""
    begin(model, dataset)
    losses = learn(model, dataset)
    model.meta_end_task(dataset)
    return losses


def state(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def has_gradient(parameters) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in parameters)


def trunk(model) -> list[nn.Parameter]:
    return [p for name, p in model.net.named_parameters() if not name.startswith("classifier.")]


def task_data(dataset) -> tuple[Tensor, Tensor]:
    """Raw samples and targets of the current task."""
    data = dataset.train_loader.dataset
    return data[np.arange(len(data))][:2]


# What is stored


def test_a_session_stores_the_samples_at_an_even_stride_of_the_sorted_scores():
    # The released code mixes up ranks and positions and stores a random subset (D1).
    model, dataset = build()
    for task in range(2):
        session(model, dataset)
        targets = dataset.train_loader.dataset.targets
        assert not torch.equal(targets, targets.sort().values)  # else the choice could not go wrong
        stored = model.buffer.get_all_data()[1][4 * task :]
        # 27 samples, four at a stride of 26 / 3: ranks 0, 8.67, 17.33 and 26.
        assert torch.equal(stored, targets.sort().values[[0, 9, 17, 26]])
        assert len(model.buffer) == 4 * (task + 1)


def test_stored_features_are_those_of_the_stored_samples_seen_by_the_finished_network():
    model, dataset = build()
    session(model, dataset)
    features, labels, sessions = model.buffer.get_all_data()
    raw, targets = task_data(dataset)
    chosen = targets.argsort(stable=True)[[0, 9, 17, 26]]
    with torch.no_grad():
        wanted = model.net(dataset.get_normalization_transform()(raw[chosen]), returnt="features")
    assert torch.allclose(features, wanted, atol=1e-6)
    assert torch.equal(labels, targets[chosen])
    assert sessions.tolist() == [0] * 4
    assert not features.requires_grad


def test_features_are_stored_by_the_network_in_evaluation_mode():
    model, dataset = build()
    begin(model, dataset)
    learn(model, dataset)
    assert model.net.training
    modes: list[bool] = []
    model.net.register_forward_hook(lambda net, inputs, outputs: modes.append(net.training))
    model.meta_end_task(dataset)
    assert modes == [False]


def noisy(batch: Tensor) -> Tensor:
    return batch + 5


def test_stored_features_come_from_clean_views_whatever_the_augmentation():
    # The released code stores what the shuffled, augmenting training loader yields (D11).
    model, dataset = build()
    session(model, dataset)
    augmenting, other_dataset = build()
    begin(augmenting, other_dataset)
    learn(augmenting, other_dataset)
    augmenting.transform = noisy
    augmenting.meta_end_task(other_dataset)
    assert torch.equal(augmenting.buffer.examples, model.buffer.examples)


def test_augmented_views_are_stored_on_request():
    model, dataset = build("--stored_view", "augmented")
    begin(model, dataset)
    model.transform = noisy
    model.meta_end_task(dataset)
    raw, targets = task_data(dataset)
    chosen = targets.argsort(stable=True)[[0, 9, 17, 26]]
    with torch.no_grad():
        wanted = model.net(raw[chosen] + 5, returnt="features")
    assert torch.allclose(model.buffer.get_all_data()[0], wanted, atol=1e-6)


def test_random_selection_on_request_differs_between_seeds_and_stores_distinct_samples():
    stored = []
    for seed in ("0", "1"):
        model, dataset = build("--selection", "random", "--seed", seed)
        begin(model, dataset)
        model.meta_end_task(dataset)
        labels = model.buffer.get_all_data()[1].tolist()
        assert len(labels) == 4
        assert set(labels) <= set(dataset.train_loader.dataset.targets.tolist())
        stored.append(labels)
    assert stored[0] != stored[1]


def test_stored_features_are_moved_by_the_projector_at_the_end_of_a_task():
    model, dataset = build()
    session(model, dataset)
    begin(model, dataset)
    learn(model, dataset, n_epochs=3)
    before = model.buffer.get_all_data()[0]
    with torch.no_grad():
        moved = model.projector(before)
    assert not torch.allclose(moved, before, atol=1e-4)
    model.meta_end_task(dataset)
    features, _, sessions = model.buffer.get_all_data()
    assert torch.allclose(features[:4], moved, atol=1e-6)
    assert sessions.tolist() == [0] * 4 + [1] * 4


def test_the_last_session_is_not_stored_and_the_first_does_not_move_what_it_stores():
    model, dataset = build("--n_tasks", "3")
    for _ in range(3):
        session(model, dataset)
    assert model.buffer.get_all_data()[2].tolist() == [0] * 4 + [1] * 4
    assert len(model.buffer) == model.buffer.buffer_size == 8


# Sizes of the buffer


def run_all(model, dataset) -> None:
    for _ in range(dataset.N_TASKS):
        assert np.isfinite(session(model, dataset)).all()
        assert np.isfinite(predict(model, dataset, 0).outputs).all()


def test_it_learns_without_a_buffer(capsys):
    model, dataset = build(buffer_size=0)
    run_all(model, dataset)
    assert model.buffer.is_empty()
    assert capsys.readouterr().out.count("stores nothing") == 4


def test_a_buffer_with_fewer_places_than_sessions_serves_the_first_ones(capsys):
    model, dataset = build("--buffer_scope", "total", buffer_size=2)
    run_all(model, dataset)
    assert model.buffer.get_all_data()[2].tolist() == [0, 1]
    assert "session 3 stores nothing" in capsys.readouterr().out


def test_a_total_that_does_not_divide_evenly_is_used_up():
    model, dataset = build("--buffer_scope", "total", buffer_size=10)
    run_all(model, dataset)
    assert torch.bincount(model.buffer.get_all_data()[2]).tolist() == [3, 3, 2, 2]


def test_a_share_larger_than_the_task_stores_the_whole_task():
    model, dataset = build("--fewshot", "True", "--num_samples_per_task", "3", buffer_size=5)
    for _ in range(3):
        session(model, dataset)
    assert torch.bincount(model.buffer.get_all_data()[2]).tolist() == [5, 3, 3]


@pytest.mark.parametrize("options", [["--n_tasks", "1"], ["--joint", "True"]], ids=["one task", "joint"])
def test_a_stream_of_one_task_stores_nothing(options):
    model, dataset = build(*options)
    assert dataset.N_TASKS == 1
    run_all(model, dataset)
    assert model.buffer.is_empty()


# The projector


def test_the_projector_starts_as_the_exact_identity():
    model, _ = build()
    features = torch.randn(5, model.net.feature_dim, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.projector(features), features)
    random_start, _ = build("--projector_init", "random")
    assert not torch.allclose(random_start.projector(features), features, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("init", ["identity", "random"])
def test_the_base_session_leaves_the_projector_alone_even_with_weight_decay(optimizer, init):
    # In the released code weight decay drives every weight of the projector to 0 in the base session (D4).
    model, dataset = build("--projector_init", init, "--optimizer", optimizer, "--optim_wd", "0.5", "--lr", "0.01")
    before, head = state(model.projector), state(model.net.classifier)
    session(model, dataset)
    assert same(state(model.projector), before)
    assert not same(state(model.net.classifier), head)


def test_the_projector_is_never_decayed():
    model, dataset = build("--optim_wd", "0.5")
    session(model, dataset)
    begin(model, dataset)
    decays = {id(p): group["weight_decay"] for group in model.opt.param_groups for p in group["params"]}
    assert {decays[id(p)] for p in model.projector.parameters()} == {0.0}
    assert {decays[id(p)] for p in model.net.parameters()} == {0.5}


@pytest.mark.parametrize("final_relu", [False, True])
def test_only_with_the_released_codes_relu_is_the_projector_unable_to_lower_a_feature(final_relu):
    torch.manual_seed(0)
    projector = ResidualProjector(4, hidden=16, zero_init=False, final_relu=final_relu)
    features = torch.rand(32, 4)
    optimizer = torch.optim.Adam(projector.parameters(), lr=0.01)
    for _ in range(200):
        loss = F.mse_loss(projector(features), features - 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if final_relu:
        assert (projector(features) >= features).all()
        assert loss > 0.2  # nothing better than the identity's 0.25, up to rounding
    else:
        assert loss < 0.01


# Which loss trains what


def prepared(*options: str, buffer_size: int = 4):
    """A model in its second session whose network has moved away from the old one, without gradients."""
    model, dataset = build(*options, buffer_size=buffer_size)
    session(model, dataset)
    begin(model, dataset)
    with torch.no_grad():
        for parameter in trunk(model):
            parameter.add_(0.05)
    model.zero_grad(set_to_none=True)
    return model, dataset, next(iter(dataset.train_loader))


def test_the_projection_loss_reaches_only_the_projector():
    model, _, batch = prepared("--lambda_r", "0", buffer_size=0)
    model.loss = lambda outputs, labels: 0 * outputs.sum()
    model.meta_observe(*batch, epoch=0)
    assert has_gradient(model.projector.parameters())
    assert not has_gradient(model.net.parameters())
    assert not has_gradient(model.old_net.parameters())


def test_the_replay_loss_reaches_projector_and_classifier_only():
    model, _, batch = prepared("--lambda_r", "0", "--lambda_p", "0")
    calls = []

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(len(outputs))
        return 0 * outputs.sum() if len(calls) == 1 else F.mse_loss(outputs.view(-1), labels)

    model.loss = loss
    model.meta_observe(*batch, epoch=0)
    assert calls == [16, 4]  # the batch, then all that is stored
    assert has_gradient(model.projector.parameters())
    assert has_gradient(model.net.classifier.parameters())
    assert not has_gradient(trunk(model))


def test_the_graph_regulariser_reaches_features_and_projector_but_not_the_classifier():
    model, _, batch = prepared("--lambda_r", "1", "--lambda_p", "0")
    model.loss = lambda outputs, labels: 0 * outputs.sum()
    model.meta_observe(*batch, epoch=0)
    assert has_gradient(model.projector.parameters())
    assert has_gradient(trunk(model))
    assert not has_gradient(model.net.classifier.parameters())


def test_the_loss_is_the_weighted_sum_of_its_four_terms():
    options = {"--lambda_p": 0.0, "--lambda_r": 0.0}

    def observed(**weights: float) -> float:
        given = options | {f"--{name}": value for name, value in weights.items()}
        model, _, batch = prepared(*[str(word) for pair in given.items() for word in pair])
        return model.meta_observe(*batch, epoch=0)

    # The base session uses neither weight, so all of these models are the same.
    plain = observed()
    projection, graph = observed(lambda_p=1) - plain, observed(lambda_r=1) - plain
    assert projection > 0
    assert graph > 0
    assert observed(lambda_p=2, lambda_r=0.5) == pytest.approx(plain + 2 * projection + graph / 2, rel=1e-4)


@pytest.mark.parametrize("base_regularizer", ["none", "features"])
def test_the_regulariser_of_the_base_session_is_optional_and_has_a_gradient(base_regularizer):
    # In the released code it is taken of one-dimensional outputs and has none (D2).
    model, dataset = build("--base_regularizer", base_regularizer, "--lambda_r", "1")
    begin(model, dataset)
    model.loss = lambda outputs, labels: 0 * outputs.sum()
    loss = model.meta_observe(*next(iter(dataset.train_loader)), epoch=0)
    assert (loss > 0) == has_gradient(trunk(model)) == (base_regularizer == "features")


# The old network


def test_the_old_network_is_frozen_within_a_session_and_equals_the_network_after_it():
    model, dataset = build("--lr", "0.01")
    for _ in range(3):
        before = state(model.old_net)
        begin(model, dataset)
        learn(model, dataset)
        assert same(state(model.old_net), before)
        assert not same(state(model.net), before)
        model.meta_end_task(dataset)
        assert same(state(model.old_net), state(model.net))
        assert not any(p.requires_grad for p in model.old_net.parameters())
        assert not any(module.training for module in model.old_net.modules())


def test_the_old_network_is_not_trained_by_the_optimiser():
    model, dataset = build()
    session(model, dataset)
    begin(model, dataset)
    trained = {id(p) for group in model.opt.param_groups for p in group["params"]}
    assert trained == {id(p) for p in [*model.net.parameters(), *model.projector.parameters()]}


# The optimiser


def test_features_learn_at_the_full_rate_in_the_base_session_and_at_a_hundredth_after_it():
    model, dataset = build("--lr", "0.02")
    rates = []
    for _ in range(3):
        begin(model, dataset)
        rate = {id(p): group["lr"] for group in model.opt.param_groups for p in group["params"]}
        rates.append(
            [
                {rate.get(id(p)) for p in parameters}
                for parameters in (trunk(model), model.net.classifier.parameters(), model.projector.parameters())
            ]
        )
        model.meta_end_task(dataset)
    assert rates[0] == [{0.02}, {0.02}, {None}]
    assert rates[1] == rates[2] == [{0.02 * 0.01}, {0.02}, {0.02}]


def test_the_scale_of_the_features_rate_can_be_set():
    model, dataset = build("--lr", "0.02", "--backbone_lr_scale", "0.5")
    session(model, dataset)
    begin(model, dataset)
    assert sorted(group["lr"] for group in model.opt.param_groups) == [0.01, 0.02, 0.02]


# Ablations


def test_without_a_projector_nothing_is_aligned_and_stored_features_stay_as_they_are():
    model, dataset = build("--projector", "none", "--lr", "0.01")
    session(model, dataset)
    stored = model.buffer.get_all_data()[0]
    begin(model, dataset)
    trained = {id(p) for group in model.opt.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.net.parameters()}
    model.old_net.forward = lambda *arguments, **options: pytest.fail("the old network is of no use here")
    learn(model, dataset)
    assert set(model.logged) == {"loss_d", "loss_m", "loss_r"}
    model.meta_end_task(dataset)
    assert torch.equal(model.buffer.get_all_data()[0][:4], stored)


def test_without_a_projector_replay_and_graph_use_stored_features_as_they_are():
    model, _, (inputs, labels, raw) = prepared("--projector", "none", "--lambda_r", "0.5")
    state = model.buffer.generator.get_state()
    stored, stored_labels, _ = model.buffer.get_data(model.minibatch_size)
    model.buffer.generator.set_state(state)
    outputs, features = model.net(inputs, returnt="both")
    graph = model.regularize(torch.cat([stored, features]), torch.cat([stored_labels, labels]), len(stored))
    wanted = F.mse_loss(outputs.view(-1), labels) + 0.5 * graph
    wanted = wanted + F.mse_loss(model.net.classifier(stored).view(-1), stored_labels)
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(wanted.item(), rel=1e-6)


def test_a_plain_projector_starts_random_and_moves_what_is_stored():
    model, dataset = build("--projector", "plain")
    session(model, dataset)
    stored = model.buffer.get_all_data()[0]
    with torch.no_grad():
        assert not torch.allclose(model.projector(stored), stored, atol=1e-3)
    session(model, dataset)
    with torch.no_grad():
        assert torch.equal(model.buffer.get_all_data()[0][:4], model.projector(stored))


def test_every_row_of_the_papers_ablation_is_one_switch_in_the_grid():
    runs = read_grid(ROOT / "configs/grids/magr-ablation.yaml").runs
    switches = ("projector", "graph_blocks", "graph_divergence", "lambda_r", "selection")
    defaults = ("residual", "all", "kl", 0.0001, "ordered-uniform")
    args = parse_args(["--model", "magr", "--dataset", "uiprmd", "--buffer_size", "10"])
    assert tuple(getattr(args, name) for name in switches) == defaults
    rows = {tuple(run[name] for name in switches) for run in runs}
    off = [("projector", "none"), ("projector", "plain"), ("graph_blocks", "joint"), ("graph_blocks", "parts")]
    off += [("lambda_r", 0), ("graph_divergence", "mse"), ("selection", "random")]
    full = dict(zip(switches, defaults, strict=True))
    assert rows == {defaults, *(tuple((full | {name: value}).values()) for name, value in off)}
    assert len(runs) == 8 * 2 * 5


# Predictions and checkpoints


@pytest.mark.parametrize("head", ["linear", "mlp", "gaussian"])
def test_predictions_at_test_time_are_deterministic(head):
    # In the released code they are sampled (D6).
    model, dataset = build("--score_head", head)
    session(model, dataset)
    first, second = predict(model, dataset, 0), predict(model, dataset, 0)
    np.testing.assert_array_equal(first.outputs, second.outputs)
    assert np.ptp(first.outputs) > 0


def test_predictions_are_sampled_at_test_time_on_request():
    model, dataset = build("--score_head", "gaussian", "--sample_scores", "always")
    session(model, dataset)
    sampled = predict(model, dataset, 0).outputs
    model.net.classifier.sample = "train"
    assert not np.array_equal(sampled, predict(model, dataset, 0).outputs)


def test_predictions_do_not_use_the_projector():
    model, dataset = build()
    session(model, dataset)
    before = predict(model, dataset, 0).outputs
    with torch.no_grad():
        for parameter in model.projector.parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(predict(model, dataset, 0).outputs, before)


def test_a_loaded_state_goes_on_as_the_original():
    original, dataset = build()
    for _ in range(2):
        session(original, dataset)
    resumed, other_dataset = build("--seed", "7")
    other_dataset.args.seed = resumed.args.seed = 0
    resumed.load_state_dict(copy.deepcopy(original.state_dict()))
    other_dataset.current_task = dataset.current_task
    assert session(original, dataset) == session(resumed, other_dataset)
    assert same(state(original.net), state(resumed.net))
    assert same(state(original.projector), state(resumed.projector))
    assert torch.equal(original.buffer.examples, resumed.buffer.examples)


def test_the_same_seed_gives_the_same_run():
    runs = []
    for _ in range(2):
        model, dataset = build()
        runs.append([session(model, dataset) for _ in range(2)])
    assert runs[0] == runs[1]
