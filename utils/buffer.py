"""The replay memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from utils.augmentations import apply_transform
from utils.buffer_filling import fill_buffer as fill_buffer
from utils.buffer_filling import icarl_replay as icarl_replay
from utils.buffer_filling import reservoir as reservoir
from utils.registry import unknown_name_message
from utils.selection import NEED_KEYS, NEED_LABELS, STRATEGIES, Request

ATTRIBUTES = ("examples", "labels", "logits", "task_labels")
# What Mammoth calls strategies that we have under another name.
ALIASES = {"balancoir": "class-balanced", "labelbalanced": "class-balanced"}


class Buffer(nn.Module):
    """A memory of fixed capacity: one contiguous tensor for each attribute, allocated at the first `add_data`.

    Attributes keep the dtype that came in (uint8 images stay uint8) and can be read as `buffer.examples` and so on;
    rows from `len(buffer)` on are unused. The content, the number of samples seen and the generator are in
    `state_dict()`, and an empty Buffer of the same capacity takes them back.

    Args:
        buffer_size: capacity in samples; 0 makes a memory that keeps nothing.
        device: where the content lives.
        sample_selection_strategy: which samples stay; a key of `utils.selection.STRATEGIES`.
        seed: of the generator behind both the strategy and `get_data`; drawn from the global generator by default. A
            word is taken for `mode`, which methods of Mammoth from before 2024 pass in this place.
        n_tasks: tasks of the stream, which older methods of Mammoth pass, third in order; without effect.
        mode: older name of the strategy.
        dataset: the stream, which newer methods of Mammoth pass; without effect.

    Raises:
        ValueError: negative capacity or unknown strategy.
    """

    def __init__(
        self,
        buffer_size: int,
        device: str | torch.device = "cpu",
        sample_selection_strategy: str | int = "reservoir",
        seed: int | str | None = None,
        n_tasks: int | None = None,
        mode: str | None = None,
        dataset: object = None,
    ) -> None:
        super().__init__()
        if buffer_size < 0:
            raise ValueError(f"buffer_size must be 0 or more, not {buffer_size}")
        if isinstance(sample_selection_strategy, int):
            sample_selection_strategy = "reservoir"
        if isinstance(seed, str):
            mode, seed = mode or seed, None
        strategy = (mode or sample_selection_strategy).replace("_", "-")
        strategy = ALIASES.get(strategy, strategy)
        if strategy not in STRATEGIES:
            raise ValueError(unknown_name_message("sample selection strategy", strategy, STRATEGIES))
        self.buffer_size = buffer_size
        self.device = torch.device(device)
        self.sample_selection_strategy = strategy
        self.num_seen_examples = 0
        self.n_stored = 0
        self.attributes: list[str] = []
        drawn = int(torch.randint(2**62, ())) if seed is None else seed
        self.generator = torch.Generator().manual_seed(drawn)
        self.selection_keys = torch.zeros(buffer_size, dtype=torch.float64)

    def __len__(self) -> int:
        return self.n_stored

    def is_empty(self) -> bool:
        """Whether there is nothing to replay."""
        return self.n_stored == 0

    def empty(self) -> None:
        """Forget everything, the number of samples seen included; capacity and generator stay."""
        for name in self.attributes:
            delattr(self, name)
        self.attributes = []
        self.num_seen_examples = self.n_stored = 0

    @property
    def used_attributes(self) -> list[str]:
        """Names of what is stored, as methods of Mammoth ask for them."""
        return list(self.attributes)

    @property
    def n_bytes(self) -> int:
        """Bytes that the allocated tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors().values())

    def add_data(
        self,
        examples: Tensor,
        labels: Tensor | None = None,
        logits: Tensor | None = None,
        task_labels: Tensor | None = None,
        **more: Tensor,
    ) -> Tensor:
        """Offer a batch; the strategy decides what stays.

        Args:
            examples: (B, ...), any dtype.
            labels, logits, task_labels, more: (B, ...) each. The attributes of the first call are those of all calls.
                Where all task_labels are equal, any number of them will do.

        Returns:
            (B,) slot that each sample went to, -1 for one that was not kept.

        Raises:
            ValueError: lengths differ, the attributes, shapes or dtypes are not those of the first call, or an
                attribute has a name that buffers use otherwise.
        """
        given = {"examples": examples, "labels": labels, "logits": logits, "task_labels": task_labels, **more}
        batch = {name: value.detach() for name, value in given.items() if value is not None}
        if task_labels is not None and len(task_labels) != len(examples) and len(task_labels.unique()) == 1:
            batch["task_labels"] = batch["task_labels"][:1].expand(len(examples))
        lengths = {name: len(values) for name, values in batch.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"every attribute needs one row for each sample, not {lengths}")
        if self.sample_selection_strategy in NEED_LABELS and "labels" not in batch:
            raise ValueError(f"the {self.sample_selection_strategy} strategy chooses by label: pass labels=")
        if not self.attributes:
            self._allocate(batch)
        self._check(batch)
        stored = self._tensors()
        keys = torch.zeros(len(examples), dtype=torch.float64)
        if self.sample_selection_strategy in NEED_KEYS:
            keys.uniform_(generator=self.generator)
        request = Request(
            capacity=self.buffer_size,
            n_stored=self.n_stored,
            n_seen=self.num_seen_examples,
            n_new=len(examples),
            generator=self.generator,
            examples=lambda: torch.cat([stored["examples"][: self.n_stored], batch["examples"].to(self.device)]),
            labels=lambda: (
                torch.cat([stored["labels"][: self.n_stored], batch["labels"].to(self.device)])
                if "labels" in batch
                else None
            ),
            keys=torch.cat([self.selection_keys[: self.n_stored], keys]),
        )
        slots = without_overwritten(STRATEGIES[self.sample_selection_strategy](request))
        source = (slots >= 0).nonzero().view(-1)
        if len(source):
            target = slots[source].to(self.device)
            for name, values in batch.items():
                stored[name].index_copy_(0, target, values[source.to(values.device)].to(self.device))
            self.selection_keys[slots[source]] = keys[source]
            self.n_stored = max(self.n_stored, int(slots.max()) + 1)
        self.num_seen_examples += len(examples)
        return slots

    def get_data(
        self,
        size: int,
        transform: Callable[[Tensor], Tensor] | None = None,
        return_index: bool = False,
        device: str | torch.device | None = None,
        mask_task_out: int | None = None,
        cpt: int | None = None,
        return_not_aug: bool = False,
        not_aug_transform: Callable[[Tensor], Tensor] | None = None,
        force_indexes: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """A random draw without replacement.

        Args:
            size: how many; all there are, in random order, if fewer are stored.
            transform: applied to the examples as one batch; one of torchvision's, sample by sample.
            return_index: put the slots of the drawn samples first in the result.
            device: where the result goes (default: where the content is).
            mask_task_out: leave out the samples of this task.
            cpt: classes of every task, to tell the task of a sample by its label where no task labels are stored.
            return_not_aug: put the examples without `transform` before those with it.
            not_aug_transform: applied to these.
            force_indexes: take the samples in these slots, and draw nothing.

        Returns:
            ([indices,] [not augmented,] examples, labels, ...): the attributes given to `add_data`, in the order of
            that signature.

        Raises:
            ValueError: the buffer is empty, ask `is_empty()` first; or the tasks of its samples are not known.
        """
        if self.is_empty():
            raise ValueError("nothing is stored in the buffer; ask is_empty() before get_data()")
        if force_indexes is not None:
            indices = self._slots(force_indexes)
        else:
            indices = torch.randperm(self.n_stored, generator=self.generator)
            if mask_task_out is not None:
                indices = indices[(self._tasks(cpt)[: self.n_stored] != mask_task_out).cpu()[indices]]
            indices = indices[: max(size, 0)]
        data = self.get_data_by_index(indices, transform=transform, device=device)
        if return_not_aug:
            data = (self.get_data_by_index(indices, transform=not_aug_transform, device=device)[0], *data)
        return (indices.to(data[0].device), *data) if return_index else data

    def _tasks(self, cpt: int | None) -> Tensor:
        """(buffer_size,) task of every slot."""
        if "task_labels" in self.attributes:
            return self._tensors()["task_labels"]
        if cpt is None or "labels" not in self.attributes:
            raise ValueError("the tasks of the stored samples are not known: store task_labels, or pass cpt=")
        return self._tensors()["labels"] // cpt

    def get_data_by_index(
        self,
        indexes: Tensor,
        transform: Callable[[Tensor], Tensor] | None = None,
        device: str | torch.device | None = None,
    ) -> tuple[Tensor, ...]:
        """The samples in the given slots; other arguments and result as in `get_data`.

        Args:
            indexes: numbers of slots, one number, or a mask: True for every slot that is asked for, over all slots or
                over those in use.

        Raises:
            IndexError: a slot holds nothing, or a mask has another length.
        """
        target = torch.device(device) if device is not None else self.device
        indexes = self._slots(indexes)
        if len(indexes) and not (0 <= int(indexes.min()) and int(indexes.max()) < self.n_stored):
            raise IndexError(f"slots {indexes.tolist()} asked for, but only the first {self.n_stored} are in use")
        examples, *others = (tensor[indexes].to(target) for tensor in self._tensors().values())
        return (apply_transform(examples, transform), *others)

    def _slots(self, indexes: Any) -> Tensor:
        """(n,) numbers of the slots that are meant; see `get_data_by_index`."""
        indexes = torch.as_tensor(indexes).to(self.device)
        if indexes.dtype is torch.bool:
            if indexes.shape not in ((self.n_stored,), (self.buffer_size,)):
                raise IndexError(
                    f"a mask of slots has {self.n_stored} entries, one for each in use, or {self.buffer_size}, not "
                    f"{tuple(indexes.shape)}"
                )
            return indexes.nonzero().view(-1)
        return indexes.long().view(1) if indexes.ndim == 0 else indexes.long()

    def get_all_data(
        self, transform: Callable[[Tensor], Tensor] | None = None, device: str | torch.device | None = None
    ) -> tuple[Tensor, ...]:
        """Everything stored, in slot order; an empty tuple if there is nothing."""
        if self.is_empty():
            return ()
        return self.get_data_by_index(torch.arange(self.n_stored), transform=transform, device=device)

    def replace(self, name: str, values: Tensor) -> None:
        """Overwrite one attribute of everything stored.

        Args:
            name: e.g. "examples".
            values: (len(buffer), ...), in slot order.

        Raises:
            ValueError: there is no such attribute, or the values have another shape or dtype.
        """
        if name not in self.attributes:
            raise ValueError(f"the buffer stores {', '.join(self.attributes) or 'nothing yet'}, no {name}")
        stored = self._tensors()[name][: self.n_stored]
        if values.shape != stored.shape or values.dtype != stored.dtype:
            raise ValueError(
                f"{name}: {tuple(values.shape)} {values.dtype} cannot replace {tuple(stored.shape)} {stored.dtype}"
            )
        stored.copy_(values.detach())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Buffer:
        """Moving the buffer, or a module it is part of, moves where later content goes; dtypes stay as they came."""
        self.device = fn(torch.empty(0, device=self.device)).device
        for name, tensor in self._tensors().items():
            setattr(self, name, tensor.to(self.device))
        return self

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "attributes": list(self.attributes),
            "num_seen_examples": self.num_seen_examples,
            "n_stored": self.n_stored,
            "generator": self.generator.get_state(),
            "selection_keys": self.selection_keys.clone(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.num_seen_examples = state["num_seen_examples"]
        self.n_stored = state["n_stored"]
        self.generator.set_state(state["generator"].cpu())
        self.selection_keys = state["selection_keys"].cpu().clone()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        extra = state_dict.get(f"{prefix}_extra_state")
        if extra is not None:
            n_slots = len(extra["selection_keys"])
            if n_slots != self.buffer_size:
                raise ValueError(
                    f"the saved buffer has {n_slots} slots, this one {self.buffer_size}; "
                    "use the --buffer_size it was saved with"
                )
            self.empty()
            self._allocate({name: state_dict[prefix + name] for name in extra["attributes"]})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _allocate(self, batch: dict[str, Tensor]) -> None:
        taken = [name for name in batch if hasattr(self, name)]
        if taken:
            raise ValueError(f"{', '.join(taken)}: buffers use this name otherwise; choose another for the attribute")
        self.attributes = [name for name in ATTRIBUTES if name in batch]
        self.attributes += [name for name in batch if name not in ATTRIBUTES]
        for name in self.attributes:
            shape = (self.buffer_size, *batch[name].shape[1:])
            self.register_buffer(name, torch.zeros(shape, dtype=batch[name].dtype, device=self.device))

    def _check(self, batch: dict[str, Tensor]) -> None:
        if set(batch) != set(self.attributes):
            raise ValueError(
                f"the buffer stores {', '.join(self.attributes)}, but was given {', '.join(batch)}; "
                "every add_data must pass the same attributes"
            )
        for name, values in batch.items():
            stored = self._tensors()[name]
            if values.shape[1:] != stored.shape[1:] or values.dtype != stored.dtype:
                raise ValueError(
                    f"{name}: samples of shape {tuple(values.shape[1:])} and {values.dtype} do not fit the stored "
                    f"{tuple(stored.shape[1:])} and {stored.dtype}"
                )

    def _tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.attributes}


def without_overwritten(slots: Tensor) -> Tensor:
    """Set to -1 every slot that a later sample of the same batch takes again: the last one stays."""
    if not len(slots):
        return slots
    position = torch.arange(len(slots))
    last = torch.full((int(slots.max()) + 2,), -1)
    last.scatter_reduce_(0, slots + 1, position, reduce="amax")
    return torch.where(last[slots + 1] == position, slots, -1)
