"""Files in Mammoth's form run as they stand, and files named by --plugin behave like those of the project."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from main import main
from models import get_model_class
from models.utils.continual_model import ContinualModel
from utils.args import parse_args
from utils.registry import ROOT

HERE = Path(__file__).parent
DIGITS = "--dataset seq-digits --n_tasks 5 --n_epochs 1 --max_samples_per_class 12 --batch_size 8"
METHODS = {
    "replay_2023": "--replay_weight 0.5 --buffer_size 12",
    "dark_2024": "--alpha 0.3 --buffer_size 12",
    "herding_2024": "--buffer_size 20",
    "recorded_2024": "",
    "average_2024": "--buffer_size 12",
    "projection_2023": "--buffer_size 30",
    "anchored_2024": "--e_lambda 1",
    "greedy_2024": "--buffer_size 20 --cutmix_alpha 1",
    "maps_2025": "--use_maps yes",
    "hindsight_2022": "--buffer_size 32",
    "views_2025": "",
    "columns_2022": "",
    "selected_2021": "--buffer_size 12 --rounds 2",
}
# Made for task-il alone.
NEED_TASK = {"columns_2022"}
# An optimiser and a scheduler of its own, a network in the place of the first.
NOT_CONTINUED = {"maps_2025"}
MINIMAL = """
from models.utils.continual_model import ContinualModel

