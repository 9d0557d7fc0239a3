"""A memory of tokens that only grows: compressed samples, their labels, and which samples every label has."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from utils.compression import Basis, Compression, check_tokens, class_token_weights, compress, decompress, fit_basis
from utils.conf import named_generator
from utils.errors import StorageError

BLOCK_ROWS, BLOCK_BYTES = 4096, 32 * 2**20


class Blocks:
    """Rows of one shape in blocks of a fixed number of rows. A block is allocated when the one before is full.

    What is stored never moves, so adding a row costs the same however many there are.

    Args:
        shape: of a row.
        dtype: of the entries.
        device: where the blocks are.
        rows: of a block.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, rows: int) -> None:
        self.shape, self.dtype, self.device, self.rows = shape, dtype, device, rows
        self.blocks: list[Tensor] = []
        self.n = 0

    def __len__(self) -> int:
        return self.n

    @property
    def n_bytes(self) -> int:
        """Bytes of all blocks, rows not yet used included."""
        return sum(block.numel() * block.element_size() for block in self.blocks)

    def append(self, values: Tensor) -> None:
        """Add rows (B, *shape)."""
        while len(values):
            place = self.n % self.rows
            if not place:
                self.blocks.append(torch.zeros((self.rows, *self.shape), dtype=self.dtype, device=self.device))
            part = values[: self.rows - place]
            self.blocks[-1][place : place + len(part)] = part
            self.n += len(part)
            values = values[len(part) :]

    def __getitem__(self, slots: Tensor) -> Tensor:
        """(n, *shape) rows of the slots (n,), copied."""
        if not len(slots):
            return torch.empty((0, *self.shape), dtype=self.dtype, device=self.device)
        numbers, order = (slots // self.rows).sort(stable=True)
        touched, counts = numbers.unique_consecutive(return_counts=True)
        rows = (slots[order] % self.rows).to(self.device).split(counts.tolist())
        parts = [self.blocks[number][part] for number, part in zip(touched.tolist(), rows, strict=True)]
        return torch.cat(parts)[order.argsort().to(self.device)]

    def parts(self) -> list[Tensor]:
        """The rows in use, block by block, not copied."""
        return [block[: self.n - number * self.rows] for number, block in enumerate(self.blocks)]

    def all(self) -> Tensor:
        """(len, *shape) all rows in one tensor, copied."""
        return torch.cat(self.parts()) if self.blocks else torch.empty((0, *self.shape), dtype=self.dtype)

    def to(self, device: torch.device) -> None:
        """Move the blocks."""
        self.device, self.blocks = device, [block.to(device) for block in self.blocks]


class TokenStore(nn.Module):
    """Compressed tokens and labels of every sample that it was given. Slots count from 0 in order of arrival.

    Mode "shared" fits its components as soon as `compression.n_fit` samples are there; until then they are kept as they
    came.

    The content, the generator and the components are in `state_dict()`; a store with the same settings takes them back.

    Attributes:
        compression: the settings.
        slots_of: the slots of every label, in order of the labels' first samples.
        uses: how often every sample was drawn by a sampler that counts it.
        generator: what samplers draw with.
        basis: shared components, once fitted.

    Args:
        compression: how samples are stored.
        device: where codes live; slots, labels and counts are on the CPU.
        seed: of the run.
        block_rows: samples of a block (default: `BLOCK_ROWS`, fewer where they take more than `BLOCK_BYTES`).
    """

    def __init__(
        self,
        compression: Compression,
        device: str | torch.device = "cpu",
        seed: int = 0,
        block_rows: int | None = None,
    ) -> None:
        super().__init__()
        if block_rows is None:
            block_rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // compression.n_bytes))
        if block_rows < 1:
            raise ValueError(f"a block has at least 1 row, not {block_rows}")
        self.compression = compression
        self.device = torch.device(device)
        self.block_rows = block_rows
        self.generator = named_generator(seed, "token store")
        self._clear()

    def _clear(self) -> None:
        cpu, rows = torch.device("cpu"), self.block_rows
        self._codes = Blocks((self.compression.n_bytes,), torch.uint8, self.device, rows)
        self._labels = Blocks((), torch.int64, cpu, rows)
        self.uses = Blocks((), torch.int32, cpu, rows)
        self.slots_of: dict[int, array[int]] = {}
        self.basis: Basis | None = None
        self._waiting: list[tuple[Tensor, Tensor | None]] = []

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def n_bytes(self) -> int:
        """Bytes of codes, labels and counts as allocated, slots by label, and of what waits for shared components."""
        tensors = [part for pair in self._waiting for part in pair if part is not None] + list(self.basis or ())
        of_tensors = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        blocks = (self._codes, self._labels, self.uses)
        return of_tensors + sum(part.n_bytes for part in blocks) + 8 * len(self)

    @property
    def labels(self) -> Tensor:
        """(len,) int64 label of every slot."""
        return self._labels.all()

    @property
    def n_per_label(self) -> dict[int, int]:
        """Samples of every label, in order of the labels' first samples."""
        return {label: len(slots) for label, slots in self.slots_of.items()}

    def add(self, tokens: Tensor, attention: Tensor | None, labels: Tensor) -> Tensor:
        """Store a batch; one that is refused leaves the store as it was.

        Args:
            tokens: (B, L, D).
            attention: (B, L) of the class token, as the backbone gives it with the tokens; weights of the compression
                are `class_token_weights` of it. None will do without weighting.
            labels: (B,) int64.

        Returns:
            (B,) int64 slots.

        Raises:
            ValueError: shapes or types that do not fit.
            DataError: tokens or attention that are not finite.
        """
        if labels.shape != tokens.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(f"{len(tokens)} labels (int64) are needed, not {tuple(labels.shape)} {labels.dtype}")
        weights = None if attention is None else class_token_weights(attention)
        first = len(self)
        if self.compression.mode == "shared" and self.basis is None:
            weights = check_tokens(tokens, weights, self.compression)
            self._wait(tokens.detach().float().to(self.device), weights)
        else:
            self._codes.append(compress(tokens, weights, self.compression, self.basis).to(self.device))
        self._note(labels.cpu(), torch.zeros(len(labels), dtype=torch.int32))
        return torch.arange(first, len(self))

    def get(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, L, D) and labels (n,) on the store's device.

        Raises:
            IndexError: a slot holds nothing.
        """
        slots = self._checked(slots)
        if not len(slots):
            # Before the first sample of mode "shared" there is no basis to decode with.
            tokens = torch.empty(0, self.compression.n_tokens, self.compression.token_dim, device=self.device)
        elif self._waiting:
            tokens = torch.cat([tokens for tokens, _ in self._waiting])[slots.to(self.device)]
        else:
            tokens = decompress(self._codes[slots], self.compression, self.basis)
        return tokens, self._labels[slots].to(self.device)

    def labels_at(self, slots: Tensor) -> Tensor:
        """(n,) labels of the slots, on the CPU."""
        return self._labels[self._checked(slots)]

    def count_uses(self, slots: Tensor) -> None:
        """Note that samples were drawn."""
        for slot in slots.tolist():
            self.uses.blocks[slot // self.block_rows][slot % self.block_rows] += 1

    def _wait(self, tokens: Tensor, weights: Tensor | None) -> None:
        """Keep what came before the shared components, and fit these once there is enough of it."""
        self._waiting.append((tokens, None if weights is None else weights.to(self.device)))
        if sum(len(part) for part, _ in self._waiting) < self.compression.n_fit:
            return
        tokens = torch.cat([part for part, _ in self._waiting])
        of_parts = [part for _, part in self._waiting if part is not None]
        weights = torch.cat(of_parts) if of_parts else None
        self.basis = fit_basis(tokens, weights, self.compression)
        self._codes.append(compress(tokens, weights, self.compression, self.basis))
        self._waiting = []

    def _note(self, labels: Tensor, uses: Tensor) -> None:
        for slot, label in enumerate(labels.tolist(), len(self)):
            self.slots_of.setdefault(label, array("q")).append(slot)
        self._labels.append(labels)
        self.uses.append(uses)

    def _checked(self, slots: Tensor) -> Tensor:
        slots = torch.as_tensor(slots, dtype=torch.int64).cpu()
        if len(slots) and not 0 <= int(slots.min()) <= int(slots.max()) < len(self):
            raise IndexError(f"slots {slots.tolist()} asked for, but only the first {len(self)} are in use")
        return slots

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TokenStore:
        """Moving the store, or a module it is part of, moves the codes; their type stays."""
        self.device = fn(torch.empty(0, device=self.device)).device
        self._codes.to(self.device)
        if self.basis is not None:
            self.basis = Basis(*(part.to(self.device) for part in self.basis))
        self._waiting = [
            (tokens.to(self.device), None if weights is None else weights.to(self.device))
            for tokens, weights in self._waiting
        ]
        return self

    def get_extra_state(self) -> dict[str, Any]:
        parts = self._codes.parts()
        return {
            "compression": asdict(self.compression),
            # Full blocks never change; of the last one only what is in use.
            "codes": [part if len(part) == self.block_rows else part.clone() for part in parts],
            "labels": self._labels.all(),
            "uses": self.uses.all(),
            "generator": self.generator.get_state(),
            "basis": list(self.basis or ()),
            "waiting": [list(pair) for pair in self._waiting],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_extra_state` returned.

        Raises:
            StorageError: it was written with other settings; the store stays as it was.
        """
        here = asdict(self.compression)
        other = [
            f"{name} {value!r} (here {here.get(name)!r})"
            for name, value in state["compression"].items()
            if here.get(name) != value
        ]
        if other:
            raise StorageError(
                f"the stored tokens were written with other settings: {', '.join(other)}. Go on with the settings they "
                "were written with, or start anew"
            )
        self._clear()
        for part in state["codes"]:
            self._codes.append(part.to(self.device))
        self._note(state["labels"].cpu(), state["uses"].cpu())
        self.generator.set_state(state["generator"].cpu())
        if state["basis"]:
            self.basis = Basis(*(part.to(self.device) for part in state["basis"]))
        self._waiting = [
            (tokens.to(self.device), None if weights is None else weights.to(self.device))
            for tokens, weights in state["waiting"]
        ]
