"""The command line and the configuration files: one resolved set of values, each knowing where it came from.

Layers, each overriding the one before: defaults of the parser, configs/datasets/<dataset>.yaml, what a plugin sets for
options that are not its own, configs/models/<model>.yaml (its `default` block, then with `--model_config` the best
values for this stream or a preset of the method), the file of `--config`, the command line. Only the chosen method,
stream and backbone are imported.
"""

from __future__ import annotations

import argparse
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.config import MEMORY_SIZES, config_layer, for_backbone, merge, read_yaml
from utils.errors import DataError, UsageError
from utils.plugins import activate
from utils.registry import Registry, nearest, normalise, unknown_name_message

# Values that say how or where a run is executed, not what it computes: a resumed run may change them.
OPERATIONAL = (
    "resume",
    "num_workers",
    "non_verbose",
    "nowand",
    "wandb_project",
    "wandb_entity",
    "wandb_name",
    "wandb_mode",
    "checkpoint_every",
    "checkpoint_path",
    "device",
    "gpus",
    "stop_after",
    "data_root",
    "base_path",
    "results_path",
    "tensorboard",
    "clip_cache",
)
# Ways to go on though data cannot be read: a resumed run may turn them on, and keeps them. What is computed may change.
TURNED_ON = ("skip_corrupt", "load_truncated")
# What two runs may differ in and still be repetitions of one experiment, the seed apart.
WITHOUT_EFFECT = (*OPERATIONAL, "run_dir", "savecheck", "eval_epochs", "model_config", "config")
WANDB_MODES = ["online", "offline", "disabled"]
EXIT_CODES = (
    "exit codes: 0 the run ended; 1 a bug; 2 wrong usage; 3 missing or broken data; 4 loss or outputs not finite; "
    "5 results or checkpoint cannot be written or read; 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1 (a checkpoint was "
    "written: continue with --resume)"
)


# Types of options


def true_or_false(text: str | bool | int) -> bool:
    """True for true, yes, 1, on; False for false, no, 0, off; in any case."""
    value = str(text).strip().lower()
    if value in ("true", "yes", "1", "on", "t", "y"):
        return True
    if value in ("false", "no", "0", "off", "f", "n"):
        return False
    raise argparse.ArgumentTypeError(f"'{text}' is neither True nor False")


def int_list(text: str | Sequence[int]) -> list[int]:
    """Whole numbers separated by commas or spaces."""
    parts = text.replace(",", " ").split() if isinstance(text, str) else text
    try:
        return [int(part) for part in parts]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of whole numbers such as 3,1,2") from error


def _order_name(text: str) -> str:
    if text[:1].isdigit():
        raise argparse.ArgumentTypeError(f"'{text}': an order of your own is given as --custom_task_order 3,1,2")
    return text


def _whole(text: str | int) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number") from error


def _number(text: str | float) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no number") from error


def positive(text: str | int) -> int:
    """A whole number of at least 1."""
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def not_negative(text: str | int) -> int:
    """A whole number of at least 0."""
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def positive_number(text: str | float) -> float:
    """A number above 0."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value:g} is not above 0")
    return value


def from_zero(text: str | float) -> float:
    """A number of at least 0."""
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value:g} is not a number of at least 0")
    return value


def seed_number(text: str | int) -> int:
    """A whole number that every generator takes as a seed: 0 to 2**63 - 1."""
    value = _whole(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 2**63 - 1")
    return value


def percentage(text: str | float) -> float:
    """A number between 0 and 100, both excluded."""
    value = _number(text)
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"{value:g} is not between 0 and 100")
    return value


def share(text: str | float) -> float:
    """A number between 0 and 1, both included."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value:g} is not between 0 and 1")
    return value


def share_of_some(text: str | float) -> float:
    """A number above 0 and up to 1."""
    value = share(text)
    if not value:
        raise argparse.ArgumentTypeError("0 would leave nothing; take a number above 0 and up to 1")
    return value