class {cls}(ContinualModel):
    NAME = "{name}"
    COMPATIBILITY = ["class-il"]

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset)

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
{body}
"""
LEARN = "self.opt.zero_grad(); loss = self.loss(self.net(inputs), labels); loss.backward(); self.opt.step()"


def line(name: str, *more: str) -> str:
    path = HERE / "models" / f"{name}.py"
    return " ".join(["--plugin", str(path), "--model", name, DIGITS, METHODS[name], *more])


def written(path: Path, name: str, body: str = f"{LEARN}; return loss.item()") -> Path:
    path.write_text(MINIMAL.format(cls="Own", name=name, body=f"        {body}"))
    return path


@pytest.fixture
def resumed(launch, monkeypatch):
    """Run a command, stopped after a batch and continued."""

    def run(words: str, at: int):
        observe, calls = ContinualModel.meta_observe, iter(range(10**9))

        def observe_then_signal(self, *args, **kwargs):
            loss = observe(self, *args, **kwargs)
            if next(calls) == at - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return loss

        with monkeypatch.context() as patch:
            patch.setattr(ContinualModel, "meta_observe", observe_then_signal)
            stopped = launch(words)
        assert stopped.code == 128 + signal.SIGTERM
        return launch("", resume=stopped.path)

    return run


# Methods


@pytest.mark.parametrize("name", METHODS)
def test_method_of_mammoths_form_runs_on_digits(launch, capsys, name):
    run = launch(line(name))
    assert run.code == 0
    assert len(run.summary["task_il" if name in NEED_TASK else "class_il"]) == 5
    assert ("note:" in capsys.readouterr().err) == (name in NOT_CONTINUED)


@pytest.mark.parametrize("words", ["--cls_loss balanced-softmax", "--stage2 crt"])
def test_method_of_mammoths_form_has_the_losses_and_second_stages_of_a_long_tail(launch, words):
    plain, run = launch(line("dark_2024", "--imb_factor 0.2")), launch(line("dark_2024", "--imb_factor 0.2", words))
    assert plain.code == run.code == 0
    assert run.metrics != plain.metrics


def test_method_of_task_il_alone_is_told_the_task_and_has_no_figures_among_all_classes(launch, tmp_path):
    run = launch(line("columns_2022", "--n_epochs 4 --max_samples_per_class 60"))
    assert run.code == 0
    # A column that never learnt the task would be right by chance, in half of the cases.
    assert min(run.summary["task_il"]) > 80
    assert not [name for name in run.summary if name.startswith(("class_il", "acc_", "macro"))]
    logs = [path.relative_to(tmp_path).parts[2] for path in tmp_path.rglob("logs.pyd")]
    assert logs == ["task-il"]


def test_method_of_task_il_alone_may_leave_the_task_out_and_is_refused_where_tasks_share_classes(
    launch, tmp_path, capsys
):
    path = written(tmp_path / "own.py", "own")
    path.write_text(path.read_text().replace("class-il", "task-il"))
    run = launch(f"--plugin {path} --model own {DIGITS}")
    assert run.code == 0
    assert len(run.summary["task_il"]) == 5
    assert "class_il" not in run.summary
    capsys.readouterr()
    assert launch(f"--plugin {path} --model own {DIGITS.replace('seq-digits', 'perm-digits')}").code == 2
    assert "own does not work on perm-digits" in capsys.readouterr().err


def test_accuracy_that_stops_a_method_of_task_il_alone_is_among_the_classes_of_the_task(launch):
    stopping = "--fitting_mode early_stopping --validation 25 --early_stopping_metric accuracy --n_epochs 6"
    run = launch(line("columns_2022", "--max_samples_per_class 60", stopping, "--validation_mode complete"))
    assert run.code == 0
    found = [row["accuracy"] for row in map(json.loads, run.metrics.splitlines()) if row["event"] == "best"]
    assert len(found) == 5
    assert min(found) > 80


def test_joint_training_of_a_method_of_task_il_alone_asks_what_it_learnt_as_its_one_task(launch):
    run = launch(line("columns_2022", "--joint True"))
    assert run.code == 0
    assert len(run.summary["task_il"]) == 5


def test_accuracies_in_the_middle_of_a_run_are_not_a_number_where_there_are_none(launch, tmp_path):
    text = (HERE / "models" / "columns_2022.py").read_text()
    look = (
        "    def end_task(self, dataset):\n        import math\n        from utils.evaluate import evaluate\n"
        "        class_il, task_il = evaluate(self, dataset)\n"
        "        assert all(map(math.isnan, class_il)) and all(map(math.isfinite, task_il))\n"
    )
    (tmp_path / "own.py").write_text(text + "\n" + look)
    assert launch(f"--plugin {tmp_path / 'own.py'} --model columns_2022 {DIGITS}").code == 0


def test_methods_of_mammoths_form_remember_what_fine_tuning_forgets(launch):
    long = "--n_epochs 4 --max_samples_per_class 60"
    forgetful = launch(f"--model sgd {DIGITS} {long}").summary["class_il_mean"]
    replaying = launch(line("dark_2024", long, "--buffer_size 100")).summary["class_il_mean"]
    assert replaying > forgetful + 10


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOT_CONTINUED])
def test_method_of_mammoths_form_is_continued_to_the_same_bits(launch, resumed, identical, name):
    # In the second task, whose samples have been added to or replaced by some of the methods.
    assert identical(launch(line(name)), resumed(line(name), 5))


@pytest.mark.parametrize("name", sorted(NOT_CONTINUED))
def test_state_that_no_checkpoint_reaches_is_noted_and_refused_when_resumed(resumed, capsys, name):
    assert resumed(line(name), 5).code == 5
    message = capsys.readouterr().err
    assert "opt" in message
    assert "start it anew" in message


def test_method_sees_raw_images_as_floats_and_transforms_take_one_or_many(launch, tmp_path):
    body = (
        "assert not_aug_inputs.dtype.is_floating_point and 0 <= not_aug_inputs.min() <= not_aug_inputs.max() <= 1\n"
        "        one = self.normalization_transform(not_aug_inputs[0])\n"
        "        many = self.normalization_transform(not_aug_inputs)\n"
        "        assert (one == many[0]).all() and (many == inputs).all()\n"
        f"        {LEARN}\n        return loss.item()"
    )
    path = written(tmp_path / "own.py", "own", body)
    assert launch(f"--plugin {path} --model own {DIGITS}").code == 0


def test_default_that_a_method_sets_for_an_option_of_every_run_counts_less_than_the_command_line():
    plain, given = parse_args(line("dark_2024").split()), parse_args(line("dark_2024", "--clip_grad 1").split())
    assert (plain.clip_grad, given.clip_grad) == (2.5, 1.0)
    assert (plain.savecheck, plain.sources["savecheck"], plain.sources["clip_grad"]) == ("last", "plugin", "plugin")
    assert (plain.alpha, plain.beta) == (0.3, 0.5)


def test_required_option_of_an_older_parser_is_required(capsys):
    assert main(line("replay_2023").replace("--replay_weight 0.5", "").split()) == 2
    assert "--replay_weight" in capsys.readouterr().err


# Streams and backbones


def test_stream_of_mammoths_form_decides_what_its_methods_say(launch):
    plugin = HERE / "datasets" / "handed_over.py"
    run = launch(f"--plugin {plugin} --model er --dataset handed-over --buffer_size 40 --lr 0.1 --batch_size 20")
    assert run.code == 0
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert (config["backbone"], config["n_epochs"], config["batch_size"]) == ("mlp", 2, 20)
    assert run.summary["class_il"][-1] > 50
    first = (run.path / "metrics.jsonl").read_text().splitlines()[0]
    assert '"classes": ["0", "1"]' in first


def test_stream_of_mammoths_form_may_name_a_backbone_as_mammoth_does_and_ask_for_the_folder_of_data(launch, tmp_path):
    text = (HERE / "datasets" / "handed_over.py").read_text().replace('return "mlp"', 'return "mnistmlp"')
    text = text.replace('NAME = "handed-over"', 'NAME = "named-over"').replace(
        "    def get_data_loaders(self):\n",
        "    def get_data_loaders(self):\n        from utils.conf import base_path, base_path_dataset\n"
        "        assert base_path_dataset() == base_path()\n",
    )
    (tmp_path / "stream.py").write_text(text)
    run = launch(f"--plugin {tmp_path / 'stream.py'} --model sgd --dataset named-over --lr 0.1 --n_epochs 1")
    assert run.code == 0
    assert yaml.safe_load((run.path / "config.yaml").read_text())["backbone"] == "mnistmlp"
    assert run.summary["parameters"] == 64 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10


def test_names_of_a_stream_of_mammoths_form_come_with_its_classes():
    import datasets

    plugin, order = str(HERE / "datasets" / "handed_over.py"), "9,8,7,6,5,4,3,2,1,0"
    line = ["--plugin", plugin, "--model", "sgd", "--dataset", "handed-over", "--lr", "0.1"]
    stream = datasets.get_dataset(parse_args([*line, "--custom_class_order", order]))
    assert stream.class_names == stream.get_class_names() == order.split(",")
    plain = datasets.get_dataset(parse_args(line))
    assert plain.class_names == order.split(",")[::-1]
    _, labels, raw = next(iter(stream.get_data_loaders()[0]))
    nines = plain.samples.train.read(np.flatnonzero(plain.samples.train_targets == 9))[0]
    assert any(torch.equal(raw[labels == 0][0], nine) for nine in nines)


def test_stream_of_mammoths_form_repeats_and_resumes_to_the_same_bits(launch, resumed, identical):
    plugins = [HERE / "datasets" / "handed_over.py", HERE / "models" / "herding_2024.py"]
    words = f"--plugin {plugins[0]} --plugin {plugins[1]} --model herding_2024 --dataset handed_over --lr 0.1"
    words += " --buffer_size 20 --max_samples_per_class 12 --n_epochs 1 --batch_size 8"
    straight = launch(words)
    assert straight.code == 0
    assert identical(straight, launch(words))
    assert identical(straight, resumed(words, 5))


def test_transforms_of_a_stream_of_mammoths_form_are_those_of_its_data_sets():
    import datasets

    plugin = str(HERE / "datasets" / "handed_over.py")
    args = parse_args(["--plugin", plugin, "--model", "sgd", "--dataset", "handed-over", "--lr", "0.1"])
    stream = datasets.get_dataset(args)
    loader, test = stream.get_data_loaders()
    inputs, labels, raw = next(iter(loader))
    assert raw.dtype == torch.uint8
    assert raw.shape == inputs.shape == (24, 1, 8, 8)
    assert set(labels.tolist()) == {0, 1}
    images, labels = next(iter(test))
    written = stream.written.get_data_loaders()[1]
    expected = [written[i] for i in range(359)]
    expected = [item for item in expected if item[1] in (0, 1)]
    assert labels.tolist() == [item[1] for item in expected[: len(labels)]]
    torch.testing.assert_close(images, torch.stack([item[0] for item in expected[: len(labels)]]))
    floats = raw.float() / 255
    assert torch.equal(stream.get_normalization_transform()(floats), stream.get_normalization_transform()(raw))
    torch.testing.assert_close(
        stream.get_denormalization_transform()(stream.get_normalization_transform()(raw)), floats
    )


def test_stream_that_builds_loaders_and_network_itself_has_its_unequal_tasks(launch):
    plugin = HERE / "datasets" / "own_loaders.py"
    run = launch(f"--plugin {plugin} --model sgd --dataset own-loaders --lr 0.1")
    assert run.code == 0
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert (config["backbone"], config["n_epochs"], config["batch_size"]) == ("own-loaders-network", 3, 6)
    sizes = [len(classes) for classes in (row["classes"] for row in _split(run)["tasks"])]
    assert sizes == [3, 1, 2]
    assert run.summary["task_il"][1] == 100


def _split(run):
    import json

    return json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])


def test_backbone_of_mammoths_form_runs_with_its_options(launch):
    plugin = HERE / "backbone" / "small_net.py"
    run = launch(f"--plugin {plugin} --model lwf --backbone small_net --hidden 9 {DIGITS}")
    assert run.code == 0
    assert run.summary["parameters"] == 64 * 9 + 9 + 9 * 10 + 10


def test_podnet_refuses_a_backbone_without_maps_before_it_learns(launch, capsys):
    plugin = HERE / "backbone" / "small_net.py"
    run = launch(f"--plugin {plugin} --model podnet --buffer_size 20 --backbone small_net {DIGITS}")
    assert run.code == 2
    assert "--backbone small-net has no feature_maps" in capsys.readouterr().err


def test_parameters_and_gradients_of_a_network_are_vectors():
    from backbone import get_backbone
    from datasets import get_dataset

    args = parse_args(["--model", "sgd", "--dataset", "seq-digits"])
    get_dataset(args)
    net, other = get_backbone(args), get_backbone(args)
    other.set_params(net.get_params())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    with torch.no_grad():
        other.classifier.bias += 1
    assert not torch.equal(net.classifier.bias, other.classifier.bias)
    assert not net.get_grads().any()
    net(torch.randn(3, 1, 8, 8)).square().sum().backward()
    gradients = net.get_grads()
    assert torch.equal(gradients, torch.cat([p.grad.view(-1) for p in net.parameters()]))
    other.set_grads(2 * gradients)
    assert torch.equal(other.classifier.weight.grad, 2 * net.classifier.weight.grad)
    for wrong in (net.set_params, net.set_grads):
        with pytest.raises(ValueError, match="entries"):
            wrong(torch.zeros(5))


# The option


def test_plugin_and_its_names_are_in_the_help(capsys):
    plugin = ["--plugin", str(HERE / "models" / "dark_2024.py"), str(HERE / "backbone" / "small_net.py")]
    for words, expected in ((["--help"], ["dark-2024", "small-net"]), (["--help", "--model", "dark-2024"], ["--beta"])):
        with pytest.raises(SystemExit) as stop:
            main([*plugin, *words])
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in expected)


def test_plugin_is_hidden_from_runs_that_do_not_name_it(tmp_path, capsys):
    path = written(tmp_path / "own.py", "er")
    parse_args(["--plugin", str(path), "--model", "er", "--dataset", "seq-digits"])
    assert get_model_class("er").__name__ == "Own"
    parse_args(["--model", "sgd", "--dataset", "seq-digits"])
    assert get_model_class("er").__name__ == "ER"
    assert main(line("dark_2024").split()[2:]) == 2
    assert "dark_2024" in capsys.readouterr().err


def test_plugin_takes_the_place_of_a_method_of_the_project_and_leaves_out_its_file_of_values(tmp_path):
    # configs/models/ewc-on.yaml has values that this one knows nothing of.
    path = written(tmp_path / "own.py", "ewc_on")
    args = parse_args(["--plugin", str(path), "--model", "ewc_on", "--dataset", "seq-digits"])
    assert args.plugin == [str(path)]


def test_plugin_is_kept_in_the_configuration_by_its_full_path(launch, tmp_path, monkeypatch):
    path = written(tmp_path / "own.py", "own")
    monkeypatch.chdir(tmp_path)
    run = launch(f"--plugin own.py --model own {DIGITS}")
    monkeypatch.chdir(ROOT)
    again = launch(f"--config {run.path / 'config.yaml'}")
    assert again.code == 0
    assert again.metrics == run.metrics
    assert yaml.safe_load((run.path / "config.yaml").read_text())["plugin"] == [str(path)]


def test_plugin_in_a_grid_is_checked_and_run_by_the_launcher(tmp_path):
    path, grid = written(tmp_path / "own.py", "own"), tmp_path / "grid.yaml"
    options = dict(zip(*[iter(DIGITS.replace("--", "").split())] * 2, strict=True))
    grid.write_text(yaml.safe_dump({"values": {"plugin": str(path), "model": "own", **options, "seed": [0, 1]}}))
    out = tmp_path / "commands.txt"
    for words in (["prepare_grid.py", str(grid), "--out", str(out)], ["local_launcher.py", str(out)]):
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "2 of 2 runs finished" in done.stdout


METHOD = "from models.utils.continual_model import ContinualModel\n\nclass Own(ContinualModel):\n    NAME = 'own'\n"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("import os\nclass A(:\n", "line 2", "SyntaxError"),
        ("x = 1\n\ny = x / 0\n", "line 3", "ZeroDivisionError"),
        ("import torch\nimport not_installed_here\n", "line 2", "Install not_installed_here"),
        ("from models.twins import Twin\n", "line 1", "sister folders"),
        ("from utils.buffer import Puffer\n", "line 1", "Puffer"),
        ("x = 1\n", "own.py", "no method"),
        (METHOD, "own.py", "Own does not say in which settings it works; give it a COMPATIBILITY"),
        (METHOD + '    COMPATIBILITY = ["class-il"]\n', "own.py", "Own has no observe"),
        (
            "from models.utils.continual_model import ContinualModel\n\ndef f():\n    raise OSError('so')\n\nf()\n",
            "line 4",
            "so",
        ),
    ],
)
def test_broken_plugin_is_refused_with_file_line_and_reason(tmp_path, capsys, text, where, what):
    path = tmp_path / "own.py"
    path.write_text(text)
    assert main(["--plugin", str(path), "--model", "own", "--dataset", "seq-digits"]) == 2
    message = capsys.readouterr().err
    assert str(path) in message
    assert where in message
    assert what in message


@pytest.mark.parametrize(
    ("returned", "shown"), [("None", "None"), ("'low'", "'low'"), ("inputs[:, 0, 0, 0]", "a tensor of shape [8]")]
)
def test_what_observe_returns_in_place_of_a_loss_is_named(tmp_path, capsys, returned, shown):
    path = written(tmp_path / "own.py", "own", f"return {returned}")
    words = ["--plugin", str(path), "--model", "own", "--run_dir", str(tmp_path / "run"), *DIGITS.split()]
    assert main(words) == 2
    assert f"own: observe returned {shown}, not the loss of the batch" in capsys.readouterr().err


def test_missing_plugin_and_two_of_one_name_are_refused(tmp_path, capsys):
    assert main(["--plugin", str(tmp_path / "none.py"), "--model", "own", "--dataset", "seq-digits"]) == 2
    assert "none.py" in capsys.readouterr().err
    files = [written(tmp_path / f"{letter}.py", "own") for letter in "ab"]
    assert main(["--plugin", *map(str, files), "--model", "own", "--dataset", "seq-digits"]) == 2
    message = capsys.readouterr().err
    assert all(str(path) in message for path in files)


# What lies behind


def opened(**options):
    import datasets

    args = parse_args(
        ["--model", "sgd", "--dataset", "seq-digits", "--max_samples_per_class", "5", "--batch_size", "4"]
    )
    stream = datasets.get_dataset(args)
    stream.get_data_loaders()
    from datasets.utils.open_data import open_data

    return stream, open_data(stream.train_loader)


def test_opened_data_has_the_layout_of_torchvision_and_takes_replacements():
    stream, data = opened()
    before = {tuple(raw.flatten().tolist()) for _, _, raws in stream.train_loader for raw in raws}
    assert data.data.shape == (10, 8, 8)
    assert data.data.dtype == np.uint8
    assert np.unique(data.targets).tolist() == [0, 1]
    inputs, label, raw = data[3]
    assert torch.equal(raw, torch.from_numpy(data.data[3]).float().div(255)[None])
    assert int(label) == data.targets[3]
    assert torch.equal(inputs, stream.get_normalization_transform()(raw[None])[0])
    data.data = np.concatenate([data.data, 255 - data.data[:3]])
    data.targets = np.concatenate([data.targets, [7, 7, 7]])
    seen = [
        (tuple(raw.flatten().tolist()), int(label))
        for _, labels, raws in stream.train_loader
        for raw, label in zip(raws, labels, strict=True)
    ]
    assert len(seen) == 13
    assert sum(label == 7 for _, label in seen) == 3
    assert before < {raw for raw, _ in seen}


def test_field_added_to_opened_data_must_have_a_row_for_each_sample():
    _, data = opened()
    data.logits = torch.arange(10.0)
    data.note = torch.arange(3.0)
    assert data.extra_return_fields == ("logits",)
    assert float(data[4][3]) == 4
    with pytest.raises(ValueError, match="3 rows for 10"):
        data.add_extra_return_field("short", torch.zeros(3))


def test_fill_buffer_gives_every_class_its_share_and_keeps_the_first_of_a_herding_order():
    from utils.buffer import Buffer, fill_buffer
    from utils.selection import herding

    class Pixels(torch.nn.Module):
        def forward(self, x, returnt="out"):
            return x.flatten(1)

    stream, _ = opened()
    net, buffer = Pixels().train(), Buffer(9)
    fill_buffer(buffer, stream, 0, net=net, use_herding=True)
    assert net.training
    assert torch.bincount(buffer.labels[: len(buffer)]).tolist() == [4, 4]
    raws = torch.cat([raw[labels == 1] for _, labels, raw in stream.train_loader])
    chosen = herding(stream.get_normalization_transform()(raws).flatten(1), 4)
    stored = buffer.examples[4:8]
    assert {tuple(x.flatten().tolist()) for x in stored} == {tuple(raws[i].flatten().tolist()) for i in chosen}
    first = stored[:2].clone()
    stream.get_data_loaders()
    from datasets.utils.open_data import open_data

    open_data(stream.train_loader)
    fill_buffer(buffer, stream, 1, net=net, use_herding=True, extend_equalize_buffer=True)
    assert torch.bincount(buffer.labels[: len(buffer)]).tolist() == [3, 2, 2, 2]
    assert torch.equal(buffer.examples[3:5], first)


def test_supervised_contrastive_loss_of_a_worked_example():
    from utils.simclrloss import SupConLoss

    features = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]], [[0.0, 1.0]]])
    loss = SupConLoss(temperature=1.0, base_temperature=1.0, reduction="none")(features, torch.tensor([0, 0, 1]))
    expected = [np.log(np.exp(0.6) + 1) - 0.6, np.log(np.exp(0.6) + np.exp(0.8)) - 0.6, 0.0]
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6)


def test_batch_norm_leaves_no_trace_within_the_block_and_goes_on_after_it():
    from utils.batch_norm import bn_track_stats

    layer, x = torch.nn.BatchNorm1d(2), torch.randn(8, 2)
    with bn_track_stats(layer, False):
        inside = layer(x)
    assert not layer.running_mean.any()
    assert torch.equal(inside, layer(x))
    assert layer.running_mean.any()


def test_cutmix_pastes_the_share_that_it_says():
    from utils.augmentations import cutmix_data

    np.random.seed(0)
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 10, 10).contiguous()
    shares = []
    for _ in range(20):
        mixed, own, other, lam = cutmix_data(x, torch.arange(4), cutmix_prob=1.0)
        for i in range(4):
            if own[i] != other[i]:
                assert (mixed[i] == own[i]).float().mean() == pytest.approx(lam)
                assert (mixed[i] == other[i]).float().mean() == pytest.approx(1 - lam)
        shares.append(lam)
    assert min(shares) < 0.5 < max(shares)
    assert torch.equal(x[:, 0, 0, 0], torch.arange(4.0))
