"""A memory that prefers samples with gradients unlike those of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from utils import buffer

# Of samples that find the memory empty, as in the code of the paper.
FIRST_SCORE = 0.1
# Scores are weights of a draw, so even the opposite of all gradients must have one above 0.
LOWEST_SCORE = 1e-6


def contested_place(stored: Tensor, score: Tensor, generator: torch.Generator) -> int:
    """The place that a sample takes in a full memory, -1 for none.

    A place i is drawn in proportion to the scores C stored and given to the new sample, of score c, with probability
    C_i / (C_i + c).

    Args:
        stored: (n,) scores, on the CPU.
        score: of the sample; no tensor of several numbers.
        generator: CPU generator of both draws.

    Source: R. Aljundi et al., Gradient based sample selection for online continual learning, NeurIPS 2019, algorithm 2.
    """
    place = int(torch.multinomial(stored, 1, generator=generator))
    return place if torch.rand((), generator=generator) < stored[place] / (stored[place] + score) else -1


class Buffer(buffer.Buffer):
    """GSS-Greedy in the form that methods written for Mammoth import; the project's own `gss` has its own.

    A batch that is offered has a score: 1 + the largest cosine between the gradient of its loss and those of single
    samples drawn from the memory. While there are free places, samples take them with the score of their batch. A full
    memory is open to batches with a score below 1 only, each of whose samples then competes with a score of its own.

    Attributes:
        scores: (buffer_size,) of what is stored.

    Args:
        buffer_size: capacity in samples.
        device: where the content lives.
        minibatch_size: stored samples that a batch is compared with.
        model: whose `get_grads(inputs, labels)` gives the gradient of the loss of a batch, (P,) or (1, P).
    """

    scores: Tensor
    model: Any

    def __init__(self, buffer_size: int, device: str | torch.device, minibatch_size: int, model: Any = None) -> None:
        super().__init__(buffer_size, device, "fill")
        self.minibatch_size = minibatch_size
        # The memory is a part of the model, not the other way round.
        vars(self)["model"] = model
        self.register_buffer("scores", torch.zeros(buffer_size, device=self.device))
        self._pass = torch.empty(0, dtype=torch.long)

    def reset_fathom(self) -> None:
        """Let the next draw begin a new pass over the memory."""
        self._pass = self._pass[:0]

    def drop_cache(self) -> None:
        """Gradients of stored samples are kept for no longer than a batch is being offered: nothing to do."""

    def empty(self) -> None:
        super().empty()
        self.reset_fathom()

    def add_data(self, examples: Tensor, labels: Tensor | None = None, *args: Any, **more: Any) -> Tensor:
        """Offer a batch.

        Args:
            examples: (B, ...) raw samples.
            labels: (B,).

        Returns:
            (B,) slot that each sample went to, -1 for one that was not kept.

        Raises:
            ValueError: there are no labels, or something beside them.
        """
        if labels is None or args or more:
            raise ValueError("a buffer of utils.gss_buffer stores examples and labels, no more and no less")
        slots = torch.full((len(examples),), -1)
        if not len(examples) or not self.buffer_size:
            self.num_seen_examples += len(examples)
            return slots
        directions = self._drawn_directions()
        score = self._score(directions, examples, labels)
        n_free = min(self.buffer_size - len(self), len(examples))
        slots[:n_free] = super().add_data(examples[:n_free], labels=labels[:n_free])
        self.scores[slots[:n_free].to(self.device)] = score
        self.num_seen_examples += len(examples) - n_free
        if score < 1:
            for i in range(n_free, len(examples)):
                own = self._score(directions, examples[i : i + 1], labels[i : i + 1])
                slots[i] = place = contested_place(self.scores.cpu(), own, self.generator)
                if place >= 0:
                    self.scores[place] = own
                    for name, values in (("examples", examples), ("labels", labels)):
                        getattr(self, name)[place] = values[i].detach().to(self.device)
        return buffer.without_overwritten(slots)

    def get_data(  # type: ignore[override]
        self,
        size: int,
        transform: Callable[[Tensor], Tensor] | None = None,
        give_index: bool = False,
        random: bool = False,
        device: str | torch.device | None = None,
    ) -> tuple[Tensor, ...]:
        """(examples, labels): the next of a pass over the memory in random order.

        Args:
            size: how many; fewer at the end of a pass, after which another begins.
            transform: as of `utils.buffer.Buffer.get_data`.
            give_index: put the slots of the samples behind them.
            random: draw, whatever the pass.
            device: where the result goes (default: where the content is).

        Raises:
            ValueError: nothing is stored.
        """
        if self.is_empty():
            raise ValueError("nothing is stored in the buffer; ask is_empty() before get_data()")
        order = self._pass
        if random or not len(order):
            order = torch.randperm(len(self), generator=self.generator)
        chosen = order[:size]
        if not random:
            self._pass = order[size:]
        data = self.get_data_by_index(chosen, transform=transform, device=device)
        return (*data, chosen.to(data[0].device)) if give_index else data

    def _score(self, directions: Tensor | None, examples: Tensor, labels: Tensor) -> Tensor:
        if directions is None:
            return torch.tensor(FIRST_SCORE)
        return (1 + (directions @ self._direction(examples, labels)).max()).clamp(min=LOWEST_SCORE).cpu()

    def _drawn_directions(self) -> Tensor | None:
        """(n, P) directions of the gradients of stored samples, None if there are none."""
        if self.is_empty():
            return None
        examples, labels = self.get_data(self.minibatch_size, random=True)
        single = zip(examples.split(1), labels.split(1), strict=True)
        return torch.stack([self._direction(example, label) for example, label in single])

    def _direction(self, examples: Tensor, labels: Tensor) -> Tensor:
        return F.normalize(self.model.get_grads(examples, labels).detach().flatten(), dim=0)

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "pass": self._pass.clone()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self._pass = state["pass"].cpu().clone()
