"""Base of the methods whose memory holds features, not samples."""

from __future__ import annotations

from argparse import ArgumentParser

import torch

from datasets.utils.continual_dataset import SCORE_SETTINGS, ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import add_buffer_args, positive
from utils.episodes import even_shares
from utils.errors import UsageError
from utils.features import extract_features
from utils.second_stage import LearntStage
from utils.selection import CLASS_SELECTIONS, NEED_FEATURES, SELECTIONS, select, select_by_class


class FeatureReplay(ContinualModel):
    """At its end every session but the last stores the features of some of its samples, for the head to learn from.

    Sessions have even shares of the buffer, and so have the classes of a session; --selection chooses within a class.

    Attributes:
        buffer: of features as examples, labels, and sessions as task labels; filled session after session.
    """

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_buffer_args(parser)
        parser.add_argument("--minibatch_size", type=positive, help="replayed features a step (default: batch_size)")
        add = parser.add_argument_group("stored features").add_argument
        add("--selection", choices=list(SELECTIONS), default="ordered-uniform", help="what a session stores")
        add("--stored_view", choices=["clean", "augmented"], default="clean", help="view whose features are stored")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        is_score = dataset.SETTING in SCORE_SETTINGS
        if not is_score and args.selection not in CLASS_SELECTIONS:
            raise UsageError(
                f"--selection {args.selection} goes by scores, and {dataset.NAME} has classes; choose one of "
                f"{', '.join(CLASS_SELECTIONS)}"
            )
        if isinstance(self.second_stage, LearntStage):
            raise UsageError(
                f"--stage2 {args.stage2} learns from samples of past classes, and {self.NAME} stores none, only "
                "features; take tau-norm or tde, which learn from nothing, or leave it out"
            )
        self.select = select if is_score else select_by_class
        self.buffer = self.make_buffer("fill")

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        self.net.eval()
        if self.current_task < self.n_tasks - 1:
            self.store_session(dataset)

    def store_session(self, dataset: ContinualDataset) -> None:
        """Store features of this session's share of the buffer; the first sessions take what does not divide evenly."""
        share = even_shares(self.buffer_capacity, self.n_tasks - 1)[self.current_task]
        if not share:
            name, session = self.NAME, self.current_task + 1
            print(f"{name}: session {session} stores nothing, the buffer has fewer places than sessions")
            return
        assert dataset.train_loader is not None
        data = dataset.train_loader.dataset
        strategy, generator = self.args.selection, self.buffer.generator
        view = self.normalization_transform if self.args.stored_view == "clean" else self.transform
        seen_by = (view, self.args.batch_size, self.device)
        if strategy in NEED_FEATURES:
            features, labels = extract_features(self.net, data, torch.arange(len(data)), *seen_by)
            chosen = self.select(strategy, features, labels, share, generator).to(self.device)
            features, labels = features[chosen], labels[chosen]
        else:
            chosen = self.select(strategy, None, data.targets, share, generator)
            features, labels = extract_features(self.net, data, chosen, *seen_by)
        self.buffer.add_data(features, labels=labels, task_labels=torch.full((len(labels),), self.current_task))
