"""The form of 2023: a parser of the module, a constructor without the stream, no epoch."""

import torch

from models.utils.continual_model import ContinualModel
from utils.args import *  # noqa: F403
from utils.args import ArgumentParser, add_experiment_args, add_management_args, add_rehearsal_args
from utils.buffer import Buffer


def get_parser() -> ArgumentParser:
    parser = ArgumentParser(description="Replay of what was seen.")
    add_management_args(parser)
    add_experiment_args(parser)
    add_rehearsal_args(parser)
    parser.add_argument("--replay_weight", type=float, required=True, help="weight of what is replayed")
    return parser


class Replay2023(ContinualModel):
    NAME = "replay_2023"
    COMPATIBILITY = ["class-il", "domain-il", "task-il", "general-continual"]

    def __init__(self, backbone, loss, args, transform):
        super(Replay2023, self).__init__(backbone, loss, args, transform)  # noqa: UP008
        self.buffer = Buffer(self.args.buffer_size, self.device, self.dataset.N_TASKS, mode="ring")

    def observe(self, inputs, labels, not_aug_inputs):
        n = inputs.shape[0]
        self.opt.zero_grad()
        weight = torch.ones(n).to(self.device)
        if not self.buffer.is_empty():
            old_inputs, old_labels = self.buffer.get_data(self.args.minibatch_size, transform=self.transform)
            inputs, labels = torch.cat((inputs, old_inputs)), torch.cat((labels, old_labels))
            weight = torch.cat((weight, self.args.replay_weight * torch.ones(len(old_inputs)).to(self.device)))
        loss = (weight * self.loss(self.net(inputs), labels, reduction="none")).mean()
        loss.backward()
        self.opt.step()
        self.buffer.add_data(examples=not_aug_inputs, labels=labels[:n])
        return loss.item()
