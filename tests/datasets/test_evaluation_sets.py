"""What open-vocabulary methods ask a stream for: texts of classes, prompts, whole data sets, pixels as CLIP wants."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import get_dataset
from datasets.utils import image_sets
from datasets.utils.class_dataset import ClassDataset
from datasets.utils.continual_dataset import ContinualDataset
from datasets.utils.evaluation_sets import EvaluationSet, first_tasks, label_words, tasks_of_texts, with_first_prompts
from tests.datasets import trees
from utils.args import parse_args
from utils.config import dump_config
from utils.errors import DataError, UsageError

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


def stream(name: str, *words: str) -> ContinualDataset:
    return get_dataset(parse_args(["--model", "sgd", "--dataset", name, *words]))


def everything(part: EvaluationSet) -> tuple[torch.Tensor, ...]:
    """All inputs, labels and raw samples."""
    return tuple(torch.cat(pieces) for pieces in zip(*part.loader, strict=True))


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.cifar(tmp_path_factory.mktemp("cifar"), 10, 5, 2)


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "flowers"
    return trees.image_folders(root, {"train": 6, "test": 3}, ["dog-rose", "sweet_pea"], (50, 40))


# Texts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("aquarium_fish", "aquarium fish"),
        ("cat", "cat"),
        ("dog-rose", "dog rose"),
        ("lake_or__sea ", "lake or sea"),
        ("_x_", "x"),
    ],
)
def test_names_of_classes_and_folders_become_words(name: str, text: str) -> None:
    assert label_words(name) == text


@pytest.mark.parametrize("name", ["seq-digits", "perm-digits", "rot-digits", "digits-360"])
def test_digits_are_words_in_a_sentence_of_their_own(name: str) -> None:
    dataset = stream(name)
    assert dataset.label_texts == WORDS[: dataset.N_CLASSES]
    assert dataset.label_prompts == [("the handwritten digit {}.",)] * dataset.N_CLASSES


def test_texts_come_in_the_order_of_arrival() -> None:
    dataset = stream("seq-digits", "--custom_class_order", "4,0,9,2,1,3,8,5,7,6")
    assert dataset.label_texts == [WORDS[i] for i in (4, 0, 9, 2, 1, 3, 8, 5, 7, 6)]


def test_classes_of_images_are_photos_unless_the_stream_says_otherwise(cifar: Path) -> None:
    dataset = stream("seq-cifar10", "--data_root", str(cifar))
    assert dataset.PROMPTS == ("a photo of a {}.",)
    assert dataset.label_texts[:2] == ["class00", "class01"]


def test_wordnet_numbers_are_read_in_the_words_that_lie_with_them(tmp_path: Path) -> None:
    dataset = stream("seq-tinyimg", "--data_root", str(tmp_path))
    assert dataset.texts(["n1", "n2"]) == ["n1", "n2"]
    lines = "n1\tgoldfish, Carassius auratus\nn2\tcrane, bird\nn3\tcrane, machine\nnot a line\nn4\tox\n"
    (tmp_path / "words.txt").write_text(lines)
    assert dataset.texts(["n4", "n1", "n3", "n2", "n5"]) == ["ox", "goldfish", "crane, machine", "crane, bird", "n5"]


def test_a_stream_without_names_of_classes_says_so() -> None:
    with pytest.raises(UsageError, match="uiprmd has no names of classes"):
        stream("uiprmd").label_texts  # noqa: B018
    with pytest.raises(UsageError, match="no names of classes"):
        stream("uiprmd").evaluation_sets()
    dataset = stream("seq-digits")
    dataset.samples.names = []
    with pytest.raises(UsageError, match="seq-digits has no names of classes"):
        dataset.label_texts  # noqa: B018


# Sets of a stream


def test_the_set_of_a_stream_is_its_whole_test_data_whatever_has_arrived() -> None:
    dataset = stream("seq-digits", "--permute_classes", "1", "--seed", "3")
    dataset.get_data_loaders()
    [part] = dataset.evaluation_sets()
    inputs, labels, raw = everything(part)
    assert part.name == "seq-digits"
    assert part.labels == dataset.label_texts
    assert part.prompts == dataset.label_prompts
    assert part.tasks.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert torch.equal(raw, dataset.samples.test.data)
    assert torch.equal(labels, dataset.convert_targets(dataset.samples.test_targets))
    assert torch.equal(inputs, dataset.get_normalization_transform()(raw))
    assert torch.equal(everything(part)[0], inputs)
    assert dataset.evaluation_sets()[0] is part


@pytest.mark.parametrize(
    ("name", "words", "n", "tasks"),
    [
        ("perm-digits", ["--n_tasks", "3"], 3 * 359, [0] * 10),
        ("digits-360", [], 323, [0] * 9),
        ("seq-digits", ["--increment", "data"], 359, [0] * 10),
        ("seq-digits", ["--increment", "task"], 359, [0] * 10),
        ("seq-digits", ["--joint", "1"], 359, [0] * 10),
        ("seq-digits", ["--base_classes", "4", "--n_tasks", "2"], 359, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]),
    ],
)
def test_every_test_sample_is_in_the_set_once(name: str, words: list[str], n: int, tasks: list[int]) -> None:
    [part] = stream(name, *words).evaluation_sets()
    assert len(np.unique(part.loader.dataset.indices)) == len(part.loader.dataset) == n
    assert part.tasks.tolist() == tasks


def test_with_validation_the_set_holds_what_is_held_out_and_no_test_data() -> None:
    dataset = stream("seq-digits", "--validation", "10")
    data = dataset.evaluation_sets()[0].loader.dataset
    assert data.source is dataset.samples.train
    assert np.array_equal(data.indices, np.sort(np.concatenate(dataset.split.test)))
    assert torch.equal(data.targets, torch.from_numpy(dataset.samples.train_targets[data.indices]))


def test_classes_of_one_text_arrive_with_the_first_of_them() -> None:
    assert first_tasks([[3, 1], [1, 2], [3]], 5).tolist() == [3, 0, 1, 0, 3]
    assert tasks_of_texts(["bridge", "cat", "bridge", "dog"], [2, 1, 0, 3]).tolist() == [0, 1, 0, 3]


def test_a_text_keeps_the_prompt_of_its_first_appearance() -> None:
    photo, texture, digit = ("a photo of a {}.",), ("a {} texture.",), ("the digit {}.",)
    one = EvaluationSet("one", None, ["cat", "dog"], [photo, photo], None)
    two = EvaluationSet("two", None, ["dotted", "dog"], [texture, texture], None)
    three = EvaluationSet("three", None, ["dotted", "six"], [digit, digit], None)
    prompts = [part.prompts for part in with_first_prompts([one, two, three], ["six", "dog"], [texture, photo])]
    assert prompts == [[photo, photo], [texture, photo], [texture, texture]]


# Held-out data sets


def test_held_out_data_sets_follow_those_of_the_stream_in_its_shape(cifar: Path, flowers: Path) -> None:
    words = ["--data_root", str(cifar), "--held_out", f"folder:{flowers},digits"]
    dataset = stream("seq-cifar10", *words)
    own, folder, digits = dataset.evaluation_sets()
    assert [part.name for part in (own, folder, digits)] == ["seq-cifar10", "flowers", "digits"]
    assert folder.labels == ["dog rose", "sweet pea"]
    assert digits.labels == WORDS
    assert digits.prompts == [("the handwritten digit {}.",)] * 10
    assert folder.tasks is digits.tasks is None
    for part, n in ((folder, 6), (digits, 359)):
        inputs, labels, raw = everything(part)
        assert raw.shape == (n, 3, 32, 32)
        assert raw.dtype == torch.uint8
        assert torch.equal(inputs, dataset.get_normalization_transform()(raw))
        assert {*labels.tolist()} == {*range(len(part.labels))}
    assert everything(folder)[1].tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(everything(digits)[1], torch.from_numpy(stream("seq-digits").samples.test_targets))
    assert len(np.concatenate(dataset.split.train)) == 50  # nothing of them is trained on
    assert dataset.N_CLASSES == 10


def test_colours_become_grey_values_for_a_stream_of_one_channel(flowers: Path) -> None:
    _, folder = stream("seq-digits", "--held_out", f"folder:{flowers}").evaluation_sets()
    assert everything(folder)[2].shape == (6, 1, 8, 8)


def test_with_validation_held_out_data_sets_give_training_samples_and_no_test_data(flowers: Path) -> None:
    (flowers / "test").rename(flowers / "gone")
    try:
        dataset = stream("seq-digits", "--held_out", f"folder:{flowers}", "--validation", "50")
        assert everything(dataset.evaluation_sets()[1])[2].shape == (6, 1, 8, 8)
        assert everything(dataset.evaluation_sets()[1])[1].tolist() == [0] * 3 + [1] * 3
    finally:
        (flowers / "gone").rename(flowers / "test")


def test_a_data_set_named_twice_is_refused(flowers: Path) -> None:
    with pytest.raises(UsageError, match="two data sets are called flowers"):
        stream("seq-digits", "--held_out", f"folder:{flowers},folder:/elsewhere/flowers")


@pytest.mark.parametrize(("name", "own"), [("seq-digits", "digits"), ("cifar10-lt", "cifar10"), ("seq-open", "digits")])
def test_what_is_trained_on_cannot_be_held_out(name: str, own: str) -> None:
    with pytest.raises(UsageError, match=f"--held_out {own}: {name} trains on it"):
        parse_args(["--model", "sgd", "--dataset", name, "--held_out", f"mnist,{own}"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("cifar11", "'cifar11' is no data set that is known here; choose of cifar10"),
        ("folder", "names no folder"),
        ("folder:=x", "names no folder"),
        ("digits:/place", "leave out the place"),
        (",", "no data set named"),
    ],
)
def test_names_that_say_no_data_set_are_refused(entry: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stream("seq-digits", "--held_out", entry)


def test_a_held_out_folder_that_is_absent_or_incomplete_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/nowhere/train/<class>/"):
        stream("seq-digits", "--held_out", f"folder:{tmp_path}/nowhere")
    trees.image_folders(tmp_path, {"train": 2}, ["a", "b"], (8, 8))
    trees.image_folders(tmp_path, {"test": 2}, ["a", "c"], (8, 8))
    with pytest.raises(DataError, match=r"in one only: \['b', 'c'\]"):
        stream("seq-digits", "--held_out", f"folder:{tmp_path}").evaluation_sets()


def test_held_out_data_sets_are_repeated_from_the_values_of_a_run(tmp_path: Path, flowers: Path) -> None:
    args = parse_args(["--model", "sgd", "--dataset", "seq-digits", "--held_out", f"folder:{flowers}=roses"])
    (tmp_path / "config.yaml").write_text(dump_config(args))
    again = parse_args(["--config", str(tmp_path / "config.yaml")])
    assert again.held_out == args.held_out == [f"folder:{flowers}=roses"]
    assert get_dataset(again).evaluation_sets()[1].name == "roses"


# Pixels


@pytest.fixture
def wanting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone called mlp that wants its pixels normalised in its own way."""
    monkeypatch.setattr(image_sets, "pixel_statistics", lambda name: (MEAN, STD) if name == "mlp" else None)


