"""ZSCL: what the original model makes of reference images and texts is what the tuned one should."""

from __future__ import annotations

import functools
from argparse import ArgumentParser
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.continual_dataset import ContinualDataset
from datasets.utils.sources import IMAGE_SUFFIXES, ImageFiles
from models.utils.open_vocabulary import OpenVocabularyModel
from models.utils.tuned_clip import TunedClip
from utils.args import from_zero, not_negative, positive_number
from utils.conf import named_generator
from utils.errors import DataError, UsageError
from utils.losses import softened_cross_entropy
from utils.nouns import NOUNS


class ZSCL(TunedClip):
    """Fine-tuning with distillation in feature space and weights averaged over the steps.

    L = L_new + lambda T^2 (D_image + D_text). Let z be the similarities, times the logit scale, of B reference images
    and the reference texts, z' those of the original model. D_image is the cross-entropy of the softmax of z / T to
    that of z' / T over the texts of every image, D_text over the images of every text. What answers, and what the next
    task begins with, is the mean of the weights at the beginning of the task and after every step that counts.

    Other than in the paper only the last blocks of the image tower learn, so the embeddings of texts are fixed. Its
    reference images are 100,000 of ImageNet and its texts sentences of Conceptual Captions: here they are the images of
    the batch, or those in --reference_images, and everyday nouns, or the lines of --reference_texts. It takes every
    100th step into the average; here every one counts, unless --average_every says otherwise, and the last one of a
    task always.

    Source: Z. Zheng et al., Preventing zero-shot transfer degradation in continual learning of vision-language models,
    ICCV 2023.
    """

    NAME = "zscl"
    # Of reference images; the network brings them to its own size.
    PIXELS = 224
    n_steps: Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        OpenVocabularyModel.get_parser(parser)
        add = parser.add_argument_group("zscl").add_argument
        add("--zscl_lambda", type=from_zero, default=1.0, help="weight of distillation")
        add("--softmax_temp", type=positive_number, default=2.0, help="temperature that softens similarities")
        add("--average_every", type=not_negative, default=1, help="steps between weights averaged; 0: no average")
        add("--reference_images", metavar="DIR", help="folder of images to compare on (default: those of the batch)")
        add("--reference_texts", metavar="FILE", help="texts to compare on, one a line (default: everyday nouns)")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.average = self.net.make_tail()
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64, device=self.device))
        self.texts = read_lines(Path(args.reference_texts)) if args.reference_texts else NOUNS
        self.images = open_folder(Path(args.reference_images), self.PIXELS) if args.reference_images else None

    @functools.cached_property
    def text_embeddings(self) -> Tensor:
        """(M, E) of the reference texts."""
        embeddings: Tensor = self.net.embed_labels(self.texts, self.templates)
        return embeddings.to(self.device)

    def begin_task(self, dataset: ContinualDataset) -> None:
        self.n_steps.zero_()

    def learn_tokens(self, tokens: Tensor, attention: Tensor, labels: Tensor, epoch: int | None = None) -> float:
        value = super().learn_tokens(tokens, attention, labels, epoch)
        self.n_steps += 1
        if self.args.average_every and int(self.n_steps) % self.args.average_every == 0:
            self.join_average(int(self.n_steps) // self.args.average_every)
        return value

    def end_task(self, dataset: ContinualDataset) -> None:
        every, n_steps = self.args.average_every, int(self.n_steps)
        if every:
            if n_steps % every:
                self.join_average(n_steps // every + 1)
            self.tuned.load_state_dict(self.average.state_dict())

    @torch.no_grad()
    def join_average(self, t: int) -> None:
        """Take the present weights into the average as its t-th beside those of the beginning."""
        for average, tuned in zip(self.average.parameters(), self.tuned.parameters(), strict=True):
            average.lerp_(tuned, 1 / (t + 1))

    def penalty(self, tokens: Tensor, embeddings: Tensor) -> Tensor:
        if self.images is not None:
            tokens = self.reference_tokens(self.images, len(tokens))
            embeddings = F.normalize(self.tuned(tokens), dim=1)
        with torch.no_grad():
            old = self.similarities(self.net(tokens, returnt="features"))
        new, temperature = self.similarities(embeddings), self.args.softmax_temp
        of_images = softened_cross_entropy(new, old, temperature)
        of_texts = softened_cross_entropy(new.T, old.T, temperature)
        self.log(loss_distillation=of_images + of_texts)
        return self.args.zscl_lambda * temperature**2 * (of_images + of_texts)

    def similarities(self, embeddings: Tensor) -> Tensor:
        """(B, M) of unit vectors and the reference texts, times the logit scale."""
        return self.net.logit_scale * embeddings @ self.text_embeddings.T

    def reference_tokens(self, images: ImageFiles, n: int) -> Tensor:
        """Tokens of n reference images, drawn anew in every step."""
        generator = named_generator(self.args.seed, "zscl", self.current_task, int(self.n_steps))
        raw, *_ = images.read(torch.randint(len(images), (n,), generator=generator).numpy())
        tokens: Tensor = self.net.tokens(self.normalization_transform(raw.to(self.device)))
        return tokens

    def encode(self, tokens: Tensor) -> Tensor:
        network = self.average if self.args.average_every else self.tuned
        return F.normalize(network(tokens), dim=1)[:, None]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        UsageError: there are fewer than two, or no such file.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--reference_texts {path}: cannot be read ({error})") from error
    if len(lines) < 2:
        raise UsageError(f"--reference_texts {path}: at least two lines are needed to compare")
    return lines


def open_folder(folder: Path, size: int) -> ImageFiles:
    """All images below a folder, in alphabetical order.

    Raises:
        DataError: there is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f"--reference_images {folder}: no image in this folder or below ({', '.join(IMAGE_SUFFIXES)})")
    return ImageFiles(folder, [str(path.relative_to(folder)) for path in paths], size, skip_corrupt=False)
