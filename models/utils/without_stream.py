"""Open-vocabulary methods without a stream: built, taught and asked from Python."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor

from backbone import get_backbone, get_backbone_parser
from datasets.utils.evaluation_sets import EvaluationSet
from datasets.utils.image_sets import Images
from models import get_model, get_model_class, get_model_parser
from models.utils import load_model_config
from models.utils.open_vocabulary import OpenVocabularyModel
from utils.args import framework_parser
from utils.conf import derive_seed, randomness_apart
from utils.config import for_backbone, merge
from utils.errors import UsageError


class NoStream(Images):
    """Colour images of any size, and nothing known of what they show."""

    NAME = "no stream"
    SETTING = "class-il"
    N_TASKS = N_CLASSES = N_CLASSES_PER_TASK = 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, 32, 32)

    @property
    def label_texts(self) -> list[str]:
        return []

    def evaluation_sets(self) -> list[EvaluationSet]:
        return []

    def get_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        return F.cross_entropy


def open_vocabulary_model(
    name: str = "anytimecl", backbone: str = "clip-tiny", backbone_weights: str | None = None, **options: Any
) -> OpenVocabularyModel:
    """A method to call `learn`, `predict`, `save` and `restore` of.

    Args:
        name: of an open-vocabulary method.
        backbone: of CLIP's kind, as for --backbone.
        backbone_weights: file of its weights.
        options: any option of the command line by its name, such as lr=1e-4 or device="cuda".

    Raises:
        UsageError: an unknown method, backbone or option, a value that does not fit, or a method of another kind.
    """
    if not issubclass(get_model_class(name), OpenVocabularyModel):
        raise UsageError(f"{name} has a fixed list of classes; an open-vocabulary method such as anytimecl is needed")
    parser = framework_parser()
    get_model_parser(name, parser)
    get_backbone_parser(backbone, parser)
    configured = for_backbone(load_model_config(Namespace(model=name)), backbone)
    given = {"batch_size": 1, **options, "backbone": backbone}
    if backbone_weights is not None:
        given["backbone_weights"] = str(backbone_weights)
    layers = [(f"configs/models/{name}.yaml", configured), ("open_vocabulary_model", given)]
    args = merge(parser, layers, Namespace(), {"model": name})
    dataset = NoStream(args)
    args.num_classes, args.input_shape = dataset.N_CLASSES, dataset.input_shape
    with randomness_apart(derive_seed(args.seed, "weights")):
        network = get_backbone(args)
    model = cast(OpenVocabularyModel, get_model(args, network, dataset.get_loss(), None, dataset))
    return model.eval()