def raw_of(dataset: ContinualDataset) -> torch.Tensor:
    return torch.randint(256, (4, *dataset.input_shape), dtype=torch.uint8)


@pytest.mark.usefixtures("wanting")
@pytest.mark.parametrize(
    "name", ["seq-cifar10", "seq-cifar100", "seq-tinyimg", "cifar10-lt", "seq-open", "image-folder"]
)
def test_pixels_are_normalised_as_the_backbone_wants_them(flowers: Path, name: str) -> None:
    words = ["--data_root", str(flowers), "--n_tasks", "1"] if name == "image-folder" else []
    dataset = stream(name, "--backbone", "mlp", *words)
    raw = raw_of(dataset)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    normalised = dataset.get_normalization_transform()(raw)
    torch.testing.assert_close(normalised, (raw / 255 - mean) / std)
    torch.testing.assert_close(dataset.get_denormalization_transform()(normalised), raw / 255)


@pytest.mark.usefixtures("wanting")
@pytest.mark.parametrize("name", ["seq-digits", "perm-digits", "digits-360", "seq-mnist", "rot-mnist", "mnist-360"])
def test_one_channel_takes_the_mean_over_what_is_wanted_of_three(name: str) -> None:
    dataset = stream(name, "--backbone", "mlp")
    raw = raw_of(dataset)
    normalised = dataset.get_normalization_transform()(raw)
    torch.testing.assert_close(normalised, (raw / 255 - 0.4) / 0.2)
    torch.testing.assert_close(dataset.get_denormalization_transform()(normalised), raw / 255)


@pytest.mark.usefixtures("wanting")
@pytest.mark.parametrize("name", ["seq-cifar10", "seq-digits", "seq-mnist"])
def test_other_backbones_leave_a_stream_its_own_statistics(name: str) -> None:
    dataset = stream(name, "--backbone", "resnet18")
    assert isinstance(dataset, ClassDataset)
    assert dataset.pixel_statistics == (dataset.MEAN, dataset.STD)


def test_clip_normalises_pixels_by_its_own_statistics() -> None:
    mean, std = stream("seq-cifar10", "--backbone", "clip-vit-b32").pixel_statistics
    assert mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    assert std == pytest.approx((0.2686, 0.2613, 0.2758), abs=1e-4)
