"""Import open_clip, which not every installation has, beside any build of torch."""

from __future__ import annotations

import importlib
from types import ModuleType

from utils.errors import UsageError
from utils.torchvision_import import import_torchvision


def import_open_clip(submodule: str = "") -> ModuleType:
    """Return `open_clip`, or `open_clip.<submodule>`; use this wherever open_clip is needed.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import_torchvision()
        return importlib.import_module("open_clip" + (f".{submodule}" if submodule else ""))
    except ImportError as error:
        raise UsageError(
            f"CLIP needs the package open_clip_torch ({error}): pip install -r requirements-clip.txt "
            "(without a GPU: -c constraints-cpu.txt)"
        ) from error
