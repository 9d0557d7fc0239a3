"""State that a module keeps in plain attributes: what of it a checkpoint can hold, and what it cannot."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class PlainState:
    """Remembers how the attributes of a method were when its constructor was done, to tell what has changed since.

    Args:
        module: a method; attributes that its base class sets are left out.
    """

    def __init__(self, module: nn.Module) -> None:
        from models.utils.continual_model import ContinualModel

        # The base class counts, caches and logs in these; they are in its own state or follow from the run's arguments.
        self.left_out = {
            *vars(nn.Module()),
            *("args", "device", "dataset", "loss", "transform", "normalization_transform", "n_tasks", "num_classes"),
            *("cpt", "logged", "_opt", "_opt_was_set", "_opt_is_own", "_plain_state", *ContinualModel._COUNTERS),
        }
        self.children = {name for name, child in module.named_children() if child is not None}
        self.own_tensors = {*module._parameters, *module._buffers}
        self.marks = {name: _mark(value) for name, value in self._attributes(module)}

    def changed(self, module: nn.Module) -> tuple[dict[str, Any], list[str]]:
        """Attributes that are new or not as they were.

        Returns:
            (values that a checkpoint can hold, by name; names of the others).
        """
        values, lost = {}, []
        for name, value in self._attributes(module):
            if name in self.marks and self.marks[name] == _mark(value):
                continue
            try:
                values[name] = _encoded(value)
            except TypeError:
                lost.append(name)
        new = {name for name, child in module.named_children() if child is not None} - self.children
        lost += sorted(new - set(self.copies(module)))
        lost += sorted({*module._parameters, *module._buffers} - self.own_tensors)
        return values, lost

    def copies(self, module: nn.Module) -> list[str]:
        """Submodules that came after the constructor and are made like the network, such as a frozen old one."""
        shapes = _shapes(module.net)  # type: ignore[arg-type]
        new = [(name, child) for name, child in module.named_children() if name not in self.children]
        return [name for name, child in new if type(child) is type(module.net) and _shapes(child) == shapes]

    def restore(self, module: nn.Module, values: dict[str, Any], copies: list[str]) -> None:
        """Put back what `changed` returned; copies of the network get their weights from the state dict afterwards."""
        device: Any = module.device
        for name, value in values.items():
            setattr(module, name, _decoded(value, device))
        for name in copies:
            setattr(module, name, copy.deepcopy(module.net))

    def _attributes(self, module: nn.Module) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in vars(module).items() if name not in self.left_out]


def _shapes(module: nn.Module) -> dict[str, Any]:
    return {name: value.shape for name, value in module.state_dict().items() if isinstance(value, Tensor)}


class _Itself:
    """Equal to nothing but itself; keeps the object, so that no later one can have its identity."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value

    __hash__ = None  # type: ignore[assignment]


def _mark(value: Any) -> Any:
    """Equal for an attribute that has not changed."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return "tensor", _Itself(value), value._version
    if isinstance(value, np.ndarray):
        return "array", _Itself(value), value.tobytes() if value.dtype != object else None
    if isinstance(value, list | tuple):
        return type(value).__name__, [_mark(part) for part in value]
    if isinstance(value, dict):
        return "dict", [(_mark(key), _mark(part)) for key, part in value.items()]
    if isinstance(value, torch.optim.Optimizer):
        # It changes with what it has gathered, such as momenta.
        return "optimizer", _Itself(value), len(value.state)
    return type(value).__name__, _Itself(value)


def _encoded(value: Any) -> Any:
    """As lists, plain values and tensors; raises TypeError for anything else."""
    if value is None or isinstance(value, bool | int | float | str):
        return ["value", value]
    if isinstance(value, np.generic):
        return ["value", value.item()]
    if isinstance(value, Tensor):
        return ["tensor", value.detach(), value.device.type == "cpu"]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return ["array", torch.from_numpy(value)]
    if type(value) in (list, tuple):
        return [type(value).__name__, [_encoded(part) for part in value]]
    if type(value) is dict:
        return ["dict", [[_encoded(key), _encoded(part)] for key, part in value.items()]]
    raise TypeError(type(value).__name__)


def _decoded(value: list[Any], device: torch.device) -> Any:
    kind, content, *rest = value
    if kind == "tensor":
        return content.to("cpu" if rest[0] else device)
    if kind == "array":
        return content.numpy()
    if kind == "list":
        return [_decoded(part, device) for part in content]
    if kind == "tuple":
        return tuple(_decoded(part, device) for part in content)
    if kind == "dict":
        return {_decoded(key, device): _decoded(part, device) for key, part in content}
    return content
