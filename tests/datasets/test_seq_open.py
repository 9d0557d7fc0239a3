"""Several data sets in sequence."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import get_dataset
from datasets.seq_open import SequentialOpen
from datasets.utils.named_sets import JoinedSource, ShapedSource, parse_set, shaped
from datasets.utils.sources import TensorSource, read_square
from main import main
from tests.datasets import trees
from utils.args import parse_args
from utils.config import dump_config
from utils.errors import DataError, UsageError

JPEGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10_jpeg.zip"
BIRDS, CITY = ["bridge", "house-sparrow"], ["bridge", "tall_tower", "shop"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    trees.image_folders(place / "birds", {"train": 4, "test": 2}, BIRDS, (40, 30))
    trees.image_folders(place / "city", {"train": 3, "val": 1}, CITY, (20, 50))
    trees.cifar(place / "cifar10", 10, 3, 1)
    return place


def stream(*words: str) -> SequentialOpen:
    return get_dataset(parse_args(["--model", "sgd", "--dataset", "seq-open", *words]))


@pytest.fixture(scope="module")
def three(root: Path) -> SequentialOpen:
    return stream("--sources", "digits,folder:birds,folder:city", "--data_root", str(root), "--image_size", "16")


def test_every_source_is_a_task_of_its_classes(three: SequentialOpen) -> None:
    assert (three.SETTING, three.N_TASKS, three.N_CLASSES) == ("class-il", 3, 15)
    assert three.N_CLASSES_PER_TASK == [10, 2, 3]
    assert three.names == ["digits", "birds", "city"]
    assert [three.get_offsets(task) for task in range(3)] == [(0, 10), (10, 12), (12, 15)]
    assert [row["train"] for row in three.describe()] == [1438, 8, 9]
    assert [row["test"] for row in three.describe()] == [359, 4, 3]
    for task in range(3):
        for loader in three.set_task(task):
            assert {*loader.dataset.targets.tolist()} == {*range(*three.get_offsets(task))}


def test_classes_of_one_text_are_two_with_one_text_and_the_prompt_of_the_first(root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(root, tmp_path / "own"))
    (root / "birds" / "prompts.txt").write_text("a {}, a type of bird.\n\n {} in a tree \n")
    dataset = stream("--sources", "folder:birds,folder:city", "--data_root", str(root))
    assert dataset.label_texts == ["bridge", "house sparrow", "bridge", "shop", "tall tower"]
    bird, photo = ("a {}, a type of bird.", "{} in a tree"), ("a photo of a {}.",)
    assert dataset.label_prompts == [bird, bird, bird, photo, photo]
    birds, city = dataset.evaluation_sets()
    assert birds.prompts == [bird, bird]
    assert city.prompts == [bird, photo, photo]
    assert birds.tasks.tolist() == [0, 0]
    assert city.tasks.tolist() == [0, 1, 1]  # a bridge was seen before the city was


@pytest.mark.parametrize("content", [b"", b"\n", b"a bird", b"\xff{}"])
def test_a_file_of_prompts_that_are_none_is_named(root: Path, tmp_path: Path, content: bytes) -> None:
    root = Path(shutil.copytree(root, tmp_path / "own"))
    (root / "birds" / "prompts.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"birds/prompts\.txt: .*one prompt a line"):
        stream("--sources", "folder:birds,folder:city", "--data_root", str(root))


def test_every_source_is_evaluated_among_its_own_labels(three: SequentialOpen, root: Path) -> None:
    digits, birds, city = three.evaluation_sets()
    assert [part.name for part in (digits, birds, city)] == ["digits", "birds", "city"]
    assert digits.prompts[0] == ("the handwritten digit {}.",)
    assert city.labels == ["bridge", "shop", "tall tower"]
    inputs, labels, raw = next(iter(city.loader))
    assert labels.tolist() == [0, 1, 2]
    for picture, name in zip(raw, sorted(CITY), strict=True):
        file = root / "city" / "val" / name / "0000.png"
        expected = read_square(file, 16, Image.Resampling.BICUBIC)
        assert np.array_equal(picture.permute(1, 2, 0).numpy(), expected)
    assert torch.equal(inputs, three.get_normalization_transform()(raw))


def test_another_order_of_classes_and_tasks_leaves_the_evaluation_sets_as_they_are(root: Path) -> None:
    words = ["--sources", "folder:birds,folder:city", "--data_root", str(root)]
    plain = stream(*words).evaluation_sets()
    dataset = stream(*words, "--task_order", "descending", "--permute_classes", "1", "--seed", "1")
    assert dataset.names == ["city", "birds"]
    assert {*dataset.class_order[:3]} == {2, 3, 4}
    for part, known in zip(dataset.evaluation_sets(), plain, strict=True):
        assert (part.name, part.labels) == (known.name, known.labels)
        for one, two in zip(next(iter(part.loader)), next(iter(known.loader)), strict=True):
            assert torch.equal(one, two)
    assert [part.tasks.tolist() for part in dataset.evaluation_sets()] == [[0, 1], [0, 0, 0]]


def test_permuted_classes_stay_in_their_sources(root: Path) -> None:
    words = ["--sources", "digits,folder:city", "--data_root", str(root), "--permute_classes", "1", "--seed"]
    orders = [stream(*words, seed).class_order.tolist() for seed in "112"]
    assert orders[0] == orders[1] != orders[2]
    for order in orders:
        assert sorted(order[:10]) == list(range(10))
        assert sorted(order[10:]) == [10, 11, 12]


def test_each_source_can_be_cut_into_tasks_by_its_classes(root: Path) -> None:
    words = ["--sources", "digits,folder:city", "--data_root", str(root), "--increment", "class"]
    dataset = stream(*words, "--n_tasks", "3")
    assert dataset.names == ["digits 1/3", "digits 2/3", "digits 3/3", "city 1/3", "city 2/3", "city 3/3"]
    assert dataset.classes_per_task == [4, 3, 3, 1, 1, 1]
    assert dataset.evaluation_sets()[1].tasks.tolist() == [3, 4, 5]
    with pytest.raises(UsageError, match="--n_tasks 4: city has 3 classes"):
        stream(*words, "--n_tasks", "4")


def test_all_sources_are_learnt_together_by_parts_of_their_data(root: Path) -> None:
    words = ["--sources", "digits,folder:city", "--data_root", str(root), "--increment", "data"]
    dataset = stream(*words)
    assert (dataset.SETTING, dataset.N_TASKS) == ("domain-il", 7)
    first = dataset.samples.train_targets[dataset.split.train[0]]
    assert {*first} == {*range(13)}
    assert [part.tasks.tolist() for part in dataset.evaluation_sets()] == [[0] * 10, [0] * 3]
    assert len(dataset.evaluation_sets()[1].loader.dataset) == 3


def test_data_sets_are_found_below_the_data_root_or_where_they_are_said_to_be(root: Path, tmp_path: Path) -> None:
    below = stream("--sources", "cifar10", "--data_root", str(root))
    placed = stream("--sources", f"cifar10:{root}/cifar10", "--data_root", str(tmp_path))
    absolute = stream("--sources", f"folder:{root}/cifar10=cifar10")
    assert below.names == placed.names == absolute.names == ["cifar10"]
    assert below.fingerprint() == placed.fingerprint() == absolute.fingerprint()
    (tmp_path / "CIFAR10").symlink_to(root / "cifar10")
    assert stream("--sources", "cifar10", "--data_root", str(tmp_path)).fingerprint() == below.fingerprint()


def test_held_out_data_sets_lie_in_the_same_data_root(root: Path) -> None:
    dataset = stream("--sources", "folder:city", "--held_out", "folder:birds,cifar10", "--data_root", str(root))
    assert [part.name for part in dataset.evaluation_sets()] == ["city", "birds", "cifar10"]
    assert [part.tasks is None for part in dataset.evaluation_sets()] == [False, True, True]
    with pytest.raises(UsageError, match="--held_out birds: seq-open trains on it"):
        stream("--sources", "folder:birds", "--held_out", "folder:birds", "--data_root", str(root))


def test_images_that_do_not_fit_into_memory_are_read_when_they_are_asked_for(root: Path) -> None:
    words = ["--sources", "digits,folder:birds,cifar10", "--data_root", str(root), "--image_size", "24"]
    held, read = stream(*words), stream(*words, "--memory_gib", "0.0001")
    assert isinstance(held.samples.train, TensorSource)
    assert isinstance(read.samples.train, JoinedSource)
    some = np.array([1440, 3, 1450, 1441, 0])
    assert torch.equal(held.samples.train.read(some)[0], read.samples.train.read(some)[0])
    assert np.array_equal(held.samples.train_targets, read.samples.train_targets)
    assert read.samples.train.read(np.array([], dtype=np.int64))[0].shape == (0, 3, 24, 24)


def test_corrupt_images_are_left_out_and_counted_where_that_is_wanted(root: Path, tmp_path: Path) -> None:
    trees.image_folders(tmp_path / "few", {"train": 3, "test": 2}, ["a", "b"], (20, 20))
    (tmp_path / "few" / "train" / "a" / "0001.png").write_bytes(b"none")
    words = ["--sources", "digits,folder:few", "--data_root", str(tmp_path)]
    with pytest.raises(DataError, match=r"0001\.png"):
        stream(*words).describe()
    for limit in ("1", "0.000001"):
        dataset = stream(*words, "--skip_corrupt", "1", "--memory_gib", limit)
        loader = dataset.set_task(1)[0]
        assert sum(len(labels) for _, labels, _ in loader) == 5
        assert sorted(label for _, labels, _ in loader for label in labels.tolist()) == [10, 10, 11, 11, 11]
        assert len(dataset.skipped) == 1


def test_images_are_brought_to_one_shape_as_pillow_does() -> None:
    pixels = torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8)
    assert shaped(pixels, (3, 20, 20)) is pixels
    picture = Image.fromarray(pixels[1].permute(1, 2, 0).numpy())
    small = shaped(pixels, (3, 8, 8))[1].permute(1, 2, 0).numpy()
    assert np.array_equal(small, np.asarray(picture.resize((8, 8), Image.Resampling.BICUBIC)))
    grey = shaped(pixels, (1, 20, 20))
    assert np.array_equal(grey[1, 0].numpy(), np.asarray(picture.convert("L")))
    repeated = shaped(grey, (3, 20, 20))
    assert all(torch.equal(repeated[:, channel], grey[:, 0]) for channel in range(3))
    assert not shaped(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), (3, 4, 4)).numel()


def test_the_fingerprint_of_images_read_later_changes_with_them_and_their_shape() -> None:
    base = TensorSource(torch.arange(2 * 3 * 16, dtype=torch.uint8).view(2, 3, 4, 4))
    other = TensorSource(base.data + 1)
    prints = [ShapedSource(base, (3, 4, 4)), ShapedSource(base, (3, 8, 8)), ShapedSource(other, (3, 4, 4))]
    prints += [JoinedSource([base, other]), JoinedSource([other, base])]
    assert len({source.fingerprint() for source in prints}) == 5


@pytest.mark.parametrize(
    ("entry", "parsed"),
    [
        ("cifar10", ("cifar10", "cifar10", None)),
        ("seq-cifar100:/a", ("cifar100", "cifar100", Path("/a"))),
        ("folder:/a/b", ("b", "folder", Path("/a/b"))),
        ("folder:/a/b/", ("b", "folder", Path("/a/b"))),
        ("folder:/a=1/b=c", ("c", "folder", Path("/a=1/b"))),
    ],
)
def test_data_sets_are_named_by_kind_place_and_name(entry: str, parsed: tuple[str, str, Path | None]) -> None:
    assert parse_set(entry) == parsed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sources", "digits,digits"], "two data sets are called digits"),
        (["--n_tasks", "2"], "as many tasks as data sets; give --n_tasks 1"),
        (["--increment", "class", "--base_classes", "2"], "seq-open has no larger first task"),
    ],
)
def test_options_that_contradict_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stream(*words)


def test_an_order_of_classes_is_for_a_single_source(root: Path) -> None:
    order = ",".join(map(str, range(9, -1, -1)))
    assert stream("--custom_class_order", order).label_texts[0] == "nine"
    with pytest.raises(UsageError, match="for a single source"):
        stream("--sources", "digits,folder:city", "--data_root", str(root), "--custom_class_order", order)


def test_the_values_of_a_run_name_the_same_sources(tmp_path: Path, root: Path) -> None:
    args = parse_args(["--model", "sgd", "--dataset", "seq-open", "--sources", f"digits, folder:{root}/city=town"])
    (tmp_path / "config.yaml").write_text(dump_config(args))
    again = parse_args(["--config", str(tmp_path / "config.yaml")])
    assert again.source_sets == args.source_sets == ["digits", f"folder:{root}/city=town"]
    (tmp_path / "own.yaml").write_text("sources: digits\n")
    own = parse_args(["--model", "sgd", "--dataset", "seq-open", "--config", str(tmp_path / "own.yaml")])
    assert own.source_sets == ["digits"]


def test_a_method_learns_one_source_after_the_other(tmp_path: Path, root: Path) -> None:
    words = [
        "--sources",
        "folder:birds,folder:city",
        "--data_root",
        str(root),
        "--image_size",
        "8",
        "--backbone",
        "mlp",
    ]
    place = ["--base_path", str(tmp_path), "--non_verbose", "1"]
    assert main(["--model", "er", "--buffer_size", "4", "--dataset", "seq-open", *words, *place]) == 0


@pytest.mark.data
@pytest.mark.skipif(not JPEGS.exists(), reason=f"{JPEGS} is not there")
def test_real_images_are_the_same_as_a_source(tmp_path: Path) -> None:
    with zipfile.ZipFile(JPEGS) as archive:
        for name in archive.namelist():
            if name.endswith(("/0001.jpg", "/0002.jpg")):
                archive.extract(name, tmp_path)
    dataset = stream("--sources", f"cifar10:{tmp_path}")
    plain = get_dataset(parse_args(["--model", "sgd", "--dataset", "seq-cifar10", "--data_root", str(tmp_path)]))
    assert torch.equal(dataset.samples.test.data, plain.samples.test.data)
    assert dataset.label_texts == plain.label_texts
    assert dataset.label_texts[:2] == ["airplane", "automobile"]
