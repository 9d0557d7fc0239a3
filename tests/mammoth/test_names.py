"""Names that files written for Mammoth import from elsewhere in the project, and what is said of those not here."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from backbone import MammothBackbone, ReturnTypes
from main import main
from utils.absent_names import REASONS
from utils.args import parse_args
from utils.registry import ROOT

DIGITS = "--dataset seq-digits --n_tasks 3 --n_epochs 1 --max_samples_per_class 12 --batch_size 8"
METHOD = """
from models.utils.continual_model import ContinualModel

class Own(ContinualModel):
    NAME = "own"
    COMPATIBILITY = ["class-il", "task-il", "domain-il"]

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset)
        {constructor}

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.opt.zero_grad()
        loss = self.loss(self.net(inputs), labels)
        loss.backward()
        self.opt.step()
        return loss.item()

    def end_task(self, dataset):
        {end_task}
"""


def method(folder: Path, end_task: str = "pass", constructor: str = "pass", first: str = "") -> str:
    """The words of a run with a method that executes these lines."""
    # A file is imported once in a process.
    path = folder / f"own{len(list(folder.glob('own*.py')))}.py"
    path.write_text(first + METHOD.format(constructor=constructor, end_task=end_task))
    return f"--plugin {path} --model own {DIGITS}"


# Evaluation in the middle of a run


@pytest.mark.parametrize("place", ["utils.training", "utils.evaluate"])
def test_evaluate_gives_the_accuracies_of_the_session_and_leaves_the_run_as_it_is(launch, tmp_path, place):
    out = tmp_path / "accuracies.txt"
    lines = (
        f"from {place} import evaluate\n"
        "        self.net.train()\n"
        # As methods from before 2024 do.
        "        self.current_task += 1\n"
        "        found = [evaluate(self, dataset), evaluate(self, dataset, last=True)]\n"
        "        assert self.net.training\n"
        f"        open({str(out)!r}, 'a').write(repr(found) + chr(10))"
    )
    plain, run = launch(method(tmp_path)), launch(method(tmp_path, lines))
    assert plain.code == run.code == 0
    assert run.metrics == plain.metrics
    written = [eval(line) for line in out.read_text().splitlines()]
    assert [len(accuracies[0]) for accuracies, _ in written] == [1, 2, 3]
    (class_il, task_il), last = written[-1]
    assert class_il == run.summary["class_il"]
    assert task_il == run.summary["task_il"]
    assert class_il != task_il
    assert last == ([class_il[-1]], [task_il[-1]])


def test_evaluate_refuses_scores():
    from datasets import get_dataset
    from utils.errors import UsageError
    from utils.training import evaluate

    stream = get_dataset(parse_args(["--model", "sgd", "--dataset", "uiprmd"]))
    with pytest.raises(UsageError, match="has scores"):
        evaluate(None, stream)  # type: ignore[arg-type]


def test_masked_outputs_leave_the_classes_of_the_task():
    from datasets import get_dataset
    from utils.training import mask_classes

    stream = get_dataset(parse_args(["--model", "sgd", "--dataset", "seq-digits", "--n_tasks", "5"]))
    outputs = torch.arange(20.0).view(2, 10)
    mask_classes(outputs, stream, 1)
    assert outputs[:, 2:4].tolist() == [[2, 3], [12, 13]]
    assert outputs[:, :2].isneginf().all()
    assert outputs[:, 4:].isneginf().all()


# Gradients


def test_projection_of_averaged_gem_is_at_a_right_angle_and_moves_along_the_other_gradient_only():
    from models.agem import project

    gradient, other = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.0, 2.0, 0.0])
    assert project(gradient, other).tolist() == [1.0, 0.0, 3.0]
    assert gradient.tolist() == [1.0, -2.0, 3.0]


def test_projection_of_gem_overwrites_the_vector_with_the_weights_of_its_quadratic_programme():
    from models.gem import project2cone2

    vector = torch.tensor([-1.0, -2.0, 3.0])
    past = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    project2cone2(vector.unsqueeze(1), past.T, margin=0.1, eps=0.5)
    # Orthogonal: each weight is -p'g / (p'p + eps), if not below the margin.
    torch.testing.assert_close(vector, torch.tensor([-1 + 1 / 1.5, -2 + 4 / 4.5 * 2, 3.0]))
    project2cone2(vector.unsqueeze(1), past[:1].T, margin=2.0)
    torch.testing.assert_close(vector, torch.tensor([-1 + 1 / 1.5 + 2, -2 + 4 / 4.5 * 2, 3.0]))
    exact, near = torch.tensor([[-1.0], [-2.0]]), torch.tensor([[-1.0], [-2.0]])
    project2cone2(exact, past.T[:2], margin=0.0, eps=0.0)
    project2cone2(near, past.T[:2], margin=0.0)
    assert exact.abs().max() < 1e-6
    assert 1e-4 < near.abs().max() < 1e-2


# Networks


def test_network_that_notes_its_device_says_where_its_parameters_are():
    class Network(MammothBackbone):
        def __init__(self, device):
            super().__init__()
            self.device = device
            self.classifier = torch.nn.Linear(2, 3)

    network = Network("meta")
    assert network.device == torch.device("cpu")
    assert network.to("meta").device == torch.device("meta")


@pytest.mark.parametrize("kind", ReturnTypes)
def test_kinds_of_outputs_have_names(kind):
    from backbone.mlp import MLP

    network, x = MLP(3, (4,), 5, 2), torch.randn(2, 4)
    assert kind == kind.value == kind.name.lower()
    given, named = network(x, returnt=kind), network(x, returnt=kind.value)
    assert type(given) is type(named)
    assert repr(given) == repr(named)


# Augmentations


def test_random_crop_moves_each_image_by_at_most_the_padding():
    from utils.augmentations import random_crop

    torch.manual_seed(0)
    x = 1 + torch.arange(36.0).view(1, 1, 6, 6).expand(50, 2, 6, 6)
    cut = random_crop(x, 2)
    assert cut.shape == x.shape
    padded = torch.nn.functional.pad(x[0], [2] * 4)
    windows = [padded[:, i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
    places = [next(k for k, window in enumerate(windows) if torch.equal(image, window)) for image in cut]
    assert len(set(places)) > 12


# Methods and streams


LOOKED_AT = """
def look(model, dataset):
    args = model.args
    assert torch.zeros(2).to(args.device).device == torch.device(args.device) == model.device
    assert args.nowand
    assert not (args.drop_last or args.ckpt_name or args.dataset_config)
    assert args.conf_host and args.transform_type == "weak"
    assert model.compute_offsets(1) == dataset.get_offsets(1) == (4, 7)
    assert model.get_debug_iters() == 5
    assert dataset.get_iters() is None
    assert dataset.get_class_names() == dataset.class_names and len(dataset.class_names) == 10
    assert all("{}" in template for template in dataset.get_prompt_templates())
    assert dataset.c_task == dataset.current_task
    model.transform = None
    x = torch.rand(1, 8, 8)
    assert (model.original_transform(x) == model.normalization_transform(x)).all()
    model.transform = model.original_transform
