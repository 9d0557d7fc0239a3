"""Names that files written for Mammoth import and that are not here: why, and what takes their place."""

from __future__ import annotations

import re

_BACKBONE = "networks are chosen with --backbone, and methods get theirs built"
_OWN_FILE = "this loss is not part of the project, bring its file along"
_MISSING = re.compile(r"cannot import name '([^']+)'")
# By module, or by module and name.
REASONS = {
    "backbone.EfficientNet": f"{_BACKBONE}: backbone/efficientnet_b0.py",
    "backbone.MNISTMLP": f"{_BACKBONE}: backbone/mlp.py",
    "backbone.ResNet18": f"{_BACKBONE}: backbone/resnet18.py",
    "backbone.ResNetBlock": f"{_BACKBONE}: backbone/resnet18.py",
    "backbone.vit": f"{_BACKBONE}: backbone/vit_b16.py",
    "datasets.utils.continual_dataset.get_previous_train_loader": (
        "a stream does not give the training samples of past tasks again; a method that needs them keeps them in a "
        "Buffer"
    ),
    "datasets.utils.gcl_dataset": (
        "streams of the setting general-continual are batches of a ContinualDataset like all others, see "
        "datasets/mnist_360.py"
    ),
    "datasets.utils.validation.ValidationDataset": (
        "--validation holds training samples out, and `dataset.validation_loaders` gives them; data in the form of "
        "torchvision's is divided by `get_train_val` of the same module"
    ),
    "models.utils.future_model": (
        "methods that answer for classes to come are open-vocabulary methods here, see models/utils/open_vocabulary.py"
    ),
    "models.utils.lider_model": "regularisation by Lipschitz constants is not part of the project",
    "utils.augmentations.DoubleCompose": "augmentations act on images alone, not on maps that belong to them",
    "utils.augmentations.DoubleTransform": "augmentations act on images alone, not on maps that belong to them",
    "utils.augmentations.soft_aug": "the stream's crops and flips are `self.transform`, stronger ones `strong_aug`",
    "utils.autoaugment": "policies of augmentations that were searched for are torchvision.transforms.AutoAugment",
    "utils.conf.get_checkpoint_path": (
        "checkpoints lie in the folder of their run; a file that a method reads is named by an option of its own"
    ),
    "utils.distributed.wait_for_master": "a run is one process, which waits for nobody",
    "utils.loggers.log_accs": "the loop records the accuracies after every task, in metrics.jsonl and logs.pyd",
    "utils.schedulers": "learning rates follow --lr_scheduler, or what `get_scheduler` of a stream returns",
    "utils.spkdloss": _OWN_FILE,
    "utils.triplet": _OWN_FILE,
}


def why_absent(error: ImportError) -> str | None:
    """Why what a file asked for is not here; None where nothing more is known than that."""
    name = _MISSING.search(str(error))
    return REASONS.get(f"{error.name}.{name.group(1)}" if name else str(error.name))
