"""Streams written for Mammoth, whose `get_data_loaders` hands over data sets in the form of torchvision's."""

from __future__ import annotations

import functools
from argparse import Namespace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from datasets.utils.augment import ToFloat, Transform
from datasets.utils.class_dataset import ClassDataset
from datasets.utils.continual_dataset import ContinualDataset, Samples
from datasets.utils.mammoth_domains import MammothDomains
from datasets.utils.open_data import as_raw
from datasets.utils.sources import TensorSource
from datasets.utils.written_source import WrittenSource, is_array
from datasets.utils.written_stream import Written, overrides
from utils.augmentations import steps_of
from utils.conf import derive_seed
from utils.errors import DataError, UsageError

# What a stream of Mammoth decides by a method, and the option that has the last word here.
DEFAULTS = {
    "backbone": "get_backbone",
    "batch_size": "get_batch_size",
    "minibatch_size": "get_minibatch_size",
    "n_epochs": "get_epochs",
}
Stream = TypeVar("Stream", bound=ContinualDataset)


class MammothStream(Written, ClassDataset):
    """Takes the data sets of another stream whole, cuts the tasks from them, and leaves transforms to that stream.

    Transforms of torchvision go sample by sample, on images of Pillow, and draw from torch's global generator. Where
    the samples are no array, each is taken as its data set gives it, as by `MammothDomains`.
    """

    def __init__(self, args: Namespace) -> None:
        super().__init__(args)
        sizes = type(self).N_CLASSES_PER_TASK
        fits = isinstance(sizes, list | tuple) and len(sizes) == len(self.classes_per_task)
        if self.increment == "class" and fits:
            assert not isinstance(sizes, int)
            self.classes_per_task = list(sizes)
            self.N_CLASSES_PER_TASK = self.N_CLASSES if self._is_joint else list(sizes)
        seed = derive_seed(getattr(args, "seed", 0), "augment")
        self._transform = Transform([functools.partial(self._apply, "train")], seed)
        self._normalization = Transform([functools.partial(self._apply, "test")])
        self._transforms: dict[str, Any] = {}

    def load_samples(self) -> Samples:
        vars(self.written).update({"c_task": -1, "i": 0})
        loaders = [self.written.get_data_loaders()]
        whole = vars(self.written).get("whole_data")
        if whole is None:
            loaders += [self.written.get_data_loaders() for _ in range(type(self).N_TASKS - 1)]
        parts = [whole] if whole else [tuple(loader.dataset for loader in pair) for pair in loaders]
        if not all(is_array(getattr(part, "data", None)) for pair in parts for part in pair):
            train, test = self.sources_of(parts)
            return Samples(train, test, train.targets, test.targets, names=self.written_names)
        arrays, test_arrays = ([_arrays(pair[i], self.NAME) for pair in parts] for i in (0, 1))
        self._transforms = {"train": parts[0][0], "test": parts[0][1]}
        self._transforms = {name: getattr(data, "transform", None) for name, data in self._transforms.items()}
        return Samples(
            train=TensorSource(torch.cat([raw for raw, _ in arrays])),
            test=TensorSource(torch.cat([raw for raw, _ in test_arrays])),
            train_targets=np.concatenate([targets for _, targets in arrays]),
            test_targets=np.concatenate([targets for _, targets in test_arrays]),
            names=self.written_names,
        )

    def _apply(self, part: str, batch: Tensor, generator: torch.Generator) -> Tensor:
        samples = self.samples
        if isinstance(samples.train, WrittenSource):
            return self.by_method(
                "get_transform" if part == "train" else "get_normalization_transform", batch, generator
            )
        transform = self._transforms[part]
        if transform is None:
            return ToFloat()(batch)
        assert isinstance(samples.train, TensorSource)
        if samples.train.data.dtype == torch.uint8 and batch.is_floating_point():
            batch = (batch * 255).round().to(torch.uint8)
        done = [torch.as_tensor(transform(_in_its_form(sample, transform))) for sample in batch.cpu()]
        return torch.stack(done).to(batch.device)


def _in_its_form(sample: Tensor, transform: Any) -> Any:
    """A raw sample as a data set of torchvision hands it to its transform."""
    if sample.ndim != 3 or type(steps_of(transform)[0]).__name__ == "ToPILImage":
        return sample
    if sample.dtype != torch.uint8:
        return sample.permute(1, 2, 0).numpy()
    from torchvision.transforms.functional import to_pil_image

    return to_pil_image(sample)


def _arrays(data: Any, stream: str) -> tuple[Tensor, np.ndarray]:
    if not hasattr(data, "targets"):
        raise DataError(f"{stream}: a data set of type {type(data).__name__} has no targets, which tasks are cut by")
    try:
        return as_raw(data.data), np.asarray(data.targets, dtype=np.int64)
    except ValueError as error:
        raise DataError(f"{stream}: {error}") from error


@functools.cache
def taken_over(cls: type[Stream]) -> type[ContinualDataset]:
    """The stream itself, or if it is written for Mammoth a `MammothStream` or `MammothDomains` that stands for it.

    Raises:
        UsageError: it has no tasks.
    """
    if not overrides(cls, "get_data_loaders"):
        return cls
    setting, sizes = cls.SETTING, cls.N_CLASSES_PER_TASK
    if setting not in ("class-il", "task-il", "domain-il"):
        raise UsageError(
            f"{cls.NAME}: streams of Mammoth's form are taken over where they have tasks (class-il, task-il, "
            f"domain-il); for {setting} derive from a base class in datasets/utils"
        )
    if setting == "domain-il":
        base: type[Written] = MammothDomains
        n_classes = max(sizes) if isinstance(sizes, list | tuple) else sizes
    else:
        base = MammothStream
        n_classes = sum(sizes) if isinstance(sizes, list | tuple) else sizes * cls.N_TASKS
    own = {"written_class": cls, "N_CLASSES": getattr(cls, "N_CLASSES", n_classes), "OPTION_DEFAULTS": _defaults(cls)}
    same = {name: getattr(cls, name) for name in ("NAME", "SETTING", "N_TASKS", "N_CLASSES_PER_TASK")}
    return type(cls.__name__, (base,), {**own, **same, "__module__": cls.__module__, "__doc__": cls.__doc__})


def _defaults(cls: type[ContinualDataset]) -> dict[str, Any]:
    """Values of options that the stream decides by its methods."""
    stream = cls.__new__(cls)
    stream.args = Namespace(**dict.fromkeys(DEFAULTS))
    values = {option: getattr(stream, name)() for option, name in DEFAULTS.items() if overrides(cls, name)}
    if "backbone" in values and not isinstance(values["backbone"], str):
        values["backbone"] = _register_network(cls)
    return {option: value for option, value in values.items() if value is not None}


def _register_network(cls: Any) -> str:
    """Older streams build their network themselves: it becomes a backbone called after the stream."""
    from backbone import REGISTRY

    name = f"{cls.NAME}-network"
    REGISTRY.add(name, lambda: cls.__new__(cls).get_backbone())
    return name
