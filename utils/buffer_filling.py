"""Ways to fill a buffer at the end of a task, and to learn from it together with the next one, as iCaRL does."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.utils.open_data import open_data
from utils.checkpoints import evaluation_mode
from utils.selection import herding

if TYPE_CHECKING:
    from datasets.utils.continual_dataset import ContinualDataset
    from models.utils.continual_model import ContinualModel
    from utils.buffer import Buffer


@torch.no_grad()
def fill_buffer(
    buffer: Buffer,
    dataset: ContinualDataset,
    t_idx: int,
    net: nn.Module | None = None,
    use_herding: bool = False,
    required_attributes: Sequence[str] | None = None,
    normalize_features: bool = False,
    extend_equalize_buffer: bool = False,
) -> None:
    """Give every class seen so far the same number of places, and fill those of the current task's with its samples.

    Args:
        buffer: its content of past tasks keeps the first samples of every class.
        dataset: at the current task.
        t_idx: number of the current task.
        net: gives features to herd by, and logits.
        use_herding: keep samples whose mean follows the mean of the class (iCaRL, algorithm 4), in that order; else the
            first of a random order.
        required_attributes: what to store beside examples; labels alone by default.
        normalize_features: herd by features of unit length.
        extend_equalize_buffer: share all places, also those that do not divide evenly, among the first classes.
    """
    required = list(required_attributes or ["labels"])
    if ("logits" in required or use_herding) and net is None:
        raise ValueError("fill_buffer: herding and logits need net=")
    first, end = dataset.get_offsets(t_idx)
    shares = torch.full((end,), buffer.buffer_size // end)
    if extend_equalize_buffer:
        shares[: buffer.buffer_size % end] += 1
    names = list(buffer.attributes)
    kept: list[dict[str, Tensor]] = []
    if not buffer.is_empty():
        stored = dict(zip(names, buffer.get_all_data(), strict=True))
        for label in stored["labels"].unique().tolist():
            of_class = (stored["labels"] == label).nonzero().view(-1)[: int(shares[int(label)])]
            kept.append({name: values[of_class] for name, values in stored.items()})
    found = _through_the_net(dataset, net, use_herding, normalize_features, "logits" in required)
    found = {name: values.to(buffer.device) for name, values in found.items()}
    found["task_labels"] = torch.full_like(found["labels"], t_idx)
    for label in range(first, end):
        of_class = (found["labels"] == label).nonzero().view(-1)
        m = min(int(shares[label]), len(of_class))
        order = herding(found["features"][of_class], m) if use_herding else torch.arange(m)
        chosen = of_class[order.to(of_class.device)]
        kept.append({name: found[name][chosen] for name in ("examples", *required)})
    buffer.empty()
    for part in kept:
        if len(part["examples"]):
            buffer.add_data(**part)


def _through_the_net(
    dataset: ContinualDataset, net: nn.Module | None, wants_features: bool, normalized: bool, wants_logits: bool
) -> dict[str, Tensor]:
    """Samples and labels of the task, and what the network in evaluation mode makes of clean views of them."""
    parts: dict[str, list[Tensor]] = {"examples": [], "labels": [], "features": [], "logits": []}
    normalise = dataset.get_normalization_transform()
    assert dataset.train_loader is not None
    with evaluation_mode(net) if net is not None else nullcontext():
        for _, labels, raw, *_ in dataset.train_loader:
            parts["examples"].append(raw)
            parts["labels"].append(labels)
            if net is not None and wants_features:
                features = net(normalise(raw), returnt="features").flatten(1)
                parts["features"].append(F.normalize(features, dim=1) if normalized else features)
            if net is not None and wants_logits:
                parts["logits"].append(net(normalise(raw)))
    return {name: torch.cat(found) for name, found in parts.items() if found}


def icarl_replay(model: ContinualModel, dataset: ContinualDataset, val_set_split: float = 0) -> None:
    """Join the memory to the samples of the current task, and with `val_set_split` set a share of both aside.

    What is set aside can be drawn from `model.val_loader`: that share of the memory, and as many samples of the task.
    """
    if model.current_task == 0:
        return
    data = open_data(dataset.train_loader)
    buffer: Any = model.buffer
    memory, labels = (part.cpu() for part in buffer.get_all_data()[:2])
    own = data.source.read(data.indices)[0]
    if own.dtype == torch.uint8 and memory.is_floating_point():
        memory = (memory * 255).round().to(torch.uint8)
    own_labels = torch.as_tensor(data.targets)
    held = torch.rand(len(memory)) < val_set_split
    own_held = torch.zeros(len(own), dtype=torch.bool)
    own_held[torch.randperm(len(own))[: int(held.sum())]] = True
    if val_set_split > 0:
        loader = copy.copy(dataset.train_loader)
        assert loader is not None
        loader.dataset = copy.copy(data)
        loader.dataset.data = torch.cat([own[own_held], memory[held]])
        loader.dataset.targets = torch.cat([own_labels[own_held], labels[held]])
        vars(model)["val_loader"] = loader
    data.data = torch.cat([own[~own_held], memory[~held]])
    data.targets = torch.cat([own_labels[~own_held], labels[~held]])


def reservoir(num_seen_examples: int, buffer_size: int) -> int:
    """The slot of the next sample of a stream, -1 if it is not kept, drawn from the global generator."""
    if num_seen_examples < buffer_size:
        return num_seen_examples
    slot = int(np.random.randint(0, num_seen_examples + 1))
    return slot if slot < buffer_size else -1
