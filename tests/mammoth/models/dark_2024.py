"""The form of 2024: outputs and tasks in the buffer, outputs brought up to date in place."""

import torch
from torch.nn import functional as F

from models.utils.continual_model import ContinualModel
from utils.args import ArgumentParser, add_rehearsal_args
from utils.batch_norm import bn_track_stats
from utils.buffer import Buffer


class Dark2024(ContinualModel):
    """Replays its own outputs."""

    NAME = "dark-2024"
    COMPATIBILITY = ["class-il", "domain-il", "task-il", "general-continual"]

    @staticmethod
    def get_parser(parser) -> ArgumentParser:
        add_rehearsal_args(parser)
        parser.add_argument("--alpha", type=float, required=True, help="weight of the outputs")
        parser.add_argument("--beta", type=float, default=0.5)
        # An option that every run has: here with a default of the method's own.
        parser.add_argument("--clip_grad", type=float, default=2.5)
        parser.set_defaults(optim_mom=0.3, savecheck="last")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.buffer = Buffer(self.args.buffer_size)

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.opt.zero_grad()
        outputs = self.net(inputs)
        loss = self.loss(outputs, labels)
        if not self.buffer.is_empty():
            index, old_inputs, _, old_logits, old_tasks = self.buffer.get_data(
                self.args.minibatch_size, transform=self.transform, return_index=True, device=self.device
            )
            assert (old_tasks <= self.current_task).all()
            with bn_track_stats(self, False):
                old_outputs = self.net(old_inputs)
            loss_dark = F.mse_loss(old_outputs, old_logits)
            loss += self.args.alpha * loss_dark
            mixed = 0.9 * old_logits + 0.1 * old_outputs.data
            self.buffer.logits[index.to(self.buffer.device), :] = mixed.to(self.buffer.device)
            again, labels_again, _, _ = self.buffer.get_data(4, transform=self.transform, device=self.device)
            loss += self.args.beta * self.loss(self.net(again), labels_again)
            if self.current_task > 0:
                others = self.buffer.get_data(3, device=self.device, mask_task_out=self.current_task, cpt=self.cpt)
                assert (others[3] < self.current_task).all()
        loss.backward()
        self.autolog_wandb(locals())
        self.opt.step()
        self.buffer.add_data(
            examples=not_aug_inputs,
            labels=labels,
            logits=outputs.data,
            task_labels=torch.ones(labels.shape[0]) * self.current_task,
        )
        return loss.item()

    def end_task(self, dataset):
        stored = self.buffer.get_all_data()
        assert len(stored) == 4
        assert len(stored[0]) == min(self.buffer.num_seen_examples, self.buffer.buffer_size)
        first = self.transform(self.buffer.examples[0])
        assert first.shape == self.buffer.examples[0].shape
