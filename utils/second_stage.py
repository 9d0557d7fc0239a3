"""Second stages: a classifier for evaluation, made after each task from what the method has learnt."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.utils.cosine_head import CosineHead, local_similarity
from utils.args import from_zero, positive, positive_number, true_or_false
from utils.buffer import Buffer
from utils.checkpoints import evaluation_mode
from utils.class_heads import CausalHead
from utils.conf import named_generator
from utils.errors import UsageError
from utils.features import extract_features

if TYPE_CHECKING:
    from models.utils.continual_model import ContinualModel


def add_second_stage_args(parser: ArgumentParser) -> None:
    """For streams of classes."""
    add = parser.add_argument_group("second stage").add_argument
    add("--stage2", choices=STAGES, help="after each task, a classifier for evaluation (default: the method's own)")
    add("--stage2_epochs", type=positive, default=10, help="crt, lws: epochs, with class-aware sampling")
    add("--stage2_lr", type=positive_number, default=0.2, help="crt, lws: learning rate, cosine")
    add("--stage2_wd", type=from_zero, default=5e-4, help="crt, lws: weight decay")
    add("--stage2_batch_size", type=positive, default=512, help="crt, lws: samples a step")
    add(
        "--stage2_last_head",
        type=true_or_false,
        default=False,
        help="lws: also learn the weights of the task's own classes, at ten times the rate of the scales",
    )
    add("--tau_norm", type=float, default=1.0, help="tau-norm: power of the norm that weight vectors are divided by")
    add("--tde_alpha", type=float, default=1.5, help="tde: how much of the drift is taken out of the features")


def second_stage(model: ContinualModel) -> SecondStage | None:
    """The second stage that --stage2 asks for.

    Raises:
        UsageError: the method does not predict by a linear classifier.
    """
    kind = getattr(model.args, "stage2", None)
    if kind is None:
        return None
    check_second_stage(model.args, type(model))
    head = model.net.classifier
    stage = stage_of(kind, type(head))
    if stage is None:
        raise UsageError(
            f"--stage2 {kind}: --backbone {model.args.backbone} does not end in a linear classifier; leave it out, or "
            "take another backbone"
        )
    return stage(model.args, head).to(model.device)


def stage_of(kind: str, head: type[nn.Module]) -> type[SecondStage] | None:
    """The second stage of this name for heads of this type, None if there is none."""
    return next((stage for stage in STAGES[kind] if stage.HEAD is head), None)


def check_second_stage(args: Namespace, method: type[ContinualModel]) -> None:
    """Refuse --stage2 with a method that predicts by something else than its network's classifier.

    Raises:
        UsageError: it does.
    """
    from models.utils.continual_model import ContinualModel

    kind = getattr(args, "stage2", None)
    if kind is not None and method.forward is not ContinualModel.forward:
        name = getattr(method, "NAME", args.model)
        raise UsageError(
            f"--stage2 {kind}: {name} does not predict by a linear classifier on its features; leave it out"
        )


class SecondStage(nn.Module):
    """A classifier on the features of the method's network, for evaluation after a task.

    The network is not touched: the next task goes on from where the method left it, and what a method distils or
    stores is its own classifier's. `fit` is called by the base of all methods after `end_task`, so a method whose
    predictions are `net(x)` has all second stages without a line of its own.

    Attributes:
        HEAD: the heads it can be made from; the constructor is given one.
        task: after which task it was made, -1 before; it predicts until the next one begins.
    """

    HEAD: type[nn.Module] = nn.Linear

    def __init__(self, args: Namespace, head: Any) -> None:
        super().__init__()
        self.args = args
        self.task = -1

    def is_of(self, task: int) -> bool:
        """Whether it was made after this task, the last one that has ended."""
        return self.task == task

    def fit(self, model: ContinualModel) -> None:
        """Make the classifier of the task that has just been learnt."""
        with torch.no_grad():
            self.take(model.net.classifier)
        self.learn(model)
        self.task = model.current_task

    def take(self, head: Any) -> None:
        """Begin with the method's classifier."""
        raise NotImplementedError

    def learn(self, model: ContinualModel) -> None:
        """Learn from the task's samples and the buffer's."""

    def get_extra_state(self) -> dict[str, Any]:
        return {"task": self.task}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.task = state["task"]


