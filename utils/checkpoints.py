"""Checkpoints: everything a run needs to go on as if it had never stopped, and weights to start another run from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.errors import StorageError
from utils.files import write_atomically

VERSION = 2


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint atomically.

    Raises:
        StorageError: it could not be written; the one before is untouched.
    """
    write_atomically(path, lambda file: torch.save({"version": VERSION, **state}, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; only tensors and plain values are accepted.

    Raises:
        StorageError: it is missing, damaged or of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader meets a damaged file with almost any exception
        raise StorageError(f"cannot read the checkpoint {path}: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        found = state.get("version", "none") if isinstance(state, dict) else "none"
        raise StorageError(
            f"{path} is a checkpoint of version {found}, this code reads version {VERSION}: check out the commit that "
            "the run's environment.json names, or start the run anew"
        )
    return state


def load_weights(module: nn.Module, path: Path) -> None:
    """Load what `--savecheck` kept.

    Raises:
        StorageError: the file is missing or damaged, or is of another method, network or buffer.
    """
    state = load_checkpoint(path)
    try:
        module.load_state_dict(state["model"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise StorageError(f"{path} does not fit this model: {error}") from error


def module_modes(module: nn.Module) -> dict[str, list[str]]:
    """Names of submodules in training mode and of parameters that are not trained: no state dict has them."""
    return {
        "training": [name for name, part in module.named_modules() if part.training],
        "frozen": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
    }


def set_module_modes(module: nn.Module, modes: dict[str, list[str]]) -> None:
    """Put back what `module_modes` returned."""
    training, frozen = set(modes["training"]), set(modes["frozen"])
    for name, part in module.named_modules():
        part.training = name in training
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; afterwards every submodule is in the mode it was in."""
    modes = module_modes(module)
    module.eval()
    try:
        yield
    finally:
        set_module_modes(module, modes)
