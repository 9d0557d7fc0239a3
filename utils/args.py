"""The command line and the configuration files: one resolved set of values, each knowing where it came from.

Layers, each overriding the one before: defaults of the parser, configs/datasets/<dataset>.yaml, what a plugin sets for
options that are not its own, configs/models/<model>.yaml (its `default` block, then with `--model_config` the best
values for this stream or a preset of the method), the file of `--config`, the command line. Only the chosen method,
stream and backbone are imported.
"""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.config import MEMORY_SIZES, config_layer, for_backbone, merge, read_yaml
from utils.errors import DataError, UsageError
from utils.option_types import duration as duration
from utils.option_types import from_zero as from_zero
from utils.option_types import int_list as int_list
from utils.option_types import interval as interval
from utils.option_types import not_negative as not_negative
from utils.option_types import plugin_file
from utils.option_types import positive as positive
from utils.option_types import positive_number as positive_number
from utils.option_types import share as share
from utils.option_types import true_or_false as true_or_false
from utils.options import add_buffer_args as add_buffer_args
from utils.options import add_experiment_args as add_experiment_args
from utils.options import add_management_args as add_management_args
from utils.options import add_offer_args as add_offer_args
from utils.options import add_rehearsal_args as add_rehearsal_args
from utils.options import framework_parser as framework_parser
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
EXIT_CODES = (
    "exit codes: 0 the run ended; 1 a bug; 2 wrong usage; 3 missing or broken data; 4 loss or outputs not finite; "
    "5 results or checkpoint cannot be written or read; 130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1 (a checkpoint was "
    "written: continue with --resume)"
)


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
