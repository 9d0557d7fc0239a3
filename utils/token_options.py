"""How tokens are stored, as options of a run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import torch

from utils.args import not_negative, positive, true_or_false
from utils.compression import BITS, MODES, RANGES, Compression
from utils.errors import UsageError
from utils.token_store import TokenStore


def add_token_store_args(parser: ArgumentParser) -> None:
    """For methods that keep what enters the trained blocks."""
    add = parser.add_argument_group("stored tokens").add_argument
    add(
        "--compression",
        choices=MODES,
        default="image",
        help="principal components of each image's tokens, or the same for all (shared); or tokens as they are (none)",
    )
    add("--components", type=not_negative, default=5, help="how many components; 0: tokens as they are")
    add("--bits", type=int, choices=BITS, default=8, help="of a stored number; 32 is float32")
    add("--weighting", type=true_or_false, default=True, help="components serve what the class token looks at")
    add("--ranges", choices=RANGES, default="token", help="what has a range of its own for its coefficients")
    add("--fit_images", type=positive, default=100, help="shared: images that the components are fitted to")


def make_token_store(args: Namespace, net: Any, device: torch.device, seed: int) -> TokenStore:
    """An empty store for the tokens of a backbone.

    Raises:
        UsageError: the tokens have fewer components than are asked for.
    """
    try:
        settings = Compression(
            *(net.n_tokens, net.token_dim, args.components, args.bits, args.weighting, args.ranges),
            mode=args.compression,
            n_fit=args.fit_images,
        )
    except ValueError as error:
        raise UsageError(f"--components: {error}") from error
    return TokenStore(settings, device, seed)
