"""What all score streams share: ranges, degrees of difficulty, groups, base sessions, orders."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datasets import get_dataset
from datasets.utils.score_dataset import ScoreDataset
from tests.datasets import trees
from utils.args import parse_args
from utils.errors import DataError, UsageError
from utils.evaluate import predict, score_figures
from utils.score_distribution import N_BINS

N_TRAIN, N_TEST = 40, 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features that say which sample they are; final scores with ties, difficulties 1.6 to 3.7, three people."""
    root = tmp_path_factory.mktemp("scores")
    rows = trees.manifest_rows(N_TRAIN, N_TEST, "features", lambda i: f"{i}.npy")
    rng = np.random.default_rng(3)
    for i, row in enumerate(rows):
        row["difficulty"] = float(rng.choice([1.6, 2.1, 2.8, 3.0, 3.2, 3.7]))
        row["score"] = float(np.round(rng.integers(10, 30) * 3.1, 2))
        np.save(root / f"{i}.npy", np.full((2, 3), i, np.float32))
    trees.write_manifest(root / "manifest.csv", rows)
    return root


def stream(root: Path, *words: str) -> ScoreDataset:
    options = ["--dataset", "aqa-manifest", "--data_root", str(root), "--backbone", "clip-features"]
    return get_dataset(parse_args(["--model", "sgd", *options, "--batch_size", "7", "--num_workers", "0", *words]))


def facts(dataset: ScoreDataset) -> dict[int, tuple[float, float]]:
    """Sample -> (final score, difficulty)."""
    return {int(each.name[-3:]): (each.score, each.difficulty) for each in dataset.performances}


