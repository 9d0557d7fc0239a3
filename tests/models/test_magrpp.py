"""MAGR++: what each phase trains and by which loss, when phases change, and that none of it is lost by a stop."""

from __future__ import annotations

import copy
import math
import os
import signal

import pytest
import torch
from torch import nn

from models.utils.continual_model import ContinualModel
from utils.args import parse_args
from utils.errors import UsageError

BUFFER = ("--buffer_size", "4")
# 45 samples in batches of 9: 5 steps an epoch, 20 a session; phases begin with steps 8 and 14.
SIZE = ("--batch_size", "9", "--n_epochs", "4")
PHASES = ["A"] * 8 + ["B"] * 6 + ["BC"] * 6


def parts(model) -> dict[str, list[nn.Parameter]]:
    return {
        "features": model.net.trunk_parameters(),
        "head": model.net.head_parameters(),
        "projector": list(model.projector.parameters()),
    }


def copies(model) -> dict[str, list[torch.Tensor]]:
    return {name: [p.detach().clone() for p in parameters] for name, parameters in parts(model).items()}


def changed(model, before) -> set[str]:
    """Names of the parts in which every parameter differs, or at least one; they must agree."""
    result = set()
    for name, parameters in parts(model).items():
        differ = [not torch.equal(p, old) for p, old in zip(parameters, before[name], strict=True)]
        if any(differ):
            result.add(name)
    return result


def second_session(drive, *options, **more):
    """A method at the first batch of its second session, its network moved away from the old one."""
    driven = drive("magr++", *BUFFER, *SIZE, *options, **more)
    driven.session()
    driven.begin()
    return driven


def moved(driven):
    with torch.no_grad():
        for parameter in driven.model.net.trunk_parameters():
            parameter.add_(0.05 * torch.sin(torch.arange(parameter.numel()).float()).view_as(parameter))
    return driven


def has_gradient(parameters) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in parameters)


def test_it_is_found_by_the_name_of_the_paper(drive):
    assert drive("magr++", *BUFFER).model.NAME == "magrpp"


# Phases


@pytest.mark.parametrize("adapt_head", [False, True])
def test_a_phase_trains_what_it_names_and_nothing_else(drive, adapt_head):
    driven = second_session(drive, "--adapt_head", str(adapt_head), "--optim_wd", "0.1")
    model, phases, seen = driven.model, [], []
    state = [copies(model)]

    def note():
        phases.append(model.phase)
        seen.append((model.phase, frozenset(changed(model, state[0]))))
        state[0] = copies(model)

    driven.learn(note)
    assert phases == PHASES
    wanted = {
        "A": {"features", "head"} if adapt_head else {"features"},
        "B": {"projector"},
        "BC": {"projector", "head"},
    }
    assert all(names == wanted[phase] for phase, names in seen)


def test_the_first_session_trains_the_network_and_has_no_phases(drive):
    driven = drive("magr++", *BUFFER, *SIZE, "--optim_wd", "0.1")
    before = copies(driven.model)
    driven.begin()
    driven.learn(lambda: pytest.fail("a phase in the first session") if driven.model.phase else None)
    assert changed(driven.model, before) == {"features", "head"}


def test_everything_can_be_trained_again_after_a_session(drive):
    driven = second_session(drive)
    driven.learn()
    assert not all(p.requires_grad for p in driven.model.net.parameters())
    driven.model.meta_end_task(driven.dataset)
    assert all(p.requires_grad for p in [*driven.model.net.parameters(), *driven.model.projector.parameters()])
    assert not any(p.requires_grad for p in driven.model.old_net.parameters())


def test_all_phases_take_place_within_the_one_epoch_of_online_learning(drive):
    driven = drive("magr++", *BUFFER, "--online", "True", "--batch_size", "9")
    driven.session()
    driven.begin()
    phases = []
    driven.learn(lambda: phases.append(driven.model.phase))
    assert phases == ["A", "A", "B", "B", "BC"]


def test_shares_can_be_chosen_and_a_phase_left_out(drive):
    for options, wanted in (
        (["--phase_b", "0"], {"B", "BC"}),
        (["--phase_b", "0.5", "--phase_bc", "0.5"], {"A", "BC"}),
        (["--phase_bc", "1"], {"A", "B"}),
        (["--projector", "none"], {"A", "BC"}),
    ):
        driven = second_session(drive, *options)
        phases = set()
        driven.learn(lambda model=driven.model, phases=phases: phases.add(model.phase))
        assert phases == wanted


