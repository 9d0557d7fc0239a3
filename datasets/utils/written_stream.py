"""What a stream written for Mammoth decides itself, whatever its tasks are cut from."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.augment import Denormalize, Operation, Transform
from datasets.utils.continual_dataset import ContinualDataset
from datasets.utils.loader import StreamLoader, TaskData
from datasets.utils.sources import Source
from datasets.utils.written_source import WrittenData, WrittenSource
from utils.augmentations import sample_by_sample


class Written(ContinualDataset):
    """Leaves to a stream written for Mammoth what that stream decides; goes before a base of this project's streams.

    Its loss and its scheduler are used unless options ask for others.

    Attributes:
        written: the stream as its author wrote it.
    """

    written_class: type[ContinualDataset]

    def __init__(self, args: Namespace) -> None:
        # Written streams look whether they have noted names already.
        unnamed = {} if overrides(self.written_class, "class_names") else {"class_names": None}
        self.written: Any = type(self.written_class.__name__, (self.written_class,), unnamed)(args)
        if getattr(args, "validation", None):
            # It is taken from what the stream gives, which must not hold out a part itself too.
            self.written.args = Namespace(**{**vars(args), "validation": None})
        super().__init__(args)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.samples.train.read(np.zeros(1, dtype=np.int64))[0].shape[1:])

    def sources_of(self, pairs: Sequence[Sequence[Any]]) -> tuple[WrittenSource, WrittenSource]:
        """Training and test samples of (training, test) data sets that give each sample themselves.

        Raises:
            DataError: as of `WrittenSource`.
        """
        train, test = (WrittenSource([pair[i] for pair in pairs], self.NAME, is_training=i == 0) for i in (0, 1))
        train.let_be_tested(test.parts)
        return train, test

    @property
    def written_names(self) -> list[str]:
        """Names of the classes, in the order of their labels; none if the stream has none."""
        given = self.written.get_class_names() if overrides(self.written_class, "get_class_names") else []
        return [str(name) for name in given]

    def get_loss(self) -> Callable[..., Tensor]:
        asked_for = super().get_loss()
        is_left = asked_for is F.cross_entropy and overrides(self.written_class, "get_loss")
        return self.written.get_loss() if is_left else asked_for

    def get_scheduler(self, model: Any, args: Namespace) -> Any:
        is_left = not (getattr(args, "lr_scheduler", None) or getattr(args, "lr_warmup", 0))
        if is_left and overrides(self.written_class, "get_scheduler"):
            return self.written.get_scheduler(model, args)
        return super().get_scheduler(model, args)

    def by_method(self, name: str, batch: Tensor, generator: torch.Generator) -> Tensor:
        """What the transform that a method of the stream returns makes of each sample; none leaves them as they are."""
        transform = getattr(self.written, name)() if overrides(self.written_class, name) else None
        return batch if transform is None else sample_by_sample(batch, transform)

    def _stream_loader(self, data: TaskData, transform: Transform, *args: Any, **kwargs: Any) -> StreamLoader:
        loader = super()._stream_loader(data, transform, *args, **kwargs)
        source: Source | None = data.source
        if isinstance(source, WrittenSource) and source is self.samples.train and transform is not self._transform:
            # Without such twins they go through the stream's own normalisation.
            source = source.as_tested
        if isinstance(source, WrittenSource):
            loader.dataset = WrittenData(
                source, data.indices, data.targets, data.difficulty, data.scores, data.true_targets
            )
            # Transforms draw from the global generators of the run.
            loader.num_workers = 0
        return loader

    def denormalization(self) -> Sequence[Operation]:
        if not overrides(self.written_class, "get_denormalization_transform"):
            return ()
        inverse = self.written.get_denormalization_transform()
        return (Denormalize(inverse.mean, inverse.std),) if inverse is not None else ()


def overrides(cls: type[ContinualDataset], name: str) -> bool:
    """Whether a stream has a method or a property of its own in place of the base's."""
    return getattr(cls, name, None) is not getattr(ContinualDataset, name, None)