class Oracle(nn.Module):
    """Says of every sample what the given table has for it."""

    def __init__(self, table: dict[int, float]) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor([table[i] for i in range(len(table))], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.table[inputs[:, 0, 0].long()].float().unsqueeze(1)


# Degrees of difficulty


SPLITS: list[list[str]] = [
    [],
    ["--validation", "30"],
    ["--tasks_by", "group"],
    ["--tasks_by", "group", "--task_order", "random", "--seed", "3"],
    ["--fewshot", "1", "--num_samples_per_task", "3", "--test_shots", "2", "--task_order", "descending"],
    ["--joint", "1"],
]


@pytest.mark.parametrize("words", SPLITS, ids=" ".join)
def test_the_network_learns_execution_scaled_by_its_range(tree: Path, words: list[str]) -> None:
    dataset = stream(tree, "--use_difficulty", "1", "--n_tasks", "3", *words)
    known = facts(dataset)
    train = [known[int(each.name[-3:])] for each in dataset.performances if each.part == "train"]
    low, high = min(score / factor for score, factor in train), max(score / factor for score, factor in train)
    for _ in range(dataset.N_TASKS):
        for loader in dataset.get_data_loaders():
            for inputs, labels, *_ in loader:
                execution = [known[i][0] / known[i][1] for i in inputs[:, 0, 0].int().tolist()]
                assert np.allclose(labels, (np.array(execution) - low) / (high - low), atol=1e-6)


def test_the_published_range_of_execution_is_taken_where_there_is_one(tmp_path: Path) -> None:
    root = trees.mtl_aqa(tmp_path, 6, 3, videos=(1,))
    words = [*trees.options("mtl-aqa", root), "--n_tasks", "1", "--use_difficulty", "1"]
    dataset = get_dataset(parse_args(["--model", "sgd", *words]))
    for loader in dataset.get_data_loaders():
        data = loader.dataset
        assert np.allclose(data.targets, data.scores / data.difficulty / 30, atol=1e-6)
        assert np.allclose(dataset.to_scores(data.targets.numpy(), data.difficulty), data.scores, atol=1e-4)
    assert dataset.score_range == (0.0, 104.5)  # figures are of final scores


@pytest.mark.parametrize("scale", ["unit", "raw"])
@pytest.mark.parametrize("words", SPLITS, ids=" ".join)
def test_figures_and_predictions_are_final_scores(tree: Path, words: list[str], scale: str) -> None:
    dataset = stream(tree, "--use_difficulty", "1", "--n_tasks", "3", "--score_scale", scale, *words)
    known = facts(dataset)
    labels = dataset.convert_targets(*np.array([known[i] for i in range(len(known))]).T)
    model = Oracle(dict(enumerate(labels.tolist())))
    dataset.get_data_loaders()
    found = []
    for task in range(dataset.n_test_tasks):
        predictions = predict(model, dataset, task)
        samples = [int(inputs[0, 0]) for batch, _ in dataset.test_loader(task) for inputs in batch]
        assert predictions.truth.tolist() == [known[i][0] for i in samples]
        assert np.allclose(predictions.outputs[:, 0], predictions.truth, rtol=1e-6)
        found.append(predictions)
    figures = score_figures(found, dataset.score_range)
    assert figures["mae"] < 1e-4
    assert figures["srcc_pooled"] == pytest.approx(100, abs=0.5)


def test_equal_final_scores_stay_equal_whatever_their_difficulty(tree: Path) -> None:
    """Back from single-precision labels they would differ in the last digits, and their ranks with them."""
    dataset = stream(tree, "--use_difficulty", "1", "--n_tasks", "1")
    known = facts(dataset)
    test = [each.score for each in dataset.performances if each.part == "test"]
    dataset.get_data_loaders()
    data = dataset.test_loader(0).dataset
    rounded = dataset.to_scores(data.targets.numpy(), data.difficulty).astype(np.float32)
    assert len(set(rounded.tolist())) > len(set(test))
    truth = predict(Oracle(dict.fromkeys(known, 0.0)), dataset, 0).truth
    assert sorted(truth.tolist()) == sorted(test)


def test_without_use_difficulty_it_has_no_part_in_targets_and_predictions(tree: Path) -> None:
    dataset = stream(tree, "--n_tasks", "1")
    known = facts(dataset)
    low, high = dataset.score_range
    loader = dataset.get_data_loaders()[0]
    for inputs, labels, _ in loader:
        scores = np.array([known[i][0] for i in inputs[:, 0, 0].int().tolist()])
        assert np.allclose(labels, (scores - low) / (high - low), atol=1e-6)
    half = predict(Oracle(dict.fromkeys(known, 0.5)), dataset, 0)
    assert np.allclose(half.outputs, (low + high) / 2)


def test_difficulties_stay_with_their_samples_where_some_cannot_be_read(tmp_path: Path) -> None:
    """Clips are decoded when they are evaluated, so that samples fall out of the middle of batches."""
    root = trees.manifest(tmp_path, 8, 6)
    for i in (5, 8):
        trees.truncate(root / "clips" / str(i) / "frame0004.jpg")
    words = ["--n_tasks", "2", "--use_difficulty", "1", "--skip_corrupt", "1", "--batch_size", "2"]
    dataset = get_dataset(parse_args(["--model", "sgd", *trees.options("aqa-manifest", root), *words]))
    low, high = dataset._regressed_range

    class Half(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.full((len(inputs), 1), 0.5)

    dataset.get_data_loaders()
    n = 0
    for task in range(2):
        found = predict(Half(), dataset, task)
        factors = {each.score: each.difficulty for each in dataset.performances}
        wanted = [factors[score] * (low + high) / 2 for score in found.truth.tolist()]
        assert np.allclose(found.outputs[:, 0], wanted)
        n += len(found.truth)
    assert n == 4
    assert len(dataset.skipped) == 2


def test_the_head_that_predicts_the_mean_may_be_called_so():
    assert parse_args(["--model", "sgd", "--dataset", "uiprmd", "--score_head", "mean"]).score_head == "mlp"


@pytest.mark.parametrize("name", ["uiprmd", "rg", "aqa7-mini"])
def test_a_stream_without_difficulties_refuses_to_use_them(name: str) -> None:
    args = parse_args(["--model", "sgd", "--dataset", name, "--use_difficulty", "1"])
    with pytest.raises(UsageError, match=f"--use_difficulty: {name} gives no degrees of difficulty"):
        get_dataset(args)


# Ranges


@pytest.mark.parametrize(
    ("text", "found"), [("0,100", (0.0, 100.0)), ("-5.5 20", (-5.5, 20.0)), ("10,93", (10.0, 93.0))]
)
def test_the_score_range_can_be_given(tree: Path, text: str, found: tuple[float, float]) -> None:
    dataset = stream(tree, "--score_range", text)
    assert dataset.score_range == found
    scores = np.array([20.0, 50.0])
    labels = dataset.convert_targets(scores)
    assert np.allclose(labels, (scores - found[0]) / (found[1] - found[0]), atol=1e-6)
    assert np.allclose(dataset.to_scores(labels.numpy()), scores, atol=1e-4)
    raw = stream(tree, "--score_range", text, "--score_scale", "raw")
    assert np.allclose(raw.convert_targets(scores), scores)


@pytest.mark.parametrize("text", ["0", "100,0", "5,5", "a,b", "1,2,3", "0,inf", "nan,1", ""])
def test_what_is_no_range_is_refused(tree: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--score_range"):
        stream(tree, f"--score_range={text}")


def test_a_score_range_that_training_scores_leave_is_refused_with_their_own(tree: Path) -> None:
    scores = stream(tree).samples.train_targets
    high = (scores.min() + scores.max()) / 2
    words = f"{(scores > high).sum()} of {len(scores)} training scores .* go from {scores.min():g} to {scores.max():g}"
    with pytest.raises(UsageError, match=words):
        stream(tree, "--score_range", f"{scores.min()},{high}").describe()


def test_equal_scores_make_no_grades(tree: Path) -> None:
    dataset = stream(tree)
    dataset.samples.train_targets = np.full_like(dataset.samples.train_targets, 7)
    with pytest.raises(DataError, match=rf"every training sample has the score 7, which makes no {dataset.n_parts} "):
        dataset.describe()


def test_without_a_published_range_the_training_scores_give_it(tree: Path) -> None:
    dataset = stream(tree)
    train = [each.score for each in dataset.performances if each.part == "train"]
    assert dataset.score_range == (min(train), max(train))
    labels = dataset.convert_targets(dataset.samples.train_targets)
    assert (float(labels.min()), float(labels.max())) == (0.0, 1.0)


def test_training_scores_that_are_all_equal_are_refused(tmp_path: Path) -> None:
    root = trees.manifest_of_features(tmp_path, 4, 2)
    text = (root / "manifest.csv").read_text()
    for score in range(10, 16):
        text = text.replace(f",{score},", ",7,")
    (root / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match="every training sample has the score 7; there is nothing to learn"):
        stream(root, "--n_tasks", "1").get_data_loaders()


@pytest.mark.parametrize("words", [[], ["--score_scale", "raw"], ["--use_difficulty", "1"]], ids=" ".join)
def test_a_distribution_over_scores_becomes_its_mean_in_score_units(tree: Path, words: list[str]) -> None:
    dataset = stream(tree, "--score_head", "usdl", *words)
    difficulty = np.array([2.0, 3.0, 1.5]) if dataset.uses_difficulty else None
    low, high = dataset._regressed_range
    outputs = np.full((3, N_BINS), -np.inf)
    outputs[0, 0] = outputs[1, -1] = outputs[2, 25] = outputs[2, 75] = 0.0
    wanted = np.array([low, high, (low + high) / 2]) * (1.0 if difficulty is None else difficulty)
    scores = dataset.to_scores(outputs, difficulty)
    assert scores.shape == (3, 1)
    assert np.allclose(scores[:, 0], wanted)


# Tasks


def groups_of(dataset: ScoreDataset, task: int) -> set[str]:
    return {
        *dataset.samples.train_groups[dataset.split.train[task]],
        *dataset.samples.test_groups[dataset.split.test[task]],
    }


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["ann", "bob", "cem"]),
        (["--task_order", "descending"], ["cem", "bob", "ann"]),
        (["--custom_task_order", "2,3,1"], ["bob", "cem", "ann"]),
        (["--fewshot", "1", "--task_order", "descending"], ["base", "cem", "bob", "ann"]),
        (["--fewshot", "1", "--custom_task_order", "3,1,2"], ["base", "cem", "ann", "bob"]),
        (["--n_tasks", "2", "--task_order", "descending"], ["bob+cem", "ann"]),
        (["--n_tasks", "1"], ["ann+bob+cem"]),
        (["--n_tasks", "2", "--fewshot", "1"], ["base", "ann", "bob+cem"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_groups_arrive_in_the_order_asked_for(tree: Path, words: list[str], names: list[str]) -> None:
    dataset = stream(tree, "--tasks_by", "group", *words)
    assert dataset.names == names
    assert dataset.N_TASKS == len(names)
    assert dataset.SETTING == "group-il"
    for task, name in enumerate(names):
        assert groups_of(dataset, task) == ({"ann", "bob", "cem"} if name == "base" else set(name.split("+")))
    for part, n in (("train", N_TRAIN), ("test", N_TEST)):
        assert sorted(itertools.chain(*(indices.tolist() for indices in getattr(dataset.split, part)))) == [*range(n)]


def test_a_random_order_of_groups_depends_on_the_seed_alone(tree: Path) -> None:
    def names(seed: int) -> list[str]:
        return stream(tree, "--tasks_by", "group", "--task_order", "random", "--seed", str(seed)).names

    assert names(4) == names(4)
    assert {tuple(names(seed)) for seed in range(40)} == set(itertools.permutations(["ann", "bob", "cem"]))


@pytest.mark.parametrize("tasks_by", ["grade", "group"])
def test_a_base_session_keeps_half_of_small_tasks_and_covers_the_scores_of_all(tree: Path, tasks_by: str) -> None:
    whole = stream(tree, "--tasks_by", tasks_by, "--n_tasks", "3")
    few = stream(tree, "--tasks_by", tasks_by, "--n_tasks", "3", "--fewshot", "1", "--test_shots", "3")
    for part, shots in (("train", 20), ("test", 3)):
        tasks, sessions = getattr(whole.split, part), getattr(few.split, part)
        for task, session in zip(tasks, sessions[1:], strict=True):
            assert len(session) == min(shots, (len(task) + 1) // 2)
            assert set(session) <= set(task)
        assert all(set(task) & set(sessions[0]) for task in tasks)
        # The lowest and the highest of a task are among its few.
        scores = getattr(whole.samples, f"{part}_targets")
        for task, session in zip(tasks, sessions[1:], strict=True):
            assert (scores[session].min(), scores[session].max()) == (scores[task].min(), scores[task].max())


def test_more_tasks_than_groups_are_refused(tree: Path) -> None:
    with pytest.raises(UsageError, match="--n_tasks 4: there are only 3 groups"):
        stream(tree, "--tasks_by", "group", "--n_tasks", "4").describe()


def test_the_official_protocol_cuts_grades_only(tree: Path) -> None:
    with pytest.raises(UsageError, match="--protocol official cuts grades"):
        stream(tree, "--tasks_by", "group", "--protocol", "official")


@pytest.mark.parametrize("name", ["aqa7-mini"])
def test_a_stream_without_groups_refuses_them(name: str) -> None:
    args = parse_args(["--model", "sgd", "--dataset", name, "--tasks_by", "group"])
    with pytest.raises(UsageError, match=f"--tasks_by group: {name} has no groups"):
        get_dataset(args)


def test_a_group_without_test_samples_is_refused_by_name(tree: Path, tmp_path: Path) -> None:
    text = (tree / "manifest.csv").read_text().splitlines()
    kept = [line for line in text if not (",test," in line and "bob" in line)]
    (tmp_path / "manifest.csv").write_text("\n".join(kept))
    for path in tree.glob("*.npy"):
        (tmp_path / path.name).symlink_to(path)
    for words in ([], ["--fewshot", "1"]):
        with pytest.raises(DataError, match="no test sample in bob; choose fewer tasks"):
            stream(tmp_path, "--tasks_by", "group", *words).describe()
    assert stream(tmp_path, "--tasks_by", "group", "--n_tasks", "2").describe()


def test_splits_with_a_base_session_can_be_validated(tree: Path) -> None:
    words: list[Any] = ["--fewshot", "1", "--num_samples_per_task", "5", "--n_tasks", "3", "--validation", "20"]
    dataset = stream(tree, *words)
    for task in range(4):
        train_loader, test_loader = dataset.get_data_loaders()
        assert test_loader.dataset.source is train_loader.dataset.source
        assert len(test_loader.dataset) == round((len(train_loader.dataset) + len(test_loader.dataset)) / 5)
        assert dataset.names[task] == ["base", "grade 1", "grade 2", "grade 3"][task]
