"""Loading checkpoints of any public layout into a backbone, saying what did not fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import DataError

WRAPPERS = ("state_dict", "model_state", "model", "net")
PREFIXES = ("module.", "net.", "backbone.", "encoder.")


@dataclass
class LoadReport:
    """What came of loading a checkpoint.

    Attributes:
        loaded, missing, unexpected: names of entries.
        mismatched: "name: shape in file, shape in network" for entries whose shape differs.
    """

    path: Path
    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.loaded)} tensors loaded"]
        for what in ("missing", "unexpected", "mismatched"):
            entries = getattr(self, what)
            if entries:
                lines.append(
                    f"  {what} ({len(entries)}): {', '.join(entries[:8])}{', ...' if len(entries) > 8 else ''}"
                )
        return "\n".join(lines)


def load_weights(network: nn.Module, path: Path) -> LoadReport:
    """Load a checkpoint into a backbone.

    Accepts a state dict or a dict that holds one ("state_dict", "model_state", "model", "net"), with or without the
    prefixes of wrappers. `network.rename_keys(state)`, where a backbone has it, maps the names of public files to ours.
    The head may be absent or of another size: it then keeps its initial weights, and the report says so.

    Raises:
        DataError: the file cannot be read, or anything but the head is missing, left over or of another shape.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader meets a file of another kind with almost any exception
        raise DataError(f"cannot read the weights {path}: {type(error).__name__}: {error}") from error
    state = _state_dict(content, path)
    rename = getattr(network, "rename_keys", lambda state: state)
    state = rename({_strip(key): value for key, value in state.items()})
    own = network.state_dict()
    shapes_differ = {key for key in state.keys() & own.keys() if state[key].shape != own[key].shape}
    report = LoadReport(
        path=path,
        loaded=sorted(state.keys() & own.keys() - shapes_differ),
        # Files older than torch 0.4.1 have no batch counters; they do not affect the outputs.
        missing=sorted(key for key in own.keys() - state.keys() if not key.endswith("num_batches_tracked")),
        unexpected=sorted(state.keys() - own.keys()),
        mismatched=[f"{key}: {tuple(state[key].shape)}, {tuple(own[key].shape)}" for key in sorted(shapes_differ)],
    )
    trouble = [key for key in (*report.missing, *report.unexpected, *shapes_differ) if not _is_head(key)]
    if trouble:
        raise DataError(f"the weights do not fit the backbone; nothing was loaded.\n{report}")
    network.load_state_dict({key: state[key] for key in report.loaded}, strict=False)
    return report


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    entries = content.items() if isinstance(content, dict) else ()
    state = {key: value for key, value in entries if isinstance(key, str) and isinstance(value, Tensor)}
    if not state or len(state) < len(entries):
        raise DataError(f"{path} holds no state dict (a dict of tensors, or one under {', '.join(WRAPPERS)})")
    return state


def _strip(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _is_head(key: str) -> bool:
    return key.startswith("classifier.")
