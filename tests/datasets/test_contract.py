"""What every stream promises to the loop and to methods: those that need data have small trees of it (trees.py)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import REGISTRY, get_dataset
from datasets.utils.augment import CenterCrop
from datasets.utils.class_dataset import ClassDataset
from datasets.utils.continual_dataset import SETTINGS, ContinualDataset
from datasets.utils.score_dataset import ScoreDataset
from datasets.utils.sources import Source
from tests.datasets import trees
from utils.args import parse_args
from utils.errors import DataError, UsageError

# One more way in which a stream reads its samples.
OF_FEATURES = "aqa-manifest of features"
# Parts of other streams' samples; tests/datasets/test_long_tail.py is about them.
LONG_TAILED = {"cifar10-lt", "cifar100-lt", "seq-cifar100-lt"}
NAMES = [*sorted({*REGISTRY.modules()} - LONG_TAILED), OF_FEATURES]
CLASS_STREAMS = ["image-folder", "seq-cifar10", "seq-digits", "seq-mnist", "seq-open"]  # of ten classes
MANY_CLASSES = ["seq-cifar100", "seq-tinyimg"]
DOMAIN_STREAMS = ["perm-digits", "perm-mnist", "rot-digits", "rot-mnist"]
WITHOUT_TASKS = ["digits-360", "mnist-360"]
ALL_CLASS_STREAMS = [*CLASS_STREAMS, *MANY_CLASSES, *DOMAIN_STREAMS, *WITHOUT_TASKS]
SCORE_STREAMS = [name for name in NAMES if name not in ALL_CLASS_STREAMS]
# Their samples are standardised when they are read, or not at all.
AS_READ = {"jigsaws", "mnist-360", "perm-mnist", "rot-mnist", "seq-mnist", OF_FEATURES}
# What torchvision downloads where it is absent.
DOWNLOADED = {"mnist-360", "perm-mnist", "rot-mnist", "seq-cifar10", "seq-cifar100", "seq-mnist"}
# Streams that scale by the training scores, which test scores may leave.
TRAINING_RANGE = {"aqa-manifest", "finediving", "logo", OF_FEATURES}
OPTIONS = {**trees.OPTIONS, "seq-open": ["--increment", "class"]}
Build = Callable[..., ContinualDataset]
Options = Callable[[str], list[str]]
every_stream = pytest.mark.parametrize("name", NAMES)
every_stream_of_tasks = pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_TASKS])


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """The command line words for a stream, with a small tree where it needs data."""
    built: dict[str, list[str]] = {}

    def of(name: str) -> list[str]:
        if name not in built:
            built[name] = ["--dataset", name, *OPTIONS.get(name, [])]
            if name in trees.TREES:
                built[name] = trees.options(name, trees.TREES[name](tmp_path_factory.mktemp(name)))
            if name == OF_FEATURES:
                root = trees.manifest_of_features(tmp_path_factory.mktemp("features"))
                built[name] = ["--dataset", "aqa-manifest", "--data_root", str(root), "--backbone", "clip-features"]
        return ["--model", "sgd", "--num_workers", "0", *built[name]]

    return of


@pytest.fixture(scope="module")
def build(options: Options) -> Build:
    """Makes a stream; what a data set's files hold is read once, which clips are costly to render."""
    read = {}

    def make(name: str, *words: str, batch_size: int = 64) -> ContinualDataset:
        dataset = get_dataset(parse_args([*options(name), "--batch_size", str(batch_size), *words]))
        if name in (*DOMAIN_STREAMS, *WITHOUT_TASKS):  # whose samples depend on the options
            return dataset
        if name not in read:
            read[name] = dataset.load_samples()
        dataset.load_samples = lambda: read[name]
        return dataset

    return make


def all_labels(loader: object) -> torch.Tensor:
    return loader.dataset.targets


def everything(source: Source) -> torch.Tensor:
    return source.read(np.arange(len(source)))[0]


def test_every_stream_takes_part() -> None:
    assert {*ALL_CLASS_STREAMS, *SCORE_STREAMS} == {*NAMES}
    shipped = {"aqa7-mini", "digits-360", "perm-digits", "rot-digits", "seq-digits", "seq-open", "uiprmd"}
    assert {*trees.TREES} | shipped | LONG_TAILED == {*REGISTRY.modules()}


