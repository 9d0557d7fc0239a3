"""The labels that a method has met, as texts and as embeddings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UsageError


class Vocabulary(nn.Module):
    """Labels in the order of their first appearance, and the embedding of each; grows, never forgets.

    A label is a text; the same text is the same label, wherever it comes from. It keeps the prompt templates that it
    appeared with first.

    Attributes:
        names: the labels.
        embeddings: (n, E) unit vectors, as many as names.

    Args:
        embed: (names, templates) -> (n, E), as `ClipBackbone.embed_labels`. Called with one label at a time, so that an
            embedding does not depend on what else was asked about.
        templates: prompts with a `{}` each, or a function that gives those of a label, for labels that come without
            some of their own.
    """

    embeddings: Tensor

    def __init__(
        self,
        embed: Callable[[Sequence[str], Sequence[str]], Tensor],
        templates: Sequence[str] | Callable[[str], Sequence[str]],
        device: torch.device,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.templates = templates if callable(templates) else tuple(templates)
        self.names: list[str] = []
        self._prompts: list[tuple[str, ...]] = []
        self._positions: dict[str, int] = {}
        self.embeddings = torch.empty(0, 0, device=device)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._positions

    def add(self, names: Sequence[str], templates: Sequence[Sequence[str]] | None = None) -> Tensor:
        """Take in labels; returns the (n,) int64 position of each, on the CPU. Known ones stay as they are.

        Args:
            templates: the prompts of each label (default: those of the vocabulary).

        Raises:
            UsageError: a label is no text or an empty one.
        """
        check_labels(names)
        for i, name in enumerate(names):
            if name not in self._positions:
                prompts = self._prompts_for(name, None if templates is None else templates[i])
                embedding = self._embed(name, prompts)[None]
                known = self.embeddings if len(self) else embedding[:0]
                self.embeddings = torch.cat([known, embedding])
                self._positions[name] = len(self.names)
                self.names.append(name)
                self._prompts.append(prompts)
        return torch.tensor([self._positions[name] for name in names], dtype=torch.int64)

    def positions(self, names: Sequence[str]) -> Tensor:
        """(n,) int64 position of each label, -1 for one that was never met; on the CPU."""
        return torch.tensor([self._positions.get(name, -1) for name in names], dtype=torch.int64)

    def embeddings_of(self, names: Sequence[str], templates: Sequence[Sequence[str]] | None = None) -> Tensor:
        """(n, E) unit vectors of any labels, met or not; nothing is taken in.

        Raises:
            UsageError: a label is no text or an empty one.
        """
        check_labels(names)
        positions = self.positions(names)
        if (positions >= 0).all():
            return self.embeddings[positions]
        rows = []
        for i, (name, position) in enumerate(zip(names, positions.tolist(), strict=True)):
            if position >= 0:
                rows.append(self.embeddings[position])
            else:
                rows.append(self._embed(name, self._prompts_for(name, None if templates is None else templates[i])))
        return torch.stack(rows)

    def _prompts_for(self, name: str, own: Sequence[str] | None) -> tuple[str, ...]:
        if own is not None:
            return tuple(own)
        return tuple(self.templates(name)) if callable(self.templates) else self.templates

    def _embed(self, name: str, prompts: tuple[str, ...]) -> Tensor:
        return self.embed([name], prompts)[0].to(self.embeddings.device)

    def get_extra_state(self) -> dict[str, Any]:
        return {"names": list(self.names), "prompts": [list(p) for p in self._prompts], "embeddings": self.embeddings}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.names = list(state["names"])
        self._prompts = [tuple(prompts) for prompts in state["prompts"]]
        self._positions = {name: i for i, name in enumerate(self.names)}
        self.embeddings = state["embeddings"].to(self.embeddings.device)


def check_labels(names: Sequence[str], different: bool = False) -> None:
    """Refuse labels that no question can be asked about.

    Args:
        different: whether each may be there only once.

    Raises:
        UsageError: there is none, one is no text or has nothing but spaces, or two are equal though they may not be.
    """
    if isinstance(names, str):
        raise UsageError(f"labels must be a list of texts, not the one text {names!r}")
    if not hasattr(names, "__len__"):
        raise UsageError(f"labels must be a list of texts, not {names!r}")
    if not len(names):
        raise UsageError("no labels: name at least one text to choose from")
    for position, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"label {position + 1} of {len(names)} is {name!r}: a label is a text with words in it")
    twice = sorted(name for name, n in Counter(names).items() if n > 1) if different else []
    if twice:
        raise UsageError(f"labels given more than once: {', '.join(twice)}; name each text to choose from once")
