"""The gradient of the batch, turned away from what would harm a memory; by the network's flat gradients."""

import torch

from models.utils.continual_model import ContinualModel
from utils.args import ArgumentParser, add_rehearsal_args
from utils.buffer import Buffer


class Average2024(ContinualModel):
    NAME = "average_2024"
    COMPATIBILITY = ["class-il", "domain-il", "task-il"]

    @staticmethod
    def get_parser(parser) -> ArgumentParser:
        add_rehearsal_args(parser)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.buffer = Buffer(self.args.buffer_size)

    def end_task(self, dataset):
        samples_per_task = self.args.buffer_size // dataset.N_TASKS
        cur_y, cur_x = next(iter(dataset.train_loader))[1:]
        self.buffer.add_data(
            examples=cur_x.to(self.device)[:samples_per_task], labels=cur_y.to(self.device)[:samples_per_task]
        )

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.opt.zero_grad()
        loss = self.loss(self.net(inputs), labels)
        loss.backward()
        if not self.buffer.is_empty():
            own = self.net.get_grads().clone()
            old_inputs, old_labels = self.buffer.get_data(
                self.args.minibatch_size, transform=self.transform, device=self.device
            )
            self.net.zero_grad()
            self.loss(self.net(old_inputs), old_labels).backward()
            past = self.net.get_grads()
            product = torch.dot(own, past)
            if product < 0:
                own = own - product / torch.dot(past, past) * past
            self.net.set_grads(own)
        self.opt.step()
        return loss.item()
