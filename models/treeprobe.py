"""TreeProbe: stored embeddings in a tree, a linear classifier in every leaf, retrieved by the nearest of them."""

from __future__ import annotations

from argparse import ArgumentParser

from torch import Tensor

from models.utils.embedding_classifier import EmbeddingClassifier
from models.utils.open_vocabulary import OpenVocabularyModel
from utils.args import positive, positive_number
from utils.embedding_tree import EmbeddingTree


class TreeProbe(EmbeddingClassifier):
    """The embedding of every sample goes down a tree to a leaf, which is split in two above --leaf_capacity of them.

    Only the leaves that a batch reaches learn, so that the time a sample takes does not grow with what is stored. Asked
    about some labels, the tree finds the k embeddings of these labels that are nearest to the image. The classifiers of
    the leaves where they lie answer; each counts as much as its neighbours in the softmax of the k similarities times
    the logit scale. The rest is AIM-Emb.

    Other than in the paper a leaf's classifier is a convex problem, pulled towards the text embeddings and brought
    nearer to its one solution by --leaf_steps steps whenever a batch reaches it (utils/softmax_regression.py), in place
    of epochs of AdamW.

    Source: Z. Zhu, W. Lyu, Y. Xiao, D. Hoiem, Continual learning in open-vocabulary classification with complementary
    memory systems, TMLR 2024.
    """

    NAME = "treeprobe"

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        OpenVocabularyModel.get_parser(parser)
        add = parser.add_argument_group("treeprobe").add_argument
        add("--leaf_capacity", type=positive, default=1000, help="embeddings in a leaf before it is split")
        add(
            "--leaf_steps",
            type=positive,
            default=4,
            help="steps of a leaf's classifier for every batch that reaches it",
        )
        add(
            "--leaf_ridge",
            type=positive_number,
            default=1e-3,
            help="pull of leaves towards the texts, times the variance",
        )
        add("--n_neighbours", type=positive, default=9, help="nearest embeddings whose leaves answer")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.tree = EmbeddingTree(self.net.feature_dim, args.leaf_capacity, args.leaf_ridge, self.device)

    def learn_embeddings(self, embeddings: Tensor, labels: Tensor, is_new: bool) -> float:
        if is_new:
            self.tree.add(embeddings, labels)
        return self.tree.fit(self.tree.route(embeddings), self.text_weights, self.args.leaf_steps)

    def probabilities_met(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        return self.tree.probabilities(embeddings, positions, self.args.n_neighbours, self.net.logit_scale)