def test_a_session_begins_its_phases_anew_even_in_the_phase_that_the_last_one_ended_in(drive):
    driven = second_session(drive, "--phase_b", "1", "--phase_bc", "1")
    driven.learn()
    driven.model.meta_end_task(driven.dataset)
    before = copies(driven.model)
    driven.session()
    assert changed(driven.model, before) == {"features"}


def test_a_network_with_nothing_but_a_head_has_no_phase_a_unless_the_head_adapts(drive, monkeypatch):
    for adapt_head, wanted in (("False", {"B", "BC"}), ("True", {"A", "B", "BC"})):
        driven = drive("magr++", *BUFFER, *SIZE, "--adapt_head", adapt_head)
        net = driven.model.net
        for layer in net.layers:
            layer[0].weight.requires_grad_(False)
        monkeypatch.setattr(type(net), "trunk_parameters", lambda self: [])
        driven.session()
        driven.begin()
        phases = set()
        driven.learn(lambda model=driven.model, phases=phases: phases.add(model.phase))
        assert phases == wanted


def test_the_optimiser_starts_anew_with_every_phase(drive):
    driven = second_session(drive)
    model, steps = driven.model, []

    def note():
        ages = {int(state["step"]) for state in model.opt.state.values()}
        assert len(ages) == 1
        steps.append(ages.pop())
        trained = {id(p) for p in model.opt.state}
        assert trained == {id(p) for part in parts(model).values() for p in part if p.requires_grad}

    driven.learn(note)
    assert steps == [*range(1, 9), *range(1, 7), *range(1, 7)]


def test_a_scheduler_goes_over_the_session_whatever_the_phases(drive):
    driven = second_session(drive, "--lr_scheduler", "cosine", "--lr", "0.01", "--layer_decay", "0.5")
    model = driven.model
    scheduler = driven.dataset.get_scheduler(model, model.args)
    first = [group["lr"] for group in model.opt.param_groups]
    assert first == pytest.approx([0.00025, 0.0005, 0.001, 0.01, 0.01])
    for epoch in range(4):
        model.meta_begin_epoch(epoch, driven.dataset)
        for batch in driven.dataset.train_loader:
            model.meta_observe(*batch, epoch=epoch)
            rates = [group["lr"] for group in model.opt.param_groups]
            assert rates == pytest.approx([rate * (1 + math.cos(math.pi * epoch / 4)) / 2 for rate in first])
        scheduler.step()
    assert model.phase == "BC"


def with_batch_norm(net):
    net.layers[0][1] = nn.BatchNorm1d(8)
    net.layers[1].append(nn.Dropout(0.5))


def test_batch_statistics_and_dropout_of_frozen_features_rest(drive):
    driven = second_session(drive, change=with_batch_norm)
    model = driven.model
    statistics, seen = model.net.layers[0][1], []
    before = [statistics.running_mean.clone()]

    def note():
        seen.append((model.phase, torch.equal(statistics.running_mean, before[0]), model.net.layers[1][-1].training))
        before[0] = statistics.running_mean.clone()
        assert model.net.classifier.training

    driven.learn(note)
    assert all((rests, drops) == ((False, True) if phase == "A" else (True, False)) for phase, rests, drops in seen)


# Losses


def observed(driven, *phases) -> None:
    """One step, for gradients only."""
    driven.model.zero_grad(set_to_none=True)
    driven.model.due_phase = lambda: phases[0]
    driven.model.meta_observe(*driven.batch(), epoch=0)


def test_phase_a_learns_scores_through_a_head_that_rests(drive):
    driven = second_session(drive, "--lambda_s", "0", "--lambda_r", "0")
    observed(driven, "A")
    assert has_gradient(parts(driven.model)["features"])
    assert all(p.grad is None for p in [*parts(driven.model)["head"], *parts(driven.model)["projector"]])