class ScaledStage(SecondStage):
    """z_c = a_c o_c, with o_c the outputs of a head of the method's kind.

    Attributes:
        PARTS: names of the tensors that it consists of, each with one row for every class; "scale" is a.
    """

    PARTS: tuple[str, ...]
    weight: Tensor
    scale: Tensor

    def forward(self, features: Tensor) -> Tensor:
        return self.outputs(features, {name: getattr(self, name) for name in self.PARTS})

    def outputs(self, features: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """z (B, C) with these tensors for its own."""
        raise NotImplementedError


class LinearStage(ScaledStage):
    """z_c = a_c (w_c . x + b_c)."""

    PARTS = ("weight", "bias", "scale")
    bias: Tensor

    def __init__(self, args: Namespace, head: Any) -> None:
        super().__init__(args, head)
        self.register_buffer("weight", torch.zeros_like(head.weight))
        self.register_buffer("bias", head.weight.new_zeros(len(head.weight)))
        self.register_buffer("scale", head.weight.new_ones(len(head.weight)))

    def outputs(self, features: Tensor, parts: dict[str, Tensor]) -> Tensor:
        return parts["scale"] * F.linear(features, parts["weight"], parts["bias"])

    def take(self, head: Any) -> None:
        self.weight.copy_(head.weight)
        if head.bias is not None:
            self.bias.copy_(head.bias)


class CosineStage(ScaledStage):
    """z_c = a_c s sim_c, with s and sim the factor and the similarities of a `CosineHead`."""

    HEAD = CosineHead
    PARTS = ("weight", "scale")
    factor: Tensor

    def __init__(self, args: Namespace, head: Any) -> None:
        super().__init__(args, head)
        self.register_buffer("weight", torch.zeros_like(head.weight))
        self.register_buffer("factor", torch.zeros_like(head.scale))
        self.register_buffer("scale", head.weight.new_ones(len(head.weight)))

    def outputs(self, features: Tensor, parts: dict[str, Tensor]) -> Tensor:
        return parts["scale"] * self.factor * local_similarity(features, parts["weight"])

    def take(self, head: Any) -> None:
        self.weight.copy_(head.weight)
        self.factor.copy_(head.scale)


class TauNorm(LinearStage):
    """w_c / |w_c|^tau, without bias and without training (B. Kang et al., Decoupling representation and classifier for
    long-tailed recognition, ICLR 2020, equation 4)."""

    def take(self, head: Any) -> None:
        norms = head.weight.norm(dim=1, keepdim=True).clamp(min=torch.finfo(head.weight.dtype).tiny)
        self.weight.copy_(head.weight / norms**self.args.tau_norm)


class LearntStage(ScaledStage):
    """A second stage that trains on class-aware samples.

    It sees the features once, of clean views and in evaluation mode, and learns on them. What belongs to a class of
    which there is no sample, neither in the task nor in the buffer, stays as it is.
    """

    def learn(self, model: ContinualModel) -> None:
        features, labels = features_at_hand(model)
        if not len(labels):
            return
        n_seen = model.n_seen_classes
        is_here = torch.bincount(labels, minlength=len(self.weight)) > 0
        parts = self.trained(model, is_here)
        leaves = {name: self.initial(name, model).requires_grad_() for name in parts}
        fixed = {name: getattr(self, name).clone() for name in self.PARTS}
        groups = [{"params": [leaves[name]], "lr": rate} for name, (rate, _) in parts.items()]
        optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=self.args.stage2_wd)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.args.stage2_epochs)
        generator = named_generator(self.args.seed, "second stage", model.current_task)

        def current() -> dict[str, Tensor]:
            learnt = {}
            for name, (_, rows) in parts.items():
                rows = rows.view(-1, *[1] * (fixed[name].ndim - 1))
                learnt[name] = torch.where(rows, leaves[name], fixed[name])
            return {**fixed, **learnt}

        for _ in range(self.args.stage2_epochs):
            for chosen in class_aware_batches(labels, self.args.stage2_batch_size, generator):
                outputs = self.outputs(features[chosen], current())
                optimizer.zero_grad()
                F.cross_entropy(outputs[:, :n_seen], labels[chosen]).backward()
                optimizer.step()
            schedule.step()
        with torch.no_grad():
            for name, value in current().items():
                getattr(self, name).copy_(value)

    def trained(self, model: ContinualModel, is_here: Tensor) -> dict[str, tuple[float, Tensor]]:
        """What learns: name -> (learning rate, which classes' part of it).

        Args:
            is_here: (C,) whether there is a sample of the class.
        """
        raise NotImplementedError

    def initial(self, name: str, model: ContinualModel) -> Tensor:
        """What training of a part begins with."""
        return getattr(self, name).detach().clone()


