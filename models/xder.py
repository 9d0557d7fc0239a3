"""X-DER: dark experience replay that keeps its memories up to date and prepares heads for classes to come."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import add_rehearsal_args, from_zero, positive, positive_number
from utils.episodes import even_shares, rank_in_class
from utils.future_outputs import excess, transplanted
from utils.simclrloss import SupConLoss


class XDER(ContinualModel):
    """L = l(present heads, y) + alpha |f(x') - z'|^2 + beta l(past heads of f(x''), y'') + eta (C_p + C_f) + lambd S.

    x' and x'' are drawn apart from a memory of past classes, z' are stored outputs. C_p keeps the past heads at least m
    below the present ones on new samples, in probability, C_f future heads m below a sample's own, in outputs. S is the
    supervised contrastive loss of every future head over augmented views of new and stored samples.

    When a stored sample is drawn, what the network now says of the classes that came after it takes the place of what
    is stored, so that in the end each draw of a task has had the same chance; at the end of the task all of them do.

    The memory is balanced over classes, and filled from a pass over the task when it ends.

    Source: M. Boschini et al., Class-incremental continual learning into the eXtended DER-verse, TPAMI 2022.
    """

    NAME = "xder"
    COMPATIBILITY = ["class-il", "task-il"]
    task_of_class: Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_rehearsal_args(parser)
        add = parser.add_argument_group("xder").add_argument
        add("--alpha", type=from_zero, default=0.1, help="weight of the stored outputs")
        add("--beta", type=from_zero, default=0.5, help="weight of the stored labels")
        add("--gamma", type=float, default=0.85, help="largest share of its own class's output that another may have")
        add("--lambd", type=from_zero, default=0.05, help="weight of the contrastive loss of future heads")
        add("--eta", type=from_zero, default=0.001, help="weight of the margins between heads")
        add("--m", type=float, default=0.3, help="margin between heads")
        add("--simclr_temp", type=positive_number, default=5.0, help="temperature of the contrastive loss")
        add("--simclr_batch_size", type=positive, default=64, help="stored samples in the contrastive loss")
        add("--simclr_num_aug", type=positive, default=2, help="views of every sample in the contrastive loss")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = self.make_buffer("fill")
        self.contrast = SupConLoss(args.simclr_temp, base_temperature=args.simclr_temp)
        sizes = torch.tensor([end - first for first, end in map(self.get_offsets, range(self.n_tasks))])
        self.register_buffer("task_of_class", torch.arange(self.n_tasks).repeat_interleave(sizes).to(self.device))

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        args, past, seen = self.args, self.n_past_classes, self.n_seen_classes
        outputs = self.net(inputs)
        loss, all_outputs, all_labels = self.loss(outputs[:, past:seen], labels - past), outputs, labels
        if past:
            shares = outputs[:, :seen].softmax(1)
            loss = loss + args.eta * excess(shares[:, :past].amax(1).detach(), shares[:, past:].amax(1), args.m)
        if not self.buffer.is_empty():
            (slots, replayed, targets, logits, _), (others, more_replayed, more_targets, *_) = self.draw(), self.draw()
            answers, more = self.net(replayed), self.net(more_replayed)
            distillation = F.mse_loss(answers, logits)
            not_past = torch.arange(seen, device=more.device) >= past
            replay = self.loss(more[:, :seen].masked_fill(not_past, -torch.inf), more_targets)
            self.log(loss_distillation=distillation, loss_replay=replay)
            loss = loss + args.alpha * distillation + args.beta * replay
            # A sample of both draws counts once.
            new = ~torch.isin(others, slots)
            slots, answers = torch.cat([slots, others[new]]), torch.cat([answers, more[new]])
            self.update_stored(slots, answers.detach())
            all_outputs = torch.cat([outputs, answers])
            all_labels = torch.cat([labels, targets, more_targets[new]])
        if seen < self.num_classes:
            own = self.task_of_class == self.task_of_class[all_labels].unsqueeze(1)
            largest = all_outputs.masked_fill(~own, -torch.inf).amax(1)
            loss = loss + args.eta * excess(all_outputs[:, seen:].amax(1), largest, args.m)
            if args.lambd:
                consistency = self.consistency(not_aug_inputs, labels)
                self.log(loss_consistency=consistency)
                loss = loss + args.lambd * consistency
        return self.step(loss)

    def draw(self) -> tuple[Tensor, ...]:
        """Slots, inputs, labels, stored outputs and numbers of draws of samples from the memory."""
        return self.buffer.get_data(self.minibatch_size, transform=self.transform, return_index=True)

    def update_stored(self, slots: Tensor, answers: Tensor) -> None:
        """The n-th draw of a sample in a task replaces its later outputs with probability 1 / n."""
        labels, logits, draws = (
            cast(Tensor, part) for part in (self.buffer.labels, self.buffer.logits, self.buffer.draws)
        )
        draws[slots] += 1
        chosen = torch.rand(len(slots), generator=self.buffer.generator).to(slots.device) * draws[slots] < 1
        slots, answers = slots[chosen], answers[chosen]
        logits[slots] = transplanted(logits[slots], answers, labels[slots], self.n_past_classes, self.args.gamma)

    def consistency(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Mean over the future heads of the supervised contrastive loss of their normalised outputs."""
        if not self.buffer.is_empty():
            examples, targets, *_ = self.buffer.get_data(self.args.simclr_batch_size)
            raw, labels = torch.cat([raw, examples]), torch.cat([labels, targets])
        views = self.transform(raw.repeat_interleave(self.args.simclr_num_aug, dim=0))
        outputs = self.net(views).unflatten(0, (len(raw), self.args.simclr_num_aug))
        heads = map(self.get_offsets, range(self.current_task + 1, self.n_tasks))
        return torch.stack([self.contrast(F.normalize(outputs[..., a:b], dim=2), labels) for a, b in heads]).mean()

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Bring what is stored up to date, thin it, and store samples of this task's classes; the last stores none."""
        if self.current_task == self.n_tasks - 1:
            return
        self.net.eval()
        free = torch.tensor(even_shares(self.buffer_capacity, self.n_seen_classes), device=self.device)
        past = self.n_past_classes
        if not self.buffer.is_empty():
            examples, labels, logits, draws = self.buffer.get_all_data()
            answers = torch.cat([self.answers(part) for part in examples.split(self.args.batch_size)])
            logits = transplanted(logits, answers, labels, past, self.args.gamma)
            kept = rank_in_class(labels) < free[labels]
            self.buffer.empty()
            self.buffer.add_data(examples[kept], labels=labels[kept], logits=logits[kept], draws=0 * draws[kept])
        assert dataset.train_loader is not None
        for _, labels, raw in dataset.train_loader:
            if not free[past:].any():
                break
            kept = rank_in_class(labels) < free[labels]
            raw, labels = raw[kept], labels[kept]
            free -= labels.bincount(minlength=len(free))
            if len(raw):
                self.buffer.add_data(raw, labels=labels, logits=self.answers(raw), draws=torch.zeros_like(labels))

    def answers(self, raw: Tensor) -> Tensor:
        """Outputs for samples as they are."""
        return self.net(self.normalization_transform(raw))