@pytest.mark.parametrize(("stage", "reached"), [("0.33", 1), ("0.67", 2), ("1.0", 3)])
@pytest.mark.parametrize("distance", ["mse", "js"])
def test_the_stabiliser_reaches_the_layers_up_to_its_stage(drive, stage, reached, distance):
    options = ["--lambda_r", "0", "--stabilizer_stage", stage, "--stabilizer_distance", distance]
    driven = moved(second_session(drive, *options))
    driven.model.loss = lambda outputs, labels: 0 * outputs.sum()
    observed(driven, "A")
    assert [has_gradient(layer.parameters()) for layer in driven.model.net.layers] == [i < reached for i in range(3)]


def test_the_stabiliser_is_zero_while_the_network_is_the_old_one(drive):
    driven = second_session(drive)
    observed(driven, "A")
    assert driven.model.logged["loss_s"] == 0
    observed(moved(driven), "A")
    assert driven.model.logged["loss_s"] > 0


def test_phase_a_is_the_weighted_sum_of_its_terms(drive):
    driven = moved(second_session(drive, "--lambda_s", "3", "--lambda_r", "0.5"))
    driven.model.due_phase = lambda: "A"
    loss = driven.model.meta_observe(*driven.batch(), epoch=0)
    logged = driven.model.logged
    assert min(logged.values()) > 0
    assert loss == pytest.approx(logged["loss_d"] + 0.5 * logged["loss_r"] + 3 * logged["loss_s"], rel=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)], ids=["alignment", "graph"])
def test_both_terms_of_phase_b_reach_the_projector_alone(drive, weights):
    driven = moved(second_session(drive, "--lambda_p", str(weights[0]), "--lambda_r", str(weights[1])))
    observed(driven, "B")
    assert has_gradient(driven.model.projector.parameters())
    assert all(p.grad is None for p in [*driven.model.net.parameters(), *driven.model.old_net.parameters()])


def test_phase_b_aligns_old_features_with_new_ones_and_arranges_what_is_stored(drive):
    driven = moved(second_session(drive, "--lambda_p", "2", "--lambda_r", "0.5", "--graph_blocks", "parts"))
    model, (inputs, labels, raw) = driven.model, driven.batch()
    model.due_phase = lambda: "B"
    state = model.buffer.generator.get_state()
    old, new = model.old_net(inputs, returnt="features"), driven.features(raw)
    stored, stored_labels, _ = model.buffer.get_data(model.minibatch_size)
    model.buffer.generator.set_state(state)
    # The projector begins as the identity.
    graph = model.regularize(torch.cat([stored, old]), torch.cat([stored_labels, labels]), 0).item()
    alignment = (old - new).square().mean().item()
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(2 * alignment + 0.5 * graph, rel=1e-4)
    assert model.logged["loss_p"] == pytest.approx(alignment, rel=1e-4)


def test_phase_bc_is_magrs_objective_with_the_features_at_rest(drive):
    options = ["--lambda_p", "1", "--lambda_r", "0.5", "--graph_divergence", "js"]
    values = []
    for name in ("magr", "magr++"):
        driven = drive(name, *BUFFER, *SIZE, *options)
        driven.session()
        driven.begin()
        moved(driven).model.due_phase = lambda: "BC"
        driven.model.net.eval()
        values.append(driven.model.meta_observe(*driven.batch(), epoch=0))
        assert has_gradient(parts(driven.model)["features"]) == (name == "magr")
        assert has_gradient(parts(driven.model)["head"])
        assert has_gradient(parts(driven.model)["projector"])
        assert set(driven.model.logged) == {"loss_d", "loss_p", "loss_m", "loss_r"}
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize("phase", ["A", "B", "BC"])
@pytest.mark.parametrize("score_range", [0.0, 1e-6, 1.0, 1e3])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_losses_and_gradients_are_finite_for_any_scores(drive, phase, score_range, n):
    driven = moved(second_session(drive, "--optimizer", "sgd", "--lr", "1e-12"))
    model = driven.model
    model.due_phase = lambda: phase
    inputs, labels, raw = driven.batch()
    model.buffer.replace("labels", score_range * torch.linspace(0, 1, 4))
    loss = model.meta_observe(inputs[:n], score_range * labels[:n], raw[:n], epoch=0)
    assert math.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_without_a_buffer_every_phase_still_learns(drive):
    driven = drive("magr++", "--buffer_size", "0", *SIZE)
    for _ in range(3):
        assert all(map(math.isfinite, driven.session()))
    assert driven.model.buffer.is_empty()


