"""Import torchvision beside any build of torch.

The wheel of torchvision is linked against CUDA. Beside a CPU build of torch its compiled operators cannot be loaded,
and `import torchvision` fails because the schema of `torchvision::nms` is unknown. Declaring the two schemas it asks
for is enough: transforms, models and datasets work, the compiled operators themselves (nms, image codecs) do not.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_kept_alive: list[torch.library.Library] = []


def import_torchvision(submodule: str = "") -> ModuleType:
    """Return `torchvision`, or `torchvision.<submodule>`; use this wherever torchvision is needed."""
    if not _kept_alive and torch.version.cuda is None:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept_alive.append(library)
    return importlib.import_module("torchvision" + (f".{submodule}" if submodule else ""))
