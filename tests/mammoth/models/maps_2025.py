"""The form of 2025: keyword fields, maps of all layers, an optimiser and a scheduler of its own, modules beside it."""

import torch
from models.utils_of_maps import map_penalty

from models.utils.continual_model import ContinualModel
from utils import binary_to_boolean_type
from utils.args import ArgumentParser
from utils.conf import create_seeded_dataloader, get_device


class Maps2025(ContinualModel):
    NAME = "maps_2025"
    COMPATIBILITY = ["class-il", "task-il"]

    @staticmethod
    def get_parser(parser) -> ArgumentParser:
        parser.add_argument("--use_maps", type=binary_to_boolean_type, default=1)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.epochs_begun = []

    def begin_task(self, dataset):
        self.opt = torch.optim.AdamW(self.net.parameters(), lr=self.args.lr)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.opt, gamma=0.5)
        data = dataset.train_loader.dataset
        data.add_extra_return_field("difficulty_of", torch.arange(len(data)))
        for inputs, labels, raw, numbers in create_seeded_dataloader(self.args, data, batch_size=7, shuffle=True):
            assert inputs.shape == raw.shape
            assert torch.equal(torch.as_tensor(data.targets)[numbers], labels)

    def begin_epoch(self, epoch, dataset):
        self.epochs_begun.append((self.current_task, epoch))

    def end_epoch(self, epoch, dataset):
        assert self.epochs_begun[-1] == (self.current_task, epoch)

    def observe(self, inputs, labels, not_aug_inputs, epoch=None, **kwargs):
        assert kwargs.keys() == {"difficulty_of"}
        assert inputs.device == get_device()
        self.opt.zero_grad()
        _, maps = self.net(inputs, returnt="full")
        both, features = self.net(inputs, returnt="both")
        loss = self.loss(both, labels)
        if self.args.use_maps:
            loss = loss + 1e-4 * map_penalty(maps) + 1e-4 * features.pow(2).mean()
        loss.backward()
        self.opt.step()
        return loss.item()
