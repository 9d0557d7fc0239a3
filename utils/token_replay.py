"""Replay of what enters the trained part of a network with a frozen trunk, for every method with a buffer.

With `--replay features` samples become tokens once, when they arrive. A method gets tokens as its inputs and rows of
bytes as its raw samples; its transforms turn such rows back into tokens, and its buffer holds them. Whatever a method
does with inputs, raw samples and transforms it does with these, unchanged.

Source: Z. Zhu, Y. Gong, D. Hoiem, Anytime continual learning for open vocabulary classification, ECCV 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from utils.buffer import Buffer
from utils.compression import Compression, class_token_weights, compress, decompress
from utils.errors import UsageError

if TYPE_CHECKING:
    from models.utils.continual_model import ContinualModel


class TokenReplay:
    """Turns raw samples into tokens and codes, and codes into tokens.

    Args:
        net: a backbone with `tokens_and_attention`.
        view: raw samples -> network inputs, not augmented.
        settings: how tokens are stored.
    """

    def __init__(self, net: Any, view: Callable[[Tensor], Tensor], settings: Compression) -> None:
        self.net, self.view, self.settings = net, view, settings

    def __call__(self, raw: Tensor) -> Tensor:
        """(B, L, D) tokens of raw samples or of codes: what the method's transforms are."""
        return decompress(raw, self.settings) if self.holds_codes(raw) else self.net.tokens(self.view(raw))

    def encode(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D) as they are, and their codes (B, n_bytes), of raw samples."""
        tokens, attention = self.net.tokens_and_attention(self.view(raw))
        weights = class_token_weights(attention) if self.settings.weighting else None
        return tokens, compress(tokens, weights, self.settings)

    def codes(self, raw: Tensor) -> Tensor:
        """Codes of raw samples; codes as they are."""
        return raw if self.holds_codes(raw) else self.encode(raw)[1]

    def holds_codes(self, raw: Tensor) -> bool:
        """Whether a batch is one of codes: images have more dimensions."""
        return raw.ndim == 2


class TokenBuffer(Buffer):
    """A buffer of codes, which also takes raw samples and makes codes of them.

    Args:
        replay: what makes them.
        buffer_size, device, sample_selection_strategy, seed: as of `Buffer`.
    """

    def __init__(
        self, replay: TokenReplay, buffer_size: int, device: Any, sample_selection_strategy: str, seed: int
    ) -> None:
        super().__init__(buffer_size, device, sample_selection_strategy, seed=seed)
        self.replay = replay

    def add_data(
        self,
        examples: Tensor,
        labels: Tensor | None = None,
        logits: Tensor | None = None,
        task_labels: Tensor | None = None,
        **more: Tensor,
    ) -> Tensor:
        return super().add_data(self.replay.codes(examples), labels, logits, task_labels, **more)


def token_replay(model: ContinualModel) -> TokenReplay | None:
    """What `--replay features` asks for; None for replay of samples.

    Raises:
        UsageError: the network has no tokens, the settings do not fit them, or --stage2 needs raw samples.
    """
    args = model.args
    if getattr(args, "replay", None) != "features":
        return None
    if not hasattr(model.net, "tokens_and_attention"):
        from backbone import REGISTRY

        with_tokens = [name for name, module in REGISTRY.modules().items() if module == "backbone.clip"]
        raise UsageError(
            f"--replay features stores what leaves the frozen part of a network, and --backbone {args.backbone} has "
            f"none; networks that have: {', '.join(with_tokens)}"
        )
    if model.second_stage is not None:
        raise UsageError("--stage2 learns from stored samples too, and --replay features stores none; leave out either")
    net: Any = model.net
    try:
        settings = Compression(net.n_tokens, net.token_dim, args.components, args.bits)
    except ValueError as error:
        raise UsageError(f"--components {args.components} --bits {args.bits}: {error}") from error
    return TokenReplay(net, model.normalization_transform, settings)