@every_stream
def test_attributes_are_known_before_any_data_is_read(options: Options, name: str) -> None:
    args = parse_args(options(name))
    dataset = get_dataset(args)
    assert dataset._samples is None
    # Only the manifest itself says whether it names features.
    assert getattr(dataset, "_performances", None) is None or dataset.NAME == "aqa-manifest"
    assert dataset.NAME == args.dataset
    assert dataset.SETTING in SETTINGS
    assert dataset.current_task == -1
    assert dataset.test_loaders == []
    assert args.num_classes == dataset.N_CLASSES
    assert args.input_shape == dataset.input_shape
    assert dataset.get_backbone() == args.backbone
    assert dataset.get_batch_size() == args.batch_size
    assert dataset.get_minibatch_size() == args.batch_size


@pytest.mark.parametrize("name", sorted({*trees.TREES} - DOWNLOADED))
def test_absent_data_is_an_error_that_says_how_to_get_it(options: Options, tmp_path: Path, name: str) -> None:
    words = options(name)
    words[words.index("--data_root") + 1] = str(tmp_path / "nowhere")
    with pytest.raises(DataError) as caught:
        get_dataset(parse_args(words)).describe()
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert any(how in str(caught.value) for how in ("Get ", "Request ", "Write a CSV", "--data_root"))


@every_stream
def test_loaders_advance_task_by_task_and_end_with_index_error(build: Build, name: str) -> None:
    dataset = build(name)
    trained: list[int] = []
    for task in range(dataset.N_TASKS):
        train_loader, test_loader = dataset.get_data_loaders()
        assert dataset.current_task == task
        assert dataset.train_loader is train_loader
        assert len(dataset.test_loaders) == task + 1
        assert np.array_equal(dataset.test_loaders[-1].dataset.indices, test_loader.dataset.indices)
        assert np.array_equal(train_loader.dataset.indices, dataset.split.train[task])
        trained.extend(train_loader.dataset.indices.tolist())
    with pytest.raises(IndexError, match=f"{dataset.NAME} has {dataset.N_TASKS} tasks"):
        dataset.get_data_loaders()
    assert dataset.current_task == dataset.N_TASKS - 1
    assert sorted(trained) == list(range(len(dataset.samples.train)))


@every_stream
def test_every_test_sample_belongs_to_one_task(build: Build, name: str) -> None:
    dataset = build(name)
    assert np.array_equal(np.sort(np.concatenate(dataset.split.test)), np.arange(len(dataset.samples.test)))
    assert len(dataset.names) == dataset.n_test_tasks == dataset.N_TASKS
    assert len(set(dataset.names)) == dataset.N_TASKS


@every_stream
def test_training_and_test_samples_are_disjoint(build: Build, name: str) -> None:
    samples = build(name).samples
    train = {sample.numpy().tobytes() for sample in everything(samples.train)}
    test = {sample.numpy().tobytes() for sample in everything(samples.test)}
    assert len(train) == len(samples.train)
    assert len(test) == len(samples.test)
    assert not train & test


@every_stream
def test_batches_have_the_promised_shapes_and_types(build: Build, name: str) -> None:
    dataset = build(name)
    train_loader, test_loader = dataset.get_data_loaders()
    inputs, labels, raw = next(iter(train_loader))
    shown, shown_labels = next(iter(test_loader))
    n = min(64, len(train_loader.dataset))
    assert inputs.shape == (n, *dataset.input_shape)
    assert shown.shape == (min(64, len(test_loader.dataset)), *dataset.input_shape)
    assert raw.shape[: raw.ndim - 2] == inputs.shape[: raw.ndim - 2]  # frames are larger than what is cut out of them
    assert torch.equal(raw, train_loader.dataset.source.read(train_loader.dataset.indices[train_loader.positions])[0])
    assert inputs.dtype == shown.dtype == torch.float32
    assert labels.shape == (n,)
    assert labels.dtype == shown_labels.dtype
    assert torch.isfinite(inputs).all()
    assert sum(len(batch[1]) for batch in train_loader) == len(train_loader.dataset)
    assert len(list(train_loader)) == len(train_loader)


@every_stream
def test_transforms_keep_the_shape_and_normalise(build: Build, name: str) -> None:
    dataset = build(name)
    raw, _, _ = dataset.samples.train.read(np.arange(30))
    for transform in (dataset.get_transform(), dataset.get_normalization_transform()):
        assert transform(raw).shape == (30, *dataset.input_shape)
        assert transform(raw).dtype == torch.float32
    assert 0.3 < dataset.get_normalization_transform()(raw).std() < 3


@every_stream
def test_denormalisation_inverts_normalisation(build: Build, name: str) -> None:
    dataset = build(name)
    raw, _, _ = dataset.samples.train.read(np.arange(20))
    scaled = CenterCrop(dataset.input_shape[-1])(raw, None).float() / 255 if raw.dtype == torch.uint8 else raw
    normalised = dataset.get_normalization_transform()(raw)
    assert torch.allclose(normalised, scaled, atol=0.1) == (name in AS_READ)
    torch.testing.assert_close(dataset.get_denormalization_transform()(normalised), scaled, rtol=1e-5, atol=1e-5)


