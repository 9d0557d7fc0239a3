"""A task's samples as arrays that a method may look into, replace and add to, as methods written for Mammoth do."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.utils.augment import ToFloat
from datasets.utils.loader import StreamLoader, TaskData
from datasets.utils.sources import TensorSource
from utils.conf import randomness_apart

# What a field may not be called: the data set's own.
_OWN = frozenset(
    {
        *("source", "indices", "targets", "difficulty", "scores", "true_targets", "data", "transform"),
        *("not_aug_transform", "fields", "extra_return_fields", "replaced", "classes"),
    }
)


class OpenData(TaskData):
    """The samples of one task in the layout of torchvision's data sets.

    Indexed by one number it gives (input, label, not augmented input, fields...) of a sample, so that torch's
    DataLoader takes it. Indexed by a list it reads a raw batch for the stream's loader, images as floats in [0, 1].

    Attributes:
        data: uint8 images (n, H, W, C), or (n, H, W) of one channel; samples of other kinds as they are. Assigning
            replaces the samples; the number of targets must be made to fit.
        targets: (n,) labels or scores, int64 or float32.
        transform: what makes inputs of raw samples, here and in the stream's loader. One that is assigned and is not of
            this project is called sample by sample, with an image of Pillow or, if it cannot take that, with a tensor.
        transform_was_set: whether one was assigned.
        not_aug_transform: raw sample to floats.
        fields: (n, ...) values by name, passed to `observe` under that name. Assigning a tensor or an array of n rows
            to any new attribute adds one.
        extra_return_fields: their names.

    Args:
        loader: that the samples are read by.
    """

    def __init__(self, loader: StreamLoader) -> None:
        given = loader.dataset
        self.replaced = False
        super().__init__(given.source, given.indices, given.targets, given.difficulty, given.scores, given.true_targets)
        self._transform = self._own_transform = loader.transform
        self.transform_was_set = False
        self.not_aug_transform = ToFloat()

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def targets(self) -> Any:
        return self._targets

    @targets.setter
    def targets(self, values: Any) -> None:
        self.replaced |= hasattr(self, "_targets")
        self._targets = np.asarray(values.cpu() if isinstance(values, Tensor) else values)

    @property
    def transform(self) -> Callable[[Tensor], Tensor]:
        return self._transform

    @transform.setter
    def transform(self, given: Callable[[Any], Any] | None) -> None:
        if given is None:
            self._transform = self.not_aug_transform
        elif str(getattr(given, "__module__", "")).startswith(("datasets.", "utils.")):
            self._transform = given
        else:
            sample = self.not_aug_transform(self.source.read(self.indices[:1])[0])[0]
            self._transform = functools.partial(_one_by_one, given, takes_images=_takes_images(given, sample))
        self.transform_was_set = self._transform is not self._own_transform

    @property
    def data(self) -> Any:
        return super().data

    @data.setter
    def data(self, values: Any) -> None:
        self.source = TensorSource(as_raw(values))
        self.indices = np.arange(len(values))
        self.replaced = True

    @property
    def extra_return_fields(self) -> tuple[str, ...]:
        return tuple(self.fields)

    @extra_return_fields.setter
    def extra_return_fields(self, names: tuple[str, ...]) -> None:
        for name in names:
            self.add_extra_return_field(name, self.fields[name] if name in self.fields else getattr(self, name))

    def add_extra_return_field(self, name: str, values: Any) -> None:
        """Let `observe` have the values of its samples under this name.

        Raises:
            ValueError: there is not one row for each sample.
        """
        if len(values) != len(self):
            raise ValueError(f"{name}: {len(values)} rows for {len(self)} samples")
        self.fields[name] = values.detach().cpu() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))

    def __setattr__(self, name: str, value: Any) -> None:
        is_field = name not in _OWN and not name.startswith("_") and isinstance(value, Tensor | np.ndarray)
        if is_field and value.ndim and len(value) == len(self):
            self.add_extra_return_field(name, value)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        fields = vars(self).get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __getitem__(self, positions: Any) -> Any:
        if np.ndim(positions) == 0:
            return self._sample(int(positions))
        positions = np.asarray(positions)
        raw, kept, problems, *made = self._read(positions)
        positions = torch.from_numpy(positions[kept])
        return self.not_aug_transform(raw), torch.from_numpy(self.targets)[positions], positions, problems, *made

    def _read(self, positions: np.ndarray) -> tuple[Any, ...]:
        """What the source reads; after it the inputs, where the source makes them and no transform was assigned."""
        indices, both = self.indices[positions], getattr(self.source, "both", None)
        if both is None or self.transform_was_set:
            return self.source.read(indices)
        inputs, raw = both(indices)
        return raw, list(range(len(raw))), [], inputs

    def _sample(self, position: int) -> tuple[Any, ...]:
        if not -len(self) <= position < len(self):
            raise IndexError(f"sample {position} of {len(self)}")
        raw, _, problems, *made = self._read(np.asarray([position % len(self)]))
        if problems:
            raise ValueError(problems[0])
        plain = self.not_aug_transform(raw)
        inputs = made[0] if made else self.transform(plain)
        label = torch.from_numpy(self.targets)[position]
        return inputs[0], label, plain[0], *(values[position] for values in self.fields.values())

    def state(self) -> dict[str, Any]:
        """What a method has added or replaced, for a checkpoint."""
        state: dict[str, Any] = {"fields": dict(self.fields)}
        if self.replaced:
            raw, _, _ = self.source.read(self.indices)
            state |= {"raw": raw, "targets": torch.from_numpy(self.targets)}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        if "raw" in state:
            self.source, self.indices = TensorSource(state["raw"]), np.arange(len(state["raw"]))
            self.targets = state["targets"]
        self.fields = dict(state["fields"])


def _one_by_one(transform: Callable[[Any], Any], batch: Tensor, takes_images: bool) -> Tensor:
    done = [torch.as_tensor(transform(_image(sample) if takes_images else sample)) for sample in batch.cpu()]
    return torch.stack(done).to(batch.device)


def _takes_images(transform: Callable[[Any], Any], sample: Tensor) -> bool:
    """Whether a transform makes a tensor of an image of Pillow, which is what data sets of torchvision give it."""
    if sample.ndim != 3 or len(sample) not in (1, 3, 4):
        return False
    with randomness_apart(0):
        try:
            torch.as_tensor(transform(_image(sample)))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            return False
    return True


def _image(sample: Tensor) -> Image.Image:
    pixels = (sample * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def open_data(loader: StreamLoader | None) -> OpenData:
    """The samples of a training loader, opened; they stay so."""
    assert loader is not None
    if not isinstance(loader.dataset, OpenData):
        loader.dataset = OpenData(loader)
    return loader.dataset


def as_raw(values: Any) -> Tensor:
    """Raw samples from an array in the layout of torchvision's data sets.

    Args:
        values: (n, H, W) or (n, H, W, C) with 1, 3 or 4 channels in an array; a tensor (n, C, H, W) and everything else
            stays as it is.

    Raises:
        ValueError: the samples are no numbers, e.g. names of files.
    """
    is_tensor = isinstance(values, Tensor)
    if not is_tensor and np.asarray(values).dtype.kind not in "uifb":
        raise ValueError("samples must be numbers in one array; names of files cannot be taken over")
    raw = values if is_tensor else torch.from_numpy(np.ascontiguousarray(values))
    if raw.ndim == 3:
        return raw.unsqueeze(1)
    if raw.ndim == 4 and not is_tensor and raw.shape[-1] in (1, 3, 4) and math.prod(raw.shape[2:3]) > 1:
        return raw.permute(0, 3, 1, 2).contiguous()
    return raw
