"""The form of 2022: tasks counted by the method itself, a ring with a share for each task, images seen beforehand."""

import torch

from datasets import get_dataset
from models.utils.continual_model import ContinualModel
from utils.args import ArgumentParser, add_experiment_args, add_management_args, add_rehearsal_args
from utils.ring_buffer import RingBuffer


def get_parser() -> ArgumentParser:
    parser = ArgumentParser(description="Anchors where they are forgotten most.")
    add_management_args(parser)
    add_experiment_args(parser)
    add_rehearsal_args(parser)
    return parser


class Hindsight2022(ContinualModel):
    NAME = "hindsight_2022"
    COMPATIBILITY = ["class-il", "task-il"]

    def __init__(self, backbone, loss, args, transform):
        super().__init__(backbone, loss, args, transform)
        self.current_task = self.task_number = 0
        self.buffer = RingBuffer(self.args.buffer_size, self.device, get_dataset(args).N_TASKS)
        self.input_shape = self.dataset.get_data_loaders()[0].dataset.data.shape[1:3]
        self.anchors = torch.zeros(0, *self.input_shape).to(self.device)

    def end_task(self, dataset):
        noise = torch.rand(1, *self.input_shape).to(self.device)
        self.anchors = torch.cat((self.anchors, noise))
        self.current_task += 1
        self.task_number += 1

    def observe(self, inputs, labels, not_aug_inputs):
        if self.task_number > self.buffer.task_number:
            self.buffer.num_seen_examples = 0
            self.buffer.task_number = self.task_number
        assert len(self.anchors) == self.current_task
        self.opt.zero_grad()
        loss = self.loss(self.net(inputs), labels)
        if not self.buffer.is_empty():
            old_inputs, old_labels = self.buffer.get_data(self.args.minibatch_size, transform=self.transform)
            loss += self.loss(self.net(old_inputs), old_labels)
        loss.backward()
        self.opt.step()
        self.buffer.add_data(examples=not_aug_inputs, labels=labels)
        return loss.item()
