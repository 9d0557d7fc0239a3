"""Only fills a memory; a new network learns from it when the stream is over."""

from torch.optim import SGD

from backbone import get_backbone
from models.utils.continual_model import ContinualModel
from utils.args import ArgumentParser, add_rehearsal_args
from utils.augmentations import cutmix_data
from utils.buffer import Buffer
from utils.status import ProgressBar


class Greedy2024(ContinualModel):
    NAME = "greedy_2024"
    COMPATIBILITY = ["class-il", "task-il"]

    @staticmethod
    def get_parser(parser) -> ArgumentParser:
        add_rehearsal_args(parser)
        parser.add_argument("--maxlr", type=float, default=5e-2)
        parser.add_argument("--fitting_epochs", type=int, default=3)
        parser.add_argument("--cutmix_alpha", type=float, default=None)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.buffer = Buffer(self.args.buffer_size, sample_selection_strategy="balancoir")
        self.task = 0

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.buffer.add_data(examples=not_aug_inputs, labels=labels)
        return 0

    def fit_buffer(self, epochs):
        optimizer = SGD(self.get_parameters(), lr=self.args.maxlr, momentum=self.args.optim_mom)
        bar = ProgressBar(verbose=not self.args.non_verbose)
        for epoch in range(epochs):
            everything = self.buffer.get_data(len(self.buffer.examples), transform=self.transform, device=self.device)
            all_inputs, all_labels = everything
            while len(all_inputs):
                optimizer.zero_grad()
                inputs, labels = all_inputs[: self.args.batch_size], all_labels[: self.args.batch_size]
                all_inputs, all_labels = all_inputs[self.args.batch_size :], all_labels[self.args.batch_size :]
                if self.args.cutmix_alpha is not None:
                    mixed, a, b, lam = cutmix_data(x=inputs.cpu(), y=labels.cpu(), alpha=self.args.cutmix_alpha)
                    outputs = self.net(mixed.to(self.device))
                    loss = lam * self.loss(outputs, a.to(self.device)) + (1 - lam) * self.loss(
                        outputs, b.to(self.device)
                    )
                else:
                    loss = self.loss(self.net(inputs), labels)
                loss.backward()
                optimizer.step()
            bar.prog(epoch, epochs, 1, "G", loss.item())

    def end_task(self, dataset):
        self.task += 1
        if self.task < dataset.N_TASKS:
            return
        self.net = get_backbone(self.args).to(self.device)
        self.net.train()
        self.fit_buffer(self.args.fitting_epochs)
