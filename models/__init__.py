"""Methods: what to do with a batch. `--model NAME` finds NAME in a file of this folder."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from utils.args import complete
from utils.errors import UsageError
from utils.registry import Registry

if TYPE_CHECKING:
    from backbone import ContinualBackbone
    from datasets.utils.continual_dataset import ContinualDataset
    from models.utils.continual_model import ContinualModel

REGISTRY = Registry("models", "model")


def register_model(name: str):  # type: ignore[no-untyped-def]
    """Class decorator that registers a method under a name of its own, for methods outside this folder."""

    def add(cls: type) -> type:
        REGISTRY.add(name, cls)
        return cls

    return add


def get_model_names() -> list[str]:
    """Names of all methods."""
    return REGISTRY.names()


def get_model_class(args: Namespace | str) -> type[ContinualModel]:
    """The method's class; raises UsageError with the nearest names if there is none."""
    return cast("type[ContinualModel]", REGISTRY.get(args if isinstance(args, str) else args.model))


def check_compatibility(model: str, setting: str, stream: str) -> None:
    """Refuse a method on a stream whose setting it does not declare.

    Raises:
        UsageError: names the methods that do fit.
    """
    if setting in get_model_class(model).COMPATIBILITY:
        return
    fitting = [name for name in get_model_names() if setting in get_model_class(name).COMPATIBILITY]
    raise UsageError(
        f"{model} does not work on {stream}, whose setting is {setting}: it is made for "
        f"{', '.join(get_model_class(model).COMPATIBILITY)}. Methods for {setting}: {', '.join(fitting) or 'none'}"
    )


def get_model(
    args: Namespace,
    backbone: ContinualBackbone,
    loss: Callable[..., Any],
    transform: Callable[..., Any] | None,
    dataset: ContinualDataset,
) -> ContinualModel:
    """Build the method `args.model` around a backbone, for a stream; fills in what `args` lacks.

    Raises:
        UsageError: unknown method, or one that does not fit the stream's setting.
    """
    complete(args)
    check_compatibility(args.model, dataset.SETTING, dataset.NAME)
    return get_model_class(args)(backbone, loss, args, transform, dataset=dataset)
