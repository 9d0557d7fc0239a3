"""Long-tailed CIFAR-10, all classes at once."""

from __future__ import annotations

from datasets.seq_cifar10 import SequentialCIFAR10


class LongTailedCIFAR10(SequentialCIFAR10):
    """CIFAR-10 in one task, classes of 5,000 to 50 training images, 12,406 in all, unless --imb_factor says otherwise.

    Test data is that of CIFAR-10, equally many of each class. Images are normalised as published with the data set.

    Source: K. Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss, NeurIPS 2019.
    """

    NAME = "cifar10-lt"
    N_TASKS = 1
    N_CLASSES_PER_TASK = 10
    STD = (0.2023, 0.1994, 0.2010)
    OPTION_DEFAULTS = {"imb_factor": 0.01, "tde_alpha": 1.0}