def duration(text: str | float) -> float:
    """Seconds: a number, or a number with s, m, h behind it for seconds, minutes, hours."""
    number = str(text).strip().lower()
    unit = {"s": 1, "m": 60, "h": 3600}.get(number[-1:])
    try:
        value = float(number[:-1]) * unit if unit else float(number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no duration such as 90, 90s, 15m or 2h") from error
    return positive_number(value)


def interval(text: str | Sequence[float]) -> list[float]:
    """Two numbers separated by a comma or a space, the lower first."""
    parts = text.replace(",", " ").split() if isinstance(text, str) else text
    try:
        low, high = map(float, parts)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not two numbers such as 0,100") from error
    if not float("-inf") < low < high < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}': the first number must be below the second, and both finite")
    return [low, high]


def plugin_file(text: str) -> str:
    """The absolute path of a Python file."""
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    return str(path)


def wandb_project(text: str) -> str:
    """A name that wandb takes for a project."""
    if not text or len(text) > 128 or set(text) & set("/\\#?%:"):
        raise argparse.ArgumentTypeError(f"'{text}': wandb takes up to 128 characters, none of them / \\ # ? % :")
    return text


# Groups of options


def add_experiment_args(parser: ArgumentParser) -> None:
    """What is learnt, by what, and how: every method and stream shares these."""
    group = parser.add_argument_group("experiment")
    group.add_argument("--model", help="method; see the list below")
    group.add_argument("--dataset", help="stream; see the list below")
    group.add_argument("--backbone", help="network; see the list below (default: the stream's)")
    group.add_argument("--backbone_weights", help="checkpoint to load into the backbone before the first task")
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
    group.add_argument("--n_tasks", type=positive, help="number of tasks; with a base session, of grades after it")
    order = group.add_mutually_exclusive_group()
    names = ["ascending", "descending", "random"]
    order.add_argument("--task_order", type=_order_name, choices=names, default="ascending")
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


# Resolving


