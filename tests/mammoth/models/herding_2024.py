"""Class means over a herded memory, and a frozen copy of the network before each task."""

from copy import deepcopy

import torch
import torch.nn.functional as F

from datasets import get_dataset
from models.utils.continual_model import ContinualModel
from utils.args import ArgumentParser, add_rehearsal_args
from utils.batch_norm import bn_track_stats
from utils.buffer import Buffer, fill_buffer, icarl_replay


class Herding2024(ContinualModel):
    NAME = "herding_2024"
    COMPATIBILITY = ["class-il", "task-il"]

    @staticmethod
    def get_parser() -> ArgumentParser:
        parser = ArgumentParser(description="Nearest mean of exemplars.")
        add_rehearsal_args(parser)
        parser.add_argument("--valset_split", type=float, default=0.0)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.dataset = get_dataset(args)
        self.buffer = Buffer(self.args.buffer_size, self.device)
        self.eye = torch.eye(self.num_classes).to(self.device)
        self.class_means = None
        self.old_net = None
        self.classes_so_far = torch.tensor([]).long().to(self.device)

    def forward(self, x):
        if self.class_means is None:
            with torch.no_grad():
                self.compute_class_means()
                self.class_means = self.class_means.squeeze()
        feats = self.net(x, returnt="features").view(x.shape[0], -1).unsqueeze(1)
        nearness = -(self.class_means.unsqueeze(0) - feats).pow(2).sum(2)
        outputs = torch.full((x.shape[0], self.num_classes), -1e4).to(self.device)
        outputs[:, self.classes_so_far] = nearness
        return outputs

    def observe(self, inputs, labels, not_aug_inputs, logits=None, epoch=None):
        self.classes_so_far = torch.cat((self.classes_so_far, labels.to(self.device))).unique()
        self.class_means = None
        self.opt.zero_grad()
        first, end = self.n_past_classes, self.n_seen_classes
        outputs = self.net(inputs)[:, :end]
        targets = self.eye[labels][:, :end]
        if self.current_task > 0:
            with torch.no_grad():
                old = torch.sigmoid(self.old_net(inputs))[:, :first]
            targets = torch.cat((old, targets[:, first:end]), dim=1)
        loss = F.binary_cross_entropy_with_logits(outputs, targets)
        loss.backward()
        self.opt.step()
        return loss.item()

    def begin_task(self, dataset):
        before = len(dataset.train_loader.dataset)
        icarl_replay(self, dataset, val_set_split=self.args.valset_split)
        data = dataset.train_loader.dataset
        assert data.data.shape[0] == len(data.targets) == len(data)
        assert (len(data) > before) == (self.current_task > 0 and len(self.buffer) > 0)

    def end_task(self, dataset):
        self.old_net = deepcopy(self.net.eval())
        self.net.train()
        with bn_track_stats(self, False):
            fill_buffer(self.buffer, dataset, self.current_task, net=self.net, use_herding=True)
        self.class_means = None

    def compute_class_means(self):
        examples, labels = self.buffer.get_all_data(self.normalization_transform, device=self.device)
        means = []
        for label in self.classes_so_far:
            own = examples[labels == label]
            feats = self.net(own, returnt="features") if len(own) else torch.zeros(1, self.net.feature_dim)
            means.append(feats.mean(0).flatten())
        self.class_means = torch.stack(means)
