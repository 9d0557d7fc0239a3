"""The real rehabilitation movements that the repository ships."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from datasets import get_dataset
from datasets.uiprmd import FILE, MEAN, STD
from datasets.utils.score_dataset import ScoreDataset
from utils.args import parse_args
from utils.errors import UsageError


@pytest.fixture(scope="module")
def stream() -> Callable[..., ScoreDataset]:
    return lambda *words: get_dataset(parse_args(["--model", "sgd", "--dataset", "uiprmd", *words]))


def test_the_shipped_file_holds_180_sequences_of_real_scores() -> None:
    with np.load(FILE) as file:
        assert file["sequences"].shape == (180, 240, 4)
        assert file["score"].shape == file["correct"].shape == (180,)
        assert (file["correct"] == 1).sum() == 90
        assert round(float(file["score"].min()), 3) == 0.530
        assert round(float(file["score"].max()), 3) == 0.961
        assert np.isfinite(file["sequences"]).all()
        correct = file["score"][file["correct"] == 1]
        assert correct.mean() > file["score"][file["correct"] == 0].mean() + 0.05


def test_the_licence_lies_beside_the_data() -> None:
    text = (FILE.parent / "LICENSE.txt").read_text()
    assert "Copyright (c) 2020 Aleksandar Vakanski" in text
    assert "Permission is hereby granted, free of charge" in text


def test_135_sequences_train_and_45_test(stream: Callable[..., ScoreDataset]) -> None:
    samples = stream().samples
    assert (len(samples.train), len(samples.test)) == (135, 45)
    assert samples.train.data.shape == (135, 4, 60)
    assert samples.train.data.dtype == torch.float32
    with np.load(FILE) as file:
        both = np.concatenate([samples.train_targets, samples.test_targets])
        assert np.array_equal(np.sort(both), np.sort(file["score"].astype(np.float64)))
    # Every fourth by score: both parts cover the range alike.
    assert abs(samples.train_targets.mean() - samples.test_targets.mean()) < 0.005


def test_sequences_are_averaged_to_60_steps_and_paired_with_their_scores(stream: Callable[..., ScoreDataset]) -> None:
    samples = stream().samples
    with np.load(FILE) as file:
        for source, targets in ((samples.train, samples.train_targets), (samples.test, samples.test_targets)):
            for sequence, score in zip(source.data, targets, strict=True):
                at = np.flatnonzero(file["score"].astype(np.float64) == score)
                expected = file["sequences"][at].reshape(-1, 60, 4, 4).mean(axis=2).transpose(0, 2, 1)
                assert np.abs(expected - sequence.numpy()).max(axis=(1, 2)).min() < 1e-6


def test_five_grades_of_27_and_9(stream: Callable[..., ScoreDataset]) -> None:
    dataset = stream()
    rows = dataset.describe()
    assert [(row["task"], row["train"], row["test"]) for row in rows] == [(f"grade {k}", 27, 9) for k in range(1, 6)]
    assert all(low["high"] <= high["low"] for low, high in zip(rows[:-1], rows[1:], strict=True))
    assert dataset.SETTING == "grade-il"


def test_labels_lie_in_the_unit_interval_and_go_back_to_scores(stream: Callable[..., ScoreDataset]) -> None:
    dataset = stream()
    assert dataset.SCORE_RANGE == (0.5, 1.0)
    targets = dataset.samples.train_targets
    labels = dataset.convert_targets(targets)
    assert labels.min() > 0.05
    assert labels.max() < 0.95
    assert np.allclose(dataset.to_scores(labels.numpy()), targets, atol=1e-6)


def test_tasks_by_group_gives_the_two_kinds_of_repetition(stream: Callable[..., ScoreDataset]) -> None:
    dataset = stream("--tasks_by", "group")
    assert dataset.SETTING == "group-il"
    assert dataset.N_TASKS == 2
    assert dataset.names == ["correct", "incorrect"]
    rows = dataset.describe()
    assert [row["train"] + row["test"] for row in rows] == [90, 90]
    with np.load(FILE) as file:
        for task, kind in enumerate((1, 0)):
            scores = np.concatenate(
                [
                    dataset.samples.train_targets[dataset.split.train[task]],
                    dataset.samples.test_targets[dataset.split.test[task]],
                ]
            )
            assert np.array_equal(np.sort(scores), np.sort(file["score"][file["correct"] == kind].astype(np.float64)))


def test_groups_can_have_a_base_session_too(stream: Callable[..., ScoreDataset]) -> None:
    dataset = stream("--tasks_by", "group", "--fewshot", "1", "--num_samples_per_task", "12")
    assert dataset.names == ["base", "correct", "incorrect"]
    assert [(row["train"], row["test"]) for row in dataset.describe()] == [(111, 35), (12, 5), (12, 5)]


def test_neighbouring_groups_are_united_to_the_number_of_tasks_asked_for(stream: Callable[..., ScoreDataset]) -> None:
    dataset = stream("--tasks_by", "group", "--n_tasks", "1")
    assert dataset.names == ["correct+incorrect"]
    assert [(row["train"], row["test"]) for row in dataset.describe()] == [(135, 45)]
    with pytest.raises(UsageError, match="only 2 groups"):
        stream("--tasks_by", "group", "--n_tasks", "3").describe()


def test_few_shot_sessions_leave_half_of_a_small_grade_to_the_base(stream: Callable[..., ScoreDataset]) -> None:
    rows = stream("--fewshot", "1").describe()
    # 20 shots asked for, grades of 27: half of them; 5 of the 9 test samples of a grade.
    assert [(row["train"], row["test"]) for row in rows] == [(65, 20), *[(14, 5)] * 5]
    assert rows[0]["high"] > rows[-1]["low"]
    assert rows[0]["low"] < rows[1]["high"]


def test_the_normalisation_is_that_of_the_training_sequences(stream: Callable[..., ScoreDataset]) -> None:
    data = stream().samples.train.data
    assert np.allclose(data.mean(dim=(0, 2)).numpy(), MEAN, atol=2e-3)
    assert np.allclose(data.std(dim=(0, 2)).numpy(), STD, atol=2e-3)
