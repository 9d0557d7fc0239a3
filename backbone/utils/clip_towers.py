"""The two towers of a CLIP as open_clip builds them, and the image tower taken apart: trunk, then tail."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.utils.clip_text import CONTEXT, END, MINILM_WIDTH, MiniLM
from utils.errors import UsageError
from utils.open_clip_import import import_open_clip
from utils.registry import unknown_name_message

# What a configuration may say for the parts below to compute what open_clip computes.
MODEL_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"}
VISION_KEYS = {
    *("image_size", "patch_size", "width", "head_width", "layers", "mlp_ratio", "ls_init_value", "no_ln_pre"),
    *("pos_embed_type", "patch_dropout", "final_ln_after_pool", "act_kwargs", "norm_kwargs"),
}
TEXT_FOREIGN = ("hf_model_name", "hf_tokenizer_name")
TEXT_LAYERS = 2
HEAD_WIDTH = 32


def named_config(name: str) -> dict[str, Any]:
    """The configuration of one of open_clip's models, as its constructor takes it.

    Raises:
        UsageError: no such model; or one whose image tower is no vision transformer with a class token, or whose text
            tower is not open_clip's own.
    """
    open_clip = import_open_clip()
    known = open_clip.list_models()
    if name not in known:
        raise UsageError(unknown_name_message("--clip_model", name, known))
    config = open_clip.get_model_config(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    foreign = [
        *sorted(config.keys() - MODEL_KEYS),
        *sorted(vision.keys() - VISION_KEYS),
        *(key for key in TEXT_FOREIGN if text.get(key)),
        *(["layers of a ResNet"] if not isinstance(vision.get("layers", 12), int) else []),
    ]
    if foreign:
        raise UsageError(
            f"--clip_model {name}: only vision transformers with a class token beside open_clip's own text tower can "
            f"be split into trunk and tail; this one has {', '.join(foreign)}. Try ViT-B-32, ViT-B-16 or ViT-L-14"
        )
    config.pop("custom_text", None)
    return config


def tiny_config(image_size: int, patch_size: int, width: int, depth: int, text_tower: str = "own") -> dict[str, Any]:
    """The configuration of a small CLIP; its own text tower reads bytes (`read_bytes`).

    Raises:
        ValueError: sizes that do not go together.
    """
    if image_size % patch_size:
        raise ValueError(f"--clip_image_size {image_size} is no multiple of --patch_size {patch_size}")
    heads = max(1, width // HEAD_WIDTH)
    if width % heads:
        raise ValueError(f"--width {width} cannot be shared among {heads} heads; take a multiple of {HEAD_WIDTH}")
    vision = {"image_size": image_size, "patch_size": patch_size, "layers": depth}
    text = {"context_length": CONTEXT, "vocab_size": END + 1, "layers": TEXT_LAYERS}
    return {
        "embed_dim": MINILM_WIDTH if text_tower == "minilm" else width,
        "vision_cfg": {**vision, "width": width, "head_width": width // heads},
        "text_cfg": {**text, "width": width, "heads": heads},
    }


def build(config: dict[str, Any], text_tower: str = "own", device: str = "cpu") -> Any:
    """A network with `visual`, `text` and `logit_scale`, of random weights.

    Args:
        config: as open_clip takes it.
        text_tower: "own" for open_clip's, "minilm" for a `MiniLM` in its place.
        device: "meta" builds in no time and memory, for weights that are loaded with `assign=True`.
    """
    with torch.device(device):
        network = import_open_clip().CustomTextCLIP(**copy.deepcopy(config))
        if text_tower == "minilm":
            network.text = MiniLM()
        elif network.vocab_size == END + 1:
            # With open_clip's deviation of 0.02, meant for 49,408 tokens, all texts of a template read alike at first.
            nn.init.normal_(network.text.token_embedding.weight, std=0.5)
            nn.init.normal_(network.text.positional_embedding, std=0.1)
    return network


# A block of open_clip: ln_1, attn (nn.MultiheadAttention), ls_1, ln_2, mlp, ls_2


def run_block(block: Any, tokens: Tensor, class_only: bool = False) -> tuple[Tensor, Tensor]:
    """Run a transformer block.

    Args:
        block: open_clip's ResidualAttentionBlock.
        tokens: (B, L, D), the class token first.
        class_only: compute the class token alone: every token is read, one is written.

    Returns:
        Tokens (B, L, D), or (B, 1, D); and the attention (B, H, L, L), or (B, H, 1, L).
    """
    attention = block.attn
    normed = block.ln_1(tokens)
    width, heads = tokens.shape[-1], attention.num_heads
    asking = slice(0, 1) if class_only else slice(None)
    weights, biases = attention.in_proj_weight.split(width), attention.in_proj_bias.split(width)
    query, key, value = (
        F.linear(each, weight, bias).unflatten(-1, (heads, -1)).transpose(1, 2)
        for each, weight, bias in zip((normed[:, asking].contiguous(), normed, normed), weights, biases, strict=True)
    )
    attended = ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(-1)
    mixed = attention.out_proj((attended @ value).transpose(1, 2).flatten(-2))
    x = tokens[:, asking] + block.ls_1(mixed)
    return x + block.ls_2(block.mlp(block.ln_2(x))), attended


class Trunk(nn.Module):
    """Patches, class token, positions and the first blocks: what stays as it was.

    Args:
        visual: open_clip's vision transformer.
        n_blocks: how many of its blocks belong to the trunk.
    """

    def __init__(self, visual: Any, n_blocks: int) -> None:
        super().__init__()
        self.image_size: tuple[int, int] = tuple(visual.image_size)
        self.conv1, self.ln_pre = visual.conv1, visual.ln_pre
        self.class_embedding, self.positional_embedding = visual.class_embedding, visual.positional_embedding
        self.blocks = nn.ModuleList(list(visual.transformer.resblocks)[:n_blocks])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D) of images (B, C, H, W), and the attention (B, L) of the class token in the last block.

        Images of another size are resized, grey ones repeated. The attention is the mean over heads, and sums to 1;
        without a block it is the same for all tokens.
        """
        if images.shape[-2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bicubic", antialias=True)
        patches = self.conv1(images.expand(-1, 3, -1, -1)).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(len(patches), 1, -1)
        tokens = self.ln_pre(torch.cat([class_token, patches], dim=1) + self.positional_embedding)
        attention = tokens.new_full(tokens.shape[:2], 1 / tokens.shape[1])
        for block in self.blocks:
            tokens, attended = run_block(block, tokens)
            attention = attended[:, :, 0].mean(1)
        return tokens, attention


class Tail(nn.Module):
    """The last blocks, `ln_post` and the projection: tokens (B, L, D) -> embeddings (B, E), not yet of unit length.

    The last block is computed for the class token alone, the only one that is read afterwards; the others keep all.
    """

    def __init__(self, visual: Any, n_blocks: int) -> None:
        super().__init__()
        blocks = list(visual.transformer.resblocks)
        self.blocks = nn.ModuleList(blocks[len(blocks) - n_blocks :])
        self.ln_post, self.proj = visual.ln_post, visual.proj
        self.train_blocks_only()

    def train_blocks_only(self) -> None:
        """The blocks train; `ln_post` and the projection do not."""
        self.requires_grad_(False)
        self.blocks.requires_grad_(True)

    def forward(self, tokens: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks, start=1):
            tokens, _ = run_block(block, tokens, class_only=i == len(self.blocks))
        return self.ln_post(tokens[:, 0]) @ self.proj
