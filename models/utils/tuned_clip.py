"""Methods that tune a copy of the last blocks of CLIP's image tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models.utils.open_vocabulary import OpenVocabularyModel
from utils.gradients import trained_parameters


class TunedClip(OpenVocabularyModel):
    """Trains a copy of the last blocks by cross-entropy among the labels met so far, whose embeddings stay as they are.

    A subclass adds terms to the loss with `penalty`, or answers with other weights than those trained.

    Attributes:
        tuned: the copy, tokens (B, L, D) -> (B, E). `net` stays the original model.
    """

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.tuned = self.tail_to_tune()

    def get_parameters(self) -> Iterator[nn.Parameter]:
        return iter(trained_parameters(self.tuned))

    def learn_tokens(self, tokens: Tensor, attention: Tensor, labels: Tensor, epoch: int | None = None) -> float:
        embeddings = F.normalize(self.tuned(tokens), dim=1)
        loss = F.cross_entropy(self.logits_met(embeddings), labels)
        return self.step(loss + self.penalty(tokens, embeddings))

    def penalty(self, tokens: Tensor, embeddings: Tensor) -> Tensor | float:
        """What is added to the loss.

        Args:
            tokens: (B, L, D) of the batch.
            embeddings: (B, E) unit vectors that the tuned blocks make of them.
        """
        return 0.0

    def encode(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.tuned(tokens), dim=1)[:, None]

    def probabilities(self, encoded: Tensor, labels: Sequence[str]) -> Tensor:
        return self.softmax_among(encoded[:, 0], labels)