def test_what_is_stored_moves_with_the_projector(drive):
    driven = second_session(drive)
    driven.learn()
    model = driven.model
    before = model.buffer.get_all_data()[0]
    with torch.no_grad():
        wanted = model.projector(before)
    assert not torch.allclose(wanted, before, atol=1e-4)
    model.meta_end_task(driven.dataset)
    assert torch.equal(model.buffer.get_all_data()[0][:4], wanted)


# Rates and options


def test_deep_layers_learn_faster_than_shallow_ones_and_the_first_session_at_one_rate(drive):
    driven = drive("magr++", *BUFFER, "--lr", "0.1", "--backbone_lr_scale", "0.5", "--layer_decay", "0.5")
    driven.begin()
    assert [group["lr"] for group in driven.model.opt.param_groups] == [0.1]
    driven.model.meta_end_task(driven.dataset)
    driven.begin()
    groups = driven.model.opt.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.0125, 0.025, 0.05, 0.1, 0.1])
    layers = driven.model.net.layers
    assert [group["params"][0] is layer[0].weight for group, layer in zip(groups, layers, strict=False)] == [True] * 3


@pytest.mark.parametrize(("backbone", "stage"), [("i3d", "mixed_3c"), ("c3d", "0.33")])
def test_the_stabiliser_of_i3d_holds_the_published_map(backbone, stage):
    line = f"--model magr++ --dataset aqa7-mini --buffer_size 10 --backbone {backbone}"
    assert parse_args(line.split()).stabilizer_stage == stage


def test_the_projector_is_never_decayed(drive):
    driven = second_session(drive, "--optim_wd", "0.5")
    decays = {id(p): group["weight_decay"] for group in driven.model.opt.param_groups for p in group["params"]}
    assert {decays[id(p)] for p in driven.model.projector.parameters()} == {0.0}
    assert {decays[id(p)] for p in driven.model.net.parameters()} == {0.5}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--phase_b", "0.8"], "phase_b <= phase_bc"),
        (["--phase_bc", "1.2"], "phase_bc <= 1"),
        (["--phase_b", "-0.1"], "0 <= phase_b"),
        (["--phase_b", "nan"], "phase_b"),
        (["--stabilizer_stage", "mixed_3c"], "mixed_3c"),
        (["--stabilizer_stage", "1.5"], "at most 1.0"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_learnt(drive, options, said):
    with pytest.raises(UsageError, match=said):
        drive("magr++", *BUFFER, *options)


# Stopping and going on

# Two sessions of 16 steps; in the second, phases begin with steps 6 and 11.
RUN = "--model magrpp --dataset uiprmd --buffer_size 4 --n_tasks 2 --width 8 --batch_size 17 --n_epochs 4"


@pytest.mark.parametrize(
    ("step", "phase", "more"),
    [
        (3, "A", ""),
        (6, "A", " --lr_scheduler cosine"),
        (11, "B", ""),
        (9, "B", " --lr_scheduler cosine"),
        (12, "BC", " --optimizer sgd --optim_mom 0.9"),
        (14, "BC", " --lr_scheduler cosine"),
    ],
)
def test_a_run_stopped_in_any_phase_and_resumed_ends_with_the_same_bits(
    launch, identical, monkeypatch, step, phase, more
):
    straight = launch(RUN + more)
    observe, calls, phases = ContinualModel.meta_observe, iter(range(10**9)), []

    def observe_then_signal(self, *args, **kwargs):
        loss = observe(self, *args, **kwargs)
        if next(calls) == 16 + step - 1:
            phases.append(self.phase)
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(ContinualModel, "meta_observe", observe_then_signal)
    stopped = launch(RUN + more)
    assert stopped.code == 128 + signal.SIGTERM
    assert phases == [phase]
    resumed = launch("", resume=stopped.path)
    assert resumed.code == 0
    assert identical(straight, resumed)


def test_a_loaded_state_knows_its_phase(drive):
    driven = second_session(drive)
    driven.learn()
    fresh = drive("magr++", *BUFFER, *SIZE)
    fresh.model.load_state_dict(copy.deepcopy(driven.model.state_dict()))
    assert fresh.model.phase == driven.model.phase == "BC"
