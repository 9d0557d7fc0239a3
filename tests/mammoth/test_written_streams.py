"""Streams in Mammoth's form whose tasks share all classes, or whose data is files, take each sample as it is given."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
from datasets.transforms.permutation import FixedPermutation, Permutation
from datasets.transforms.rotation import FixedRotation, Rotation
from datasets.utils.open_data import open_data
from main import main
from utils.args import parse_args
from utils.torchvision_import import import_torchvision

HERE = Path(__file__).parent
STREAM = HERE / "datasets" / "permuted_digits.py"
LINE = f"--plugin {STREAM} --dataset permuted-digits --lr 0.1"


def stream(*words: str, path: Path = STREAM):
    line = ["--plugin", str(path), "--dataset", "permuted-digits", "--lr", "0.1", "--model", "sgd", *words]
    return datasets.get_dataset(parse_args(line))


@pytest.fixture
def repeats_and_resumes(launch, identical, stop_after):
    """Assert that a command repeats to the same bits, and goes on to them from where it was stopped after a batch."""

    def check(words: str, at: int) -> None:
        straight = launch(words)
        assert straight.code == 0
        assert identical(straight, launch(words))
        observed = stop_after(at)
        stopped = launch(words)
        assert observed() == at
        assert identical(straight, launch("", resume=stopped.path))

    return check


def test_memory_that_replays_domains_forgets_less_than_fine_tuning(launch):
    replaying, plain = launch(f"{LINE} --model er --buffer_size 200"), launch(f"{LINE} --model sgd")
    assert replaying.code == plain.code == 0
    assert replaying.summary["class_il_mean"] > plain.summary["class_il_mean"] + 20


def test_tasks_are_the_same_images_each_in_an_order_of_its_own():
    opened = stream()
    loaders = [opened.get_data_loaders()[0] for _ in range(4)]
    raws = [next(loader.iterate())[1][2] for loader in loaders]
    firsts = [loader.dataset[[0]][0][0] for loader in loaders]
    assert all(raw.shape == (32, 1, 8, 8) and raw.dtype == torch.float32 for raw in raws)
    for other in firsts[1:]:
        assert not torch.equal(other, firsts[0])
        assert torch.equal(other.flatten().sort()[0], firsts[0].flatten().sort()[0])


def test_inputs_of_training_are_augmented_and_those_of_testing_are_what_the_data_set_gives():
    opened = stream()
    train, test = opened.get_data_loaders()
    inputs, _, raw = next(iter(train))
    # A padded crop keeps, of an order of pixels, not even the values.
    moved = (inputs.flatten(1).sort()[0] != raw.flatten(1).sort()[0]).any(1)
    assert moved.float().mean() > 0.3
    images, labels = next(iter(test))
    part = opened.samples.test.parts[0]
    assert labels.tolist() == part.targets[:32].tolist()
    assert torch.equal(images, torch.stack([part[i][0] for i in range(32)]))
    again, _ = next(iter(opened.test_loader(0)))
    assert torch.equal(images, again)


def test_orders_follow_from_the_seed():
    first, same, other = (stream("--seed", seed).samples.train.read(np.arange(3))[0] for seed in "001")
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("model", ["er --buffer_size 20", "gem --buffer_size 20", "si"])
def test_run_repeats_and_resumes_to_the_same_bits(repeats_and_resumes, model):
    words = f"{LINE} --model {model} --max_samples_per_class 8 --n_epochs 2 --n_tasks 3 --batch_size 8"
    repeats_and_resumes(words, at=27)


def test_method_of_mammoths_form_sees_the_inputs_that_the_data_set_makes(launch, tmp_path):
    body = (
        "        data = self.dataset.train_loader.dataset\n"
        "        assert data.data.shape[1:] == (1, 8, 8) and not_aug_inputs.is_floating_point()\n"
        "        self.seen = getattr(self, 'seen', 0.0) + float((inputs != not_aug_inputs).float().mean())\n"
        "        self.opt.zero_grad(); loss = self.loss(self.net(inputs), labels); loss.backward(); self.opt.step()\n"
        "        assert self.seen > 0.1\n"
        "        return loss.item()\n"
    )
    (tmp_path / "own.py").write_text(
        "from models.utils.continual_model import ContinualModel\n\n"
        "class Own(ContinualModel):\n    NAME = 'own'\n    COMPATIBILITY = ['domain-il']\n\n"
        "    def __init__(self, backbone, loss, args, transform, dataset=None):\n"
        "        super().__init__(backbone, loss, args, transform, dataset)\n\n"
        f"    def observe(self, inputs, labels, not_aug_inputs, epoch=None):\n{body}"
    )
    assert launch(f"{LINE} --plugin {tmp_path / 'own.py'} --model own --n_tasks 2 --n_epochs 1").code == 0


@pytest.mark.parametrize(
    "words",
    ["--cls_loss balanced-softmax", "--cls_loss focal", "--lr_scheduler cosine", "--lr_warmup 2", "--stage2 crt"],
)
@pytest.mark.parametrize("own", [STREAM, HERE / "datasets" / "handed_over.py"])
def test_loss_and_schedule_that_options_ask_for_take_the_place_of_the_streams(launch, own, words):
    name = {"permuted_digits": "permuted-digits", "handed_over": "handed-over"}[own.stem]
    line = f"--plugin {own} --dataset {name} --lr 0.1 --model sgd --max_samples_per_class 10 --n_epochs 3"
    line += " --imb_factor 0.2 --batch_size 8 --stop_after 1"
    plain, run = launch(line), launch(f"{line} {words}")
    assert plain.code == run.code == 0
    assert plain.metrics != run.metrics


def test_held_out_samples_are_seen_as_test_samples_are(tmp_path):
    # Memories keep plain images here, of which no normalisation makes the order of a task.
    text = STREAM.read_text().replace("        train.not_aug_transform = change\n", "")
    (tmp_path / "own.py").write_text(text)
    opened = stream("--validation", "20", path=tmp_path / "own.py")
    opened.get_data_loaders()
    opened.get_data_loaders()
    held, _ = next(iter(opened.validation_loaders[0]))
    change = opened.samples.test.parts[1].transform
    part, images = opened.samples.train.parts[1], opened._arrangement.held_out[1][:32] - opened.samples.train.first[1]
    expected = torch.stack([change(Image.fromarray(part.data[i], mode="L")) for i in images])
    assert torch.equal(held, expected)


def test_stream_that_holds_out_by_itself_does_not_do_so_twice(tmp_path):
    text = STREAM.read_text().replace(
        "        test = Plain(False, change)\n",
        "        test = Plain(False, change)\n        assert not self.args.validation\n",
    )
    (tmp_path / "own.py").write_text(text)
    opened = stream("--validation", "20", "--fitting_mode", "early_stopping", path=tmp_path / "own.py")
    opened.get_data_loaders()
    assert len(opened.test_loaders[0].dataset) == 359


def test_wrong_labels_stay_in_their_domain_though_another_has_more_classes(tmp_path):
    text = STREAM.read_text().replace("        return store_masked", "        FEW\n        return store_masked")
    few = (
        "if self.c_task == -1:\n"
        "            keep = train.targets < 5\n"
        "            train.data, train.targets = train.data[keep], train.targets[keep]"
    )
    (tmp_path / "own.py").write_text(text.replace("FEW", few))
    sizes = [
        [len(part) for part in stream(*words, path=tmp_path / "own.py").split.train]
        for words in ((), ("--label_noise", "symmetric", "--noise_rate", "0.3"))
    ]
    assert sizes[0] == sizes[1]
    assert sizes[0][0] < sizes[0][1] == sizes[0][2]


def test_change_drawn_when_the_file_is_imported_is_the_same_in_every_process(tmp_path):
    text = STREAM.read_text().replace(
        "class PermutedDigits(",
        "from datasets.transforms.rotation import Rotation\nTURN = Rotation()\n\n\nclass PermutedDigits(",
    )
    degrees = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(text)
        stream(path=tmp_path / f"{name}.py")
        module = next(module for key, module in sys.modules.items() if key.startswith(f"plugin_{name}_"))
        degrees.append(module.TURN.degrees)
        np.random.rand(3)
    assert degrees[0] == degrees[1]


def test_transform_that_is_put_back_and_labels_that_are_changed_are_those_of_the_data_set(tmp_path):
    data = open_data(stream().get_data_loaders()[0])
    before = data.transform
    data.transform = None
    assert torch.equal(data[0][0], data[0][2])
    data.transform = before
    assert any(not torch.equal(data[i][0], data[i][2]) for i in range(5))
    text = (
        STREAM.read_text()
        .replace("self.targets[index]", "self.target_transform(self.targets[index])")
        .replace(
            "        self.transform = transform\n",
            "        self.transform = transform\n        self.target_transform = lambda label: label % 5\n",
        )
    )
    (tmp_path / "own.py").write_text(text)
    _, labels, _ = next(iter(stream(path=tmp_path / "own.py").get_data_loaders()[0]))
    assert set(labels.tolist()) == {0, 1, 2, 3, 4}


def test_tasks_may_have_images_of_other_sizes_but_not_in_one_batch(launch, tmp_path, capsys):
    text = STREAM.read_text().replace(
        "        permute = Permutation()\n", "        permute = transforms.Resize(8 + 2 * (self.c_task + 1))\n"
    )
    (tmp_path / "own.py").write_text(text.replace('return "mnistmlp"', 'return "resnet18"'))
    line = f"--plugin {tmp_path / 'own.py'} --dataset permuted-digits --lr 0.1 --model sgd --width 4 --n_epochs 1"
    line += " --n_tasks 2 --max_samples_per_class 3"
    assert launch(line).code == 0
    assert launch(f"{line} --joint True").code == 3
    assert "samples of one batch have the shapes (1, 8, 8) and (1, 10, 10)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "--model er --buffer_size 20 --joint True",
        "--model sgd --validation 20",
        "--model sgd --label_noise symmetric --noise_rate 0.2",
        "--model der --buffer_size 20 --stage2 crt",
        "--model sgd --num_workers 2",
        "--model sgd --task_order descending",
    ],
)
def test_options_of_streams_hold(launch, words):
    run = launch(f"{LINE} {words} --max_samples_per_class 6 --n_epochs 1 --n_tasks 2 --batch_size 8")
    assert run.code == 0
    assert len(run.summary["class_il"]) == 2


@pytest.mark.parametrize(
    ("changes", "words", "code", "message"),
    [
        ({}, "--n_tasks 5", 2, "--n_tasks 5: permuted-digits has 4 tasks"),
        ({"N_CLASSES_PER_TASK = 10": "N_CLASSES_PER_TASK = 9"}, "", 3, "label 9, but there are 9 classes"),
        ({"train = Permuted(": "train = Plain("}, "", 3, "gives 2 values of a training sample, without the third"),
        ({"return len(self.targets)": "return 5"}, "", 3, "no target for each sample"),
        (
            {"self.targets[index]": "9 - self.targets[index]"},
            "",
            3,
            "gives its first sample the label 9, and its targets",
        ),
        ({'SETTING = "domain-il"': 'SETTING = "general-continual"'}, "", 2, "for general-continual derive from"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, capsys, changes, words, code, message):
    text = STREAM.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "own.py").write_text(text)
    line = f"--plugin {tmp_path / 'own.py'} --dataset permuted-digits --lr 0.1 --model sgd {words}"
    assert main([*line.split(), "--run_dir", str(tmp_path / "run")]) == code
    assert message in capsys.readouterr().err


# Tasks of classes of their own, whose samples are files


@pytest.fixture
def files(tmp_path):
    """The stream of handed_over.py with each digit in a file, and data sets that list the names."""
    text = (HERE / "datasets" / "handed_over.py").read_text()
    changes = {
        "        self.data = (digits.images[chosen] * 15).astype(np.uint8)\n": (
            "        self.data = np.array([f'{i}.png' for i in np.flatnonzero(chosen)])\n"
            "        for i, name in zip(np.flatnonzero(chosen), self.data):\n"
            "            Image.fromarray((digits.images[i] * 15).astype(np.uint8), mode='L').save(f'{FOLDER}/{name}')\n"
        ),
        'Image.fromarray(self.data[index], mode="L")': "Image.open(f'{FOLDER}/{self.data[index]}')",
        'NAME = "handed-over"': 'NAME = "named-files"',
        "import torchvision.transforms": f"FOLDER = {str(tmp_path)!r}\nimport torchvision.transforms",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "named.py").write_text(text)
    return f"--plugin {tmp_path / 'named.py'} --dataset named-files --lr 0.1 --max_samples_per_class 20"


def test_stream_whose_samples_are_files_learns_what_one_of_arrays_does(launch, files):
    arrays = f"--plugin {HERE / 'datasets' / 'handed_over.py'} --dataset handed-over --lr 0.1"
    arrays += " --max_samples_per_class 20"
    named, plain = (launch(f"{words} --model joint --n_epochs 16") for words in (files, arrays))
    assert named.code == plain.code == 0
    assert named.summary["class_il_mean"] == pytest.approx(plain.summary["class_il_mean"], abs=6)
    assert plain.summary["class_il_mean"] > 60


@pytest.mark.parametrize("model", ["icarl --buffer_size 20", "der --buffer_size 20 --stage2 crt"])
def test_run_on_files_repeats_and_resumes_to_the_same_bits(repeats_and_resumes, files, model):
    words = f"{files} --model {model} --n_epochs 2 --batch_size 8"
    repeats_and_resumes(words, at=14)


# Changes by their names in Mammoth


def test_permutation_is_drawn_once_and_a_fixed_one_by_its_seed():
    image = torch.arange(12.0).view(1, 3, 4)
    permute = Permutation()
    assert torch.equal(permute(image), permute(image))
    assert torch.equal(permute(image).flatten().sort()[0], image.flatten())
    assert torch.equal(FixedPermutation(3)(image), FixedPermutation(3)(image))
    assert not torch.equal(FixedPermutation(3)(image), FixedPermutation(4)(image))


def test_rotations_turn_by_the_angle_they_name():
    rotate = import_torchvision("transforms.functional").rotate
    image = torch.rand(1, 6, 6)
    drawn = [Rotation(10, 20) for _ in range(20)]
    assert all(10 <= change.degrees <= 20 for change in drawn)
    assert torch.equal(drawn[0](image), rotate(image, drawn[0].degrees))
    assert FixedRotation(1).degrees == FixedRotation(1).degrees != FixedRotation(2).degrees
    assert torch.equal(FixedRotation(0, 90, 90)(image), image.rot90(1, (1, 2)))