@every_stream
def test_evaluation_inputs_are_normalised_and_nothing_else(build: Build, name: str) -> None:
    dataset = build(name)
    loader = dataset.get_data_loaders()[1]
    for _ in range(2):
        shown = torch.cat([inputs for inputs, _ in loader])
        raw, _, _ = dataset.samples.test.read(dataset.split.test[0])
        assert torch.equal(shown, dataset.get_normalization_transform()(raw))


@every_stream_of_tasks
def test_the_same_seed_gives_the_same_batches_and_another_seed_another_order(build: Build, name: str) -> None:
    def passes(seed: str) -> list[list[torch.Tensor]]:
        # The second task: a base session is larger than it need be here.
        loader = build(name, "--seed", seed).set_task(1)[0]
        return [[torch.cat([batch[part] for batch in loader]) for part in (0, 1)] for _ in range(2)]

    first, again, other = passes("1"), passes("1"), passes("2")
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(first[0][1], first[1][1])  # every pass is shuffled anew
    assert not torch.equal(first[0][1], other[0][1])
    assert torch.equal(first[0][1].sort().values, first[1][1].sort().values)


@every_stream
def test_describe_tells_what_each_task_holds(build: Build, name: str) -> None:
    dataset = build(name)
    rows = dataset.describe()
    assert [row["task"] for row in rows] == dataset.names
    for task, row in enumerate(rows):
        targets = dataset.samples.train_targets[dataset.split.train[task]]
        assert (row["train"], row["test"]) == (len(targets), len(dataset.split.test[task]))
        assert (row["low"], row["high"]) == (targets.min(), targets.max())


@every_stream
def test_joint_training_has_all_tasks_at_once_and_all_test_sets(build: Build, name: str) -> None:
    apart, dataset = build(name), build(name, "--joint", "1")
    assert dataset.N_TASKS == 1
    train_loader, _ = dataset.get_data_loaders()
    assert len(train_loader.dataset) == len(dataset.samples.train)
    assert np.array_equal(np.sort(train_loader.dataset.indices), np.arange(len(dataset.samples.train)))
    assert dataset.n_test_tasks == len(dataset.test_loaders) == apart.N_TASKS
    for loader, indices in zip(dataset.test_loaders, apart.split.test, strict=True):
        assert np.array_equal(loader.dataset.indices, indices)
    assert dataset.get_offsets(0) == (0, dataset.N_CLASSES)
    with pytest.raises(IndexError):
        dataset.get_data_loaders()


@every_stream
@pytest.mark.parametrize("percent", [10, 50])
def test_validation_takes_samples_out_of_training_and_leaves_the_test_data_alone(
    build: Build, name: str, percent: int
) -> None:
    apart, dataset = build(name), build(name, "--validation", str(percent))
    for task in range(dataset.N_TASKS):
        train_loader, test_loader = dataset.get_data_loaders()
        kept, held, whole = train_loader.dataset.indices, test_loader.dataset.indices, apart.split.train[task]
        assert test_loader.dataset.source is train_loader.dataset.source is dataset.samples.train
        assert not set(kept) & set(held)
        assert np.array_equal(np.sort(np.concatenate([kept, held])), np.sort(whole))
        assert len(held) == round(len(whole) * percent / 100)
        assert torch.equal(all_labels(test_loader), dataset.convert_targets(dataset.samples.train_targets[held]))
    again = build(name, "--validation", str(percent))
    assert all(np.array_equal(a, b) for a, b in zip(again.split.test, dataset.split.test, strict=True))


@every_stream
def test_a_validation_share_too_small_for_a_sample_is_refused(build: Build, name: str) -> None:
    with pytest.raises(DataError, match="--validation"):
        build(name, "--validation", "0.01").get_data_loaders()


@every_stream_of_tasks
@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_the_number_of_tasks_can_be_chosen(build: Build, name: str, n_tasks: int) -> None:
    dataset = build(name, "--n_tasks", str(n_tasks))
    base = int(getattr(dataset, "fewshot", False))
    assert dataset.N_TASKS == len(dataset.describe()) == n_tasks + base
    assert np.array_equal(np.sort(np.concatenate(dataset.split.train)), np.arange(len(dataset.samples.train)))


