"""What streams written for Mammoth call to hand over their data, and to say what options are by default."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np


def store_masked_loaders(train_dataset: Any, test_dataset: Any, setting: Any) -> tuple[Any, Any]:
    """Hand over the data sets of a stream, whole: the tasks are cut from them, and loaders made, by `MammothStream`.

    Args:
        train_dataset, test_dataset: with `data`, `targets` and `transform`, as torchvision's have them.
        setting: the stream.

    Returns:
        The two data sets.
    """
    setting.whole_data = (train_dataset, test_dataset)
    return train_dataset, test_dataset


def fix_class_names_order(class_names: list[str], args: Any) -> list[str]:
    """The names as they are: the stream that is made of a written one brings them into the order of arrival itself."""
    return list(class_names)


def set_default_from_args(arg_name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a stream's method that gives the default of an option: where the run has a value, that is returned.

    The method may do without `self`.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        takes_self = bool(inspect.signature(method).parameters)

        @functools.wraps(method)
        def value(self: Any, *args: Any, **kwargs: Any) -> Any:
            given = getattr(self.args, arg_name, None)
            return method(*([self] if takes_self else []), *args, **kwargs) if given is None else given

        return value

    return decorate


class MammothDatasetWrapper:
    """A data set with fields beside inputs and labels, as `store_masked_loaders` of Mammoth 2025 makes one.

    Args:
        ds: with `data`, `targets` and samples by index.
        train: whether it is for training.
    """

    def __init__(self, ds: Any, train: bool = False) -> None:
        self.dataset, self.train = ds, train
        self.data, self.targets = ds.data, np.asarray(ds.targets)
        self.transform = getattr(ds, "transform", None)
        self.extra_return_fields: tuple[str, ...] = ()

    def add_extra_return_field(self, field_name: str, field_value: Any) -> None:
        """Return a further value with every sample."""
        setattr(self, field_name, field_value)
        self.extra_return_fields += (field_name,)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return *self.dataset[index], *(getattr(self, name)[index] for name in self.extra_return_fields)
