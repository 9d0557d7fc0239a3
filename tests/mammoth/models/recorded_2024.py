"""Warm-up of the head, then outputs recorded before the task and handed to every step with the samples."""

import torch
from torch.optim import SGD

from datasets import get_dataset
from models.utils.continual_model import ContinualModel
from utils.args import ArgumentParser


class Recorded2024(ContinualModel):
    NAME = "recorded_2024"
    COMPATIBILITY = ["class-il", "task-il"]

    @staticmethod
    def get_parser(parser) -> ArgumentParser:
        parser.add_argument("--alpha", type=float, default=0.5, help="weight of the recorded outputs")
        parser.add_argument("--softmax_temp", type=float, default=2)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        cpt = get_dataset(args).N_CLASSES_PER_TASK
        n = get_dataset(args).N_TASKS * cpt
        self.eye = torch.tril(torch.ones((n, n))).bool().to(self.device)
        self.seen_logits = 0

    def begin_task(self, dataset):
        self.net.eval()
        if self.current_task > 0:
            opt = SGD(self.net.classifier.parameters(), lr=self.args.lr)
            mask = self.eye[self.n_seen_classes - 1] ^ self.eye[self.n_past_classes - 1]
            for _ in range(self.args.n_epochs):
                for data in dataset.train_loader:
                    inputs, labels = data[0].to(self.device), data[1].to(self.device)
                    opt.zero_grad()
                    with torch.no_grad():
                        feats = self.net(inputs, returnt="features")
                    loss = self.loss(self.net.classifier(feats)[:, mask], labels - self.n_past_classes)
                    loss.backward()
                    opt.step()
            logits = []
            with torch.no_grad():
                for i in range(0, dataset.train_loader.dataset.data.shape[0], self.args.batch_size):
                    end = min(i + self.args.batch_size, len(dataset.train_loader.dataset))
                    samples = [dataset.train_loader.dataset.__getitem__(j)[2] for j in range(i, end)]
                    inputs = self.normalization_transform(torch.stack(samples).to(self.device))
                    logits.append(self.net(inputs).cpu())
            dataset.train_loader.dataset.logits = torch.cat(logits)
            dataset.train_loader.dataset.extra_return_fields += ("logits",)
        self.net.train()

    def observe(self, inputs, labels, not_aug_inputs, logits=None, epoch=None):
        self.opt.zero_grad()
        outputs = self.net(inputs)
        loss = self.loss(outputs[:, self.eye[self.n_seen_classes - 1]], labels)
        assert (logits is None) == (self.current_task == 0)
        if logits is not None:
            self.seen_logits += len(logits)
            old = self.eye[self.n_past_classes - 1]
            t = self.args.softmax_temp
            recorded = torch.softmax(logits[:, old].to(self.device) / t, dim=1)
            loss += self.args.alpha * self.loss(outputs[:, old] / t, recorded)
        loss.backward()
        self.opt.step()
        return loss.item()
