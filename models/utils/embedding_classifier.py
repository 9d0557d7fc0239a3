"""Methods that learn classifiers of frozen embeddings, and answer for what they were not taught as CLIP does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.utils.open_vocabulary import OpenVocabularyModel
from utils.class_weighting import seen_share


class EmbeddingClassifier(OpenVocabularyModel):
    """Adaptive instance marginalisation of embeddings (AIM-Emb) over a classifier that knows the labels met only.

    Let e be the embedding of an image, t_y that of a label, alpha the probability that CLIP gives to the candidates met
    together. What is compared with the texts is alpha t_k + (1 - alpha) e with k the classifier's choice among the
    candidates met. Where none was met this is CLIP's own answer, to the bit.

    A subclass implements `learn_embeddings` and `probabilities_met`.

    Source: Z. Zhu, W. Lyu, Y. Xiao, D. Hoiem, Continual learning in open-vocabulary classification with complementary
    memory systems, TMLR 2024.
    """

    def learn_embeddings(self, embeddings: Tensor, labels: Tensor, is_new: bool) -> float:
        """Learn from (B, E) unit vectors and their positions (B,) in the vocabulary; returns the loss.

        Args:
            is_new: whether the samples come for the first time, and not in a later epoch.
        """
        raise NotImplementedError

    def probabilities_met(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """(B, n) of (B, E) unit vectors, over labels met, given by (n,) positions in the vocabulary."""
        raise NotImplementedError

    def get_parameters(self) -> Iterator[nn.Parameter]:
        return iter(())

    @property
    def text_weights(self) -> Tensor:
        """(labels, E) embeddings of labels met, times the logit scale: the linear classifier that CLIP itself is."""
        return self.net.logit_scale * self.vocabulary.embeddings

    @torch.no_grad()
    def learn_tokens(self, tokens: Tensor, attention: Tensor, labels: Tensor, epoch: int | None = None) -> float:
        return self.learn_embeddings(self.encode(tokens)[:, 0], labels, is_new=not epoch)

    @torch.no_grad()
    def encode(self, tokens: Tensor) -> Tensor:
        embeddings: Tensor = self.net(tokens, returnt="features")
        return embeddings[:, None]

    def probabilities(self, encoded: Tensor, labels: Sequence[str]) -> Tensor:
        embeddings = encoded[:, 0]
        original = self.softmax_among(embeddings, labels)
        positions = self.vocabulary.positions(labels).to(self.device)
        met = positions >= 0
        if not met.any():
            return original
        chosen = self.probabilities_met(embeddings, positions[met]).argmax(1)
        alpha = seen_share(original, met)
        marginal = alpha * self.vocabulary.embeddings[positions[met][chosen]] + (1 - alpha) * embeddings
        return self.softmax_among(F.normalize(marginal, dim=1), labels)
