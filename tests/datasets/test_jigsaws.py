"""JIGSAWS from the official tree and from the packed file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import get_dataset
from datasets.utils.score_dataset import ScoreDataset
from utils.args import parse_args
from utils.errors import DataError

TASKS = ["Knot_Tying", "Needle_Passing", "Suturing"]
PACKED = "jigsaws_kinematics_10hz.npz"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = [
    pytest.mark.data,
    pytest.mark.skipif(not (SHARED / PACKED).exists(), reason=f"{SHARED / PACKED} is not there"),
]


def stream(root: Path, *words: str) -> ScoreDataset:
    options = ["--model", "sgd", "--dataset", "jigsaws", "--data_root", str(root)]
    if "group" not in words:
        options += ["--n_tasks", "2"]
    return get_dataset(parse_args([*options, *words]))


def trials() -> dict[str, tuple[float, np.ndarray]]:
    """Eight surgeons do each task once; recordings differ in length."""
    rng = np.random.default_rng(0)
    names = [f"{task}_{user}00{1 + TASKS.index(task)}" for task in TASKS for user in "BCDEFGHI"]
    return {name: (8.0 + i % 20, rng.normal(size=(100 + 5 * i, 76))) for i, name in enumerate(names)}


def task_of(trial: str) -> str:
    return trial.rsplit("_", 1)[0]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "JIGSAWS"
    for task in TASKS:
        (root / task / "kinematics" / "AllGestures").mkdir(parents=True)
        lines = [f"{name}\t\tN\t{grs:.0f}\t\t3\t2\t1" for name, (grs, _) in trials().items() if task_of(name) == task]
        (root / task / f"meta_file_{task}.txt").write_text("\n".join(lines) + "\n\n")
    for name, (_, recording) in trials().items():
        np.savetxt(root / task_of(name) / "kinematics" / "AllGestures" / f"{name}.txt", recording, fmt="%.17g")
    return root


def write_packed(root: Path, **replaced: object) -> Path:
    root.mkdir(exist_ok=True)
    recordings = [recording for _, recording in trials().values()]
    arrays = {
        "frames": np.concatenate(recordings),
        "offsets": np.cumsum([0, *map(len, recordings)]),
        "trial": np.array(list(trials())),
        "grs": np.array([grs for grs, _ in trials().values()], dtype=np.float32),
        **replaced,
    }
    np.savez(root / PACKED, **arrays)
    return root


@pytest.mark.parametrize("words", [[], ["--split_by", "user", "--fold", "2"], ["--surgical_task", "suturing"]])
def test_tree_and_packed_file_give_the_same_samples(tree: Path, tmp_path: Path, words: list[str]) -> None:
    first, second = stream(tree, *words), stream(write_packed(tmp_path / "packed"), *words)
    assert torch.equal(first.samples.train.data, second.samples.train.data)
    assert torch.equal(first.samples.test.data, second.samples.test.data)
    for name in ("train_targets", "test_targets", "train_groups", "test_groups"):
        assert np.array_equal(getattr(first.samples, name), getattr(second.samples, name))
    assert len(first.samples.train) + len(first.samples.test) == (8 if words[:1] == ["--surgical_task"] else 24)


def test_trials_are_averaged_and_standardised_by_the_training_trials(tree: Path) -> None:
    dataset = stream(tree)
    train = dataset.samples.train.data
    assert train.shape == (18, 76, 128)
    assert train.dtype == torch.float32
    torch.testing.assert_close(train.mean(dim=(0, 2)), torch.zeros(76), rtol=0, atol=1e-4)
    torch.testing.assert_close(train.std(dim=(0, 2)), torch.ones(76), rtol=0, atol=1e-3)
    assert dataset.samples.test.data.mean(dim=(0, 2)).abs().max() > 1e-3  # not standardised by itself


def test_recordings_and_scores_stay_paired(tmp_path: Path) -> None:
    recordings = [np.full((20, 76), grs) for grs, _ in trials().values()]
    root = write_packed(tmp_path / "p", frames=np.concatenate(recordings), offsets=np.arange(25) * 20)
    dataset = stream(root)
    for source, targets in (
        (dataset.samples.train, dataset.samples.train_targets),
        (dataset.samples.test, dataset.samples.test_targets),
    ):
        assert np.corrcoef(source.data[:, 0, 0].numpy(), targets)[0, 1] > 0.9999


def test_the_trial_without_kinematics_is_left_out(tree: Path) -> None:
    meta = tree / "Suturing" / "meta_file_Suturing.txt"
    meta.write_text(meta.read_text() + "Suturing_G001\t\tI\t20\n")
    dataset = stream(tree)
    assert len(dataset.samples.train) + len(dataset.samples.test) == 24


def test_groups_are_the_three_surgical_tasks(tree: Path) -> None:
    dataset = stream(tree, "--tasks_by", "group")
    assert dataset.SETTING == "group-il"
    assert dataset.names == ["knot_tying", "needle_passing", "suturing"]
    assert dataset.N_TASKS == 3
    for task, name in enumerate(dataset.names):
        assert set(dataset.samples.train_groups[dataset.split.train[task]]) == {name}
        assert set(dataset.samples.test_groups[dataset.split.test[task]]) == {name}


# Broken copies


def test_absent_data_is_an_error_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Johns Hopkins.*--data_root") as caught:
        stream(tmp_path).describe()
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("line", ["Suturing_B001 N", "Suturing_B001", "Suturing_B001 N good 3", "1 2 x"])
def test_a_bad_line_of_ratings_is_named_by_file_and_number(tree: Path, line: str) -> None:
    meta = tree / "Suturing" / "meta_file_Suturing.txt"
    lines = meta.read_text().splitlines()
    meta.write_text("\n".join([*lines[:3], line, *lines[3:]]))
    with pytest.raises(DataError, match=rf"{meta}, line 4: .*{line}"):
        stream(tree).describe()


@pytest.mark.parametrize("score", ["nan", "inf"])
def test_a_rating_that_is_no_number_is_named_by_file_and_line(tree: Path, score: str) -> None:
    meta = tree / "Suturing" / "meta_file_Suturing.txt"
    lines = meta.read_text().splitlines()
    meta.write_text("\n".join([f"Suturing_B003\tN\t{score}", *lines[1:]]))
    with pytest.raises(DataError, match=rf"{meta}, line 1"):
        stream(tree, "--tasks_by", "group").describe()


def test_a_binary_rating_file_is_named(tree: Path) -> None:
    meta = tree / "Suturing" / "meta_file_Suturing.txt"
    meta.write_bytes(b"\xff\xfe\x80" + meta.read_bytes())
    with pytest.raises(DataError, match=str(meta)):
        stream(tree).describe()


ROW = " ".join(["1.5"] * 76)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f"{ROW}\n1.5 2.5\n", "row 2"),
        (f"{ROW}\n{ROW}\n{ROW.replace('1.5', 'x', 1)}\n", "row 2"),  # counted from 0
        ("1.5 2.5 3.5\n1.5 2.5 3.5\n", r"\(2, 3\) is not rows of 76"),
        (f"{ROW} 1.5\n", r"\(1, 77\) is not rows of 76"),
        (f"{ROW}\n{ROW.replace('1.5', 'nan', 1)}\n", "76 finite numbers"),
    ],
)
def test_bad_kinematics_are_named_by_file_and_reason(tree: Path, content: str, reason: str) -> None:
    path = tree / "Suturing" / "kinematics" / "AllGestures" / "Suturing_D003.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"{path}: .*{reason}"):
        stream(tree).describe()


@pytest.mark.filterwarnings("ignore:loadtxt. input contained no data")
def test_empty_kinematics_are_named(tree: Path) -> None:
    path = tree / "Suturing" / "kinematics" / "AllGestures" / "Suturing_D003.txt"
    path.write_text("")
    with pytest.raises(DataError, match=str(path)):
        stream(tree).describe()


def test_a_rating_file_of_one_task_missing_is_named(tree: Path) -> None:
    (tree / "Needle_Passing" / "meta_file_Needle_Passing.txt").unlink()
    with pytest.raises(DataError, match="meta_file_Needle_Passing"):
        stream(tree).describe()


@pytest.mark.parametrize("content", [b"", b"text" * 30])
def test_a_packed_file_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PACKED).write_bytes(content)
    with pytest.raises(DataError, match=str(tmp_path / PACKED)):
        stream(tmp_path).describe()


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flip_a_byte])
def test_a_damaged_packed_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_packed(tmp_path) / PACKED
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=str(path)):
        stream(tmp_path).describe()


def test_a_packed_file_without_an_array_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / PACKED, frames=np.zeros((20, 76)))
    with pytest.raises(DataError, match="offsets"):
        stream(tmp_path).describe()


def test_a_packed_file_whose_counts_differ_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="24 recordings, 24 trials, 23 scores"):
        stream(write_packed(tmp_path, grs=np.zeros(23))).describe()


def nan_in_a_frame() -> np.ndarray:
    frames = np.concatenate([recording for _, recording in trials().values()])
    frames[7, 7] = np.nan
    return frames


@pytest.mark.parametrize(
    "frames", [np.zeros((6000, 70)), np.zeros((300, 76)), nan_in_a_frame()], ids=["70 columns", "too short", "nan"]
)
def test_a_packed_file_whose_frames_do_not_fit_is_refused(tmp_path: Path, frames: np.ndarray) -> None:
    with pytest.raises(DataError, match=PACKED):
        stream(write_packed(tmp_path, frames=frames)).describe()


# The real recordings


@pytest.fixture(scope="module")
def real() -> Callable[..., ScoreDataset]:
    opened: dict[tuple[str, ...], ScoreDataset] = {}

    def open_once(*words: str) -> ScoreDataset:
        if words not in opened:
            opened[words] = stream(SHARED, *words)
        return opened[words]

    return open_once


class TestRealRecordings:
    pytestmark = needs_data

    def test_counts_and_score_range(self, real: Callable[..., ScoreDataset]) -> None:
        samples = real().samples
        scores = np.concatenate([samples.train_targets, samples.test_targets])
        assert (len(samples.train), len(samples.test)) == (76, 26)
        assert (scores.min(), scores.max()) == (6.0, 30.0)
        assert torch.isfinite(samples.train.data).all()
        groups = np.concatenate([samples.train_groups, samples.test_groups]).tolist()
        counts = {name: groups.count(name) for name in set(groups)}
        assert counts == {"suturing": 38, "knot_tying": 36, "needle_passing": 28}

    def test_scores_are_those_of_the_rating_files(self, real: Callable[..., ScoreDataset]) -> None:
        rated = []
        for task in TASKS:
            for line in (SHARED / f"jigsaws_meta_file_{task}.txt").read_text().splitlines():
                words = line.split()
                if words and words[0] != "Suturing_G001":  # the release has no kinematics of it
                    rated.append((task.lower(), float(words[2])))
        samples = real().samples
        groups = np.concatenate([samples.train_groups, samples.test_groups])
        scores = np.concatenate([samples.train_targets, samples.test_targets])
        assert sorted(zip(groups.tolist(), scores.tolist(), strict=True)) == sorted(rated)

    @pytest.mark.parametrize("split_by", ["trial", "user"])
    def test_the_folds_partition_the_trials(self, real: Callable[..., ScoreDataset], split_by: str) -> None:
        with np.load(SHARED / PACKED) as file:
            trials_, scores = file["trial"].tolist(), file["grs"]
        opened = [real("--split_by", split_by, "--fold", str(fold)).samples for fold in range(4)]
        assert sum(len(samples.test) for samples in opened) == 102
        assert all(len(samples.train) + len(samples.test) == 102 for samples in opened)
        tested = np.sort(np.concatenate([samples.test_targets for samples in opened]))
        assert np.array_equal(tested, np.sort(scores))
        if split_by == "user":
            users = np.array([trial.rsplit("_", 1)[1][0] for trial in trials_])
            for fold, pair in enumerate(("BC", "DE", "FG", "HI")):
                held = np.isin(users, list(pair))
                assert np.array_equal(opened[fold].test_targets, scores[held])
                assert np.array_equal(opened[fold].train_targets, scores[~held])

    def test_groups_are_tasks_of_their_own(self, real: Callable[..., ScoreDataset]) -> None:
        rows = real("--tasks_by", "group").describe()
        assert [row["task"] for row in rows] == ["knot_tying", "needle_passing", "suturing"]
        assert [row["train"] + row["test"] for row in rows] == [36, 28, 38]

    @pytest.mark.parametrize(("task", "n_trials"), [("knot_tying", 36), ("needle_passing", 28), ("suturing", 38)])
    def test_one_surgical_task_alone(self, real: Callable[..., ScoreDataset], task: str, n_trials: int) -> None:
        samples = real("--surgical_task", task).samples
        assert len(samples.train) + len(samples.test) == n_trials
        assert {*samples.train_groups, *samples.test_groups} == {task}
