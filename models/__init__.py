"""Methods: what to do with a batch. `--model NAME` finds NAME in a file of this folder."""

from __future__ import annotations

import inspect
import platform
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from utils.args import complete
from utils.errors import UsageError
from utils.registry import Registry, imports_explained

if TYPE_CHECKING:
    from backbone import ContinualBackbone
    from datasets.utils.continual_dataset import ContinualDataset
    from models.utils.continual_model import ContinualModel

REGISTRY = Registry("models", "model")
# Options that every run of Mammoth has and ours have not, with the only value there is here.
MAMMOTH_OPTIONS = {
    **{"distributed": "no", "inference_only": 0, "code_optimization": 0, "ignore_other_metrics": 0},
    **{"enable_other_metrics": 0, "csv_log": 0, "disable_log": 0, "notes": None, "conf_jobnum": "0"},
    **{"drop_last": 0, "transform_type": "weak", "dataset_config": None, "ckpt_name": None},
    **{"conf_host": platform.node()},
}


def register_model(name: str):  # type: ignore[no-untyped-def]
    """Class decorator that registers a method under a name of its own, for methods outside this folder."""

    def add(cls: type) -> type:
        REGISTRY.add(name, cls)
        return cls

    return add


def get_model_names() -> list[str]:
    """Names of all methods."""
    return REGISTRY.names()


get_all_models = get_model_names


def get_model_class(args: Namespace | str) -> type[ContinualModel]:
    """The method's class; raises UsageError with the nearest names if there is none."""
    return cast("type[ContinualModel]", REGISTRY.get(args if isinstance(args, str) else args.model))


def get_model_parser(name: str, parser: ArgumentParser) -> ArgumentParser:
    """Add the options of a method."""
    add_model_options(name, parser)
    return parser


def add_model_options(name: str, parser: ArgumentParser) -> dict[str, Any]:
    """Add the options of a method.

    Besides `get_parser(parser)` the two older forms of Mammoth are taken: `get_parser()` of the class, or of its
    module, that makes and returns a parser of its own.

    Returns:
        What a method written for Mammoth wants by default for options that are not its own, such as lr. There may be
        options among them that the parser has not.
    """
    cls = get_model_class(name)
    given = cls.get_parser
    if given is _base_class().get_parser:
        given = getattr(sys.modules[cls.__module__], "get_parser", given)
    if not inspect.signature(given).parameters:
        return _take_over(parser, given())  # type: ignore[call-arg]
    if name in REGISTRY.plugin_of() or cls.is_mammoth_style():
        own = ArgumentParser(add_help=False)
        returned = given(own)
        return _take_over(parser, returned if isinstance(returned, ArgumentParser) else own)
    given(parser)
    return {}


def _take_over(parser: ArgumentParser, own: ArgumentParser) -> dict[str, Any]:
    """Add the options of another parser; returns its defaults for others, and for those that both have."""
    defaults = dict(own._defaults)
    titles = {id(action): group.title for group in own._action_groups for action in group._group_actions}
    groups = {group.title: group for group in parser._action_groups}
    for action in own._actions:
        known = [
            parser._option_string_actions[flag]
            for flag in action.option_strings
            if flag in parser._option_string_actions
        ]
        if "--help" in action.option_strings:
            continue
        if known:
            # Groups of options that every run has come with the defaults of the parser: those are nobody's wish.
            if action.default != known[0].default or action.dest in defaults:
                defaults[known[0].dest] = action.default
            continue
        title = titles[id(action)]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title]._add_action(action)
        defaults.pop(action.dest, None)
    defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    return {name: value for name, value in defaults.items() if value is not None}


def _base_class() -> type[ContinualModel]:
    from models.utils.continual_model import ContinualModel

    return ContinualModel


def check_compatibility(model: str, setting: str, stream: str) -> None:
    """Refuse a method on a stream whose setting it does not declare.

    A stream of class-il is one of task-il as well: its tasks have classes of their own.

    Raises:
        UsageError: names the methods that do fit.
    """
    enough = {setting, "task-il"} if setting == "class-il" else {setting}
    if enough & set(get_model_class(model).COMPATIBILITY):
        return
    fitting = [name for name in get_model_names() if enough & set(get_model_class(name).COMPATIBILITY)]
    raise UsageError(
        f"{model} does not work on {stream}, whose setting is {setting}: it is made for "
        f"{', '.join(get_model_class(model).COMPATIBILITY)}. Methods for {setting}: {', '.join(fitting) or 'none'}"
    )


@imports_explained()
def get_model(
    args: Namespace,
    backbone: ContinualBackbone,
    loss: Callable[..., Any],
    transform: Callable[..., Any] | None,
    dataset: ContinualDataset,
) -> ContinualModel:
    """Build the method `args.model` around a backbone, for a stream; fills in what `args` lacks.

    A constructor may leave `dataset` out, as older ones of Mammoth do, and take loaders from it to see what its samples
    are like: the stream is where it was afterwards.

    Raises:
        UsageError: unknown method, or one that does not fit the stream's setting or its held-out data sets.
    """
    from utils.conf import get_device

    complete(args)
    check_compatibility(args.model, dataset.SETTING, dataset.NAME)
    cls = get_model_class(args)
    if dataset.held_out and not hasattr(cls, "choose_class"):
        raise UsageError(
            f"--held_out: {args.model} has outputs for the classes of the stream only, and cannot be asked about other "
            "data sets; leave it out, or take an open-vocabulary method such as anytimecl or zero-shot"
        )
    if cls.is_mammoth_style():
        vars(args).update({name: value for name, value in MAMMOTH_OPTIONS.items() if not hasattr(args, name)})
        args.device = str(get_device(args))
        # Such methods ask this alone before they call wandb themselves.
        args.nowand = args.nowand or not args.wandb_project or args.wandb_mode == "disabled"
    model = cls.__new__(cls)
    # For constructors that cannot pass it on.
    vars(model)["dataset"] = dataset
    parameters = inspect.signature(cls.__init__).parameters
    takes_dataset = "dataset" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    before = dataset.current_task, dataset.train_loader
    cls.__init__(model, backbone, loss, args, transform, **({"dataset": dataset} if takes_dataset else {}))
    dataset.current_task, dataset.train_loader = before
    model.constructed(dataset)
    return model
