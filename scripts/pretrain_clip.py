"""Train clip-tiny, a small network of CLIP's kind, on some classes of a stream of images.

    python scripts/pretrain_clip.py --dataset seq-cifar10 --data_root DIR --classes airplane,bird,cat,frog,ship,truck \\
        --text minilm --patch_size 8 --width 192 --epochs 15 --out clip-tiny.pt
    python main.py --model anytimecl --dataset seq-cifar10 --data_root DIR --backbone clip-tiny \\
        --backbone_weights clip-tiny.pt

Images are compared with the texts of all classes trained on: softmax over their cosines, times a scale that is learnt.
`--text own` learns a text tower together with the images; `--text minilm` takes a locked sentence encoder, so that
labels never trained on have a meaning too. At the end FILE holds the network, its labels and where it comes from.
Printed are accuracies on test images: of the classes trained on among their labels, and of the other classes among
theirs (zero-shot). Options of the stream and of the backbone (sizes) are taken too.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Before torch is imported: see main.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from backbone.clip import require_pixels
from backbone.utils.clip_text import TEXT_TOWERS, MiniLM, minilm_version, read_bytes
from backbone.utils.clip_towers import Tail, Trunk, build, tiny_config
from backbone.utils.clip_weights import TinyFile
from datasets import get_dataset
from datasets.utils.class_dataset import ClassDataset
from datasets.utils.evaluation_sets import label_words
from utils.args import from_zero, not_negative, parse_args, positive, positive_number
from utils.conf import get_device, named_generator, set_deterministic, set_random_seed
from utils.errors import RunError, UsageError, run_script
from utils.prompts import fill_prompts, prompt_templates

WARM_UP = 0.05
LARGEST_SCALE = 100.0


class Labels(nn.Module):
    """Embeddings of the prompts of labels: read anew at every step if the text tower learns, else once.

    Args:
        tower: `text` of the network.
        names: texts of the labels.
        templates: prompts.
    """

    def __init__(self, tower: nn.Module, names: Sequence[str], templates: Sequence[str]) -> None:
        super().__init__()
        self.tower = tower
        self.prompts = [fill_prompts(templates, name) for name in names]
        rows = [self._read([prompts[i] for prompts in self.prompts]) for i in range(len(templates))]
        self.register_buffer("inputs", torch.stack(rows))
        self.inputs: Tensor

    def _read(self, prompts: Sequence[str]) -> Tensor:
        return self.tower(prompts) if isinstance(self.tower, MiniLM) else read_bytes(prompts)

    def of_template(self, i: int) -> Tensor:
        """(n, E) embeddings of unit length with one of the templates."""
        inputs = self.inputs[i % len(self.inputs)]
        return F.normalize(inputs if isinstance(self.tower, MiniLM) else self.tower(inputs), dim=-1)

    @torch.no_grad()
    def mean(self) -> Tensor:
        """(n, E) normalised means over templates."""
        return F.normalize(torch.stack([self.of_template(i) for i in range(len(self.inputs))]).mean(0), dim=-1)


def chosen_classes(texts: Sequence[str], given: str | None) -> list[int]:
    """Positions of the classes to train on.

    Raises:
        UsageError: an unknown name, or less than two classes.
    """
    names = list(texts) if given is None else [label_words(name) for name in given.split(",")]
    unknown = [name for name in names if name not in texts]
    if unknown:
        raise UsageError(f"--classes {', '.join(unknown)}: no such class; there are {', '.join(texts)}")
    if len(set(names)) < 2:
        raise UsageError("--classes: at least two are needed, for there to be something to tell apart")
    return sorted({list(texts).index(name) for name in names})


def batches(indices: np.ndarray, size: int, generator: torch.Generator | None = None) -> Iterator[np.ndarray]:
    """Parts of `indices` in a random order, or in theirs."""
    order = torch.randperm(len(indices), generator=generator).numpy() if generator else np.arange(len(indices))
    for start in range(0, len(indices), size):
        yield indices[order[start : start + size]]


@torch.no_grad()
def accuracy(
    dataset: ClassDataset, network: Any, labels: Labels, classes: Sequence[int], device: torch.device
) -> float:
    """Percent of the test images of these classes whose nearest label, among theirs, is right; NaN without classes."""
    if not classes:
        return math.nan
    transform, texts, encode = dataset.get_normalization_transform(), labels.mean(), image_tower(network)
    targets, right = dataset.samples.test_targets, 0
    indices = np.flatnonzero(np.isin(targets, classes))
    for part in batches(indices, 512):
        images, kept, _ = dataset.samples.test.read(part)
        answers = (encode(transform(images.to(device))) @ texts.T).argmax(1).cpu().numpy()
        right += int((np.asarray(classes)[answers] == targets[part][kept]).sum())
    return 100 * right / len(indices)


def image_tower(network: Any) -> Callable[[Tensor], Tensor]:
    """Normalised images of the stream -> (B, E) unit embeddings; all of the tower learns.

    As the backbone computes it, with the last block for the class token alone: a third less work than open_clip's way.
    """
    visual = network.visual
    trunk, tail = Trunk(visual, len(visual.transformer.resblocks) - 1), Tail(visual, 1)
    visual.requires_grad_(True)
    return lambda images: F.normalize(tail(trunk(images)[0]), dim=-1)


def rate(step: int, n_steps: int, lr: float) -> float:
    """Learning rate: up in a line, then down along a cosine."""
    warm = max(1, round(WARM_UP * n_steps))
    return lr * min((step + 1) / warm, (1 + math.cos(math.pi * step / n_steps)) / 2)


def train(dataset: ClassDataset, network: Any, labels: Labels, classes: Sequence[int], own: Namespace) -> None:
    """Train the image tower, the scale and, unless it is locked, the text tower."""
    device, seed = labels.inputs.device, dataset.args.seed
    transform, targets, encode = dataset.get_transform(), dataset.samples.train_targets, image_tower(network)
    indices = np.flatnonzero(np.isin(targets, classes))
    position = torch.zeros(dataset.N_CLASSES, dtype=torch.int64)
    position[list(classes)] = torch.arange(len(classes))
    optimizer = torch.optim.AdamW(network.parameters(), lr=own.lr, weight_decay=own.weight_decay, fused=True)
    n_steps, step = own.epochs * math.ceil(len(indices) / own.batch_size), 0
    for epoch in range(own.epochs):
        began, total, right, seen = time.monotonic(), 0.0, 0, 0
        order = named_generator(seed, "pretraining", epoch)
        parts = tqdm(
            list(batches(indices, own.batch_size, order)), unit=" batches", leave=False, disable=not sys.stderr.isatty()
        )
        for part in parts:
            for group in optimizer.param_groups:
                group["lr"] = rate(step, n_steps, own.lr)
            images, kept, _ = dataset.samples.train.read(part)
            wanted = position[torch.from_numpy(targets[part][kept])].to(device)
            embedded = encode(transform(images.to(device)))
            scale = network.logit_scale.exp().clamp(max=LARGEST_SCALE)
            logits = scale * embedded @ labels.of_template(step).T
            loss = F.cross_entropy(logits, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            total += float(loss.detach()) * len(wanted)
            right += int((logits.argmax(1) == wanted).sum())
            seen += len(wanted)
        print(
            f"epoch {epoch + 1}/{own.epochs}: loss {total / seen:.4f}, accuracy on augmented training images "
            f"{100 * right / seen:.2f} %, {time.monotonic() - began:.0f} s",
            flush=True,
        )


def pretrain(args: Namespace, own: Namespace) -> None:
    """Train, measure, write the file."""
    dataset = get_dataset(args)
    if not isinstance(dataset, ClassDataset):
        raise UsageError(f"{args.dataset} is no stream of classes, which --classes could choose from")
    device = get_device(args)
    texts = dataset.texts(dataset.samples.names)
    classes = chosen_classes(texts, own.classes)
    others = [i for i in range(len(texts)) if i not in classes]
    templates = prompt_templates(own.prompts or dataset.PROMPTS)
    try:
        require_pixels(dataset.input_shape)
        config = tiny_config(args.clip_image_size, args.patch_size, args.width, args.depth, own.text)
    except ValueError as error:
        raise UsageError(f"clip-tiny: {error}") from error
    network = build(config, own.text).to(device)
    if own.text == "minilm":
        network.text.centre_on(templates)
    labels = Labels(network.text, [texts[i] for i in classes], templates).to(device)
    other_labels = Labels(network.text, [texts[i] for i in others], templates).to(device) if others else labels
    train(dataset, network, labels, classes, own)
    with torch.no_grad():
        network.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
    trained, zero_shot = (
        accuracy(dataset, network, *each, device) for each in ((labels, classes), (other_labels, others))
    )
    print(f"test images of the {len(classes)} classes trained on, among their labels: {trained:.2f} %")
    if others:
        chance = 100 / len(others)
        print(f"of the {len(others)} others, among theirs (zero-shot): {zero_shot:.2f} %; by chance {chance:.2f} %")
    about = {
        "dataset": dataset.NAME,
        "fingerprint": dataset.fingerprint(),
        "templates": list(templates),
        "other_labels": [texts[i] for i in others],
        "accuracy": trained,
        "zero_shot_accuracy": zero_shot,
        "text_version": minilm_version() if own.text == "minilm" else None,
        **{name: getattr(own, name) for name in ("epochs", "batch_size", "lr", "weight_decay")},
        "seed": args.seed,
        "torch": str(torch.__version__),
    }
    state = {name: value.cpu() for name, value in network.state_dict().items()}
    TinyFile(config, state, own.text, [texts[i] for i in classes], about).write(own.out)
    print(f"{own.out}: {sum(value.numel() for value in state.values()):,} numbers")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="file to write")
    add("--classes", help="texts of the classes to train on, separated by commas (default: all)")
    add("--text", choices=TEXT_TOWERS, default="own", help="text tower: learnt from nothing, or the locked MiniLM")
    add("--prompts", nargs="+", help="texts with {} for the name of a class (default: the stream's)")
    add("--epochs", type=not_negative, default=10, help="passes over the images")
    add("--batch_size", type=positive, default=128, help="images of a step")
    add("--lr", type=positive_number, default=1e-3, help="largest learning rate of AdamW")
    add("--weight_decay", type=from_zero, default=0.05, help="of AdamW")
    own, rest = parser.parse_known_args(argv)
    try:
        args = parse_args(["--model", "sgd", "--backbone", "clip-tiny", *rest])
        set_deterministic()
        set_random_seed(args.seed)
        pretrain(args, own)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
