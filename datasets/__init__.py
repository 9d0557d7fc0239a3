"""Streams: what the tasks are and where samples live. `--dataset NAME` finds NAME in a file of this folder."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, cast

from utils.args import complete
from utils.paths import set_base_path
from utils.registry import Registry, imports_explained

if TYPE_CHECKING:
    from datasets.utils.continual_dataset import ContinualDataset

REGISTRY = Registry("datasets", "dataset")


def register_dataset(name: str):  # type: ignore[no-untyped-def]
    """Class decorator that registers a stream under a name of its own, for streams outside this folder."""

    def add(cls: type) -> type:
        REGISTRY.add(name, cls)
        return cls

    return add


def get_dataset_names() -> list[str]:
    """Names of all streams."""
    return REGISTRY.names()


get_all_datasets = get_dataset_names


def get_dataset_class(args: Namespace | str) -> type[ContinualDataset]:
    """The stream's class; raises UsageError with the nearest names if there is none.

    One that is written for Mammoth is taken over (datasets/utils/mammoth_stream.py).
    """
    cls = cast("type[ContinualDataset]", REGISTRY.get(args if isinstance(args, str) else args.dataset))
    from datasets.utils.mammoth_stream import taken_over

    return taken_over(cls)  # type: ignore[arg-type]


@imports_explained()
def get_dataset(args: Namespace) -> ContinualDataset:
    """Build the stream `args.dataset` without reading its data.

    What a namespace made by hand lacks is filled in (`utils.args.complete`). Sets `args.num_classes` and
    `args.input_shape`, which `backbone.get_backbone(args)` needs.
    """
    complete(args)
    set_base_path(getattr(args, "base_path", None) or "data")
    dataset = get_dataset_class(args)(args)
    args.num_classes = dataset.N_CLASSES
    args.input_shape = dataset.input_shape
    return dataset
