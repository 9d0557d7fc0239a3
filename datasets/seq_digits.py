"""Handwritten digits that come with scikit-learn: the small real stream for first steps and tests."""

from __future__ import annotations

from datasets.utils.class_dataset import ClassDataset
from datasets.utils.image_sets import DigitImages


class SequentialDigits(DigitImages, ClassDataset):
    """scikit-learn's digits, 5 tasks of 2 classes."""

    NAME = "seq-digits"
    N_TASKS = 5
    N_CLASSES_PER_TASK = 2