@every_stream_of_tasks
@pytest.mark.parametrize(
    ("words", "positions"),
    [
        (["--custom_task_order", "3,1,5,2,4"], [2, 0, 4, 1, 3]),
        (["--task_order", "descending"], [4, 3, 2, 1, 0]),
    ],
)
def test_tasks_arrive_in_the_order_asked_for(build: Build, name: str, words: list[str], positions: list[int]) -> None:
    ascending, dataset = build(name), build(name, *words)
    base = ascending.N_TASKS - 5  # a base session comes first in any order
    wanted = [*range(base), *(base + i for i in positions)]
    for task, position in enumerate(wanted):
        assert np.array_equal(dataset.split.train[task], ascending.split.train[position])
        assert np.array_equal(dataset.split.test[task], ascending.split.test[position])


@every_stream_of_tasks
def test_a_random_order_depends_on_the_seed_alone(build: Build, name: str) -> None:
    def order(seed: int) -> list[bytes]:
        return [part.tobytes() for part in build(name, "--task_order", "random", "--seed", str(seed)).split.train]

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(6)}) > 1
    assert sorted(order(1)) == sorted(part.tobytes() for part in build(name).split.train)


@every_stream_of_tasks
@pytest.mark.parametrize("order", ["1,2", "0,1,2,3,4", "1,1,2,3,4", "1,2,3,4,6"])
def test_an_order_that_does_not_name_every_task_once_is_refused(build: Build, name: str, order: str) -> None:
    with pytest.raises(UsageError, match=r"--custom_task_order must name each of the tasks 1\.\.5 once"):
        build(name, "--custom_task_order", order).describe()


