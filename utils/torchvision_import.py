"""Import torchvision beside any build of torch.

The wheel of torchvision is linked against CUDA. Beside a CPU build of torch its compiled operators cannot be loaded,
and `import torchvision` fails because the schema of `torchvision::nms` is unknown. Declaring the two schemas it asks
for is enough: transforms, models and datasets work, the compiled operators themselves (nms, image codecs) do not.
Where they can be loaded, they declare their schemas themselves, and must not find them declared.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

_kept_alive: list[torch.library.Library] = []


def import_torchvision(submodule: str = "") -> ModuleType:
    """Return `torchvision`, or `torchvision.<submodule>`; use this wherever torchvision is needed."""
    declare_operators()
    return importlib.import_module("torchvision" + (f".{submodule}" if submodule else ""))


def declare_operators() -> None:
    """Declare the schemas where torchvision cannot, without importing it.

    After that a file may import torchvision, or what imports it (timm, open_clip, torchmetrics), in any way and place.
    """
    if not _kept_alive and torch.version.cuda is None and _is_built_for_cuda():
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept_alive.append(library)


def _is_built_for_cuda() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py")
    return version.is_file() and "+cu" in version.read_text(encoding="utf-8")
