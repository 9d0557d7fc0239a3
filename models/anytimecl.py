"""AnytimeCL: a CLIP that learns from any sample at any time, and forgets nothing of what it knew."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.open_vocabulary import OpenVocabularyModel
from utils.args import from_zero, not_negative, positive, positive_number, true_or_false
from utils.class_weighting import OnlineClassWeighting, seen_share
from utils.conf import derive_seed, named_generator
from utils.gradients import trained_parameters
from utils.open_losses import loss_with_other
from utils.registry import normalise
from utils.token_options import add_token_store_args, make_token_store
from utils.token_sampling import SAMPLERS, sample

COMBINATIONS = ("ocw", "fixed", "aim", "tuned", "original")
# Of the published fitting in epochs; online steps have their share of it.
PUBLISHED_LR, PUBLISHED_BATCH = 6e-4, 2048


class AnytimeCL(OpenVocabularyModel):
    """A copy of CLIP's last block learns; how much it is trusted on a label is how often it was right on it before.

    Every new sample is measured first: do the tuned and the original network name it, among the labels known by then?
    Then one step learns from it and from stored samples, and its tokens are stored, compressed. A label never seen is
    left to the original network. In later epochs of a task samples are learnt from again, not measured and not stored.

    With --offline_epochs the stream trains nothing: after every task the network is fitted to all that is stored.

    --combine: the tuned network's weight by online class weighting (ocw), always half (fixed), how likely the original
    network finds it that an image is of a label learnt (aim), or one network alone.

    Source: Z. Zhu, Y. Gong, D. Hoiem, Anytime continual learning for open vocabulary classification, ECCV 2024. The
    released code has "other" twice in the second term of the loss, takes a batch for one sample when it measures, and
    knows labels before they come; here as in the paper.
    """

    NAME = "anytimecl"

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        OpenVocabularyModel.get_parser(parser)
        add = parser.add_argument_group("anytime learning").add_argument
        add("--new_per_step", type=positive, default=1, help="new samples a step; a batch is cut into them")
        add("--step_batch", type=positive, default=32, help="samples a step, new and stored ones together")
        add("--sampler", type=normalise, choices=list(SAMPLERS), default="class-balanced", help="what is learnt again")
        add("--beta", type=from_zero, default=0.1, help="weight of the loss that wants other without the label")
        add("--eta", type=float, default=0.99, help="ocw: factor on old accuracies, after 1 / (1 - eta) samples")
        add("--combine", choices=COMBINATIONS, default="ocw", help="weights of the tuned and the original network")
        add("--reset_optimizer", type=true_or_false, default=False, help="a new optimiser with every task")
        add("--offline_epochs", type=not_negative, default=0, help="epochs after each task, in place of online steps")
        add("--offline_batch_size", type=positive, default=PUBLISHED_BATCH, help="samples of their steps")
        add("--offline_lr", type=positive_number, help="of their steps (default: 6e-4 for batches of 2048, in scale)")
        add_token_store_args(parser)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.tuned = self.tail_to_tune()
        self.other = nn.Parameter(torch.zeros((), device=self.device))
        self.weighting = OnlineClassWeighting(args.eta, self.device)
        self.store = make_token_store(args, self.net, self.device, derive_seed(self._option("seed", 0), "anytimecl"))

    def get_parameters(self) -> list[nn.Parameter]:  # type: ignore[override]
        """The blocks of the tuned tail, and the logit of "other"."""
        return [*trained_parameters(self.tuned), self.other]

    def meta_begin_task(self, dataset: ContinualDataset) -> None:
        kept = None if self.args.reset_optimizer else self._opt
        super().meta_begin_task(dataset)
        if kept is not None:
            # Its moments alone: the rate is the one to begin with, whatever a schedule has made of it.
            self.opt.load_state_dict({**self.opt.state_dict(), "state": kept.state_dict()["state"]})

    def learn_tokens(self, tokens: Tensor, attention: Tensor, labels: Tensor, epoch: int | None = None) -> float:
        total, n = 0.0, self.args.new_per_step
        for part in zip(tokens.split(n), attention.split(n), labels.split(n), strict=True):
            total += len(part[0]) * self.update(*part, is_new=not epoch)
        return total / len(tokens)

    def update(self, tokens: Tensor, attention: Tensor, labels: Tensor, is_new: bool) -> float:
        """Measure samples, learn from them and from stored ones in one step, store them; returns the loss. Those that
        are not new were measured and stored before."""
        online, n = not self.args.offline_epochs, len(tokens)
        n_labels = max(len(self.weighting), int(labels.max()) + 1)
        slots = sample(self.store, max(self.args.step_batch - n, 0) if online else 0, self.args.sampler)
        stored, stored_labels = self.store.get(slots)
        with torch.set_grad_enabled(online):
            logits = self.logits(self.tuned, torch.cat([tokens, stored]), n_labels)
            loss = loss_with_other(logits, torch.cat([labels, stored_labels]), self.other, self.args.beta)
        with torch.no_grad():
            original = self.logits(self.net.tail, tokens, n_labels)
        right = [named.argmax(1) == labels for named in (logits[:n], original)]
        value = self.step(loss) if online else float(loss)
        if is_new:
            self.weighting.update(labels, *right)
            self.store.add(tokens, attention, labels)
        return value

    def logits(self, tail: nn.Module, tokens: Tensor, n_labels: int) -> Tensor:
        """(B, n_labels) scaled cosines with the labels met first."""
        return self.logits_met(F.normalize(tail(tokens), dim=1), n_labels)

    def end_task(self, dataset: ContinualDataset) -> None:
        if not self.args.offline_epochs:
            return
        size = self.args.offline_batch_size
        with self.optimizer_apart(lr=self.args.offline_lr or PUBLISHED_LR * size / PUBLISHED_BATCH):
            for epoch in range(self.args.offline_epochs):
                generator = named_generator(self._option("seed", 0), "offline", self.current_task, epoch)
                for slots in torch.randperm(len(self.store), generator=generator).split(size):
                    tokens, labels = self.store.get(slots)
                    logits = self.logits(self.tuned, tokens, len(self.weighting))
                    self.step(loss_with_other(logits, labels, self.other, self.args.beta))

    def encode(self, tokens: Tensor) -> Tensor:
        return torch.stack([F.normalize(tail(tokens), dim=1) for tail in (self.tuned, self.net.tail)], dim=1)

    def probabilities(self, encoded: Tensor, labels: Sequence[str]) -> Tensor:
        return self.answers(encoded, labels)[""]

    def answers(self, encoded: Tensor, labels: Sequence[str]) -> dict[str, Tensor]:
        """What --combine says under "", each of the other combinations under its name."""
        tuned, original = (self.softmax_among(view, labels) for view in encoded.unbind(1))
        positions = self.vocabulary.positions(labels).to(tuned.device)
        is_seen = (positions >= 0) & (positions < len(self.weighting))
        weights: dict[str, Any] = {
            "ocw": self.weighting.alpha(positions).to(tuned),
            "aim": seen_share(original, is_seen),
        }
        weights |= {"fixed": 0.5, "tuned": 1.0, "original": 0.0}
        return {
            "" if name == self.args.combine else name: weight * tuned + (1 - weight) * original
            for name, weight in weights.items()
        }

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **asdict(self.store.compression)}
