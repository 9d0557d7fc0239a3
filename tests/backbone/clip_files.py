"""Small networks of open_clip's under a name of their own, and files of weights in the layouts people have."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.open_clip_import import import_open_clip

State = dict[str, Tensor]
VISION = {"image_size": 16, "layers": 3, "width": 16, "head_width": 8, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
_folder = tempfile.TemporaryDirectory(prefix="small-clip-")


@functools.cache
def small_model(quick_gelu: bool = True, layers: int = 3) -> str:
    """Name of a small model, known to open_clip from now on."""
    name = f"small-{layers}{'-quickgelu' if quick_gelu else ''}"
    config = {
        "embed_dim": 12,
        "vision_cfg": {**VISION, "layers": layers},
        "text_cfg": TEXT,
        "quick_gelu": quick_gelu,
    }
    path = Path(_folder.name) / f"{name}.json"
    path.write_text(json.dumps(config))
    import_open_clip().add_model_config(path)
    return name


def random_model(quick_gelu: bool = True, seed: int = 0, layers: int = 3) -> Any:
    """open_clip's own model of that name with random weights."""
    name = small_model(quick_gelu, layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = import_open_clip().create_model(name, pretrained=None, load_weights=False)
        for parameter in model.parameters():
            if parameter.ndim:
                nn.init.normal_(parameter, std=0.3)  # far from open_clip's start, where attention is the same for all
        nn.init.constant_(model.logit_scale, 4.6052)
    return model.eval()


@functools.cache
def weights_file() -> str:
    """A checkpoint of the small model."""
    path = Path(_folder.name) / "small.pt"
    torch.save({"state_dict": random_model().state_dict()}, path)
    return str(path)


class _Archive(nn.Module):
    """A module whose state dict has given names: what OpenAI's TorchScript archives look like from outside."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for key, value in state.items():
            place: nn.Module = self
            *path, name = key.split(".")
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            place.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return x


def write_archive(state: State, path: Path) -> None:
    numbers = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.jit.save(torch.jit.trace(_Archive({**state, **numbers}), torch.zeros(1)), path)


def write_safetensors(state: State, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in state.items()}, path)


# Name of a layout: (name of the file, writes a state dict in it).
LAYOUTS: dict[str, tuple[str, Callable[[State, Path], None]]] = {
    "OpenAI's archive": ("ViT.pt", write_archive),
    "OpenAI's state dict": ("ViT.pth", torch.save),
    "open_clip's training checkpoint": (
        "epoch_1.pt",
        lambda state, path: torch.save(
            {"epoch": 1, "name": "x", "state_dict": {f"module.{key}": value for key, value in state.items()}}, path
        ),
    ),
    "safetensors": ("open_clip_model.safetensors", write_safetensors),
}
