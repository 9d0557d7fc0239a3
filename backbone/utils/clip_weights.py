"""Files of CLIP weights: OpenAI's archives, open_clip's checkpoints, and those of clip-tiny."""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.utils.weights import LoadReport, architecture, reading
from utils.errors import DataError
from utils.files import write_atomically

TINY_VERSION = 1
# Of OpenAI's archives beside the weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
OF_TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
WRITES_TINY = "scripts/pretrain_clip.py writes such files"


@dataclass
class TinyFile:
    """What a file of clip-tiny says.

    Attributes:
        config: of the network, as open_clip takes it.
        state: entries of the network, "visual.", "text." and "logit_scale"; without a text tower of its own, and with
            the vector that its texts are centred by, "text.centre", where it has one.
        text_tower: "own" or "minilm".
        labels: texts of the labels that it was trained on.
        about: where it comes from: data, prompts, accuracies, versions; plain values.
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    text_tower: str
    labels: list[str]
    about: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Replace `path` atomically; raises StorageError as `write_atomically` does."""
        content = {"clip_tiny": TINY_VERSION, **vars(self)}
        write_atomically(path, lambda file: torch.save(content, file))


def read_tiny(path: Path) -> TinyFile:
    """Read a file of clip-tiny.

    Raises:
        DataError: it cannot be read, or is another network's.
    """
    content = _read(path)
    if not isinstance(content, dict) or content.get("clip_tiny") != TINY_VERSION:
        found = f": it looks like {name}" if (name := architecture(_state_dict(content))) else ""
        raise DataError(f"{path} is no file of clip-tiny, version {TINY_VERSION}{found}. {WRITES_TINY}")
    return TinyFile(**{name: content[name] for name in TinyFile.__dataclass_fields__})


def read_clip(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Read the weights of a CLIP under open_clip's newer names, in float32.

    Returns:
        The entries "visual.", "text." and "logit_scale"; and whether the file is OpenAI's TorchScript archive.

    Raises:
        DataError: it cannot be read, or holds no CLIP.
    """
    content = _read(path)
    if isinstance(content, dict) and "clip_tiny" in content:
        raise DataError(f"{path} is a file of clip-tiny, which is no CLIP: run it with --backbone clip-tiny")
    state = _state_dict(content)
    if not any(key.startswith("visual.") for key in state):
        found = architecture(state) or "no CLIP, which has entries such as visual.conv1.weight"
        raise DataError(f"the weights {path} do not fit the backbone: the file looks like {found}")
    renamed = {f"text.{key}" if key.startswith(OF_TEXT) else key: value.float() for key, value in state.items()}
    return renamed, isinstance(content, torch.jit.ScriptModule)


def load_towers(network: Any, state: dict[str, Tensor], path: Path, name: str) -> str:
    """Give a network, built on the device "meta", the weights of a file; returns a report.

    Args:
        network: of `backbone.utils.clip_towers.build`.
        state: entries of the file under the network's names.
        path: of the file, for messages.
        name: what the network is called in messages.

    Raises:
        DataError: an entry is missing, left over or of another shape; nothing was loaded.
    """
    own = network.state_dict()
    if "logit_scale" in state:
        state = {**state, "logit_scale": state["logit_scale"].reshape(own["logit_scale"].shape)}
    shapes_differ = {key for key in state.keys() & own.keys() if state[key].shape != own[key].shape}
    report = LoadReport(
        path=path,
        loaded=sorted(state.keys() & own.keys() - shapes_differ),
        missing=sorted(own.keys() - state.keys()),
        unexpected=sorted(state.keys() - own.keys()),
        mismatched=[f"{key}: {tuple(state[key].shape)}, {tuple(own[key].shape)}" for key in sorted(shapes_differ)],
    )
    if len(report.loaded) < max(len(own), len(state)):
        raise DataError(f"the weights do not fit {name}; nothing was loaded. Another --clip_model?\n{report}")
    network.load_state_dict(state, assign=True)
    if getattr(network.text, "attn_mask", None) is not None:
        network.text.attn_mask = network.text.build_causal_mask()  # no part of the weights
    return str(report)


def _read(path: Path) -> Any:
    with reading(path, "checkpoint"):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if _is_torchscript(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch gives up TorchScript; OpenAI's files stay what they are
                return torch.jit.load(path, map_location="cpu")
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _state_dict(content: Any) -> dict[str, Tensor]:
    """The tensors of a file by name; empty where it holds none."""
    if isinstance(content, torch.jit.ScriptModule):
        content = content.state_dict()
    elif isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    entries = content if isinstance(content, dict) else {}
    return {
        str(key).removeprefix("module."): value
        for key, value in entries.items()
        if isinstance(value, Tensor) and key not in NOT_WEIGHTS
    }
