"""Replay of herded exemplars: the plain baseline of the methods with such a memory."""

from __future__ import annotations

from torch import Tensor

from models.utils.exemplar_replay import ExemplarReplay


class Replay(ExemplarReplay):
    """Cross-entropy over the classes seen, on the task's samples joined with the exemplars; nothing else.

    Source: the baseline "replay" of D.-W. Zhou et al., PyCIL: a Python toolbox for class-incremental learning, 2023.
    """

    NAME = "replay"
    COMPATIBILITY = ["class-il", "task-il"]

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        return self.step(self.loss(self.net(inputs)[:, : self.n_seen_classes], labels))