def parse_args(argv: Sequence[str] | None = None, data_is_here: bool = True) -> Namespace:
    """Resolve the configuration of a run.

    Args:
        argv: the command line, without the program (default: sys.argv).
        data_is_here: False to resolve what another machine will run; absent data is then no error.

    Returns:
        Namespace of all values, with `sources`: a dict from each name to the layer its value came from. Prints the help
        and exits if asked for.

    Raises:
        UsageError: unknown flag, name or key, or a value of the wrong kind; the nearest valid names are given.
        DataError: `--data_source full`, and a stand-in is all there is.
    """
    argv = [_spelt_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
    parser = framework_parser()
    first, _ = _parse_known(parser, argv)
    resumed = None
    if getattr(first, "resume", None):
        resumed = Path(first.resume) / "config.yaml"
        if hasattr(first, "config"):
            raise UsageError("--resume takes the configuration of the run; leave out --config")
    config = read_yaml(resumed or Path(first.config)) if resumed or hasattr(first, "config") else {}
    chosen = {**{k: v for k, v in config.items() if k in ("model", "dataset", "backbone")}, **vars(first)}
    activate(
        first.plugin if hasattr(first, "plugin") else _plugins_of(config, resumed or first.config if config else "")
    )
    if "help" in chosen and not ("model" in chosen or "dataset" in chosen):
        print(_help_text(parser))
        raise SystemExit(0)
    for what in ("model", "dataset"):
        if what not in chosen and "help" not in chosen:
            raise UsageError(f"--{what} is required; known: {', '.join(_registry(what).names())}")
        if what in chosen and normalise(str(chosen[what])) not in _registry(what).names():
            raise UsageError(unknown_name_message(what, str(chosen[what]), _registry(what).names()))
    return _resolve(parser, argv, config, chosen, resumed, data_is_here)


def complete(args: Namespace) -> None:
    """Give a namespace made by hand what it lacks: the values that parse_args would give for its model and dataset.

    What it has stays, except None where there is a default. A namespace from parse_args is complete already.
    """
    activate(getattr(args, "plugin", None) or [])
    if hasattr(args, "sources"):
        return
    chosen = {name: value for name in ("model", "dataset", "backbone") if (value := getattr(args, name, None))}
    if "dataset" in chosen:
        from datasets import get_dataset_class

        args.dataset = chosen["dataset"] = get_dataset_class(chosen["dataset"]).resolve_name(vars(args))
    parser = framework_parser()
    model_config = getattr(args, "model_config", "default")
    layers = _layers(parser, chosen, model_config, getattr(args, "buffer_size", None), ("", {}))
    options = {action.dest for action in parser._actions}
    sizes = {
        name: value for name in MEMORY_SIZES if name in options and (value := getattr(args, name, None)) is not None
    }
    values = vars(merge(parser, layers, Namespace(**sizes), chosen))
    for name in values.keys() - {"sources"}:
        if getattr(args, name, None) is None:
            setattr(args, name, values[name])


def _resolve(
    parser: ArgumentParser,
    argv: Sequence[str],
    config: dict[str, Any],
    chosen: dict[str, Any],
    resumed: Path | None,
    data_is_here: bool,
) -> Namespace:
    if "dataset" in chosen and "help" not in chosen:
        from datasets import get_dataset_class

        asked = normalise(str(chosen["dataset"]))
        try:
            chosen["dataset"] = normalise(get_dataset_class(asked).resolve_name({**config, **chosen}))
        except DataError:
            if data_is_here:
                raise
            chosen["dataset"] = asked
    # A resumed run goes on to the end unless it is told again where to stop.
    left_out = {"dataset", "config", "resume", *(["stop_after"] if resumed else [])}
    own = {key: value for key, value in config.items() if key not in left_out}
    model_config = chosen.get("model_config", config.get("model_config", "default"))
    last = (str(resumed or chosen.get("config", "")), own)
    layers = _layers(parser, chosen, model_config, _peek(argv, config, "buffer_size"), last)
    if "help" in chosen:
        print(_help_text(parser))
        raise SystemExit(0)
    explicit = _parse_all(parser, argv)
    if resumed:
        changed = sorted(
            name
            for name, value in vars(explicit).items()
            if name not in OPERATIONAL and not (name in TURNED_ON and (value or not config.get(name)))
        )
        if changed:
            raise UsageError(
                f"--{', --'.join(changed)}: a resumed run keeps its configuration; only {', '.join(OPERATIONAL[1:])} "
                f"may be given, and {', '.join(TURNED_ON)} be turned on"
            )
    args = merge(parser, layers, explicit, chosen)
    if args.data_source == "auto":
        # What was found, so that repeating the run elsewhere never takes something else instead.
        args.data_source = "mini" if get_dataset_class(chosen["dataset"]).IS_STAND_IN else "full"
        args.sources["data_source"] = "what was found"
    if chosen["dataset"] != asked:
        args.sources["dataset"] = "stand-in for absent data"
    elif "dataset" in config and not hasattr(explicit, "dataset"):
        args.sources["dataset"] = last[0]
    needed = [action.dest for action in parser._actions if getattr(action, "needed", False)]
    missing = [
        f"--{name}" for name in (*needed, "backbone", "lr", "batch_size", "n_epochs") if getattr(args, name) is None
    ]
    if hasattr(args, "exemplars_per_class") and args.buffer_size is None and args.exemplars_per_class is None:
        missing.insert(0, "--buffer_size or --exemplars_per_class")
    if missing:
        raise UsageError(f"{args.model} on {args.dataset} needs {', '.join(missing)}")
    get_dataset_class(chosen["dataset"]).check_options(args)
    return args


def _layers(
    parser: ArgumentParser,
    chosen: dict[str, Any],
    model_config: str,
    buffer_size: int | None,
    last: tuple[str, dict[str, Any]],
) -> list[tuple[str, dict[str, Any]]]:
    """Add the options of what is chosen to the parser; returns the layers of values, from the weakest to `last`."""
    layers: list[tuple[str, dict[str, Any]]] = []
    # What a stream or a plugin wants for options that there may not be, cut below to those that there are.
    wished = {"plugin"}
    if "dataset" in chosen:
        from datasets import get_dataset_class

        stream = get_dataset_class(str(chosen["dataset"]))
        stream.get_parser(parser)
        name = normalise(str(chosen["dataset"]))
        layers = [(f"{name} stream", stream.option_defaults()), config_layer(Path("configs/datasets") / f"{name}.yaml")]
        wished.add(f"{name} stream")
        if chosen.get("features") or last[1].get("features"):
            # They are in memory: processes that read ahead would only copy them.
            layers.append(("features", {"backbone": "clip-features", "num_workers": 0}))
    if "model" in chosen:
        from models import REGISTRY, add_model_options
        from models.utils import load_model_config

        chosen["model"] = normalise(str(chosen["model"]))
        layers.append(("plugin", add_model_options(chosen["model"], parser)))
        choice = Namespace(model=chosen["model"], dataset=chosen.get("dataset"), model_config=model_config)
        if chosen["model"] not in REGISTRY.plugin_of():
            layers.append((f"configs/models/{chosen['model']}.yaml", load_model_config(choice, buffer_size)))
        elif model_config not in ("default", "base"):
            raise UsageError(
                f"--model_config {model_config}: {chosen['model']} is a plugin's and has no file of values"
            )
    layers.append(last)
    names = [chosen.get("backbone"), *(content.get("backbone") for _, content in reversed(layers))]
    backbone = next((normalise(str(name)) for name in names if name), None)
    if backbone:
        from backbone import get_backbone_parser

        get_backbone_parser(backbone, parser)
    known = {*(action.dest for action in parser._actions), *(flag[2:] for flag in parser._option_string_actions)}
    layers = [
        (layer, {name: value for name, value in content.items() if layer not in wished or name in known})
        for layer, content in layers
    ]
    return [(layer, for_backbone(content, backbone)) for layer, content in layers]


def _plugins_of(config: dict[str, Any], place: str | Path) -> list[str]:
    """The plugins that a file of values names."""
    named = config.get("plugin") or []
    try:
        return [plugin_file(str(path)) for path in (named if isinstance(named, list) else [named])]
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{place}: plugin: {error}") from error


def _parse_known(parser: ArgumentParser, argv: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Only what is given: defaults are left out, required options are checked later, over all layers."""
    saved = []
    _let_switches_stand_alone(parser)
    for action in parser._actions:
        saved.append((action, action.default))
        if action.required:
            action.needed = True  # type: ignore[attr-defined]
            action.required = False
        action.default = argparse.SUPPRESS
    parser.error = _raise_usage  # type: ignore[assignment,method-assign]
    try:
        return parser.parse_known_args(list(argv))
    finally:
        for action, default in saved:
            action.default = default


def _let_switches_stand_alone(parser: ArgumentParser) -> None:
    """`--online` is `--online True`."""
    for action in parser._actions:
        if action.type is true_or_false and action.nargs is None:
            action.nargs, action.const = "?", True


def _parse_all(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    explicit, unknown = _parse_known(parser, argv)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        first = next((word for word in unknown if word.startswith("-")), unknown[0])
        close = nearest(first.split("=")[0], flags)
        hint = f"did you mean {', '.join(close)}?" if close else "see --help for the options"
        if first.isdigit():
            hint = "numbers of a list are joined by commas, e.g. 3,1,2"
        raise UsageError(f"unknown option {first} for this model, dataset and backbone; {hint}")
    return explicit


def _raise_usage(message: str) -> None:
    raise UsageError(message)


def _spelt_with_underscores(word: str) -> str:
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + equals + value


def _peek(argv: Sequence[str], config: dict[str, Any], name: str) -> int | None:
    """The buffer size decides which best values apply, before the options of the method are known."""
    probe = ArgumentParser(add_help=False, allow_abbrev=False)
    probe.add_argument(f"--{name}", type=not_negative, default=config.get(name))
    probe.error = _raise_usage  # type: ignore[assignment,method-assign]
    return getattr(probe.parse_known_args(list(argv))[0], name)


def _registry(what: str) -> Registry:
    """The package's own registry once it is imported, which knows what others registered; else that of its files."""
    package = {"model": "models", "dataset": "datasets", "backbone": "backbone"}[what]
    return sys.modules[package].REGISTRY if package in sys.modules else Registry(package, what)


def _help_text(parser: ArgumentParser) -> str:
    lists = [
        f"{title}: {', '.join(_registry(what).names())}"
        for title, what in (("models", "model"), ("datasets", "dataset"), ("backbones", "backbone"))
    ]
    _let_switches_stand_alone(parser)
    parser.epilog = "\n".join([*lists, "", EXIT_CODES])
    return parser.format_help()
