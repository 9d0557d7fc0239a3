"""A penalty on parameters that mattered, by flat vectors; state in plain attributes, a second network."""

import torch
import torch.nn.functional as F
from torch.optim import SGD

from backbone import get_backbone
from models.utils.continual_model import ContinualModel
from utils.args import ArgumentParser
from utils.status import progress_bar


class Anchored2024(ContinualModel):
    NAME = "anchored_2024"
    COMPATIBILITY = ["class-il", "domain-il", "task-il"]

    @staticmethod
    def get_parser(parser) -> ArgumentParser:
        parser.add_argument("--e_lambda", type=float, required=True, help="weight of the penalty")
        parser.add_argument("--gamma", type=float, default=1.0)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.logsoft = torch.nn.LogSoftmax(dim=1)
        self.checkpoint = None
        self.fish = None
        self.spare_model = get_backbone(args)
        self.spare_model.to(self.device)
        self.spare_opt = SGD(self.spare_model.parameters(), lr=self.args.lr)

    def penalty(self):
        if self.checkpoint is None:
            return torch.tensor(0.0).to(self.device)
        return (self.fish * (self.net.get_params() - self.checkpoint).pow(2)).sum()

    def end_task(self, dataset):
        fish = torch.zeros_like(self.net.get_params())
        for j, data in enumerate(dataset.train_loader):
            inputs, labels = data[0].to(self.device), data[1].to(self.device)
            for ex, lab in zip(inputs, labels, strict=True):
                self.opt.zero_grad()
                loss = F.nll_loss(self.logsoft(self.net(ex.unsqueeze(0))), lab.unsqueeze(0))
                (torch.exp(-loss.detach()) * loss).backward()
                fish += self.net.get_grads() ** 2
            progress_bar(j, len(dataset.train_loader), 0, "F", loss.item())
        fish /= len(dataset.train_loader) * self.args.batch_size
        self.fish = fish if self.fish is None else self.args.gamma * self.fish + fish
        self.checkpoint = self.net.get_params().data.clone()
        self.spare_model.set_params(self.checkpoint)

    def observe(self, inputs, labels, not_aug_inputs, epoch=None, **kwargs):
        if not hasattr(self, "input_shape"):
            self.input_shape = tuple(inputs.shape[1:])
        self.spare_opt.zero_grad()
        spare_loss = self.loss(self.spare_model(inputs), labels)
        spare_loss.backward()
        self.spare_opt.step()
        self.opt.zero_grad()
        penalty = self.penalty()
        loss = self.loss(self.net(inputs), labels) + self.args.e_lambda * penalty
        loss.backward()
        self.opt.step()
        return loss.item()