@every_stream_of_tasks
def test_a_stream_restored_from_its_state_goes_on_alike(build: Build, name: str) -> None:
    dataset = build(name)
    dataset.get_data_loaders()
    loader, _ = dataset.get_data_loaders()
    list(loader)
    restored = build(name)
    restored.load_state_dict(dataset.state_dict())
    assert restored.current_task == 1
    restored.train_loader.passes = loader.passes
    for one, two in zip(loader, restored.train_loader, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# Streams of classes


def original_labels(dataset: ClassDataset, loader: object) -> torch.Tensor:
    return torch.from_numpy(dataset.class_order)[all_labels(loader)]


@pytest.mark.parametrize("name", CLASS_STREAMS)
@pytest.mark.parametrize("n_tasks", [1, 2, 3, 5, 10])
def test_offsets_of_the_tasks_sum_up_to_all_classes(build: Build, name: str, n_tasks: int) -> None:
    dataset = build(name, "--n_tasks", str(n_tasks))
    end = 0
    for task in range(n_tasks):
        loaders = dataset.get_data_loaders()
        first, last = dataset.get_offsets()
        assert (first, last) == dataset.get_offsets(task) == dataset.evaluation_offsets(task)
        assert first == end < last
        end = last
        for loader in loaders:
            assert set(all_labels(loader).tolist()) == set(range(first, last))
            assert all_labels(loader).dtype == torch.int64
    assert end == dataset.N_CLASSES
    sizes = dataset.N_CLASSES_PER_TASK
    assert (sizes * n_tasks if isinstance(sizes, int) else sum(sizes)) == dataset.N_CLASSES


@pytest.mark.parametrize("name", CLASS_STREAMS)
@pytest.mark.parametrize(
    "words",
    [
        ["--permute_classes", "1", "--seed", "3"],
        ["--custom_class_order", "9,8,7,6,5,4,3,2,1,0"],
        ["--custom_class_order", "4,0,9,2,1,3,8,5,7,6", "--custom_task_order", "2,1,3", "--n_tasks", "3"],
        ["--task_order", "descending", "--n_tasks", "4"],
    ],
)
def test_another_class_order_moves_images_and_labels_together(build: Build, name: str, words: list[str]) -> None:
    plain, dataset = build(name), build(name, *words)
    assert sorted(dataset.class_order) == list(range(10))
    assert dataset.class_order.tolist() != list(range(10))
    assert dataset.class_names == [plain.class_names[i] for i in dataset.class_order]
    for task in range(dataset.N_TASKS):
        loaders = dataset.get_data_loaders()
        first, last = dataset.get_offsets(task)
        for loader, targets in zip(loaders, (dataset.samples.train_targets, dataset.samples.test_targets), strict=True):
            assert set(all_labels(loader).tolist()) == set(range(first, last))
            assert np.array_equal(original_labels(dataset, loader).numpy(), targets[loader.dataset.indices])
            raw, labels, _, _ = loader.dataset[list(range(len(loader.dataset)))]
            assert torch.equal(raw, loader.dataset.source.data[torch.from_numpy(loader.dataset.indices)])
            assert torch.equal(labels, all_labels(loader))


@pytest.mark.parametrize("name", CLASS_STREAMS)
def test_custom_class_order_is_the_order_of_arrival(build: Build, name: str) -> None:
    dataset = build(name, "--custom_class_order", "4,0,9,2,1,3,8,5,7,6")
    arrived = [set(original_labels(dataset, dataset.get_data_loaders()[0]).tolist()) for _ in range(5)]
    assert arrived == [{4, 0}, {9, 2}, {1, 3}, {8, 5}, {7, 6}]


@pytest.mark.parametrize("name", CLASS_STREAMS)
def test_permuted_classes_depend_on_the_seed_alone(build: Build, name: str) -> None:
    orders = [build(name, "--permute_classes", "1", "--seed", seed).class_order.tolist() for seed in "1123"]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("name", CLASS_STREAMS)
@pytest.mark.parametrize("order", ["0,1,2", "0,0,1,2,3,4,5,6,7,8", "1,2,3,4,5,6,7,8,9,10"])
def test_a_class_order_that_does_not_name_every_class_once_is_refused(build: Build, name: str, order: str) -> None:
    with pytest.raises(UsageError, match=r"--custom_class_order must name each of the classes 0\.\.9 once"):
        build(name, "--custom_class_order", order)


@pytest.mark.parametrize("name", CLASS_STREAMS)
def test_training_can_be_limited_to_the_first_samples_of_every_class(build: Build, name: str) -> None:
    plain, dataset = build(name), build(name, "--max_samples_per_class", "7", "--permute_classes", "1")
    targets = dataset.samples.train_targets
    kept = np.concatenate(dataset.split.train)
    for label in range(10):
        assert np.array_equal(np.sort(kept[targets[kept] == label]), np.flatnonzero(targets == label)[:7])
    assert sum(map(len, dataset.split.test)) == sum(map(len, plain.split.test))
    unlimited = build(name, "--max_samples_per_class", "100000")
    assert all(np.array_equal(a, b) for a, b in zip(unlimited.split.train, plain.split.train, strict=True))


@pytest.mark.parametrize("name", CLASS_STREAMS)
def test_more_tasks_than_classes_are_refused(build: Build, name: str) -> None:
    with pytest.raises(UsageError, match="--n_tasks 11"):
        build(name, "--n_tasks", "11")


@pytest.mark.parametrize("name", CLASS_STREAMS)
def test_the_loss_of_a_class_stream_is_cross_entropy(build: Build, name: str) -> None:
    loss = build(name).get_loss()(torch.zeros(4, 10), torch.arange(4))
    assert float(loss) == pytest.approx(np.log(10), rel=1e-6)


# Streams of scores


@pytest.mark.parametrize("name", SCORE_STREAMS)
def test_labels_of_score_streams_are_scores_in_the_unit_interval(build: Build, name: str) -> None:
    dataset: ScoreDataset = build(name)
    low, high = dataset.score_range
    assert (dataset.SCORE_RANGE is None) == (name in TRAINING_RANGE)
    for _ in range(dataset.N_TASKS):
        for loader, targets in zip(
            dataset.get_data_loaders(), (dataset.samples.train_targets, dataset.samples.test_targets), strict=True
        ):
            labels = all_labels(loader)
            assert labels.dtype == torch.float32
            assert labels.min() >= 0
            assert labels.max() <= 1
            scores = targets[loader.dataset.indices]
            assert np.allclose(labels.numpy(), (scores - low) / (high - low), atol=1e-6)
            assert np.allclose(dataset.to_scores(labels.numpy()), scores, atol=1e-4)
    assert dataset.N_CLASSES == 1
    assert dataset.get_offsets(0) == (0, 1)


@pytest.mark.parametrize("name", SCORE_STREAMS)
def test_grades_are_intervals_of_the_training_scores_that_follow_one_another(build: Build, name: str) -> None:
    dataset = build(name, "--fewshot", "0")
    edges = np.percentile(dataset.samples.train_targets, [0, 20, 40, 60, 80, 100])
    for task, row in enumerate(dataset.describe()):
        assert edges[task] <= row["low"] <= row["high"] <= edges[task + 1]
        tested = dataset.samples.test_targets[dataset.split.test[task]]
        assert task == 0 or tested.min() >= edges[task]
        assert task == 4 or tested.max() < edges[task + 1]


@pytest.mark.parametrize("name", SCORE_STREAMS)
def test_the_loss_of_a_score_stream_is_the_mean_squared_error(build: Build, name: str) -> None:
    loss = build(name).get_loss()(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0]))
    assert float(loss) == 2.5
