"""Groups of options that methods and streams share, and the parser of all that do not depend on what is chosen."""

from __future__ import annotations

import argparse
import os
from argparse import ArgumentParser
from argparse import _ArgumentGroup as ArgumentGroup

from utils.option_types import (
    duration,
    from_zero,
    int_list,
    not_negative,
    order_name,
    percentage,
    plugin_file,
    positive,
    positive_number,
    seed_number,
    share,
    share_of_some,
    true_or_false,
    wandb_project,
)

WANDB_MODES = ["online", "offline", "disabled"]


def add_experiment_args(parser: ArgumentParser) -> None:
    """What is learnt, by what, and how: every method and stream shares these."""
    group = parser.add_argument_group("experiment")
    group.add_argument("--model", help="method; see the list below")
    group.add_argument("--dataset", help="stream; see the list below")
    group.add_argument("--backbone", help="network; see the list below (default: the stream's)")
    group.add_argument("--backbone_weights", help="checkpoint to load into the backbone before the first task")
    _add_optimiser_args(group)
    _add_fitting_args(group)
    _add_task_args(group)
    group.add_argument("--eval_epochs", type=positive, help="also evaluate every N epochs within a task")
    group.add_argument("--seed", type=seed_number, default=0, help="of every random number in the run")
    group.add_argument(
        "--model_config",
        default="default",
        help="values from configs/models: the default block, best for this stream, or a preset of the method by name",
    )
    group.add_argument("--config", help="YAML file of values, e.g. the config.yaml of an earlier run")
    group.add_argument(
        "--plugin",
        type=plugin_file,
        nargs="+",
        action="extend",
        default=[],
        help="Python files that define methods, streams or backbones, of this project's form or of Mammoth's",
    )


def _add_optimiser_args(group: ArgumentGroup) -> None:
    """How a step is taken, and its size over the epochs of a task."""
    group.add_argument("--lr", type=positive_number, help="learning rate")
    group.add_argument("--optimizer", choices=["sgd", "adam", "adamw"], default="sgd")
    group.add_argument("--optim_wd", type=from_zero, default=0.0, help="weight decay")
    group.add_argument("--base_optim_wd", type=from_zero, help="weight decay in the first task (default: optim_wd)")
    group.add_argument("--optim_mom", type=float, default=0.0, help="momentum of sgd")
    group.add_argument("--optim_nesterov", type=true_or_false, default=False, help="Nesterov momentum of sgd")
    group.add_argument("--clip_grad", type=positive_number, help="largest gradient norm (default: no limit)")
    group.add_argument("--lr_scheduler", choices=["cosine", "multistep"], help="learning rate over each task's epochs")
    group.add_argument(
        "--lr_milestones", type=int, nargs="+", default=[], help="epochs at which multistep lowers the rate"
    )
    group.add_argument(
        "--base_lr_milestones", type=int, nargs="+", help="those of the first task (default: lr_milestones)"
    )
    group.add_argument("--lr_gamma", type=float, default=0.1, help="factor by which multistep lowers the rate")
    group.add_argument(
        "--lr_warmup", type=not_negative, default=0, help="first epochs of each task, over which the rate rises evenly"
    )
    group.add_argument(
        "--backbone_lr_scale",
        type=float,
        default=1.0,
        help="learning rate of the features after the first task, times lr",
    )
    group.add_argument(
        "--freeze_bn",
        type=true_or_false,
        default=False,
        help="do not update batch-norm statistics; scale and shift learn",
    )


