"""The command line and the layers of the configuration."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from main import main
from models import get_model_class
from models.utils import load_model_config
from utils.args import parse_args
from utils.errors import UsageError
from utils.registry import ROOT, Registry

MODELS, DATASETS, BACKBONES = (
    Registry(package, what).names()
    for package, what in (("models", "model"), ("datasets", "dataset"), ("backbone", "backbone"))
)


def run_main(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "main.py", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_answers_in_two_seconds_and_lists_everything():
    began = time.monotonic()
    done = run_main("--help")
    assert time.monotonic() - began < 2
    assert done.returncode == 0
    assert all(name in done.stdout for name in [*MODELS, *DATASETS, *BACKBONES])


def test_help_imports_neither_torch_nor_numpy():
    show = "print('torch' in sys.modules, 'numpy' in sys.modules)"
    code = f"import sys, main\ntry: main.main(['--help'])\nexcept SystemExit: {show}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


def test_help_with_a_model_adds_its_options_and_those_of_the_stream(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    general = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--model", "magr", "--dataset", "aqa7", "--help"])
    special = capsys.readouterr().out
    for option in ("--buffer_size", "--lambda_p", "--sport", "--fewshot", "--width"):
        assert option not in general
        assert option in special


@pytest.mark.parametrize(
    ("words", "wrong", "nearest"),
    [
        (["--model", "magrr", "--dataset", "uiprmd"], "magrr", "magr"),
        (["--model", "sgd", "--dataset", "uiprmdd"], "uiprmdd", "uiprmd"),
        (["--model", "sgd", "--dataset", "uiprmd", "--backbone", "tempral"], "tempral", "temporal"),
        (["--model", "sgd", "--dataset", "uiprmd", "--n_epoch", "3"], "--n_epoch", "--n_epochs"),
        (["--model", "sgd", "--dataset", "uiprmd", "--optimizer", "adamm"], "adamm", "adam"),
        (["--model", "magr", "--dataset", "uiprmd", "--buffer_siz", "3"], "--buffer_siz", "--buffer_size"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest_valid_ones(capsys, words, wrong, nearest):
    assert main(words) == 2
    message = capsys.readouterr().err
    _, _, hint = message.partition(wrong)
    assert hint
    assert nearest in hint


def test_unknown_key_in_a_configuration_file_is_refused_with_file_key_and_nearest(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("n_epohcs: 3\n")
    assert main(["--model", "sgd", "--dataset", "uiprmd", "--config", str(path)]) == 2
    message = capsys.readouterr().err
    assert "mine.yaml" in message
    assert "n_epohcs" in message
    assert "n_epochs" in message


@pytest.mark.parametrize("text", ["- a list\n", "a: [1\n", "just words\n"])
def test_broken_configuration_files_are_refused(tmp_path, capsys, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert main(["--model", "sgd", "--dataset", "uiprmd", "--config", str(path)]) == 2
    assert "mine.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value", ["n_epochs: many", "batch_size: 0", "optimizer: adamm", "fewshot: perhaps", "seed: null", "run_dir: [a]"]
)
def test_values_of_the_wrong_kind_in_a_file_are_refused(tmp_path, capsys, value):
    path = tmp_path / "mine.yaml"
    path.write_text(value + "\n")
    assert main(["--model", "sgd", "--dataset", "uiprmd", "--config", str(path)]) == 2
    assert value.split(":")[0] in capsys.readouterr().err


def test_missing_required_option_names_it(capsys):
    assert main(["--model", "er", "--dataset", "seq-digits"]) == 2
    assert "--buffer_size" in capsys.readouterr().err


def test_required_option_may_come_from_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("buffer_size: 7\n")
    assert parse_args(["--model", "er", "--dataset", "seq-digits", "--config", str(path)]).buffer_size == 7


def test_each_layer_overrides_the_one_before_and_says_so(tmp_path, monkeypatch):
    # Default < stream's file < method's file < --config < command line, one option decided by each.
    path = tmp_path / "mine.yaml"
    path.write_text("lr: 1e-3\nseed: 5\nbatch_size: 9\n")
    args = parse_args(
        ["--model", "magr", "--dataset", "uiprmd", "--buffer_size", "3", "--config", str(path), "--lr", "0.5"]
    )
    assert (args.optim_mom, args.sources["optim_mom"]) == (0.0, "default")
    assert (args.optimizer, args.sources["optimizer"]) == ("adamw", "configs/datasets/uiprmd.yaml")
    assert (args.lambda_r, args.sources["lambda_r"]) == (0.0001, "configs/models/magr.yaml")
    assert (args.seed, args.sources["seed"]) == (5, str(path))
    assert (args.batch_size, args.sources["batch_size"]) == (9, str(path))
    assert (args.lr, args.sources["lr"]) == (0.5, "command line")
    assert (args.buffer_scope, args.sources["buffer_scope"]) == ("session", "uiprmd stream")


def test_number_written_in_the_form_yaml_takes_for_text_is_a_number(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lr: 1e-3\n")
    assert parse_args(["--model", "sgd", "--dataset", "uiprmd", "--config", str(path)]).lr == 0.001


def test_best_values_depend_on_stream_and_buffer_size(tmp_path, monkeypatch):
    import models.utils

    (tmp_path / "configs" / "models").mkdir(parents=True)
    content = {"default": {"a": 1, "b": 1, "c": 1}, "seq-digits": {"b": 2, "c": 2, 200: {"c": 3}}}
    (tmp_path / "configs" / "models" / "er.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(models.utils, "ROOT", tmp_path)
    best = Namespace(model="er", dataset="seq_digits", model_config="best")
    assert load_model_config(best, 200) == {"a": 1, "b": 2, "c": 3}
    assert load_model_config(best, 500) == {"a": 1, "b": 2, "c": 2}
    assert load_model_config(best) == {"a": 1, "b": 2, "c": 2}
    assert load_model_config(Namespace(model="er", dataset="seq-digits"), 200) == content["default"]
    assert load_model_config(Namespace(model="sgd", dataset="seq-digits")) == {}
    with pytest.raises(UsageError, match="seq-digits"):
        load_model_config(Namespace(model="er", dataset="uiprmd", model_config="best"))


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("model", MODELS)
def test_shipped_configuration_files_resolve_for_every_method_and_stream(model, dataset):
    words = ["--model", model, "--dataset", dataset]
    options = get_model_class(model).get_parser(argparse.ArgumentParser())._option_string_actions
    args = parse_args([*words, "--buffer_size", "5"] if "--buffer_size" in options else words, data_is_here=False)
    assert args.backbone in BACKBONES


def test_rhythmic_gymnastics_has_a_file_of_its_own():
    words = "--config configs/rg.yaml --minibatch_size 2 --n_tasks 4 --fewshot False --buffer_size 10 --gpus 0"
    args = parse_args(words.split())
    assert (args.model, args.dataset, args.backbone) == ("magr", "rg", "i3d")
    assert (args.minibatch_size, args.n_tasks, args.fewshot, args.buffer_size, args.gpus) == (2, 4, False, 10, [0])


@pytest.mark.parametrize("words", [["--model", "sgd"], ["--features", "somewhere", "--buffer_size", "10"]])
def test_the_file_of_rhythmic_gymnastics_goes_with_other_methods_and_with_features(words):
    args = parse_args(["--config", "configs/rg.yaml", *words], data_is_here=False)
    assert args.backbone == ("clip-features" if "--features" in words else "i3d")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("magr-*.yaml")), ids=lambda path: path.stem)
def test_shipped_experiment_files_resolve(path: Path):
    args = parse_args(["--model", "magr", "--dataset", "aqa7-mini", "--buffer_size", "10", "--config", str(path)])
    assert args.protocol == "official"


def test_stored_configuration_names_origins_and_repeats_the_run(launch):
    first = launch("--model er --dataset seq-digits --buffer_size 20 --n_epochs 1 --n_tasks 2 --seed 3 --lr 0.1")
    text = (first.path / "config.yaml").read_text()
    assert "lr: 0.1  # command line" in text
    assert "optimizer: sgd  # configs/datasets/seq-digits.yaml" in text
    again = launch("--config", str(first.path / "config.yaml"))
    assert again.code == 0
    assert again.metrics == first.metrics


def test_data_source_is_stored_as_what_was_found(tmp_path):
    words = ["--model", "sgd", "--dataset", "aqa7", "--base_path", str(tmp_path)]
    mini = parse_args(words)
    assert (mini.dataset, mini.data_source) == ("aqa7-mini", "mini")
    (tmp_path / "AQA-7" / "Split_4").mkdir(parents=True)
    full = parse_args(words)
    assert (full.dataset, full.data_source) == ("aqa7", "full")


def test_options_of_one_backbone_do_not_hinder_another():
    args = parse_args(["--model", "sgd", "--dataset", "aqa7-mini", "--backbone", "mlp"])
    assert (args.width, args.sources["width"]) == (100, "default")
    assert parse_args(["--model", "sgd", "--dataset", "aqa7-mini"]).width == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [("--custom_task_order 3 1 2", "joined by commas"), ("--task_order 3 1 2", "--custom_task_order")],
)
def test_an_order_spelt_with_blanks_is_told_how_it_is_spelt(words, said):
    with pytest.raises(UsageError, match=said):
        parse_args(["--model", "sgd", "--dataset", "uiprmd", *words.split()])


def test_one_order_of_tasks_is_asked_for_and_a_custom_one_replaces_that_of_a_file(tmp_path):
    line = ["--model", "sgd", "--dataset", "uiprmd", "--custom_task_order", "3,1,2,4,5"]
    with pytest.raises(UsageError, match="not allowed with argument"):
        parse_args([*line, "--task_order", "random"])
    path = tmp_path / "mine.yaml"
    path.write_text("task_order: random\n")
    assert parse_args([*line, "--config", str(path)]).custom_task_order == [3, 1, 2, 4, 5]


def test_single_value_in_a_file_serves_an_option_that_takes_several(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lr_milestones: 3\ncustom_task_order: [3, 1, 2]\n")
    args = parse_args(["--model", "sgd", "--dataset", "uiprmd", "--config", str(path)])
    assert (args.lr_milestones, args.custom_task_order) == ([3], [3, 1, 2])


@pytest.mark.parametrize("model", MODELS)
def test_namespace_made_by_hand_is_enough_to_build_and_train(model):
    from backbone import get_backbone
    from datasets import get_dataset
    from models import get_model
    from models.utils import load_model_config

    scores = "grade-il" in get_model_class(model).COMPATIBILITY
    reads_texts = hasattr(get_model_class(model), "choose_class")
    stream, backbone = ("uiprmd", "temporal") if scores else ("seq-digits", "clip-tiny" if reads_texts else "mlp")
    args = Namespace(model=model, dataset=stream, backbone=backbone, lr=0.01, batch_size=8, buffer_size=4)
    dataset = get_dataset(args)
    method = get_model(args, get_backbone(args), dataset.get_loss(), dataset.get_transform(), dataset)
    loader, _ = dataset.get_data_loaders()
    assert method.observe(*next(iter(loader))) > 0
    n_epochs = load_model_config(args).get("n_epochs", {"uiprmd": 30, "seq-digits": 10}[stream])
    assert (dataset.get_backbone(), dataset.get_batch_size(), dataset.get_epochs()) == (backbone, 8, n_epochs)


def test_a_switch_stands_alone_or_with_its_value(capsys):
    line = "--model magr --dataset aqa7-mini --buffer_size 10"
    args = parse_args([*line.split(), "--online", "--use_difficulty", "--fewshot", "--seed", "3"])
    assert (args.online, args.use_difficulty, args.fewshot, args.seed) == (True, True, True, 3)
    assert args.sources["online"] == "command line"
    assert not parse_args([*line.split(), "--online", "no", "--fewshot", "False"]).online
    assert main([*line.split(), "--online", "perhaps"]) == 2
    assert "--online" in capsys.readouterr().err


def test_hyphens_and_underscores_are_the_same_in_names_and_flags():
    args = parse_args(["--model", "sgd", "--dataset", "seq_digits", "--batch-size", "4"])
    assert (args.dataset, args.batch_size) == ("seq-digits", 4)


def test_resume_refuses_another_configuration_a_missing_and_a_finished_run(launch, tmp_path, capsys):
    run = launch("--model sgd --dataset uiprmd --n_tasks 2 --n_epochs 1")
    assert main(["--resume", str(run.path), "--lr", "3"]) == 2
    assert "--lr" in capsys.readouterr().err
    assert main(["--resume", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["--resume", str(run.path)]) == 2
    assert "ended" in capsys.readouterr().err


def test_gpu_that_is_not_there_is_refused(launch, capsys):
    import torch

    absent = torch.cuda.device_count()
    assert launch(f"--model sgd --dataset uiprmd --gpus {absent}").code == 2
    assert f"cuda:{absent}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a/b", "a:b", "a#b", "", "x" * 129])
def test_project_name_that_wandb_would_refuse_is_refused_before_the_run(name):
    with pytest.raises(UsageError, match="wandb"):
        parse_args(["--model", "sgd", "--dataset", "uiprmd", "--wandb_project", name])


@pytest.mark.parametrize(("value", "mode"), [("disabled", "disabled"), ("online", "online"), ("dryrun", "offline")])
def test_mode_of_wandb_may_come_from_its_environment_variable(monkeypatch, value, mode):
    monkeypatch.setenv("WANDB_MODE", value)
    assert parse_args(["--model", "sgd", "--dataset", "uiprmd"]).wandb_mode == mode
    assert parse_args(["--model", "sgd", "--dataset", "uiprmd", "--wandb_mode", "offline"]).wandb_mode == "offline"