class RetrainedClassifier(LearntStage, LinearStage):
    """cRT: weights and bias learnt anew (Kang et al., section 4.1)."""

    def trained(self, model: ContinualModel, is_here: Tensor) -> dict[str, tuple[float, Tensor]]:
        return dict.fromkeys(("weight", "bias"), (self.args.stage2_lr, is_here))

    def initial(self, name: str, model: ContinualModel) -> Tensor:
        value = getattr(self, name)
        generator = named_generator(self.args.seed, "second stage", name, model.current_task)
        bound = 1 / math.sqrt(self.weight.shape[1])
        return torch.empty(value.shape).uniform_(-bound, bound, generator=generator).to(value)


class LearntScales(LearntStage):
    """LWS: one factor for each class, 1 before its first task, which goes on from where the task before left it.

    Weights are the method's own after every task: those that a second stage learnt go, and the scales stay.

    Source: Kang et al., section 4.1; in a stream of tasks X. Liu et al., Long-tailed class incremental learning, ECCV
    2022, which also learns the weights of the newest classes (--stage2_last_head).
    """

    def trained(self, model: ContinualModel, is_here: Tensor) -> dict[str, tuple[float, Tensor]]:
        if not self.args.stage2_last_head:
            return {"scale": (self.args.stage2_lr, is_here)}
        is_new = is_here.clone()
        is_new[: model.n_past_classes] = False
        new = dict.fromkeys((name for name in self.PARTS if name != "scale"), (self.args.stage2_lr, is_new))
        return {"scale": (self.args.stage2_lr / 10, is_here), **new}


class LinearScales(LearntScales, LinearStage):
    """LWS on a linear classifier."""


class CosineScales(LearntScales, CosineStage):
    """LWS on the cosine head of a method that has one."""


class TotalDirectEffect(SecondStage):
    """The outputs of a `CausalHead` without the indirect effect of the drift of its features."""

    HEAD = CausalHead

    def __init__(self, args: Namespace, head: Any) -> None:
        super().__init__(args, head)
        self.head = CausalHead(head.in_features, head.out_features, head.n_heads, head.tau, head.gamma, head.mu)
        self.head.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        return self.head.effect(features, self.args.tde_alpha)

    def take(self, head: Any) -> None:
        self.head.load_state_dict(head.state_dict())


# By name, for each type of head that there is one for.
STAGES: dict[str, tuple[type[SecondStage], ...]] = {
    "crt": (RetrainedClassifier,),
    "tau-norm": (TauNorm,),
    "lws": (LinearScales, CosineScales),
    "tde": (TotalDirectEffect,),
}


@torch.no_grad()
def features_at_hand(model: ContinualModel) -> tuple[Tensor, Tensor]:
    """(n, feature_dim) features and (n,) labels of the task's samples and of raw samples in the method's buffers."""
    loader = model.dataset.train_loader
    assert loader is not None
    view, size = model.normalization_transform, model.args.batch_size
    data = loader.dataset
    shape = data[[0]][0].shape[1:]
    with evaluation_mode(model.net):
        parts = [extract_features(model.net, data, torch.arange(len(data)), view, size, model.device)]
        for buffer in (part for part in model.modules() if isinstance(part, Buffer)):
            held = buffer.get_all_data(device=model.device)
            if not held or held[0].shape[1:] != shape or "labels" not in buffer.attributes:
                continue
            for raw, stored in zip(held[0].split(size), held[1].split(size), strict=True):
                parts.append((model.net(view(raw), returnt="features"), stored))
    features, labels = map(torch.cat, zip(*parts, strict=True))
    return features, labels


def class_aware_batches(
    labels: Tensor, batch_size: int, generator: torch.Generator, per_class: int = 4
) -> Iterator[Tensor]:
    """An epoch in which every class is drawn equally often, as often as the largest class has samples.

    The classes take turns in random order, each with `per_class` random samples of its own a turn.

    Args:
        labels: (n,), n at least 1.

    Yields:
        (batch_size,) positions, on the device of the labels; the last batch may be smaller.
    """
    classes, counts = labels.cpu().unique(return_counts=True)
    by_class = labels.cpu().argsort(stable=True)
    starts = counts.cumsum(0) - counts
    n_turns = math.ceil(int(counts.max()) / per_class)
    turns = torch.rand(n_turns, len(classes), generator=generator).argsort(dim=1).flatten().repeat_interleave(per_class)
    drawn = (torch.rand(len(turns), generator=generator, dtype=torch.float64) * counts[turns]).long()
    yield from by_class[starts[turns] + drawn].to(labels.device).split(batch_size)
