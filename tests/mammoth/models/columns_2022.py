"""A method for task-IL alone: a network of its own for every task, chosen by the task that evaluation tells."""

import copy

import torch

from models.utils.continual_model import ContinualModel


class Columns2022(ContinualModel):
    NAME = "columns_2022"
    COMPATIBILITY = ["task-il"]

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.nets = torch.nn.ModuleList(copy.deepcopy(self.net) for _ in range(self.N_TASKS))

    def get_parameters(self):
        return self.nets[self.current_task].parameters()

    def forward(self, x, task_label):
        return self.nets[task_label](x)

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.opt.zero_grad()
        loss = self.loss(self.nets[self.current_task](inputs), labels)
        loss.backward()
        self.opt.step()
        return loss.item()