def _add_fitting_args(group: ArgumentGroup) -> None:
    """How long a task lasts."""
    group.add_argument("--batch_size", type=positive, help="samples a step from the stream")
    group.add_argument(
        "--fitting_mode",
        choices=["epochs", "iters", "time", "early_stopping"],
        default="epochs",
        help="what ends a task: n_epochs, n_iters, fitting_time, or that validation gets no better (needs "
        "--validation; figures are then of the test data)",
    )
    group.add_argument("--n_epochs", type=not_negative, help="epochs of every task; with early_stopping, at most")
    group.add_argument("--n_iters", type=positive, help="iters: batches of every task")
    group.add_argument(
        "--fitting_time", type=duration, help="time: of every task, e.g. 90s, 15m, 2h (seconds without a unit)"
    )
    group.add_argument(
        "--early_stopping_patience", type=positive, default=5, help="evaluations without improvement that end a task"
    )
    group.add_argument(
        "--early_stopping_metric",
        choices=["loss", "accuracy", "srcc"],
        default="loss",
        help="what is to improve on validation: the stream's loss, class-IL accuracy (classes), SRCC (scores)",
    )
    group.add_argument(
        "--early_stopping_epsilon",
        type=float,
        default=1e-6,
        help="improvements up to this are none (accuracy and SRCC are in percent)",
    )
    group.add_argument("--early_stopping_freq", type=positive, default=1, help="epochs between evaluations")
    group.add_argument("--base_epochs", type=not_negative, help="epochs of the first task (default: n_epochs)")
    group.add_argument("--online", type=true_or_false, default=False, help="one epoch a task, the first included")


def _add_task_args(group: ArgumentGroup) -> None:
    """What the tasks are, what is held out of them, and which labels are wrong or missing."""
    group.add_argument("--n_tasks", type=positive, help="number of tasks; with a base session, of grades after it")
    order = group.add_mutually_exclusive_group()
    names = ["ascending", "descending", "random"]
    order.add_argument("--task_order", type=order_name, choices=names, default="ascending")
    order.add_argument("--custom_task_order", type=int_list, help="in place of --task_order; from 1, e.g. 3,1,2")
    group.add_argument("--joint", type=true_or_false, default=False, help="train on all tasks at once (upper bound)")
    group.add_argument(
        "--validation",
        type=percentage,
        help="percent of each task's training data to hold out and evaluate on instead of test, or to stop early by",
    )
    group.add_argument(
        "--validation_mode",
        choices=["current", "complete"],
        default="current",
        help="early stopping goes by the held-out samples of the current task, or of all tasks so far",
    )
    group.add_argument(
        "--label_noise",
        "--noise_type",
        choices=["symmetric", "asymmetric"],
        help="how training labels are wrong: any other class, or the one it is mistaken for (default: symmetric)",
    )
    group.add_argument("--noise_rate", type=share, help="share of the training labels that are wrong (default: none)")
    group.add_argument(
        "--label_perc",
        type=share_of_some,
        default=1.0,
        help="share of each task's training samples with a label; methods that need labels get no others",
    )
    group.add_argument(
        "--label_perc_by_class", type=share_of_some, default=1.0, help="the same, as a share of every class of a task"
    )


