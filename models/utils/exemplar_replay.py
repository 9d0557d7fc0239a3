"""Base of the methods that learn each task together with herded exemplars of the past classes."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.continual_dataset import ContinualDataset
from datasets.utils.loader import TaskData
from models.utils.continual_model import ContinualModel
from utils.args import add_buffer_args
from utils.class_losses import counts_of
from utils.conf import named_generator
from utils.errors import UsageError
from utils.exemplars import JoinedData, first_of_each_class
from utils.selection import herding


class ExemplarReplay(ContinualModel):
    """A memory of herded samples of the classes seen, which are joined to those of the task.

    At the end of a task every new class leaves the first m = buffer / classes seen (rounded down) of its herding order,
    by normalised features, and the past classes keep the first m of theirs (Rebuffi et al., iCaRL, CVPR 2017,
    algorithms 4 and 5). With fewer places than classes nothing is kept. With --exemplars_per_class m is that number,
    and a class keeps its samples to the end. A class of fewer samples keeps all of them.

    Attributes:
        buffer: raw samples and labels, class by class, each in herding order.
        task_data: samples of the task alone.

    Raises:
        UsageError: the size of the memory is not given.
    """

    task_data: TaskData

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_buffer_args(parser, with_exemplars=True)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        if args.buffer_size is None and self._option("exemplars_per_class", None) is None:
            raise UsageError(f"{self.NAME} needs --buffer_size or --exemplars_per_class")
        self.buffer = self.make_buffer("fill")
        # The stream of a resumed run gives the task's own samples again.
        self.register_load_state_dict_post_hook(lambda model, keys: model.enter_data())

    def begin_task(self, dataset: ContinualDataset) -> None:
        self.enter_data()

    def end_task(self, dataset: ContinualDataset) -> None:
        self.store_exemplars()

    def enter_data(self) -> None:
        """Join exemplars to the task that the stream is at."""
        loader = self.dataset.train_loader
        if loader is None or isinstance(loader.dataset, JoinedData):
            return
        self.task_data = loader.dataset
        if not self.buffer.is_empty():
            examples, labels = self.buffer.get_all_data(device="cpu")
            past = labels < self.n_past_classes
            if past.any():
                loader.dataset = self.join(self.task_data, examples[past], labels[past])

    def join(self, own: TaskData, examples: Tensor, labels: Tensor) -> TaskData:
        """What to train on, of the task's samples and the exemplars of past classes: all of both."""
        return JoinedData(own, examples, labels)

    @property
    def buffer_capacity(self) -> int:
        """Samples the buffer holds: buffer_size, or exemplars_per_class of all classes of the stream."""
        fixed: int | None = self._option("exemplars_per_class", None)
        return super().buffer_capacity if fixed is None else fixed * self.num_classes

    @property
    def exemplars_per_class(self) -> int:
        """m."""
        fixed: int | None = self._option("exemplars_per_class", None)
        return self.buffer_capacity // self.n_seen_classes if fixed is None else fixed

    @torch.no_grad()
    def store_exemplars(self) -> None:
        """Give every class seen its m places."""
        self.net.eval()
        m, parts = self.exemplars_per_class, []
        if not self.buffer.is_empty():
            examples, labels = self.buffer.get_all_data()
            first = first_of_each_class(labels, m)
            parts = [(examples[first], labels[first])]
        if m:
            for label in range(self.n_past_classes, self.n_seen_classes):
                raw = self.samples_of(label)
                chosen = raw[herding(self.clean_features(raw), m)].to(self.device)
                parts.append((chosen, torch.full((len(chosen),), label, device=self.device)))
        else:
            print(f"{self.NAME}: the buffer has fewer places than the {self.n_seen_classes} classes, and keeps nothing")
        self.buffer.empty()
        if m:
            examples, labels = map(torch.cat, zip(*parts, strict=True))
            self.buffer.add_data(examples, labels=labels)

    def samples_of(self, label: int) -> Tensor:
        """Raw samples of a class of the task."""
        return self.task_data[(self.task_data.targets == label).nonzero().view(-1).numpy()][0]

    def clean_features(self, raw: Tensor) -> Tensor:
        """(n, feature_dim) features of raw samples, each of length 1, by the network in its present mode."""
        views = (self.normalization_transform(part.to(self.device)) for part in raw.split(self.args.batch_size))
        return F.normalize(torch.cat([self.net(view, returnt="features") for view in views]), dim=1)

    def fit_head(self, n_epochs: int, lr: float, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Passes over the exemplars alone, of all classes equally many, that train the head on features as they are.

        Args:
            loss: loss(outputs of the classes seen, labels).
        """
        if self.buffer.is_empty():
            return
        self.net.eval()
        generator = named_generator(self.args.seed, "balanced fit of the head", self.current_task)
        with self.optimizer_apart(self.net.head_parameters(), lr), counts_of(loss, self.buffer.get_all_data()[1]):
            for _ in range(n_epochs):
                for slots in torch.randperm(len(self.buffer), generator=generator).split(self.args.batch_size):
                    inputs, labels = self.buffer.get_data_by_index(slots, transform=self.transform)
                    with torch.no_grad():
                        features = self.net(inputs, returnt="features")
                    self.step(loss(self.net.classifier(features)[:, : self.n_seen_classes], labels))
