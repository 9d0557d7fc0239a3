"""Gradients in one vector by the functions of models.gem, tasks of a whole batch in the buffer."""

import numpy as np
import torch

from models.gem import overwrite_grad, store_grad
from models.utils.continual_model import ContinualModel
from utils.args import ArgumentParser, add_experiment_args, add_management_args, add_rehearsal_args
from utils.buffer import Buffer


def get_parser() -> ArgumentParser:
    parser = ArgumentParser(description="No acute angle with past gradients.")
    add_management_args(parser)
    add_experiment_args(parser)
    add_rehearsal_args(parser)
    return parser


class Projection2023(ContinualModel):
    NAME = "projection_2023"
    COMPATIBILITY = ["class-il", "task-il"]

    def __init__(self, backbone, loss, args, transform):
        super().__init__(backbone, loss, args, transform)
        self.buffer = Buffer(self.args.buffer_size, self.device)
        self.grad_dims = [parameter.data.numel() for parameter in self.parameters()]
        self.grads_cs = []
        self.grads_da = torch.zeros(np.sum(self.grad_dims)).to(self.device)

    def end_task(self, dataset):
        self.grads_cs.append(torch.zeros(np.sum(self.grad_dims)).to(self.device))
        samples_per_task = self.args.buffer_size // dataset.N_TASKS
        cur_y, cur_x = next(iter(dataset.train_loader))[1:]
        self.buffer.add_data(
            examples=cur_x.to(self.device),
            labels=cur_y.to(self.device),
            task_labels=torch.ones(samples_per_task, dtype=torch.long).to(self.device) * self.current_task,
        )

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        if not self.buffer.is_empty():
            old_inputs, old_labels, old_tasks = self.buffer.get_data(self.args.buffer_size, transform=self.transform)
            for task in old_tasks.unique():
                self.opt.zero_grad()
                self.loss(self.forward(old_inputs[old_tasks == task]), old_labels[old_tasks == task]).backward()
                store_grad(self.parameters, self.grads_cs[task], self.grad_dims)
        self.opt.zero_grad()
        loss = self.loss(self.forward(inputs), labels)
        loss.backward()
        if not self.buffer.is_empty():
            store_grad(self.parameters, self.grads_da, self.grad_dims)
            for past in self.grads_cs:
                product = torch.dot(self.grads_da, past)
                if product < 0:
                    self.grads_da -= product / torch.dot(past, past) * past
            overwrite_grad(self.parameters, self.grads_da, self.grad_dims)
        self.opt.step()
        return loss.item()
