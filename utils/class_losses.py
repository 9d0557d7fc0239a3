"""Losses for classes of unequal size, and the class counts that they go by."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.args import from_zero, not_negative, positive_number
from utils.errors import UsageError

if TYPE_CHECKING:
    from models.utils.continual_model import ContinualModel

LOSSES = ("ce", "cb", "focal", "cb-focal", "ldam", "logit-adjust", "balanced-softmax")
# They correct the prior in the outputs; weights would correct it a second time.
PRIOR_LOSSES = ("logit-adjust", "balanced-softmax")


def add_class_loss_args(parser: ArgumentParser) -> None:
    """For streams of classes."""
    add = parser.add_argument_group("loss").add_argument
    add("--cls_loss", choices=LOSSES, default="ce", help="loss of the stream: cross-entropy, or one for a long tail")
    add("--cb_beta", type=float, default=0.9999, help="class-balanced weights: beta of (1 - beta) / (1 - beta^n)")
    add("--focal_gamma", type=from_zero, default=1.0, help="focal: exponent of (1 - p)")
    add("--ldam_margin", type=positive_number, default=0.5, help="ldam: margin of the smallest class")
    add(
        "--ldam_scale",
        type=positive_number,
        default=30.0,
        help="factor on the cosines of a cosine head, which ldam needs",
    )
    add("--la_tau", type=from_zero, default=1.0, help="logit-adjust: factor on the log prior")
    add("--drw_epoch", type=not_negative, help="class-balanced weights from this epoch of a task on, none before (DRW)")


def check_class_loss(args: Namespace) -> None:
    """Refuse values of the options of `add_class_loss_args` that make no loss; options that are not there are right.

    Raises:
        UsageError: a value is out of its range, or two options exclude each other.
    """
    beta = getattr(args, "cb_beta", 0.0)
    if not 0 <= beta < 1:
        raise UsageError(f"--cb_beta {beta:g} is not at least 0 and below 1")
    first = getattr(args, "drw_epoch", None)
    if first is None:
        return
    if getattr(args, "cls_loss", None) in PRIOR_LOSSES:
        raise UsageError(f"--drw_epoch: {args.cls_loss} corrects the prior already; leave it out")
    n_epochs = max(getattr(args, "n_epochs", None) or 0, getattr(args, "base_epochs", None) or 0)
    by_epochs = getattr(args, "fitting_mode", "epochs") == "epochs" and not getattr(args, "debug_mode", False)
    if by_epochs and 0 < n_epochs <= first:
        raise UsageError(f"--drw_epoch {first}: tasks have {n_epochs} epochs, so the weights would never come")


def class_balanced_weights(counts: Tensor, beta: float) -> Tensor:
    """w_c = (1 - beta) / (1 - beta^n_c), scaled to a mean of 1 over the classes there are; n_c = 0 counts as 1.

    Args:
        counts: (C,) samples of every class.
        beta: 0 <= beta < 1; 0 gives equal weights.

    Source: Y. Cui et al., Class-balanced loss based on effective number of samples, CVPR 2019, equation 7.
    """
    n = counts.double()
    weights = (1 - beta) / (1 - beta ** n.clamp(min=1))
    present = n > 0
    return weights * (present.sum() / weights[present].sum()) if present.any() else torch.ones_like(n)


def ldam_margins(counts: Tensor, largest: float) -> Tensor:
    """Delta_c = n_c^(-1/4), scaled so that the smallest class there is has margin `largest`.

    Source: K. Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss, NeurIPS 2019,
    equation 13.
    """
    n = counts.double()
    smallest = n[n > 0].min() if (n > 0).any() else n.new_ones(())
    return largest * (smallest / torch.maximum(n, smallest)) ** 0.25


def focal_terms(outputs: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """(B,) values of -(1 - p)^gamma log p, with p the softmax of the true class, before any weighting.

    Source: T.-Y. Lin et al., Focal loss for dense object detection, ICCV 2017, over a softmax.
    """
    log_p = F.log_softmax(outputs, dim=1).gather(1, labels[:, None])[:, 0]
    # At p = 1 the slope of a power below 1 is infinite.
    rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    return -(rest**gamma) * log_p


def log_prior(counts: Tensor, labels: Tensor) -> Tensor:
    """(K,) log of the share of every class; minus infinity for one that is not there, unless `labels` has it."""
    n = counts.double().clone()
    n[labels] = torch.where(n[labels] > 0, n[labels], 1.0)
    return torch.log(n / n.sum())


class ClassLoss(nn.Module):
    """loss(outputs, labels) of a stream of classes that knows how often each class is being sampled.

    ce; cb, class-balanced weights; focal; cb-focal, focal with these weights; ldam, cross-entropy of
    s (cos_c - Delta_c [c = y]), of which s cos_c is the output of a `NormalisedLinear`; logit-adjust, cross-entropy of
    z_c + tau log pi_c; balanced-softmax, the same with tau 1.
    With --drw_epoch class-balanced weights join ce, cb, focal, cb-focal and ldam from that epoch of every task on, and
    there are none before.

    A method gets this for free: it calls `self.loss(outputs, labels)` as ever, on all outputs, on those of the classes
    seen so far, outputs[:, :n_seen], or on those of the current task, outputs[:, first:end] with labels - first. The
    counts are set by the base of all methods before every epoch (`sampled_counts`), and since the loss is a part of the
    method they are in its checkpoint. Until they are set, all classes count alike.

    Source: as of the functions above; A. K. Menon et al., Long-tail learning via logit adjustment, ICLR 2021, equation
    10; J. Ren et al., Balanced meta-softmax for long-tailed visual recognition, NeurIPS 2020.

    Args:
        args: cls_loss and its options.
        n_classes: outputs of the head, C.
        offsets: () -> (first, end) output of the current task's classes.
        device: where the outputs are.

    Raises:
        UsageError: as of `check_class_loss`.
    """

    counts: Tensor

    def __init__(
        self, args: Namespace, n_classes: int, offsets: Callable[[], tuple[int, int]], device: str | torch.device
    ) -> None:
        super().__init__()
        check_class_loss(args)
        self.args = args
        self.offsets = offsets
        self.epoch = 0
        self.register_buffer("counts", torch.ones(n_classes, dtype=torch.float64, device=device))

    def begin_epoch(self, epoch: int, counts: Tensor) -> None:
        """Note the epoch of the task and how often each class is drawn in it."""
        self.epoch = epoch
        self.counts.copy_(counts)

    @property
    def is_weighted(self) -> bool:
        """Whether class-balanced weights hold in this epoch."""
        if self.args.drw_epoch is not None:
            return self.epoch >= self.args.drw_epoch
        return self.args.cls_loss in ("cb", "cb-focal")

    def forward(self, outputs: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """The loss.

        Args:
            outputs: (B, K) logits of all classes, of those seen, or of the current task's.
            labels: (B,) positions among these.
            reduction: "mean" (with class-balanced weights and no focal loss the weighted mean), "sum", or "none".

        Raises:
            ValueError: K fits none of the three.
        """
        kind, counts = self.args.cls_loss, self.counts_of(outputs)
        weights = class_balanced_weights(counts, self.args.cb_beta).to(outputs.dtype) if self.is_weighted else None
        if kind in ("focal", "cb-focal"):
            terms = focal_terms(outputs, labels, self.args.focal_gamma)
            terms = terms if weights is None else terms * weights[labels]
            return terms if reduction == "none" else terms.sum() if reduction == "sum" else terms.mean()
        if kind == "ldam":
            margins = ldam_margins(counts, self.args.ldam_margin).to(outputs.dtype)
            outputs = outputs - self.args.ldam_scale * F.one_hot(labels, outputs.shape[1]) * margins
        if kind in PRIOR_LOSSES:
            tau = self.args.la_tau if kind == "logit-adjust" else 1.0
            outputs = outputs if tau == 0 else outputs + (tau * log_prior(counts, labels)).to(outputs.dtype)
        return F.cross_entropy(outputs, labels, weight=weights, reduction=reduction)

    def counts_of(self, outputs: Tensor) -> Tensor:
        """(K,) counts of the classes that the outputs stand for."""
        (first, end), n = self.offsets(), outputs.shape[1]
        for low, high in ((0, len(self.counts)), (0, end), (first, end)):
            if high - low == n:
                return self.counts[low:high]
        raise ValueError(
            f"--cls_loss {self.args.cls_loss} knows the classes behind all {len(self.counts)} outputs, the {end} seen, "
            f"or the {end - first} of the task, not behind {n}"
        )

    def get_extra_state(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]


@contextmanager
def counts_of(loss: Any, labels: Tensor) -> Iterator[None]:
    """Let a `ClassLoss` go by how often each class is among `labels`, for a phase that learns from other samples than
    an epoch of the task does; any other loss is left alone."""
    if not isinstance(loss, ClassLoss):
        yield
        return
    of_epoch = loss.counts.clone()
    loss.counts.copy_(torch.bincount(labels, minlength=len(of_epoch)))
    try:
        yield
    finally:
        loss.counts.copy_(of_epoch)


def sampled_counts(model: ContinualModel) -> Tensor:
    """(C,) how often every class is drawn in an epoch of the current task, as the method stands now.

    These are the labelled samples that its training loader yields, exemplars that a method has joined to them included,
    and what a method with a --minibatch_size draws from its buffer at every step, or as many as its `n_replayed` says.
    A buffer of 200 samples of which 64 are drawn in each of 100 steps counts as 6,400 samples, because it is their
    share of what is learnt from that a prior has to describe.
    """
    from utils.buffer import Buffer

    dataset, n_classes = model.dataset, model.num_classes
    assert dataset.train_loader is not None
    targets = torch.as_tensor(dataset.train_loader.dataset.targets)
    counts = torch.bincount(targets[targets >= 0].cpu(), minlength=n_classes).double()
    own = model.minibatch_size if hasattr(model.args, "minibatch_size") else 0
    n_replayed = getattr(model, "n_replayed", own)
    if n_replayed:
        for part in model.modules():
            if isinstance(part, Buffer) and "labels" in part.attributes and not part.is_empty():
                labels = part.get_all_data(device="cpu")[1]
                n_drawn = min(n_replayed, len(part)) * dataset.n_batches
                counts += torch.bincount(labels[labels >= 0], minlength=n_classes) * (n_drawn / len(part))
    return counts
