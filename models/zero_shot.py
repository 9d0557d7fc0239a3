"""CLIP as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.utils.open_vocabulary import OpenVocabularyModel


class ZeroShot(OpenVocabularyModel):
    """Learns nothing; answers by the cosine between an image and each text.

    What it returns as the loss of a batch is the cross-entropy among the labels met so far.

    Source: A. Radford et al., Learning transferable visual models from natural language supervision, ICML 2021.
    """

    NAME = "zero-shot"

    def get_parameters(self) -> Iterator[nn.Parameter]:
        return iter(())

    @torch.no_grad()
    def learn_tokens(self, tokens: Tensor, attention: Tensor, labels: Tensor, epoch: int | None = None) -> float:
        logits = self.net.logit_scale * self.encode(tokens)[:, 0] @ self.vocabulary.embeddings.T
        return float(F.cross_entropy(logits, labels))

    @torch.no_grad()
    def encode(self, tokens: Tensor) -> Tensor:
        embeddings: Tensor = self.net(tokens, returnt="features")
        return embeddings[:, None]

    def probabilities(self, encoded: Tensor, labels: Sequence[str]) -> Tensor:
        return self.softmax_among(encoded[:, 0], labels)
