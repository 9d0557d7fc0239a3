"""Fine-tuning of the last layers: after the first task the convolutions are frozen."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from torch import Tensor, nn

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.task_heads import TaskHeads, add_warm_up_args
from utils.args import not_negative
from utils.layer_rates import trunk_layers


class FineTuningFC(TaskHeads):
    """Fine-tuning in which later tasks train only what comes after the last convolution.

    Those are the fully connected layers shared by all tasks and the new head. Residual networks have none of the
    former: there the head alone learns, or with --ft_layers as many of the last layers as it says. Frozen batch norm
    keeps its statistics. The heads of past tasks stay as they are.

    Source: the comparison in Z. Li, D. Hoiem, Learning without forgetting, TPAMI 40(12), 2018.
    """

    NAME = "ft-fc"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        TaskHeads.get_parser(parser)
        add_warm_up_args(parser)
        parser.add_argument(
            "--ft_layers",
            type=not_negative,
            help="layers before the head that learn after the first task (default: those after the last convolution)",
        )
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        layers = trunk_layers(self.net)
        n = n_after_convolutions(self.net) if args.ft_layers is None else min(args.ft_layers, len(layers))
        self.frozen = {id(parameter) for layer in layers[: len(layers) - n] for parameter in layer}

    def get_parameters(self) -> Any:
        # Here, because a resumed run comes this way too.
        for parameter in self.net.parameters():
            parameter.requires_grad_(self.current_task == 0 or id(parameter) not in self.frozen)
        # A parameter without a gradient is left alone by every optimiser.
        return super().get_parameters()

    def begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        super().begin_epoch(epoch, dataset)
        for module in self.net.modules():
            own = list(module.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs, _ = self.outputs_and_features(inputs)
        return self.step(self.new_loss(outputs, labels))


def n_after_convolutions(net: Any) -> int:
    """Layers between the last convolution of a network and its head; all of them where there is no convolution."""
    convolutional = {
        id(parameter)
        for module in net.modules()
        if isinstance(module, nn.modules.conv._ConvNd)
        for parameter in module.parameters()
    }
    n = 0
    for layer in reversed(trunk_layers(net)):
        if any(id(parameter) in convolutional for parameter in layer):
            break
        n += 1
    return n
