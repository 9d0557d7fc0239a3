"""Loading checkpoints of any public layout into a backbone, saying what did not fit."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import DataError

WRAPPERS = ("state_dict", "model_state", "model", "net")
PREFIXES = ("module.", "net.", "backbone.", "encoder.")
# What files are recognised by: an entry that only this network has, and the kernel size (the shape from the third axis
# on) of that entry where the name alone does not tell.
RESNETS = "a ResNet of torchvision for images (--backbone resnet18, resnet34 or resnet50, with --stem imagenet)"
SIGNATURES: tuple[tuple[str, tuple[int, ...] | None, str], ...] = (
    (r"mixed_3b\.", None, "I3D (--backbone i3d)"),
    (r"conv5b\.weight|features\.18\.weight", (3, 3, 3), "C3D (--backbone c3d)"),
    (r"layer1\.0\.conv1\.0\.0\.weight", (1, 3, 3), "R(2+1)D-18 (--backbone r2plus1d-18)"),
    (r"layer2\.0\.conv1\.0\.weight", (3, 3, 3), "R3D-18 (--backbone r3d-18)"),
    (r"layer2\.0\.conv1\.0\.weight", (1, 3, 3), "MC3-18 (--backbone mc3-18)"),
    (r"layers\.0\.0\.conv3\.weight", None, "this framework's ResNet-50 (--backbone resnet50)"),
    (r"layers\.0\.4\.conv1\.weight", None, "this framework's ResNet-32 (--backbone resnet32)"),
    (r"layers\.2\.5\.conv1\.weight", None, "this framework's ResNet-34 (--backbone resnet34)"),
    (r"layers\.0\.0\.conv1\.weight", (3, 3), "this framework's ResNet-18 (--backbone resnet18)"),
    (r"features\.1\.0\.block\.0\.0\.weight", None, "EfficientNet (--backbone efficientnet-b0)"),
    (r"features\.1\.0\.attn\.qkv\.weight", None, "a Swin transformer (--backbone swin-t)"),
    (r"(encoder\.)?layers\.encoder_layer_0\.", None, "a vision transformer (--backbone vit-b16)"),
    (r"layers\.0\.0\.weight", (5,), "this framework's temporal network (--backbone temporal)"),
    (r"layers\.0\.residual\.0\.weight", (), "this framework's trunk for features (--backbone clip-features)"),
    (r"layers\.0\.weight", (), "this framework's MLP (--backbone mlp)"),
    (r"layer1\.0\.conv1\.weight", None, RESNETS),
    (r"(base_model\.)?layer1\.0\.conv1\.net\.weight", (3, 3), "a TSM ResNet"),
    (r"blocks\.0\.conv\.conv_t\.weight", None, "X3D"),
    (r"visual\.(class_embedding|conv1\.weight)", None, "CLIP"),
)
# Entries of c3d.pickle and of c3d-pretrained.pth; our own checkpoints of C3D have neither.
PUBLIC_C3D = ("fc7.weight", "features.18.weight")


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
        DataError: the file cannot be read, or anything but the head is missing, left over or of another shape, or no
            tensor fits. The message says what network the file looks like, where it can be recognised.
    """
    entries = _read(path)
    stripped = {_strip(key): value for key, value in entries.items()}
    state = getattr(network, "rename_keys", dict)(stripped)
    if len(state) < len(entries):
        raise DataError(
            f"{path} holds more than one network: without their prefixes, {len(entries) - len(state)} of its "
            f"{len(entries)} entries have the name of another. Save one network alone"
        )
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
    if trouble or not report.loaded:
        hint = _hint(stripped, own, trouble, shapes_differ)
        raise DataError(f"the weights do not fit the backbone; nothing was loaded.{hint}\n{report}")
    network.load_state_dict({key: state[key] for key in report.loaded}, strict=False)
    return report


def public_pixel_scale(path: Path) -> str | None:
    """`--pixel_scale` that the public files of C3D were trained with; None for any other file, which does not tell.

    Raises:
        DataError: the file cannot be read.
    """
    with reading(path, "PyTorch checkpoint"):
        state = path.stat()
    return _pixel_scale(path, state.st_mtime_ns, state.st_size)


@functools.cache
def _pixel_scale(path: Path, changed: int, size: int) -> str | None:
    """`public_pixel_scale`, found out once for each state of the file: a grid asks for it at every line."""
    return "c3d" if {_strip(key) for key in _read(path)}.intersection(PUBLIC_C3D) else None


def architecture(state: Mapping[str, Tensor]) -> str | None:
    """What network a state dict without prefixes is from, in words; None if it is none that is known."""
    for pattern, kernel, name in SIGNATURES:
        for key, value in state.items():
            if re.match(pattern, key, re.IGNORECASE) and kernel in (None, tuple(value.shape[2:])):
                return name
    return None


def _hint(state: dict[str, Tensor], own: dict[str, Tensor], trouble: list[str], shapes_differ: set[str]) -> str:
    found = architecture(state)
    if found and found != architecture(own):
        return f"\nThe file looks like {found}."
    if trouble and shapes_differ.issuperset(trouble):
        return "\nThe names fit, the shapes do not: another --width, or another number of input channels?"
    return ""


def _read(path: Path) -> dict[str, Tensor]:
    """The entries of a checkpoint, with the prefixes of wrappers."""
    with reading(path, "PyTorch checkpoint"):
        content = torch.load(path, map_location="cpu", weights_only=True)
    return _state_dict(content, path)


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Tell what goes wrong while a file of weights is read within the block.

    Args:
        kind: what the file may be none of.

    Raises:
        DataError: whatever the reader raised.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read the weights {path}: {error.strerror or error}") from error
    except Exception as error:  # readers meet a file of another kind with almost any exception
        raise DataError(
            f"cannot read the weights {path}: damaged, or no {kind} ({type(error).__name__}: {error})"
        ) from error


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
