"""Methods that choose among any texts: what they share."""

from __future__ import annotations

import functools
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.utils.continual_model import ContinualModel
from utils.args import true_or_false
from utils.checkpoints import evaluation_mode, load_checkpoint, save_checkpoint
from utils.errors import StorageError, UsageError
from utils.images import centre_square, raw_batches
from utils.open_evaluation import OPEN_SETS
from utils.prompts import prompt_templates
from utils.vocabulary import Vocabulary, check_labels

if TYPE_CHECKING:
    from backbone.clip import ClipBackbone

# Images that go through the network together.
AT_ONCE = 256


class OpenVocabularyModel(ContinualModel):
    """Learns samples named by texts, and chooses among any texts at any time; on a CLIP backbone.

    A subclass implements `learn_tokens`, `encode` and `probabilities`. The order of a batch's path is the same for all:
    images -> `net.tokens_and_attention` (the frozen part, once a sample) -> `learn_tokens`, or `encode` and
    `probabilities`. What is asked about is never a column of a fixed head: the candidates are part of every question,
    since an answer among few texts is not the answer among many with the others struck out.

    Attributes:
        vocabulary: labels met so far.
    """

    net: ClipBackbone
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "general-continual"]
    # Images are compared with texts: there is no head with an output for every class.
    OWN_LOSS = OWN_HEAD = True

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add = parser.add_argument_group("open vocabulary").add_argument
        add(
            "--prompts",
            nargs="+",
            help="texts with {} for the name of a class, or imagenet for CLIP's 80 of ImageNet (default: the stream's)",
        )
        add(
            "--open_evaluation",
            type=true_or_false,
            default=True,
            help="after every session also measure on every data set of the stream, seen or not, and on held-out ones",
        )
        add(
            "--open_sets",
            nargs="*",
            choices=OPEN_SETS,
            default=[],
            help="after every session also choose among labels of several data sets at once (a stream of several is "
            "always asked about their union)",
        )
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        if not hasattr(self.net, "embed_labels"):
            raise UsageError(
                f"{self.NAME} needs a network that knows texts: --backbone clip-tiny, or clip-vit-b32 and its weights; "
                f"--backbone {getattr(args, 'backbone', type(backbone).__name__)} does not"
            )
        if self._option("prompts", None):
            prompt_templates(args.prompts)
        if self._option("open_sets", []) and not args.open_evaluation:
            raise UsageError(f"--open_sets {' '.join(args.open_sets)}: --open_evaluation False measures none of them")
        self.vocabulary = Vocabulary(self.net.embed_labels, self.prompts_of, self.device)

    # What a subclass implements

    def learn_tokens(self, tokens: Tensor, attention: Tensor, labels: Tensor, epoch: int | None = None) -> float:
        """Learn from samples.

        Args:
            tokens: (B, L, D), what enters the trained blocks.
            attention: (B, L) of the class token in the block before.
            labels: (B,) int64 positions in the vocabulary, on the device.

        Returns:
            The loss.
        """
        raise NotImplementedError

    def encode(self, tokens: Tensor) -> Tensor:
        """(B, V, E) unit vectors: what V views of the network make of images, from which every answer follows."""
        raise NotImplementedError

    def probabilities(self, encoded: Tensor, labels: Sequence[str]) -> Tensor:
        """(B, n) how likely each of the texts is; the largest decides. Need not sum to 1."""
        raise NotImplementedError

    def answers(self, encoded: Tensor, labels: Sequence[str]) -> dict[str, Tensor]:
        """The answer of the method, under "", and of its parts, under their names; (B, n) each."""
        return {"": self.probabilities(encoded, labels)}

    def settings(self) -> dict[str, Any]:
        """Plain values that a file of `save` must have in common with the model that restores it."""
        return {
            "method": self.NAME,
            "optimizer": self._option("optimizer", "sgd"),
            "logit scale of the weights": round(self.net.logit_scale, 3),
        }

    # What all share

    def tail_to_tune(self) -> nn.Module:
        """A copy of the blocks of the network that can be tuned, tokens (B, L, D) -> (B, E).

        Raises:
            UsageError: there is none.
        """
        if not self.net.tail.blocks:
            raise UsageError(f"{self.NAME}: --trained_blocks 0 leaves nothing to tune; choose at least 1")
        return self.net.make_tail()

    @functools.cached_property
    def templates(self) -> tuple[str, ...]:
        """Prompts of labels that have none of their own."""
        return prompt_templates(self._option("prompts", None) or self.dataset.PROMPTS)

    @functools.cached_property
    def label_prompts(self) -> dict[str, tuple[str, ...]]:
        """Prompts of the labels of the stream's data sets and of held-out ones, by those where each comes first; none
        with --prompts. Opens the data."""
        found: dict[str, tuple[str, ...]] = {}
        if not self._option("prompts", None):
            pairs = [(self.dataset.label_texts, self.dataset.label_prompts)]
            pairs += [(part.labels, part.prompts) for part in self.dataset.evaluation_sets()]
            for texts, prompts in pairs:
                for text, own in zip(texts, prompts, strict=True):
                    found.setdefault(text, prompt_templates(own))
        return found

    def prompts_of(self, name: str) -> tuple[str, ...]:
        """The prompts that a label is put into."""
        return self.label_prompts.get(name, self.templates)

    @functools.cached_property
    def class_texts(self) -> list[str]:
        """The text of every class of the stream; opens its data."""
        return list(self.dataset.label_texts)

    def logits_met(self, embeddings: Tensor, n: int | None = None) -> Tensor:
        """(B, labels) logits of (B, E) unit vectors for every label met so far, or for the n met first."""
        return self.net.logit_scale * embeddings @ self.vocabulary.embeddings[:n].T

    def softmax_among(self, embeddings: Tensor, labels: Sequence[str]) -> Tensor:
        """(B, n) softmax of logit_scale times the cosine between (B, E) unit vectors and the texts."""
        return (self.net.logit_scale * embeddings @ self.vocabulary.embeddings_of(labels).T).softmax(1)

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        tokens, attention = self.net.tokens_and_attention(self.normalization_transform(not_aug_inputs))
        names = [self.class_texts[label] for label in labels.tolist()]
        return self.learn_tokens(tokens, attention, self.vocabulary.add(names).to(self.device), epoch)

    def class_outputs(self, encoded: Tensor) -> Tensor:
        """(B, N_CLASSES) logarithms of how likely each class of the stream is among all of them."""
        texts = list(dict.fromkeys(self.class_texts))
        columns = [texts.index(text) for text in self.class_texts]
        return self.probabilities(encoded, texts).clamp_min(1e-30).log()[:, columns]

    def choose_class(self, encoded: Tensor, first: int, end: int) -> Tensor:
        """(B,) the likeliest among the classes from `first` to before `end`, and no others; of classes with the same
        text the earliest."""
        texts = self.class_texts[first:end]
        different = list(dict.fromkeys(texts))
        positions = torch.tensor([first + texts.index(text) for text in different], device=encoded.device)
        return positions[self.probabilities(encoded, different).argmax(1)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, N_CLASSES) logarithms of how likely each class of the stream is among all of them."""
        return self.class_outputs(self.encode(self.net.tokens(x)))

    # Without a stream

    @torch.no_grad()
    def predict(self, images: Any, labels: Sequence[str]) -> list[str]:
        """The likeliest of any texts for each image.

        Args:
            images: as `raw_batches` takes them: tensors, arrays or PIL images, of any size, one or many.
            labels: at least one; each once.

        Raises:
            UsageError: the labels are none, empty or not different, or the images are none.
        """
        check_labels(labels, different=True)
        labels = [str(label) for label in labels]
        with evaluation_mode(self):
            encoded = torch.cat([self.encode(self.net.tokens(part)) for part in self._inputs(images)])
            return [labels[i] for i in self.probabilities(encoded, labels).argmax(1).tolist()]

    def learn(self, images: Any, names: Sequence[str] | str) -> float:
        """Learn images by their names.

        Args:
            images: as `raw_batches` takes them: tensors, arrays or PIL images, of any size, one or many.
            names: one text for each image.

        Returns:
            The loss.

        Raises:
            UsageError: there are not as many names as images, a name is no text, or the images are none.
        """
        names = [names] if isinstance(names, str) else names
        check_labels(names)
        names = [str(name) for name in names]
        inputs = self._inputs(images)
        n = sum(map(len, inputs))
        if len(names) != n:
            raise UsageError(f"{n} images need as many names, not {len(names)}")
        parts = [self.net.tokens_and_attention(part) for part in inputs]
        tokens, attention = (torch.cat(column) for column in zip(*parts, strict=True))
        return self.learn_tokens(tokens, attention, self.vocabulary.add(names).to(self.device))

    def _inputs(self, images: Any) -> list[Tensor]:
        """Network inputs (B, C, S, S), B at most `AT_ONCE`."""
        parts = [centre_square(part) for batch in raw_batches(images) for part in batch.split(AT_ONCE)]
        return [self.normalization_transform(part.to(self.device)) for part in parts]

    def save(self, path: str | Path) -> None:
        """Write everything that the model needs to go on: weights, labels, what it stored, the optimiser.

        Raises:
            StorageError: it could not be written; what stood there before is untouched.
        """
        opt = None if self._opt is None else self._opt.state_dict()
        save_checkpoint(Path(path), {"settings": self.settings(), "model": self.state_dict(), "opt": opt})

    def restore(self, path: str | Path) -> None:
        """Go to where `save` wrote a file, with the learning rate of then.

        Raises:
            StorageError: the file is missing or damaged, or of other settings or another network; this model is left as
                it was.
        """
        state = load_checkpoint(Path(path))
        mine, theirs = self.settings(), state.get("settings", {})
        if "model" not in state or mine != theirs:
            names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
            pairs = "; ".join(
                f"{name} {theirs.get(name, 'absent')} there, {mine.get(name, 'absent')} here" for name in names
            )
            raise StorageError(
                f"{path} was written with other settings: {pairs}. Build the model with those of the file"
            )
        own = self.state_dict()
        odd = sorted(own.keys() ^ state["model"].keys()) + [
            name
            for name, value in own.items()
            if isinstance(value, Tensor) and name in state["model"] and value.shape != state["model"][name].shape
        ]
        if odd:
            raise StorageError(f"{path} is of another network: {odd[0]} and {len(odd) - 1} other parts do not fit")
        self.load_state_dict(state["model"])
        self._opt = None
        if state["opt"] is not None:
            self._opt = self.get_optimizer()
            self._opt.load_state_dict(state["opt"])
