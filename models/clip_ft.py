"""Fine-tuning of CLIP's last blocks: what every method that keeps its zero-shot answers is compared with."""

from __future__ import annotations

from models.utils.tuned_clip import TunedClip


class ClipFT(TunedClip):
    """Trains on each task in turn and does nothing against forgetting, neither of classes nor of other texts.

    The last --trained_blocks blocks of the image tower learn by cross-entropy among the labels met so far. It is
    AnytimeCL (models/anytimecl.py) without memory, "other" and original model.
    """

    NAME = "clip-ft"
