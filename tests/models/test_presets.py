"""Named sets of values for a method: one layer of the configuration."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
import torch
import yaml

import backbone
import datasets
import models
from datasets.seq_cifar10 import SequentialCIFAR10
from datasets.utils.continual_dataset import Samples
from datasets.utils.sources import TensorSource
from models.utils import load_model_config
from utils.args import parse_args
from utils.config import read_yaml
from utils.errors import UsageError
from utils.registry import ROOT

LWF = ["--model", "lwf", "--dataset", "seq-digits"]
FILES = sorted((ROOT / "configs" / "models").glob("*.yaml"))
PRESETS = [(path.stem, preset) for path in FILES for preset in read_yaml(path).get("presets", {})]


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """Write the file of er in a repository of its own."""
    import models.utils

    monkeypatch.setattr(models.utils, "ROOT", tmp_path)
    (tmp_path / "configs" / "models").mkdir(parents=True)

    def write(content):
        (tmp_path / "configs" / "models" / "er.yaml").write_text(yaml.safe_dump(content))
        return lambda *words: parse_args(["--model", "er", "--dataset", "seq-digits", "--buffer_size", "5", *words])

    return write


@pytest.mark.parametrize(("model", "preset"), PRESETS)
def test_shipped_presets_resolve_and_every_value_of_theirs_counts(model, preset):
    from models import get_model_class

    dataset = "seq-digits" if "class-il" in get_model_class(model).COMPATIBILITY else "uiprmd"
    words = ["--model", model, "--dataset", dataset, "--model_config", preset]
    content = read_yaml(ROOT / "configs" / "models" / f"{model}.yaml")["presets"][preset]
    if not {"buffer_size", "exemplars_per_class"} & content.keys() and "--buffer_size" in _options(model):
        words += ["--buffer_size", "5"]
    args = parse_args(words)
    assert content
    for name in content:
        dest = _options(model)[f"--{name}"].dest if f"--{name}" in _options(model) else name
        assert args.sources[dest] == f"configs/models/{model}.yaml"


def _options(model):
    import argparse

    from models import get_model_class

    return get_model_class(model).get_parser(argparse.ArgumentParser())._option_string_actions


# Learning rate and epochs of the first task and of a later one, where the stream has a scheduler of its own.
PAPER = ([(0.1, 120), (0.01, 40)], 2 * [(0.01, 60), (0.001, 20)])
RATES = {
    ("lwf", "paper"): PAPER,
    ("ft", "paper"): PAPER,
    ("ft-fc", "paper"): PAPER,
    ("feat-extract", "paper"): (PAPER[0], [(0.05, 120), (0.005, 40)]),
    ("lwf", "mammoth"): ([(0.1, 50)], [(0.1, 100)]),
    ("lwf", "facil"): ([(0.1, 160)], [(0.1, 160)]),
    ("lwf", "pycil"): (
        [(0.1, 60), (0.01, 60), (0.001, 40), (0.0001, 40)],
        [(0.1, 60), (0.01, 60), (0.001, 60), (0.0001, 40), (0.00001, 30)],
    ),
}


# The other stream's scheduler has another factor, too.
STREAMS = [(*key, "seq-cifar100-lt") for key in RATES] + [("lwf", "pycil", "cifar100-lt")]


@pytest.mark.parametrize(("model", "preset", "dataset"), STREAMS)
def test_learning_rates_of_a_preset_are_its_own_on_streams_with_a_scheduler(monkeypatch, model, preset, dataset):
    def load(self):
        labels = np.arange(1000) % self.N_CLASSES
        images = TensorSource(torch.zeros(1000, 1, 1, 1).int())
        return Samples(train=images, test=images, train_targets=labels, test_targets=labels)

    monkeypatch.setattr(SequentialCIFAR10, "load_samples", load)
    words = ["--model", model, "--dataset", dataset, "--model_config", preset]
    args = parse_args([*words, "--base_classes", "50", "--n_tasks", "5"])
    stream = datasets.get_dataset(args)
    net = backbone.get_backbone(args)
    method = models.get_model(args, net, stream.get_loss(), stream.get_transform(), stream)
    for phases in RATES[model, preset]:
        stream.get_data_loaders()
        method.meta_begin_task(stream)
        scheduler, found = stream.get_scheduler(method, args), []
        for epoch in range(stream.get_epochs()):
            method.meta_begin_epoch(epoch, stream)
            found.append(method.opt.param_groups[0]["lr"])
            method.opt.step()
            if scheduler is not None:
                scheduler.step()
        assert found == pytest.approx([rate for rate, n in phases for _ in range(n)])


def test_preset_overrides_the_default_block_and_is_overridden_by_files_and_flags(configs, tmp_path):
    parse = configs({"default": {"lr": 0.1, "optim_wd": 0.1}, "presets": {"Steep_One": {"lr": 0.2, "optim_mom": 0.5}}})
    default, chosen = parse(), parse("--model_config", "steep-one")
    assert (default.lr, default.optim_wd, default.optim_mom) == (0.1, 0.1, 0)
    assert (chosen.lr, chosen.optim_wd, chosen.optim_mom) == (0.2, 0.1, 0.5)
    (tmp_path / "mine.yaml").write_text("lr: 0.3\nmodel_config: steep_one\n")
    mine = parse("--config", str(tmp_path / "mine.yaml"))
    assert (mine.lr, mine.optim_mom) == (0.3, 0.5)
    assert parse("--model_config", "steep-one", "--lr", "0.4").lr == 0.4


@pytest.mark.parametrize("name", ["papre", "presets", "seq-digits"])
def test_unknown_preset_is_refused_with_those_of_the_method(name):
    with pytest.raises(UsageError, match=rf"{name}: lwf has no such preset; known: default, best, paper, mammoth, py"):
        parse_args([*LWF, "--model_config", name])


def test_method_without_a_file_has_no_presets():
    with pytest.raises(UsageError, match=r"sgd has no such preset; known: default, best$"):
        parse_args(["--model", "sgd", "--dataset", "seq-digits", "--model_config", "paper"])


def test_presets_are_no_stream_with_best_values():
    with pytest.raises(UsageError, match=r"streams with some: uiprmd$"):
        parse_args([*LWF, "--model_config", "best"])


@pytest.mark.parametrize("content", [{"presets": ["paper"]}, {"presets": {"paper": 3}}, {"default": 3}])
def test_broken_blocks_are_refused(configs, content):
    with pytest.raises(UsageError, match="must be a block"):
        configs(content)()


def test_base_is_another_word_for_default():
    args = parse_args([*LWF, "--model_config", "base"])
    assert (args.lambda_o, args.lwf_kd, args.warmup_epochs) == (1, "per_task", 0)


def test_stored_configuration_of_a_preset_repeats_the_run(launch):
    line = "--model lwf --dataset seq-digits --model_config paper --n_epochs 2 --n_tasks 2 --max_samples_per_class 10"
    first = launch(line)
    again = launch("--config", str(first.path / "config.yaml"))
    assert (first.code, again.code) == (0, 0)
    assert again.metrics == first.metrics


def test_a_buffer_size_without_best_values_is_told_of(capsys):
    for size, told in ((200, False), (1000, True)):
        load_model_config(Namespace(model="derpp", dataset="seq-cifar10", model_config="best"), size)
        assert ("buffers of 200, 500, 5120; with 1000" in capsys.readouterr().err) == told