def add_management_args(parser: ArgumentParser) -> None:
    """Where things are, what is kept, how a run is executed."""
    group = parser.add_argument_group("data")
    group.add_argument("--base_path", default="data", help="folder of data sets and results")
    group.add_argument("--data_root", help="folder of this data set (default: the stream's name under base_path)")
    group.add_argument(
        "--data_source",
        choices=["auto", "full", "mini"],
        default="auto",
        help="auto: a stand-in where the real data is absent and one exists; full: refuse it; mini: ask for it",
    )
    group.add_argument(
        "--skip_corrupt", type=true_or_false, default=False, help="leave out and count unreadable samples"
    )
    group.add_argument(
        "--features", help="folder of features that scripts/extract_features.py wrote, to learn from instead of videos"
    )
    group.add_argument("--num_workers", type=not_negative, default=0, help="processes that read ahead")
    group = parser.add_argument_group("run")
    group.add_argument("--device", help="cpu, cuda, cuda:1 (default: first of --gpus)")
    group.add_argument("--gpus", type=int, nargs="*", default=[], help="GPUs, e.g. 0; none: CPU; a run uses the first")
    group.add_argument("--results_path", default="results", help="folder of Mammoth's logs.pyd, below base_path")
    group.add_argument(
        "--run_dir", help="folder of this run (default: base_path/runs/<dataset>/<model>/<time>-seed<seed>)"
    )
    group.add_argument("--resume", metavar="RUN_DIR", help="continue a run that was stopped")
    group.add_argument("--checkpoint_path", help="folder for the files of --savecheck (default: RUN_DIR/checkpoints)")
    group.add_argument(
        "--checkpoint_every",
        type=float,
        default=60.0,
        help="seconds between checkpoints for --resume; 0: after every batch",
    )
    group.add_argument("--savecheck", choices=["last", "task"], help="keep the weights of the end, or of every task")
    group.add_argument("--loadcheck", help="start from the weights of a file that --savecheck kept")
    group.add_argument("--start_from", type=not_negative, default=0, help="do not train on the first N tasks")
    group.add_argument("--stop_after", type=positive, help="stop after N tasks")
    group.add_argument(
        "--debug_mode", type=true_or_false, default=False, help="five batches an epoch, one epoch a task"
    )
    group.add_argument("--non_verbose", type=true_or_false, default=False, help="no progress bar")
    group = parser.add_argument_group("wandb")
    group.add_argument("--wandb_project", type=wandb_project, help="log to this wandb project (default: no wandb)")
    group.add_argument("--wandb_entity", help="user or team that the project belongs to (default: the key's)")
    group.add_argument("--wandb_name", help="name of the run in wandb (default: that of the run's folder)")
    group.add_argument(
        "--wandb_mode",
        choices=WANDB_MODES,
        default=os.environ.get("WANDB_MODE") if os.environ.get("WANDB_MODE") in WANDB_MODES else "offline",
        help="offline: into the run's folder, for scripts/wandb_sync.py; online goes offline without a key or a server",
    )
    group.add_argument("--nowand", type=true_or_false, default=False, help="no wandb whatever else is given")
    group.add_argument(
        "--tensorboard", type=true_or_false, default=False, help="log to RUN_DIR/tensorboard, for TensorBoard"
    )


def add_buffer_args(parser: ArgumentParser, with_exemplars: bool = False) -> None:
    """For methods with a memory.

    Args:
        with_exemplars: whether the size may also be given as a number for every class.
    """
    group = parser.add_argument_group("replay")
    group.add_argument(
        "--buffer_size", type=not_negative, required=not with_exemplars, help="size of the buffer, in samples"
    )
    if with_exemplars:
        group.add_argument(
            "--exemplars_per_class",
            type=positive,
            help="in place of --buffer_size: samples kept of every class, so that the memory grows with the classes",
        )
    group.add_argument(
        "--buffer_scope",
        choices=["total", "session"],
        default="total",
        help="buffer_size is the whole buffer, or what each session but the last may keep (score streams: session)",
    )


def add_rehearsal_args(parser: ArgumentParser) -> None:
    """For methods that draw from a memory at every step."""
    add_buffer_args(parser)
    parser.add_argument("--minibatch_size", type=positive, help="replayed samples a step (default: batch_size)")
    group = parser.add_argument_group("replay of features")
    group.add_argument(
        "--replay",
        choices=["images", "features"],
        default="images",
        help="features: store what leaves the frozen part of the network (clip-*), compressed, and no image; then new "
        "samples are not augmented either",
    )
    group.add_argument(
        "--components",
        type=not_negative,
        default=5,
        help="features: principal components of every sample's tokens; 0 stores the tokens as they are",
    )
    group.add_argument("--bits", type=int, choices=[8, 16, 32], default=8, help="features: bits of every stored number")


def add_offer_args(parser: ArgumentParser) -> None:
    """For methods whose memory can do with the samples of one epoch, where Mammoth's takes those of every one."""
    parser.add_argument(
        "--offer_epochs",
        choices=["first", "every"],
        default="first",
        help="epochs of a task in which its samples are offered to the memory: the first, so that each has one chance, "
        "or every one as in Mammoth (streams of classes: every)",
    )


def framework_parser() -> ArgumentParser:
    """All options that do not depend on the choice of method, stream or backbone."""
    parser = ArgumentParser(
        prog="main.py",
        description="Continual learning: one loop for classification and quality assessment.",
        allow_abbrev=False,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-h", "--help", action="store_true", help="this text; with --model or --dataset their options too"
    )
    add_experiment_args(parser)
    add_management_args(parser)
    return parser
