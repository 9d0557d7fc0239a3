"""CLIP: an image tower and a text tower whose embeddings are compared, so that any text can be a label."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone import CLIP_PIXELS, ContinualBackbone, register_backbone
from backbone.utils.clip_text import LearntText, MiniLM, read_bytes
from backbone.utils.clip_towers import Tail, Trunk, build, named_config, tiny_config
from backbone.utils.clip_weights import WRITES_TINY, load_towers, read_clip, read_tiny
from backbone.utils.images import require_images
from utils.args import not_negative
from utils.conf import warn_once
from utils.errors import DataError, UsageError
from utils.open_clip_import import import_open_clip
from utils.prompts import fill_prompts, prompt_templates


class ClipBackbone(ContinualBackbone):
    """CLIP (A. Radford et al., ICML 2021), its image tower cut into a frozen trunk and a tail that can be tuned.

    Features are embeddings of images, of unit length. Trunk, text tower, `ln_post` and projection are frozen; the
    blocks of the tail and the classifier train. Tokens that `tokens` gave can stand for their images everywhere:
    `net(tokens)` starts after the trunk. Inputs are normalised with `backbone.pixel_statistics`; images of another
    size are resized, grey ones repeated.

    A copy (`copy.deepcopy`) shares what is frozen.

    Args:
        visual: open_clip's vision transformer.
        text: texts -> (n, E), not yet of unit length.
        num_classes: outputs of the classifier.
        trained_blocks: how many of the last blocks make the tail.
        logit_scale: what cosines are multiplied with before the softmax.

    Attributes:
        n_tokens, token_dim: size of what `tokens` gives for an image.
        tail: tokens (B, L, D) -> (B, E), not yet of unit length.
    """

    stages = ["tokens", "embedding"]

    def __init__(self, visual: Any, text: nn.Module, num_classes: int, trained_blocks: int, logit_scale: float) -> None:
        depth = len(visual.transformer.resblocks)
        if trained_blocks > depth:
            raise ValueError(f"--trained_blocks {trained_blocks}: this network has {depth} blocks")
        super().__init__(visual.output_dim, num_classes)
        self.n_tokens, self.token_dim = visual.positional_embedding.shape
        self.logit_scale = logit_scale
        self.trunk = Trunk(visual, depth - trained_blocks).requires_grad_(False)
        self.tail = Tail(visual, trained_blocks)
        self.text = text.requires_grad_(False)
        self._embedded: dict[tuple[str, ...], Tensor] = {}
        self.register_load_state_dict_post_hook(_forget_texts)

    def tokens(self, x: Tensor) -> Tensor:
        """Tokens (B, L, D) that enter the tail, the class token first, for images (B, C, H, W)."""
        return self.tokens_and_attention(x)[0]

    def tokens_and_attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D), and how much the class token looks at each (B, L): they sum to 1.

        The attention is the mean over heads in the last block of the trunk; without one (all blocks in the tail) every
        token counts the same. Gradients reach the images, where they are asked for, but never the trunk.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            return self.trunk(x)

    def make_tail(self) -> nn.Module:
        """A copy of the tail to be tuned: its blocks train. At first it gives the tail's outputs to the bit."""
        tail = copy.deepcopy(self.tail)
        tail.train_blocks_only()
        return tail

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        tokens = x if x.ndim == 3 else self.tokens(x)
        embedding = self.tail(tokens)
        return F.normalize(embedding, dim=-1), [tokens, embedding]

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(n, E) embeddings of unit length, one for each text; every text is read once."""
        return self._stack([self._embed((text,)) for text in texts])

    def embed_labels(self, names: Sequence[str], templates: str | Sequence[str]) -> Tensor:
        """(n, E) embeddings of unit length, one for each label: the mean over prompts of unit text embeddings.

        Args:
            names: texts of the labels.
            templates: prompts, see `utils.prompts.prompt_templates`.

        Raises:
            UsageError: a blank name, or a template without a place for it.
        """
        prompts = prompt_templates(templates)
        return self._stack([self._embed(tuple(fill_prompts(prompts, name))) for name in names])

    @torch.no_grad()
    def _embed(self, prompts: tuple[str, ...]) -> Tensor:
        """(E,) for the prompts of one label.

        Labels are read one by one: in one batch with others the last bits would depend on who else is asked for, and
        a resumed run, which asks again for all at once, would differ.
        """
        if prompts not in self._embedded or self._embedded[prompts].device != self.device:
            embedded = F.normalize(self.text(prompts).to(self.device), dim=-1)
            self._embedded[prompts] = F.normalize(embedded.mean(0), dim=-1)
        return self._embedded[prompts]

    def _stack(self, rows: list[Tensor]) -> Tensor:
        return torch.stack(rows) if rows else torch.empty(0, self.feature_dim, device=self.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> ClipBackbone:
        memo.update({id(part): part for part in (self.trunk, self.text, self.tail.ln_post, self.tail.proj)})
        copied = memo[id(self)] = type(self).__new__(type(self))
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied


def _forget_texts(backbone: ClipBackbone, _: object) -> None:
    backbone._embedded = {}


def _openai_or_open_clip(
    num_classes: int, input_shape: tuple[int, ...], backbone_weights: str | None, clip_model: str, trained_blocks: int
) -> ClipBackbone:
    """A CLIP of open_clip's with the weights of a file."""
    require_pixels(input_shape)
    clip_model = clip_model.replace("/", "-")
    config = named_config(clip_model)
    open_clip = import_open_clip()
    if not backbone_weights or not Path(backbone_weights).exists():
        tags = open_clip.list_pretrained_tags_by_model(clip_model)
        # OpenAI's weights are listed under the names without quickgelu too, which compute something else with them.
        fitting = [tag for tag in tags if tag != "openai" or "quickgelu" in clip_model] or tags
        source = open_clip.get_pretrained_cfg(clip_model, fitting[0]) if fitting else {}
        place = source.get("url") or f"https://huggingface.co/{source.get('hf_hub') or 'models?search=open_clip'}"
        hint = (
            f"CLIP's weights are not shipped: fetch those of {clip_model} once, for instance from {place}, put them "
            f"anywhere, for instance at data/weights/{clip_model}.pt, and name them with --backbone_weights. Without a "
            "file, --backbone clip-tiny is a small network of the same kind"
        )
        if backbone_weights:
            raise DataError(f"there is no file {backbone_weights}. {hint}")
        raise UsageError(hint)
    path = Path(backbone_weights)
    state, is_openai = read_clip(path)
    network = build(config, device="meta")
    report = load_towers(network, state, path, clip_model)
    quick = config.get("quick_gelu", False)
    if is_openai and not quick:
        raise UsageError(
            f"{path} is an archive of OpenAI's, trained with QuickGELU: --clip_model {clip_model}-quickgelu"
        )
    print(f"{report}\n{clip_model}, with {'QuickGELU, as OpenAI trains' if quick else 'GELU, as LAION trains'}")
    text = LearntText(network.text, _tokeniser(clip_model))
    # CLIP's training keeps it at 100 or below; files in half precision have not every digit.
    scale = min(round(network.logit_scale.detach().exp().item(), 2), 100.0)
    return ClipBackbone(network.visual, text, num_classes, trained_blocks, scale)


