"""Files outside the project that define methods, streams or backbones: `--plugin FILE`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from utils.errors import UsageError
from utils.registry import PACKAGES, ROOT, Registry, import_problem

if TYPE_CHECKING:
    from models.utils.continual_model import ContinualModel

_loaded: dict[Path, ModuleType] = {}


def activate(paths: Sequence[str | Path]) -> None:
    """Make what these files define available, before what the project defines, and hide what other files defined.

    A method or a stream is a class with a NAME, a backbone is registered by its decorator.

    Raises:
        UsageError: a file cannot be imported (it is named, with the line), defines nothing, or two define one name.
    """
    wanted = tuple(dict.fromkeys(Path(path).resolve() for path in paths))
    if wanted == Registry.active:
        return
    for path in wanted:
        if path not in _loaded:
            _loaded[path] = _load(path)
    Registry.active = wanted
    for registry in _registries() if wanted else ():
        registry.plugin_of()


def _registries() -> list[Registry]:
    return [importlib.import_module(package).REGISTRY for package in ("models", "datasets", "backbone")]


def _load(path: Path) -> ModuleType:
    from datasets.utils.continual_dataset import ContinualDataset
    from models.utils.continual_model import ContinualModel
    from utils.conf import randomness_apart
    from utils.torchvision_import import declare_operators

    registries = _registries()
    models, datasets, _ = registries
    try:
        path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--plugin {path}: cannot be read: {error}") from error
    declare_operators()
    _find_modules_beside(path)
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"plugin_{path.stem}_{digest}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--plugin {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    Registry.loading = path
    defined: list[type] = []
    try:
        # What a file draws while it is imported is the same in every run, a resumed one included.
        with randomness_apart(0):
            spec.loader.exec_module(module)
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == module.__name__ and "NAME" in vars(value):
                for base, registry in ((ContinualModel, models), (ContinualDataset, datasets)):
                    if issubclass(value, base) and isinstance(value.NAME, str):
                        registry.add(value.NAME, value)
                        defined.append(value)
    except Exception as error:
        del sys.modules[spec.name]
        raise import_problem(path, error) from error
    finally:
        Registry.loading = None
    for cls in defined:
        if issubclass(cls, ContinualModel):
            _check_method(path, cls)
    if not any(registry.defined_by(path) for registry in registries):
        raise UsageError(
            f"--plugin {path}: it defines no method (a ContinualModel with a NAME), no stream (a ContinualDataset with "
            "a NAME) and no backbone (@register_backbone)"
        )
    return module


def _check_method(path: Path, method: type[ContinualModel]) -> None:
    from models.utils.continual_model import ContinualModel

    if not hasattr(method, "COMPATIBILITY"):
        raise UsageError(
            f"--plugin {path}: {method.__name__} does not say in which settings it works; give it a COMPATIBILITY, "
            'e.g. ["class-il", "task-il"]'
        )
    if method.observe is ContinualModel.observe:
        raise UsageError(
            f"--plugin {path}: {method.__name__} has no observe(self, inputs, labels, not_aug_inputs, epoch=None), "
            "which learns from a batch and returns the loss"
        )


def _find_modules_beside(path: Path) -> None:
    """Let `import models.something` find what lies beside a file of another project that is laid out like this one.

    Modules of this project come first.
    """
    if path.parent.name not in PACKAGES:
        return
    for name in PACKAGES:
        folder = path.parent.parent / name
        places = importlib.import_module(name).__path__
        if folder != ROOT / name and folder.is_dir() and str(folder) not in places:
            places.append(str(folder))
