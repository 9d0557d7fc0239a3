"""Scores as distributions over bins (USDL), against scipy and by hand."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy, norm
from torch import Tensor

from backbone.utils.heads import score_head
from datasets import get_dataset
from utils.args import parse_args
from utils.errors import UsageError
from utils.score_distribution import N_BINS, ScoreDistributionLoss, bin_centres, expected_scores, soft_labels

RANGES = [(0.0, 1.0), (21.6, 102.6), (-3.0, 5.0)]


def logits(n: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, N_BINS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_there_is_a_bin_for_every_hundredth_of_the_range() -> None:
    assert N_BINS == 101
    centres = bin_centres(0.0, 100.0, torch.zeros(1, dtype=torch.float64))
    assert torch.equal(centres, torch.arange(101, dtype=torch.float64))
    assert bin_centres(0.0, 1.0, torch.zeros(1, dtype=torch.float16)).dtype == torch.float16


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_soft_labels_are_normalised_gaussians_of_a_twentieth_of_the_range(low: float, high: float) -> None:
    scores = torch.tensor([low, low + 0.31 * (high - low), high, (low + high) / 2], dtype=torch.float64)
    found = soft_labels(scores, low, high)
    bins = np.linspace(low, high, 101)
    density = norm.pdf(bins[None], loc=scores.numpy()[:, None], scale=0.05 * (high - low))
    assert np.allclose(found.numpy(), density / density.sum(1, keepdims=True), atol=1e-15)
    assert found.argmax(1).tolist() == [0, 31, 100, 50]


def test_a_score_beyond_the_range_has_the_label_of_the_end() -> None:
    inside = soft_labels(torch.tensor([0.0, 1.0]), 0.0, 1.0)
    assert torch.equal(soft_labels(torch.tensor([-4.0, 9.0]), 0.0, 1.0), inside)
    assert torch.isfinite(soft_labels(torch.tensor([-1e30, 1e30]), 0.0, 1.0)).all()


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("column", [False, True])
def test_the_loss_is_the_mean_divergence_of_the_soft_labels_from_the_outputs(
    low: float, high: float, column: bool
) -> None:
    outputs, scores = logits(5), low + (high - low) * torch.rand(5, dtype=torch.float64)
    labels = soft_labels(scores, low, high).numpy()
    wanted = np.mean([entropy(label, q) for label, q in zip(labels, softmax(outputs.numpy(), 1), strict=True)])
    loss = ScoreDistributionLoss(low, high)(outputs, scores[:, None] if column else scores)
    assert float(loss) == pytest.approx(wanted, rel=1e-12)


def test_the_loss_by_hand() -> None:
    """Of equal outputs it is log 101 less the entropy of the label."""
    label = norm.pdf(np.arange(101), 40, 5)
    label /= label.sum()
    loss = ScoreDistributionLoss(0.0, 100.0)(torch.zeros(1, N_BINS, dtype=torch.float64), torch.tensor([40.0]))
    assert float(loss) == pytest.approx(np.log(101) - entropy(label), rel=1e-12)


def test_the_loss_is_nothing_where_the_outputs_are_the_label() -> None:
    scores = torch.tensor([0.2, 0.73, 1.0], dtype=torch.float64)
    assert float(ScoreDistributionLoss(0.0, 1.0)(soft_labels(scores, 0.0, 1.0).log(), scores)) < 1e-12


def test_its_gradient_is_the_difference_of_the_distributions() -> None:
    outputs, scores = logits(4).requires_grad_(), torch.tensor([0.0, 0.4, 0.9, 1.0], dtype=torch.float64)
    ScoreDistributionLoss(0.0, 1.0)(outputs, scores).backward()
    wanted = (torch.softmax(outputs.detach(), 1) - soft_labels(scores, 0.0, 1.0)) / 4
    torch.testing.assert_close(outputs.grad, wanted, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_loss_and_gradient_stay_finite_at_extreme_outputs(size: float) -> None:
    outputs = (size * logits(3).sign()).float().requires_grad_()
    loss = ScoreDistributionLoss(0.0, 1.0)(outputs, torch.tensor([0.0, 0.5, 1.0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize(
    ("outputs", "scores"), [((3, 101), (2,)), ((3, 100), (3,)), ((3, 1), (3,)), ((101,), (1,)), ((1, 3, 101), (1,))]
)
def test_what_does_not_fit_is_refused(outputs: tuple[int, ...], scores: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        ScoreDistributionLoss(0.0, 1.0)(torch.zeros(outputs), torch.zeros(scores))


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_the_expected_score_is_the_mean_of_the_distribution(low: float, high: float) -> None:
    outputs = logits(6)
    found = expected_scores(outputs, low, high)
    assert found.shape == (6, 1)
    wanted = np.exp(log_softmax(outputs.numpy(), 1)) @ np.linspace(low, high, 101)
    assert np.allclose(found[:, 0].numpy(), wanted)
    assert found.min() >= low
    assert found.max() <= high


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_a_learnt_label_gives_its_score_back_but_near_the_ends(low: float, high: float) -> None:
    scores = torch.linspace(low + 0.2 * (high - low), high - 0.2 * (high - low), 7, dtype=torch.float64)
    found = expected_scores(soft_labels(scores, low, high).log(), low, high)[:, 0]
    torch.testing.assert_close(found, scores, rtol=0, atol=1e-4 * (high - low))
    # At an end the half of the bell that is cut off pulls the mean inwards.
    end = expected_scores(soft_labels(torch.tensor([low], dtype=torch.float64), low, high).log(), low, high)
    assert low < float(end) < low + 0.05 * (high - low)


# Head, stream and runs


def test_the_head_has_one_output_a_bin() -> None:
    head = score_head("usdl", 12)
    assert head(torch.zeros(3, 12)).shape == (3, N_BINS)


@pytest.mark.parametrize("scale", ["unit", "raw"])
def test_stream_and_loss_agree_on_the_range(scale: str) -> None:
    words = ["--model", "sgd", "--dataset", "uiprmd", "--score_head", "usdl", "--score_scale", scale]
    dataset = get_dataset(parse_args(words))
    loss = dataset.get_loss()
    assert isinstance(loss, ScoreDistributionLoss)
    assert (loss.low, loss.high) == ((0.0, 1.0) if scale == "unit" else (0.5, 1.0))
    scores = np.array([0.62, 0.7, 0.88])
    labels = dataset.convert_targets(scores).double()
    outputs = soft_labels(labels, loss.low, loss.high).log()
    assert np.allclose(dataset.to_scores(outputs.numpy())[:, 0], scores, atol=1e-4)
    assert float(loss(outputs, labels)) < 1e-12


def test_sampling_at_test_time_belongs_to_the_other_head() -> None:
    from backbone import get_backbone

    words = ["--model", "sgd", "--dataset", "uiprmd", "--score_head", "usdl", "--sample_scores", "always"]
    args = parse_args(words)
    get_dataset(args)
    with pytest.raises(UsageError, match="--sample_scores always needs --score_head gaussian"):
        get_backbone(args)


def run(launch: Callable[..., Any], *words: str) -> Any:
    finished = launch("--dataset uiprmd --score_head usdl --n_tasks 2 --n_epochs 12 --lr 0.003", *words)
    assert finished.code == 0
    return finished


@pytest.mark.parametrize("model", ["er", "der", "derpp", "magr"])
def test_methods_learn_distributions(launch: Callable[..., Any], model: str) -> None:
    finished = run(launch, "--model", model, "--buffer_size", "20", *(["--alpha", "0.5"] if model == "der" else []))
    summary = finished.summary
    assert summary["srcc_pooled"] > 60
    assert summary["mae"] < 0.08  # of scores from 0.53 to 0.96
    with np.load(finished.path / "predictions" / "session-1.npz") as stored:
        assert stored["outputs"].shape == (45, 1)
        assert stored["outputs"].min() >= 0.5
        assert stored["outputs"].max() <= 1.0
    epochs = [json.loads(line) for line in finished.metrics.splitlines()]
    losses = [record["loss"] for record in epochs if record["event"] == "epoch" and record["task"] == 0]
    assert losses[-1] < 0.6 * losses[0]


def test_a_joint_run_orders_the_movements(launch: Callable[..., Any]) -> None:
    finished = run(launch, "--model", "joint", "--n_epochs", "30")
    assert finished.summary["srcc_pooled"] > 90
