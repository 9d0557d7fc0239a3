"""The form of 2021: a memory that asks the method for gradients, and a pass over it for every batch."""

import torch

from models.utils.continual_model import ContinualModel
from utils.args import ArgumentParser, add_experiment_args, add_management_args, add_rehearsal_args
from utils.gss_buffer import Buffer as Buffer


def get_parser() -> ArgumentParser:
    parser = ArgumentParser(description="A memory of gradients that differ.")
    add_management_args(parser)
    add_experiment_args(parser)
    add_rehearsal_args(parser)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--compared", type=int, default=None)
    return parser


class Selected2021(ContinualModel):
    NAME = "selected_2021"
    COMPATIBILITY = ["class-il", "domain-il", "task-il", "general-continual"]

    def __init__(self, backbone, loss, args, transform):
        super().__init__(backbone, loss, args, transform)
        compared = self.args.compared if self.args.compared is not None else self.args.minibatch_size
        self.buffer = Buffer(self.args.buffer_size, self.device, compared, self)

    def get_grads(self, inputs, labels):
        self.net.eval()
        self.opt.zero_grad()
        self.loss(self.net(inputs), labels).backward()
        grads = self.net.get_grads().clone().detach()
        self.opt.zero_grad()
        self.net.train()
        return grads.unsqueeze(0) if grads.ndim == 1 else grads

    def observe(self, inputs, labels, not_aug_inputs):
        real_batch_size = inputs.shape[0]
        self.buffer.drop_cache()
        self.buffer.reset_fathom()
        for _ in range(self.args.rounds):
            self.opt.zero_grad()
            all_inputs, all_labels = inputs, labels
            if not self.buffer.is_empty():
                buf_inputs, buf_labels = self.buffer.get_data(self.args.minibatch_size, transform=self.transform)
                all_inputs, all_labels = torch.cat((inputs, buf_inputs)), torch.cat((labels, buf_labels))
            loss = self.loss(self.net(all_inputs), all_labels)
            loss.backward()
            self.opt.step()
        self.buffer.add_data(examples=not_aug_inputs, labels=labels[:real_batch_size])
        return loss.item()
