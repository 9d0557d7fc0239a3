"""A linear classifier of CLIP's embeddings, learnt online, beside CLIP itself."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import torch
from torch import Tensor

from models.utils.embedding_classifier import EmbeddingClassifier
from models.utils.open_vocabulary import OpenVocabularyModel
from utils.args import not_negative, positive, positive_number
from utils.compression import Compression
from utils.softmax_regression import improved
from utils.token_sampling import sample
from utils.token_store import TokenStore


class LinearProbe(EmbeddingClassifier):
    """CLIP + LinProbe (AIM): one row of weights for every label met, logistic regression on stored embeddings.

    Every embedding is stored once. A batch is followed by --probe_steps steps, each on the batch and a class-balanced
    draw of stored ones (utils/softmax_regression.py: there is no rate to choose and no optimiser to keep). The row of a
    new label begins as its text embedding times the logit scale, that is, as CLIP.

    Source: the baseline of Z. Zhu, W. Lyu, Y. Xiao, D. Hoiem, Continual learning in open-vocabulary classification with
    complementary memory systems, TMLR 2024, which trains by AdamW.
    """

    NAME = "linear-probe"

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        OpenVocabularyModel.get_parser(parser)
        add = parser.add_argument_group("linear probe").add_argument
        add("--probe_steps", type=positive, default=4, help="steps after every batch")
        add("--probe_batch", type=not_negative, default=256, help="stored embeddings in every step")
        add("--probe_ridge", type=positive_number, default=0.01, help="what keeps a step small, times the variance")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        dim = self.net.feature_dim
        self.store = TokenStore(Compression(1, dim, mode="none"), self.device, args.seed)
        self.weights = torch.zeros(0, dim, device=self.device)

    def learn_embeddings(self, embeddings: Tensor, labels: Tensor, is_new: bool) -> float:
        self.weights = torch.cat([self.weights, self.text_weights[len(self.weights) :]])
        losses = []
        new = self.store.add(embeddings[:, None], None, labels) if is_new else None
        for _ in range(self.args.probe_steps):
            slots = sample(self.store, self.args.probe_batch, "class-balanced", exclude=new)
            stored, of = self.store.get(slots)
            together, targets = torch.cat([embeddings, stored[:, 0]]), torch.cat([labels, of])
            self.weights, loss = improved(self.weights, self.weights, together, targets, self.args.probe_ridge)
            losses.append(loss)
        return losses[0]

    def probabilities_met(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        return (embeddings @ self.weights[positions].T).softmax(1)

    def get_extra_state(self) -> dict[str, Any]:
        return super().get_extra_state() | {"weights": self.weights}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.weights = state["weights"].to(self.device)
