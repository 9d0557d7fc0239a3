"""Long-tailed CIFAR-100, all classes at once."""

from __future__ import annotations

from datasets.seq_cifar100 import SequentialCIFAR100


class LongTailedCIFAR100(SequentialCIFAR100):
    """CIFAR-100 in one task, classes of 500 to 5 training images, 10,847 in all, unless --imb_factor says otherwise.

    Test data is that of CIFAR-100, equally many of each class. Images are normalised as published with the data set, by
    the figures of CIFAR-10.

    Source: K. Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss, NeurIPS 2019.
    """

    NAME = "cifar100-lt"
    N_TASKS = 1
    N_CLASSES_PER_TASK = 100
    MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    OPTION_DEFAULTS = {"imb_factor": 0.01}
