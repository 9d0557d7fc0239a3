"""A constructor that requires the stream; statistics of it, defaults for options of every run, loops over fields."""

import torch
import torch.nn.functional as F

from datasets import get_dataset
from models.utils.continual_model import ContinualModel
from utils.args import ArgumentParser
from utils.augmentations import normalize


class Views2025(ContinualModel):
    NAME = "views-2025"
    COMPATIBILITY = ["class-il", "task-il"]

    @staticmethod
    def get_parser(parser) -> ArgumentParser:
        parser.set_defaults(optimizer="adam", lr=0.01)
        parser.add_argument("--past_weight", type=float, default=0.3)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset):
        super().__init__(backbone, loss, args, transform, dataset)
        denorm = self.dataset.get_denormalization_transform()
        self.mean, self.std = denorm.mean, denorm.std
        self.side = get_dataset(args).get_data_loaders()[0].dataset.data.shape[2]

    def view(self, images):
        images = images + 0.05 * torch.randn_like(images)
        return normalize(images, self.mean, self.std)

    def begin_task(self, dataset):
        data = dataset.train_loader.dataset
        assert len(dataset.test_loaders[self.current_task].dataset.data) == len(dataset.test_loaders[-1].dataset)
        with torch.no_grad():
            images = torch.stack([data[i][2] for i in range(len(data))]).to(self.device)
            data.logits = self.net(self.normalization_transform(images)).cpu()
        data.extra_return_fields += ("logits",)
        for inputs, labels, raw, logits in dataset.train_loader:
            assert inputs.shape[-1] == raw.shape[-1] == self.side
            assert len(labels) == len(logits)

    def observe(self, inputs, labels, not_aug_inputs, logits, epoch=None):
        self.opt.zero_grad()
        outputs = self.net(self.view(not_aug_inputs))
        loss = self.loss(outputs, labels)
        loss += self.args.past_weight * F.mse_loss(outputs[:, : self.n_past_classes], logits[:, : self.n_past_classes])
        if self.current_task == 0:
            loss = self.loss(outputs, labels)
        loss.backward()
        self.opt.step()
        return loss.item()
