"""What methods share."""

from __future__ import annotations

import functools
import sys
from argparse import Namespace
from typing import Any

from utils.config import read_yaml
from utils.errors import UsageError
from utils.registry import ROOT, normalise


def load_model_config(args: Namespace, buffer_size: int | None = None) -> dict[str, Any]:
    """Values for a method from configs/models/<model>.yaml.

    The file has a `default` block, one block for each stream, and named blocks below `presets`. A stream's block holds
    values, and below each buffer size the values for that size, e.g.

        default: {optimizer: adam}
        seq-cifar10:
          lr: 0.1
          200: {minibatch_size: 32}
        presets:
          paper: {optimizer: sgd, lr: 0.5}

    Args:
        args: needs `model`; with `model_config` "best" also `dataset`.
        buffer_size: which sizes' values to use; None for none.

    Returns:
        The values of the default block; with `--model_config best` overridden by those of the stream and of the size,
        with the name of a preset by those of the preset.

    Raises:
        UsageError: the file is broken, or has no best values for the stream, or no such preset.
    """
    path = ROOT / "configs" / "models" / f"{normalise(args.model)}.yaml"
    wanted = normalise(getattr(args, "model_config", None) or "default")
    content = read_yaml(path) if path.exists() else {}
    blocks = {name if name == "default" else normalise(str(name)): block or {} for name, block in content.items()}
    presets = blocks.pop("presets", {})
    for name, block in [("presets", presets), *blocks.items(), *(presets.items() if isinstance(presets, dict) else [])]:
        if not isinstance(block or {}, dict):
            raise UsageError(f"{path.relative_to(ROOT)}: {name} must be a block of 'name: value' lines, not {block!r}")
    presets = {normalise(str(name)): block or {} for name, block in presets.items()}
    values = dict(blocks.get("default", {}))
    if wanted == "best":
        if not path.exists():
            raise UsageError(f"--model_config best: there is no {path.relative_to(ROOT)}")
        stream = normalise(getattr(args, "dataset", None) or "")
        if stream not in blocks:
            tuned = ", ".join(name for name in blocks if name != "default") or "none"
            raise UsageError(f"{path.relative_to(ROOT)} has no best values for {stream}; streams with some: {tuned}")
        values |= {key: value for key, value in blocks[stream].items() if isinstance(key, str)}
        sizes = sorted(key for key in blocks[stream] if not isinstance(key, str))
        if sizes and buffer_size is not None and buffer_size not in sizes:
            note_once(
                f"note: {path.relative_to(ROOT)} has best values for {stream} with buffers of "
                f"{', '.join(map(str, sizes))}; with {buffer_size} what depends on the size stays at its default"
            )
        values |= blocks[stream].get(buffer_size) or {}
    elif wanted not in ("default", "base"):
        if wanted not in presets:
            known = ", ".join(("default", "best", *presets))
            raise UsageError(f"--model_config {wanted}: {normalise(args.model)} has no such preset; known: {known}")
        values |= presets[wanted]
    return values


@functools.cache
def note_once(text: str) -> None:
    """Tell something on stderr, the first time in this process."""
    print(text, file=sys.stderr)