@functools.cache
def _tokeniser(clip_model: str) -> Callable[[Sequence[str]], Tensor]:
    return import_open_clip().get_tokenizer(clip_model)


def require_pixels(input_shape: tuple[int, ...]) -> None:
    """Refuse what is no image in colour or grey.

    Raises:
        ValueError: with the shape that was given.
    """
    require_images(input_shape)
    if input_shape[0] not in (1, 3):
        raise ValueError(f"it takes images with 1 or 3 channels, not {input_shape[0]}")


ModelName = Annotated[str, "any vision transformer of open_clip's; quickgelu for OpenAI's weights, none for LAION's"]
TrainedBlocks = Annotated[int, "how many of the last blocks can be tuned; all before stay frozen", not_negative]


@register_backbone("clip-vit-b32", pixels=CLIP_PIXELS)
def clip_vit_b32(
    num_classes: int,
    input_shape: tuple[int, ...],
    backbone_weights: str | None,
    clip_model: ModelName = "ViT-B-32-quickgelu",
    trained_blocks: TrainedBlocks = 1,
) -> ClipBackbone:
    """CLIP ViT-B/32; 151,277,313 parameters, 7,087,872 of them in the last block."""
    return _openai_or_open_clip(num_classes, input_shape, backbone_weights, clip_model, trained_blocks)


@register_backbone("clip-vit-b16", pixels=CLIP_PIXELS)
def clip_vit_b16(
    num_classes: int,
    input_shape: tuple[int, ...],
    backbone_weights: str | None,
    clip_model: ModelName = "ViT-B-16-quickgelu",
    trained_blocks: TrainedBlocks = 1,
) -> ClipBackbone:
    """CLIP ViT-B/16."""
    return _openai_or_open_clip(num_classes, input_shape, backbone_weights, clip_model, trained_blocks)


@register_backbone("clip-vit-l14", pixels=CLIP_PIXELS)
def clip_vit_l14(
    num_classes: int,
    input_shape: tuple[int, ...],
    backbone_weights: str | None,
    clip_model: ModelName = "ViT-L-14-quickgelu",
    trained_blocks: TrainedBlocks = 1,
) -> ClipBackbone:
    """CLIP ViT-L/14."""
    return _openai_or_open_clip(num_classes, input_shape, backbone_weights, clip_model, trained_blocks)


@register_backbone("clip-tiny", pixels=CLIP_PIXELS)
def clip_tiny(
    num_classes: int,
    input_shape: tuple[int, ...],
    backbone_weights: str | None,
    trained_blocks: TrainedBlocks = 1,
    clip_image_size: Annotated[int, "side of the images it sees; without --backbone_weights, like those below"] = 32,
    patch_size: Annotated[int, "pixels of a side of a patch"] = 4,
    width: Annotated[int, "size of a token; one head for every 32"] = 128,
    depth: Annotated[int, "number of blocks"] = 4,
) -> ClipBackbone:
    """A small network of CLIP's kind, which scripts/pretrain_clip.py trains; its sizes are those of its file."""
    require_pixels(input_shape)
    if not backbone_weights:
        warn_once(f"--backbone clip-tiny without --backbone_weights has learnt nothing; {WRITES_TINY}")
        network = build(tiny_config(clip_image_size, patch_size, width, depth))
    else:
        path = Path(backbone_weights)
        file = read_tiny(path)
        network = build(file.config, file.text_tower, device="meta")
        report = load_towers(network, file.state, path, "clip-tiny")
        print(f"{report}\nclip-tiny, trained on {len(file.labels)} labels: {', '.join(file.labels)}")
    text = network.text if isinstance(network.text, MiniLM) else LearntText(network.text, read_bytes)
    return ClipBackbone(network.visual, text, num_classes, trained_blocks, network.logit_scale.detach().exp().item())