"""


def test_names_of_mammoth_mean_what_they_say(launch, tmp_path):
    words = method(
        tmp_path,
        first=f"import torch\n{LOOKED_AT}",
        constructor="assert dataset.c_task == -1; look(self, dataset)",
        end_task="assert dataset.c_task == self.current_task; look(self, dataset)",
    )
    plain, run = launch(method(tmp_path)), launch(words)
    assert run.code == 0
    assert run.metrics == plain.metrics
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["device"] is None
    assert config["nowand"] is False


@pytest.mark.parametrize(
    ("words", "silent"),
    [
        ("", True),
        ("--wandb_project p --wandb_mode offline", False),
        ("--wandb_project p --wandb_mode disabled", True),
        ("--wandb_project p --wandb_mode offline --nowand 1", True),
    ],
)
def test_method_is_told_whether_wandb_logs(tmp_path, words, silent):
    from backbone import get_backbone
    from datasets import get_dataset
    from models import get_model

    for name, expected in ((method(tmp_path), silent), (f"--model sgd {DIGITS}", "--nowand" in words)):
        args = parse_args([*name.split(), *words.split()])
        stream = get_dataset(args)
        get_model(args, get_backbone(args), stream.get_loss(), stream.get_transform(), stream)
        assert args.nowand is expected


def test_names_of_all_methods_and_streams_can_be_listed():
    from datasets import get_all_datasets
    from models import get_all_models

    assert "er" in get_all_models()
    assert "seq-digits" in get_all_datasets()


# Names that are not here


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("from utils.spkdloss import SPKDLoss", "bring its file along. A plugin in a folder called models"),
        ("from models.utils.lider_model import LiderOptimizer", "Lipschitz"),
        ("from datasets.utils.continual_dataset import get_previous_train_loader", "keeps them in a Buffer"),
        ("from utils.conf import get_checkpoint_path", "folder of their run"),
        ("from backbone.ResNetBlock import ResNet", "--backbone"),
        ("import utils.never_there", "the project has no such part. A plugin in a folder called models"),
    ],
)
def test_absent_name_is_explained_with_its_line(tmp_path, capsys, line, why):
    assert main(method(tmp_path, first=f"\n{line}\n").split()) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path / 'own0.py'}, line 2: " in message
    assert why in message


@pytest.mark.parametrize("hook", ["constructor", "end_task"])
def test_absent_name_that_a_hook_imports_ends_the_run_with_the_same_words(launch, tmp_path, capsys, hook):
    line = "from utils.triplet import negative_only_triplet_loss"
    run = launch(method(tmp_path, **{hook: line}))
    assert run.code == 2
    message = capsys.readouterr().err
    number = (tmp_path / "own0.py").read_text().splitlines().index(f"        {line}") + 1
    assert f"{tmp_path / 'own0.py'}, line {number}: " in message
    assert "bring its file along" in message
    assert (run.status["state"], "own0.py" in run.status["message"]) == ("failed", True)


def test_absent_name_of_a_module_that_is_here_does_not_advise_to_bring_the_module(tmp_path, capsys):
    assert main(method(tmp_path, first="from utils.conf import get_checkpoint_path\n").split()) == 2
    assert "sister folders" not in capsys.readouterr().err


@pytest.mark.parametrize("name", REASONS)
def test_names_that_are_said_to_be_absent_are(name):
    module, _, attribute = name.rpartition(".")
    try:
        found = hasattr(importlib.import_module(module), attribute)
    except ImportError:
        found = False
    assert not found
    assert importlib.util.find_spec(module) is not None
    if name[len(module) + 1 :].islower():
        with pytest.raises(ImportError):
            importlib.import_module(name)


def test_package_that_the_error_does_not_name_is_not_advised(tmp_path, capsys):
    assert main(method(tmp_path, first="raise ImportError('Please get the package first')\n").split()) == 2
    message = capsys.readouterr().err
    assert "line 1: ImportError: Please get the package first" in message
    assert "Install" not in message


# Packages that import torchvision


@pytest.mark.parametrize(
    "text",
    [
        "import torch, torchvision.transforms",
        "try:\n    import torchvision.transforms\nexcept ImportError as error:\n    raise RuntimeError from error",
        "from models import sister_of_plugin\nsister_of_plugin.later()",
    ],
    ids=["with torch", "within try", "sister module"],
)
def test_plugin_imports_torchvision_in_any_way(tmp_path, text):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "sister_of_plugin.py").write_text("def later():\n    from torchvision import transforms\n")
    path = folder / "own.py"
    path.write_text(f"{text}\n{METHOD.format(constructor='pass', end_task='pass')}")
    # A fresh interpreter: torchvision imported here before would hide a failure.
    code = f"from utils.plugins import activate; activate([{str(path)!r}]); print('done')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "done", done.stderr
